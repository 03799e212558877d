//! Every await of the drive belongs to a crash point of the table: the sources are read, so that a
//! new await without a row fails.

use std::{collections::BTreeMap, fs, path::Path};

/// What an await comes down to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaf {
    /// A record is written: `CrashPoint::Write`.
    Write,
    /// The scheduler is called: `AskToLeave`, `Kill`, `List`.
    Scheduler,
    /// It waits for news (`Wait`), while the controller's orders and manifests are on their way:
    /// `Periodic`, `FinalCheckpoint`, `Publish`, `Commit`, `Stop`, `Release`.
    News,
    /// It waits for the clock: `Wait`.
    Clock,
    /// It waits before it tries again: `Backoff`.
    Backoff,
    /// Nothing of its own: it awaits functions that are in this list.
    Inner,
    /// Not the drive's: who sends to a job, or takes one up.
    Elsewhere,
}

use Leaf::{Backoff, Clock, Elsewhere, Inner, News, Scheduler, Write};

/// File under `src`, function, how many awaits it has (a `select!` counts as one), and what they
/// are.
const AWAITS: &[(&str, &str, usize, &[Leaf])] = &[
    ("drive.rs", "drive", 4, &[Inner, Backoff]),
    ("drive/attachment.rs", "pause", 2, &[Backoff]),
    ("drive/attachment.rs", "run", 2, &[Inner]),
    ("drive/rehydrate.rs", "after_the_last_worker", 1, &[Elsewhere]),
    ("drive/rehydrate.rs", "build_at", 1, &[Elsewhere]),
    ("drive/rehydrate.rs", "check", 5, &[Elsewhere]),
    ("drive/rehydrate.rs", "final_manifest", 1, &[Elsewhere]),
    ("drive/rehydrate.rs", "latest", 1, &[Elsewhere]),
    ("drive/rehydrate.rs", "load", 1, &[Elsewhere]),
    ("drive/rehydrate.rs", "look_again", 1, &[Elsewhere]),
    ("drive/rehydrate.rs", "rehydrate", 2, &[Elsewhere]),
    ("machine/journaling.rs", "say", 2, &[Inner]),
    ("machine/journaling.rs", "settle_pending", 1, &[Write]),
    ("machine/journaling.rs", "write_down", 1, &[Inner]),
    ("machine/journaling.rs", "write_down_end", 1, &[Inner]),
    ("machine/journaling.rs", "write_down_status", 1, &[Inner]),
    ("machine/phases/checkpoint_stopping.rs", "look_again", 1, &[Inner]),
    ("machine/phases/checkpoint_stopping.rs", "run", 1, &[Inner]),
    ("machine/phases/checkpoint_stopping.rs", "take_final_checkpoint", 2, &[Inner]),
    ("machine/phases/checkpoint_stopping.rs", "work", 4, &[Inner]),
    ("machine/phases/finishing.rs", "look_again", 1, &[Inner]),
    ("machine/phases/finishing.rs", "release", 2, &[Inner]),
    ("machine/phases/finishing.rs", "run", 1, &[Inner]),
    ("machine/phases/finishing.rs", "work", 4, &[Inner]),
    ("machine/phases/recovering.rs", "run", 1, &[Inner]),
    ("machine/phases/recovering.rs", "work", 1, &[Inner]),
    ("machine/phases/release.rs", "attended", 1, &[Scheduler, News]),
    ("machine/phases/release.rs", "end", 2, &[Inner]),
    ("machine/phases/release.rs", "kill", 4, &[Scheduler, Clock, Inner]),
    ("machine/phases/release.rs", "leave", 4, &[Inner]),
    ("machine/phases/release.rs", "listed", 1, &[Elsewhere]),
    ("machine/phases/release.rs", "look_again", 1, &[Scheduler]),
    ("machine/phases/release.rs", "release", 2, &[Inner]),
    ("machine/phases/release.rs", "tell_workers", 1, &[Inner]),
    ("machine/phases/running.rs", "run", 1, &[Inner]),
    ("machine/phases/running.rs", "wait", 1, &[Inner]),
    ("machine/phases/running.rs", "work", 2, &[Inner]),
    ("machine/phases/stopping.rs", "look_again", 2, &[Inner]),
    ("machine/phases/stopping.rs", "run", 2, &[Inner]),
    ("machine/phases/stopping.rs", "stop", 4, &[Inner]),
    ("machine/phases/stopping.rs", "stop_tasks", 1, &[Inner]),
    ("machine/phases/stopping.rs", "work", 4, &[Inner]),
    ("machine/phases/wait.rs", "hold", 1, &[Backoff]),
    ("machine/phases/wait.rs", "news", 1, &[News]),
    ("machine/phases/wait.rs", "pause", 1, &[Inner]),
    ("machine/phases/wait.rs", "yield_once", 1, &[News]),
    ("machine/phases/work.rs", "decide", 1, &[Inner]),
    ("machine/phases/work.rs", "decide_at_last", 3, &[Inner]),
    ("machine/phases/work.rs", "next", 1, &[Inner]),
    ("machine/phases/work.rs", "run", 1, &[Inner]),
    ("mailbox.rs", "above", 1, &[News]),
    ("mailbox.rs", "closed", 1, &[Elsewhere]),
    ("mailbox.rs", "event", 1, &[Elsewhere]),
    ("mailbox.rs", "next", 1, &[News]),
    ("mailbox.rs", "request_above", 1, &[News]),
    ("mailbox.rs", "send", 1, &[Elsewhere]),
];

/// The functions of the drive that await, with how often.
fn found() -> BTreeMap<(String, String), usize> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![root.join("drive.rs"), root.join("machine/journaling.rs"), root.join("mailbox.rs")];
    for folder in ["machine/phases", "drive"] {
        files.extend(fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path()));
    }
    let mut found = BTreeMap::new();
    for path in files {
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        let mut function = String::new();
        for line in fs::read_to_string(&path).unwrap().lines().map(str::trim_start) {
            if line.starts_with("//") {
                continue;
            }
            if line.starts_with("mod tests") {
                break;
            }
            if let Some((before, after)) = line.split_once("fn ")
                && before.split(' ').all(|word| word.is_empty() || word == "async" || word.starts_with("pub"))
            {
                function = after.chars().take_while(|char| char.is_alphanumeric() || *char == '_').collect();
            }
            let awaits = line.matches(".await").count() + usize::from(line.contains("select! {"));
            if awaits > 0 {
                *found.entry((name.clone(), function.clone())).or_default() += awaits;
            }
        }
    }
    found
}

#[test]
fn i7_no_await_of_the_drive_is_without_a_crash_point() {
    let mut found = found();
    let mut wrong = Vec::new();
    for (file, function, count, leaves) in AWAITS {
        assert!(!leaves.is_empty(), "{file}: `{function}` awaits something: say what");
        match found.remove(&((*file).to_owned(), (*function).to_owned())) {
            Some(now) if now == *count => {}
            now => wrong.push(format!("{file}: `{function}` had {count} awaits, and has {}", now.unwrap_or(0))),
        }
    }
    wrong.extend(found.iter().map(|((file, function), count)| format!("(\"{file}\", \"{function}\", {count}, &[]),")));
    assert!(
        wrong.is_empty(),
        "the awaits of the drive have changed. Say in tests/cluster/rehydration/awaits.rs which crash points they are, and give each a row in \
         tests/cluster/rehydration/table.rs:\n{}",
        wrong.join("\n")
    );
}
