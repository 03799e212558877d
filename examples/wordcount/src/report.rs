//! The report at the end.

use std::{ffi::OsString, fmt::Write, path::Path, time::Duration};

use clap::ValueEnum;
use serde::Serialize;
use tokio::time::Instant;
use winddown::{JobContext, machine::Visit};

use crate::cli::{Args, ReportFormat, Runtime};

/// The end of a call, as `--report json` prints it. It is filled during the call, so that a failed
/// call reports what is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    /// The number of the last run.
    pub(crate) run: u64,
    /// The phases of the last run; none if there was nothing left to run.
    pub(crate) phases: Vec<PhaseTime>,
    /// What the end proves: `checkpointed`, `completed`, `drained`, `halted` or `killed`; nothing
    /// after an error.
    pub(crate) evidence: Option<&'static str>,
    /// The last complete checkpoint, from which the next run starts.
    pub(crate) epoch: Option<u64>,
    /// The lines of the input.
    pub(crate) input_lines_total: u64,
    /// The lines that are committed with the last complete checkpoint.
    pub(crate) input_lines_committed: u64,
    /// Whether that is all of them.
    pub(crate) input_done: bool,
    /// The workers that the scheduler listed at the end; none if it could not be asked.
    pub(crate) workers_left: Option<usize>,
    /// From the start of the job.
    pub(crate) elapsed_ms: u64,
    /// The shutdown of an earlier call that was finished first, if that call was killed during it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resumed_shutdown: Option<Resumed>,
    /// Why the call has failed, if it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// A shutdown that an earlier call started and this one has finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Resumed {
    /// The run that was being stopped.
    pub(crate) run: u64,
    /// The strongest stop request of its call; none if the run ended by itself.
    pub(crate) requested: Option<&'static str>,
    /// The phase that the journal held.
    pub(crate) found: &'static str,
    /// The workers of the run that were alive.
    pub(crate) workers_found: usize,
    /// The phases from there on.
    pub(crate) phases: Vec<PhaseTime>,
    /// What its end proves.
    pub(crate) evidence: &'static str,
    /// The last complete checkpoint at that time, from which the next run starts.
    pub(crate) epoch: Option<u64>,
}

/// How long a run was in a phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct PhaseTime {
    /// The phase.
    pub(crate) phase: &'static str,
    /// The time in milliseconds.
    pub(crate) ms: u64,
}

/// The phases of a job so far; it is still in the last one.
pub(crate) fn walked<C, S>(job: &JobContext<C, S>) -> Vec<PhaseTime> {
    let visits = job.walked();
    let last = visits.last().map(|last| if last.phase.is_terminal() { last.entered } else { Instant::now() });
    let ends = visits.iter().skip(1).map(|visit| visit.entered).chain(last);
    let time = |(visit, end): (&Visit, Instant)| PhaseTime {
        phase: visit.phase.name(),
        ms: millis(end.saturating_duration_since(visit.entered)),
    };
    visits.iter().zip(ends).map(time).collect()
}

/// A time as shown in reports.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Report {
    /// What is known before anything has been done.
    pub(crate) fn new(lines: u64) -> Self {
        Self { input_lines_total: lines, ..Self::default() }
    }

    /// The same for a failed call: whatever was proven for an earlier run, nothing is claimed.
    pub(crate) fn failed(self, error: &dyn std::fmt::Display) -> Self {
        Self { evidence: None, error: Some(error.to_string()), ..self }
    }

    /// The text for stdout. In the text format errors go to stderr, and there is a receipt only for
    /// an end with evidence.
    pub(crate) fn render(&self, args: &Args, program: &[OsString], counts: &Path) -> Option<String> {
        match (args.report, self.evidence) {
            (ReportFormat::Text, evidence) => evidence.map(|evidence| self.receipt(evidence, args, program, counts)),
            // Numbers and names always have a JSON form.
            (ReportFormat::Json, _) => Some(serde_json::to_string(self).unwrap_or_default()),
        }
    }

    fn receipt(&self, evidence: &str, args: &Args, program: &[OsString], counts: &Path) -> String {
        // Writing to a string can't fail.
        let mut text = String::new();
        if let Some(Resumed { run, found, evidence, .. }) = &self.resumed_shutdown {
            let _ = writeln!(
                text,
                "run {run}: {evidence}\n  the shutdown that an earlier call began ({found}), finished first"
            );
        }
        let _ = write!(text, "run {}: {evidence}", self.run);
        for PhaseTime { phase, ms } in &self.phases {
            let seconds = Duration::from_millis(*ms).as_secs_f64();
            let _ = write!(text, "\n  {phase:<24} {seconds:>9.3} s");
        }
        if self.phases.is_empty() {
            text.push_str("\n  the job was complete already: nothing was started");
        }
        let epoch = self.epoch.map_or_else(|| "none".to_owned(), |epoch| epoch.to_string());
        let _ = write!(text, "\n  {:<24} {epoch}", "last complete checkpoint");
        let _ = write!(
            text,
            "\n  {:<24} {} of {} lines committed",
            "input", self.input_lines_committed, self.input_lines_total
        );
        let _ = write!(text, "\n  {:<24} {}", "workers left", self.workers_left.unwrap_or_default());
        let _ = write!(text, "\n  {:<24} {:.3} s", "in all", Duration::from_millis(self.elapsed_ms).as_secs_f64());
        if self.input_done {
            let _ = write!(text, "\n  {:<24} {}", "result", counts.display());
        } else {
            let _ = write!(text, "\n  {:<24} {}", "resume with", resume(args, program));
        }
        text
    }
}

