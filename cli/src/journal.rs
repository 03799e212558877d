//! `winddown journal` and `winddown why` on a folder.

use std::{fmt::Write as _, path::Path, time::SystemTime};

use winddown::{
    PhaseKind,
    checkpoint::{FoundEntry, FoundLog},
    journal::{FoundRecord, PhaseRecord},
};

use crate::{folder::Found, printable::Printable};

/// What to print, and whether all that was found is sound.
pub(crate) struct Report {
    pub(crate) text: String,
    pub(crate) is_sound: bool,
}

/// Lists, verifies and explains all records and logs below a folder.
pub(crate) fn journal(dir: &Path) -> Result<Report, String> {
    let found = Found::below(dir)?;
    let mut report = Report { text: String::new(), is_sound: true };
    let last = found.last_entries();
    for FoundRecord { path, record, .. } in &found.records {
        line(&mut report, &format!("record {}", Printable(path.display())));
        match record {
            Ok(record) => {
                line(&mut report, &format!("  {}", summary(record)));
                let entry = last.get(record.job());
                line(&mut report, &format!("  next start: {}", next_start(record, entry)));
            }
            Err(error) => unsound(&mut report, &error.to_string()),
        }
    }
    for log in &found.logs {
        explain_log(log, &mut report);
    }
    Ok(report)
}

/// Says what the unfinished shutdowns below a folder were doing.
pub(crate) fn why(dir: &Path) -> Result<Report, String> {
    let found = Found::below(dir)?;
    let mut report = Report { text: String::new(), is_sound: true };
    let last = found.last_entries();
    for FoundRecord { path, record, .. } in &found.records {
        match record {
            Ok(record) if record.phase().is_terminal() => {
                let job = Printable(record.job());
                line(&mut report, &format!("job `{job}`, run {}: has stopped, {}", record.run(), record.phase()));
            }
            Ok(record) => {
                line(&mut report, &summary(record));
                line(&mut report, &format!("  it waited for: {}", waits_for(record.phase())));
                let entry = last.get(record.job());
                line(&mut report, &format!("  next start: {}", next_start(record, entry)));
            }
            Err(error) => {
                line(&mut report, &format!("record {}", Printable(path.display())));
                unsound(&mut report, &error.to_string());
            }
        }
    }
    Ok(report)
}

fn line(report: &mut Report, text: &str) {
    // Writing to a string can't fail.
    let _ = writeln!(report.text, "{text}");
}

fn unsound(report: &mut Report, error: &str) {
    report.is_sound = false;
    line(report, &format!("  DAMAGED: {}", Printable(error)));
    line(report, "  next start: refuses, and changes nothing");
}

fn summary(record: &PhaseRecord) -> String {
    let at = humantime::format_rfc3339_seconds(record.at());
    let ago = SystemTime::now().duration_since(record.at()).unwrap_or_default();
    let ago = humantime::format_duration(std::time::Duration::from_secs(ago.as_secs()));
    let requested = record.requested().map_or("nothing".into(), |request| request.to_string());
    let job = Printable(record.job());
    let (run, phase, revision, attempt) = (record.run(), record.phase(), record.revision(), record.attempt());
    format!(
        "job `{job}`, run {run}: {phase} since {at} ({ago} ago), requested: {requested}, revision {revision}, controller {attempt}"
    )
}

/// What a controller does in a phase, for one that is gone.
fn waits_for(phase: PhaseKind) -> &'static str {
    match phase {
        PhaseKind::Running => "a stop request, or the end of the input",
        PhaseKind::Finishing => "the final checkpoint of a job whose input is consumed, and the end of every task",
        PhaseKind::CheckpointStopping => "the final checkpoint, its commits, and the end of every task",
        PhaseKind::StoppingGraceful | PhaseKind::StoppingImmediate => "the end of every task after a stop order",
        PhaseKind::Recovering => "the end of every task of a failed run",
        PhaseKind::StoppingForce => "the scheduler: it was to kill the workers, and to list none",
        _ => "nothing: it has stopped",
    }
}

/// What `rehydrate` would make of a record, with and without workers alive.
///
/// `last` is the last entry of the job's checkpoint log, if that is known.
pub(crate) fn next_start(record: &PhaseRecord, last: Option<&FoundEntry>) -> String {
    let phase = record.phase();
    let run = record.run();
    if let Some(FoundEntry::Claim { run: newer } | FoundEntry::Manifest { run: newer, .. }) = last
        && *newer > run
    {
        return format!("run {newer} has taken the job over since; this shutdown is over");
    }
    if phase.is_terminal() {
        let from = record.last_complete().map_or("the beginning".into(), |epoch| format!("epoch {epoch}"));
        return format!("nothing is left to do if no worker is listed; a new run starts from {from}");
    }
    let proves = matches!(phase, PhaseKind::CheckpointStopping | PhaseKind::Finishing);
    let is_final = |epoch| Some(epoch) == record.final_epoch();
    let without = match last {
        Some(FoundEntry::Manifest { epoch, then_stop: true, commits: 0, .. }) if proves && is_final(*epoch) => {
            format!("epoch {epoch} is durable and has nothing to commit, so the stop is proven if no task is missing")
        }
        Some(FoundEntry::Manifest { epoch, commits, .. }) => {
            format!("kills what is left; the next run starts from epoch {epoch} and repeats its {commits} commits")
        }
        _ if proves && last.is_none() => "asks the checkpoint store whether the final checkpoint is durable".into(),
        _ => "kills what is left; the next run starts from the last complete checkpoint".into(),
    };
    format!("with workers alive, continues {phase} of run {run}; with none, {without}")
}

fn explain_log(log: &FoundLog, report: &mut Report) {
    line(report, &format!("checkpoint log {}", Printable(log.path.display())));
    if let Some(job) = &log.job {
        line(report, &format!("  job `{}`", Printable(job)));
    }
    for (number, entry) in &log.entries {
        match entry {
            Ok(FoundEntry::Claim { run }) => line(report, &format!("  {number}: run {run} entered")),
            Ok(FoundEntry::Manifest { run, epoch, then_stop, tasks, commits, .. }) => {
                let kind = if *then_stop { "final checkpoint" } else { "checkpoint" };
                line(
                    report,
                    &format!("  {number}: run {run}, {kind}, epoch {epoch}: {tasks} tasks, {commits} commits"),
                );
            }
            Ok(_) => line(report, &format!("  {number}: of a kind that this program does not know")),
            Err(error) => {
                report.is_sound = false;
                line(report, &format!("  {number}: DAMAGED: {}", Printable(error)));
            }
        }
    }
    match log.entries.last() {
        Some((_, Err(_))) => line(report, "  next start: refuses, because the last entry counts and is damaged"),
        Some((number, Ok(_))) => {
            let manifests = log.entries.iter().rev().filter_map(|(_, entry)| match entry {
                Ok(FoundEntry::Manifest { epoch, .. }) => Some(epoch),
                _ => None,
            });
            let from = manifests.into_iter().next().map_or("the beginning".into(), |epoch| format!("epoch {epoch}"));
            line(report, &format!("  next start: claims entry {}, and starts from {from}", number + 1));
        }
        None => {}
    }
}
