//! One round: one job from its first line to its result.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
    time::Duration,
};

use serde_json::Value;
use winddown::{
    FileJournal, PhaseKind,
    journal::{Journal, JournalError, PhaseRecord},
};
use wordcount::JOB;

use crate::{
    call::{End, Job, WORDCOUNT},
    options::Options,
    plan::{CallPlan, Kill, Situation},
    processes,
    tally::Tally,
    truth::{self, Difference, Words},
};

/// How long after its end a round may have processes: the watchdogs of killed controllers need six
/// seconds.
const LEFTOVERS: Duration = Duration::from_secs(20);

/// How often a job may be killed at its own end, so that every round has one.
const ENDINGS: u32 = 6;

/// One job.
pub(crate) struct Round {
    number: u64,
    folder: tempfile::TempDir,
    expected: Words,
    runtime: String,
    processes: bool,
    workers: u32,
    rate: u32,
    checkpoint_every: Duration,
    /// After so many calls the rest of the input is consumed.
    calls: u32,
    random: fastrand::Rng,
    tamper: bool,
    log: File,
    /// For the journal.
    tokio: tokio::runtime::Runtime,
}

/// How far the job is.
#[derive(Default)]
struct Progress {
    /// The journal's record after the last call.
    record: Option<PhaseRecord>,
    committed: u64,
    epoch: u64,
    run: u64,
}