/// The command that continues where this call ended: the same without the options that concern only
/// this call.
fn resume(args: &Args, program: &[OsString]) -> String {
    let mut words: Vec<_> = program.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    words.extend(args.inputs.iter().map(|input| input.display().to_string()));
    words.extend(["--workers".to_owned(), args.workers.to_string()]);
    if let Some(rate) = args.rate {
        words.extend(["--rate".to_owned(), rate.to_string()]);
    }
    words.extend(["--state-dir".to_owned(), args.state_dir.display().to_string()]);
    let every = humantime::format_duration(args.checkpoint_every).to_string();
    words.extend(["--checkpoint-every".to_owned(), every.replace(' ', "")]);
    if let Some(runtime) = args.runtime.to_possible_value().filter(|_| args.runtime != Runtime::Embedded) {
        words.extend(["--runtime".to_owned(), runtime.get_name().to_owned()]);
    }
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./@=:,+".contains(letter);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn report() -> Report {
        Report {
            run: 3,
            phases: vec![
                PhaseTime { phase: "Running", ms: 2001 },
                PhaseTime { phase: "CheckpointStopping", ms: 34 },
                PhaseTime { phase: "Stopped<Checkpointed>", ms: 0 },
            ],
            evidence: Some("checkpointed"),
            epoch: Some(5),
            input_lines_total: 100,
            input_lines_committed: 40,
            input_done: false,
            workers_left: Some(0),
            elapsed_ms: 2040,
            ..Report::default()
        }
    }

    fn resumed() -> Resumed {
        Resumed {
            run: 2,
            requested: Some("checkpoint"),
            found: "CheckpointStopping",
            workers_found: 1,
            phases: vec![PhaseTime { phase: "Stopped<Killed>", ms: 0 }],
            evidence: "killed",
            epoch: None,
        }
    }

    fn rendered(report: &Report, line: &str) -> String {
        let args = Args::parse_from(std::iter::once("wordcount").chain(line.split(' ')));
        report.render(&args, &["wordcount".into()], Path::new("state/counts.tsv")).unwrap_or_default()
    }

    #[test]
    fn the_json_object_has_these_fields_in_this_order() {
        assert_eq!(
            rendered(&report(), "in --report json"),
            r#"{"run":3,"phases":[{"phase":"Running","ms":2001},{"phase":"CheckpointStopping","ms":34},{"phase":"Stopped<Checkpointed>","ms":0}],"evidence":"checkpointed","epoch":5,"input_lines_total":100,"input_lines_committed":40,"input_done":false,"workers_left":0,"elapsed_ms":2040}"#
        );
    }

    #[test]
    fn a_resumed_shutdown_and_an_error_are_told_where_there_is_one() {
        let report = Report { resumed_shutdown: Some(resumed()), ..report() }.failed(&"no");
        let json = rendered(&report, "in --report json");
        let end = r#""elapsed_ms":2040,"resumed_shutdown":{"run":2,"requested":"checkpoint","found":"CheckpointStopping","workers_found":1,"phases":[{"phase":"Stopped<Killed>","ms":0}],"evidence":"killed","epoch":null},"error":"no"}"#;
        assert!(json.contains(r#""evidence":null,"epoch":5"#) && json.ends_with(end), "{json}");
        assert_eq!(rendered(&report, "in"), "", "there is no receipt for what has failed");
    }

    #[test]
    fn the_receipt_tells_of_a_shutdown_that_was_finished_first() {
        let text = rendered(&Report { resumed_shutdown: Some(resumed()), ..report() }, "in");
        assert!(text.starts_with("run 2: killed\n") && text.contains("\nrun 3: checkpointed\n"), "{text}");
    }

    #[test]
    fn the_receipt_has_the_phases_the_evidence_and_the_way_on() {
        let text =
            rendered(&report(), "in it's --fresh --stop force@1s --state-dir s --rate 9 --checkpoint-every 1500ms");
        for part in [
            "run 3: checkpointed",
            "CheckpointStopping           0.034 s",
            "40 of 100 lines",
            "workers left             0",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let command = r"resume with              wordcount in 'it'\''s' --workers 4 --rate 9 --state-dir s --checkpoint-every 1s500ms";
        assert!(text.ends_with(command), "{text}");
    }

    #[test]
    fn a_finished_job_shows_its_result() {
        let done = Report { input_done: true, phases: Vec::new(), ..report() };
        let text = rendered(&done, "in");
        assert!(text.ends_with("state/counts.tsv") && text.contains("complete already"), "{text}");
    }
}
