//! What is special about a folder: crashes between two system calls, locks, leftovers.

use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::*;
use crate::{
    durable::crash,
    journal::tests::{Site, record},
};

pub(super) struct Folder(TempDir);

impl Folder {
    fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("not/yet/there")
    }

    fn journal(&self) -> FileJournal {
        FileJournal::open(self.path()).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Site for Folder {
    type Journal = FileJournal;

    async fn new() -> Option<Self> {
        Some(Self::empty())
    }

    async fn open(&self) -> FileJournal {
        self.journal()
    }

    async fn text(&self, job: &JobId) -> Vec<u8> {
        let place = self.journal().place(job);
        fs::read(place.folder.join(place.name(RECORD))).unwrap()
    }

    async fn set_text(&self, job: &JobId, text: &[u8]) {
        let place = self.journal().place(job);
        fs::write(place.folder.join(place.name(RECORD)), text).unwrap();
    }
}

mod kept {
    crate::journal::tests::contract!(super::Folder);
}

fn try_write(journal: &FileJournal, record: &PhaseRecord) -> Result<(), JournalError> {
    let place = journal.place(&record.job);
    let lock = try_lock(&place.folder, &place.stem).unwrap().expect("nobody else writes");
    place.write(record, &lock)
}

#[test]
fn i7_a_crash_at_any_step_of_a_write_leaves_the_record_before_or_after_it() {
    let mut ways_it_ended = [0; 2];
    for steps in 0.. {
        let folder = Folder::empty();
        let journal = folder.journal();
        try_write(&journal, &record(1, 1)).unwrap();
        let (result, _) = crash::after(steps, || try_write(&journal, &record(1, 2)));

        let survivor = folder.journal();
        assert!(folder.names().iter().all(|name| !name.ends_with(UNFINISHED)), "swept: {:?}", folder.names());
        let found = survivor.place(&"words".into()).read().unwrap().unwrap();
        assert!(found == record(1, 1) || found == record(1, 2), "{steps} steps: {found:?}");
        ways_it_ended[usize::from(found == record(1, 2))] += 1;
        if result.is_ok() {
            assert_eq!(found, record(1, 2), "what was answered `Ok` is there");
            assert!(steps >= 5, "{steps} steps explore too little");
            break;
        }
        try_write(&survivor, &record(1, 2)).unwrap();
        try_write(&survivor, &record(1, 3)).unwrap();
    }
    assert!(ways_it_ended.iter().all(|&times| times > 0), "both must happen: {ways_it_ended:?}");
}

/// A crash of the machine forgets what is not synced, which no test can see on a live file system:
/// it is the order that counts.
#[test]
fn i7_nothing_gets_its_name_before_it_is_synced_and_nothing_is_answered_before_its_name_is() {
    let folder = Folder::empty();
    let journal = folder.journal();
    let (written, steps) = crash::after(usize::MAX, || try_write(&journal, &record(1, 1)));
    written.unwrap();
    assert_eq!(steps, ["create", "write on", "sync the file", "rename", "sync the folder"]);
    let (again, steps) = crash::after(usize::MAX, || try_write(&journal, &record(1, 1)));
    again.unwrap();
    assert_eq!(steps, ["sync the folder"], "the first write may have been interrupted before this");
}

#[tokio::test]
async fn a_leftover_is_removed_unless_it_is_being_written() {
    let folder = Folder::empty();
    let journal = folder.journal();
    let names = ["job-dead.record.tmp", "job-live.record.tmp", "notes.record.tmp", "job-dead.record.old"];
    for name in names {
        fs::write(folder.path().join(name), "winddown-journal 1 ").unwrap();
    }
    let lock = try_lock(&journal.folder, "job-live").unwrap().unwrap();
    folder.journal();
    assert_eq!(
        folder.names(),
        ["job-dead.lock", "job-dead.record.old", "job-live.lock", "job-live.record.tmp", "notes.record.tmp"]
    );
    drop(lock);
    assert_eq!(folder.journal().load(&"live".into()).await.unwrap(), None);
    assert!(!folder.names().contains(&"job-live.record.tmp".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_is_stopped_is_an_error_of_its_own_and_worth_a_retry() {
    let folder = Folder::empty();
    let journal = folder.journal();
    let lock = try_lock(&journal.folder, "job-words").unwrap().unwrap();
    let began = Instant::now();
    let error = journal.write(&record(1, 1)).await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("has held its lock for 3s"), "{error}");
    assert!(began.elapsed() < crate::limits::Limits::default().journal);
    assert_eq!(journal.load(&"words".into()).await.unwrap(), None, "reading waits for nobody");
    drop(lock);
    journal.write(&record(1, 1)).await.unwrap();
}

#[tokio::test]
async fn a_folder_that_is_gone_is_unavailable_and_not_empty() {
    let folder = Folder::empty();
    let journal = folder.journal();
    fs::remove_dir_all(folder.path()).unwrap();
    for result in [journal.load(&"words".into()).await.map(drop), journal.write(&record(1, 1)).await] {
        let error = result.unwrap_err();
        assert!(matches!(error, JournalError::Unavailable(_)), "{error}");
    }
}

#[tokio::test]
async fn nothing_is_written_outside_the_folder() {
    let folder = Folder::empty();
    let journal = folder.journal();
    for name in ["../outside", "/outside", "..", "a/../../../outside"] {
        journal.write(&PhaseRecord { job: name.into(), ..record(1, 1) }).await.unwrap();
    }
    assert_eq!(fs::read_dir(folder.0.path()).unwrap().count(), 1, "only the way to the journal's folder");
    assert_eq!(folder.names().len(), 2 * 4, "a record and a lock of each");
}

/// How a process of the next test finds the folder; where it is set, the process is one that takes
/// part in the race.
const SHARED: &str = "WINDDOWN_TEST_SHARED_JOURNAL";
const ROUNDS: u64 = 10;

#[test]
fn i11_of_six_processes_one_wins_each_revision() {
    if let Some(folder) = std::env::var_os(SHARED) {
        return race(&FileJournal::open(folder).unwrap());
    }
    let folder = Folder::empty();
    folder.journal();
    let processes: Vec<_> = (0..6).map(|_| racer(&folder.path())).collect();
    let mut won = Vec::new();
    for process in processes {
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        won.extend(text.lines().filter_map(|line| line.split_once("won ")?.1.parse::<u64>().ok()));
    }
    won.sort_unstable();
    assert_eq!(won, (1..=ROUNDS).collect::<Vec<_>>());
}

fn racer(folder: &Path) -> Child {
    let this_test = "journal::file::tests::i11_of_six_processes_one_wins_each_revision";
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--nocapture", this_test]).env(SHARED, folder);
    command.stdout(Stdio::piped()).spawn().unwrap()
}

/// Tries to be the one that writes each revision, and says of which it was.
fn race(journal: &FileJournal) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for revision in 1..=ROUNDS {
        let mine = PhaseRecord { attempt: std::process::id(), ..record(1, revision) };
        loop {
            match runtime.block_on(journal.write(&mine)) {
                Ok(()) => println!("won {revision}"),
                Err(JournalError::Conflict { .. }) => {}
                Err(error) if error.is_retryable() => continue,
                Err(error) => panic!("{error}"),
            }
            break;
        }
    }
}