impl Round {
    /// Makes the input of a job.
    pub(crate) fn new(number: u64, options: &Options, mut random: fastrand::Rng) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("winddown-soak-").tempdir()?;
        let (mut expected, mut lines) = (Words::new(), 0);
        let input = folder.path().join("input");
        let sparse = if random.u32(..4) == 0 { 100 } else { 1 };
        fs::create_dir(&input)?;
        for name in ["one", "three", "two"] {
            let count = random.u32(100..700);
            let text = truth::write(count, sparse, &mut random);
            truth::count(&text, &mut expected);
            fs::write(input.join(name), text)?;
            lines += count;
        }
        let workers = random.u32(1..=4);
        Ok(Self {
            number,
            expected,
            runtime: options.runtime_name(),
            processes: options.has_processes(),
            workers,
            // Undisturbed it would take so many seconds.
            rate: (lines / workers / random.u32(2..6)).max(1),
            checkpoint_every: Duration::from_millis(random.u64(2..80)),
            calls: random.u32(5..20),
            random,
            tamper: options.tamper && number == 1,
            log: File::create(folder.path().join("calls.log"))?,
            tokio: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
            folder,
        })
    }

    /// Plays it to its end.
    ///
    /// # Errors
    /// What was wrong, and how to look at it. The folder is kept then.
    pub(crate) fn play(mut self, tally: &mut Tally) -> Result<(), String> {
        let result = self.until_end(tally).and_then(|()| self.compare(tally));
        processes::reap();
        match result {
            Ok(()) => {
                tally.rounds += 1;
                Ok(())
            }
            Err(problem) => Err(self.keep(&problem)),
        }
    }

    fn until_end(&mut self, tally: &mut Tally) -> Result<(), String> {
        let mut progress = Progress::default();
        for call in 1.. {
            let situation =
                Situation { unfinished: progress.record.as_ref().is_some_and(was_stopping), ending: call > self.calls };
            let plan = if call > self.calls + ENDINGS {
                CallPlan::default()
            } else {
                CallPlan::choose(situation, self.processes, &mut self.random)
            };
            let folder = self.folder.path().to_owned();
            let job = Job {
                folder: &folder,
                processes: self.processes,
                runtime: &self.runtime,
                workers: self.workers,
                rate: self.rate,
                checkpoint_every: self.checkpoint_every,
            };
            let outcome = job.call(&plan, progress.committed, &mut self.random)?;
            self.log.write_all(outcome.log.as_bytes()).map_err(|error| error.to_string())?;
            tally.calls += 1;
            tally.hits.add(outcome.hits);
            let before = progress.record.take();
            progress.record = self.record().map_err(|error| error.to_string())?;
            match outcome.end {
                End::Killed(kill) => self.note_kill(kill, before.as_ref(), progress.record.as_ref(), tally)?,
                End::Report(report) => {
                    check(&report, before.as_ref(), &mut progress)?;
                    tally.note_end(&report);
                    if report["input_done"] == true {
                        tally.runs += progress.run;
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// The journal says in which phase it was, because the phase is recorded before its first
    /// effect.
    fn note_kill(
        &mut self,
        kill: Kill,
        before: Option<&PhaseRecord>,
        after: Option<&PhaseRecord>,
        tally: &mut Tally,
    ) -> Result<(), String> {
        let written = after.filter(|&after| Some(after) != before);
        let at = written.map_or_else(|| "before its first record".to_owned(), |record| format!("in {record:?}"));
        writeln!(self.log, "# killed {at}\n").map_err(|error| error.to_string())?;
        tally.note_kill(kill, written);
        Ok(())
    }

    fn record(&self) -> Result<Option<PhaseRecord>, JournalError> {
        let folder = self.folder.path().join("state/journal");
        if !folder.exists() {
            // Killed before there was one.
            return Ok(None);
        }
        self.tokio.block_on(async { FileJournal::open(folder)?.load(&JOB.into()).await })
    }

    /// Nothing is left, and nothing is lost or doubled.
    fn compare(&mut self, tally: &mut Tally) -> Result<(), String> {
        let left = processes::left(self.folder.path(), LEFTOVERS);
        tally.leftovers += left.len();
        if !left.is_empty() {
            return Err(format!("expected no process to be left, got {left:?} {LEFTOVERS:?} after the end"));
        }
        let path = self.folder.path().join("state/counts.tsv");
        if self.tamper {
            tamper(&path).map_err(|error| format!("`{}`: {error}", path.display()))?;
        }
        let table = fs::read_to_string(&path).map_err(|error| format!("`{}`: {error}", path.display()))?;
        let difference = truth::compare(&self.expected, &table)?;
        tally.words += self.expected.values().sum::<u64>();
        tally.difference.lost += difference.lost;
        tally.difference.duplicated += difference.duplicated;
        let Difference { lost, duplicated } = difference;
        if difference == Difference::default() {
            Ok(())
        } else {
            Err(format!("expected the counts of a plain count, got {lost} words lost and {duplicated} duplicated"))
        }
    }

    /// Keeps the folder, and says how to look at it.
    fn keep(self, problem: &str) -> String {
        let expected = fs::write(self.folder.path().join("expected.tsv"), truth::text(&self.expected));
        let (number, workers) = (self.number, self.workers);
        let program = std::env::current_exe().unwrap_or_else(|_| "soak".into());
        let folder = self.folder.keep();
        let folder = folder.display();
        let expected = expected.err().map_or_else(String::new, |error| format!(" (not written: {error})"));
        format!(
            "{problem}\n\nround {number} is kept in {folder}:\n  every call             cat {folder}/calls.log\n  \
             the difference         diff {folder}/expected.tsv {folder}/state/counts.tsv{expected}\n  \
             the journal            cat {folder}/state/journal/job-{JOB}.record\n  \
             one more call          {} {WORDCOUNT} {folder}/input --state-dir {folder}/state --workers {workers} --report json",
            program.display()
        )
    }
}

/// Whether a controller that is killed now leaves a shutdown to be finished.
fn was_stopping(record: &PhaseRecord) -> bool {
    !record.phase().is_terminal() && (record.phase() != PhaseKind::Running || record.requested().is_some())
}

/// What a report must not say, whatever has happened.
fn check(report: &Value, before: Option<&PhaseRecord>, progress: &mut Progress) -> Result<(), String> {
    let problem = |problem: &str| Err(format!("expected {problem}, got {report}"));
    let number = |key: &str| report[key].as_u64();
    if number("workers_left") != Some(0) {
        return problem("no worker to be left");
    }
    match (before.filter(|record| was_stopping(record)), report.get("resumed_shutdown")) {
        (Some(record), Some(resumed)) if resumed["run"] == record.run().get() => {}
        (None, None) => {}
        _ => return problem("a resumed shutdown if and only if the call before was killed in one"),
    }
    let (committed, epoch) = (number("input_lines_committed").unwrap_or(0), number("epoch").unwrap_or(0));
    if committed < progress.committed || epoch < progress.epoch {
        return problem("what was committed to stay so");
    }
    let run = number("run").unwrap_or(0);
    if run < progress.run {
        return problem("runs to be numbered upwards");
    }
    (progress.committed, progress.epoch, progress.run) = (committed, epoch, run);
    Ok(())
}

/// Counts the first word once more.
fn tamper(path: &Path) -> io::Result<()> {
    let table = fs::read_to_string(path)?;
    let (first, rest) = table.split_once('\n').unwrap_or((&table, ""));
    let (word, count) = first.split_once('\t').unwrap_or((first, "0"));
    let more = count.parse().unwrap_or(0_u64) + 1;
    fs::write(path, format!("{word}\t{more}\n{rest}"))
}
