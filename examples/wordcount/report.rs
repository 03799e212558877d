//! What is said at the end.

use std::{fmt::Write, path::Path, time::Duration};

use clap::ValueEnum;
use serde::Serialize;

use crate::cli::{Args, ReportFormat, Runtime};

/// The end of a call, as `--report json` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    /// The number of the last run.
    pub(crate) run: u64,
    /// The phases that the last run walked; none if there was nothing left to run.
    pub(crate) phases: Vec<PhaseTime>,
    /// What the end proves: `checkpointed`, `drained`, `halted` or `killed`.
    pub(crate) evidence: &'static str,
    /// The last complete checkpoint, from which the next run starts.
    pub(crate) epoch: Option<u64>,
    /// The lines of the input.
    pub(crate) input_lines_total: u64,
    /// The lines that are committed with the last complete checkpoint.
    pub(crate) input_lines_committed: u64,
    /// Whether that is all of them.
    pub(crate) input_done: bool,
    /// The workers that the scheduler listed at the end.
    pub(crate) workers_left: usize,
    /// From the start of the job.
    pub(crate) elapsed_ms: u64,
}

/// How long a run was in a phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct PhaseTime {
    /// The phase.
    pub(crate) phase: &'static str,
    /// The time in milliseconds.
    pub(crate) ms: u64,
}

impl Report {
    /// The text for stdout.
    pub(crate) fn render(&self, args: &Args, program: &str, counts: &Path) -> String {
        match args.report {
            ReportFormat::Text => self.receipt(args, program, counts),
            // Numbers and names always have a JSON form.
            ReportFormat::Json => serde_json::to_string(self).unwrap_or_default(),
        }
    }

    fn receipt(&self, args: &Args, program: &str, counts: &Path) -> String {
        let mut text = format!("run {}: {}", self.run, self.evidence);
        // Writing to a string can't fail.
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
        let _ = write!(text, "\n  {:<24} {}", "workers left", self.workers_left);
        let _ = write!(text, "\n  {:<24} {:.3} s", "in all", Duration::from_millis(self.elapsed_ms).as_secs_f64());
        if self.input_done {
            let _ = write!(text, "\n  {:<24} {}", "result", counts.display());
        } else {
            let _ = write!(text, "\n  {:<24} {}", "resume with", resume(args, program));
        }
        text
    }
}

/// The command that goes on where this call ended: the same without what concerned this call only.
fn resume(args: &Args, program: &str) -> String {
    let mut words = vec![program.to_owned()];
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
            evidence: "checkpointed",
            epoch: Some(5),
            input_lines_total: 100,
            input_lines_committed: 40,
            input_done: false,
            workers_left: 0,
            elapsed_ms: 2040,
        }
    }

    fn rendered(report: &Report, line: &str) -> String {
        let args = Args::parse_from(std::iter::once("wordcount").chain(line.split(' ')));
        report.render(&args, "wordcount", Path::new("state/counts.tsv"))
    }

    #[test]
    fn the_json_object_has_these_fields_in_this_order() {
        assert_eq!(
            rendered(&report(), "in --report json"),
            r#"{"run":3,"phases":[{"phase":"Running","ms":2001},{"phase":"CheckpointStopping","ms":34},{"phase":"Stopped<Checkpointed>","ms":0}],"evidence":"checkpointed","epoch":5,"input_lines_total":100,"input_lines_committed":40,"input_done":false,"workers_left":0,"elapsed_ms":2040}"#
        );
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
