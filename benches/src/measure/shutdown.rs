//! A whole shutdown: a word count that is stopped with a checkpoint, from the request to the
//! receipt, taken apart by its log.

use super::{
    Scale,
    wordcount::{Run, Wordcount},
};
use crate::report::{
    Result,
    data::{Samples, Shutdown, ShutdownRow},
};

/// The parts of one shutdown, in microseconds.
#[derive(Clone, Copy, Debug)]
struct Parts {
    total: f64,
    checkpoint: f64,
    commit: f64,
    finish: f64,
    release: f64,
    tasks: f64,
    floor: f64,
}

impl Parts {
    fn of(run: &Run) -> Result<Self> {
        let start = run.when(r#"to="checkpoint-stopping""#)?;
        let end = run.when(r#"to="stopped-checkpointed""#)?;
        let after = |text: &str| {
            let line = run.log.iter().find(|line| line.at >= start && line.text.contains(text));
            line.map(|line| line.at).ok_or_else(|| format!("expected a line with `{text}` after the request"))
        };
        // A checkpoint that was under way is published first; the final one last.
        let published = run.log.iter().rfind(|line| line.text.contains("manifest published"));
        let published = published.ok_or("expected the manifest to be published")?.at;
        let released = after(r#"order="release""#)?;
        let own: Vec<_> = run.log.iter().filter(|line| line.at > start && line.text.contains("took_us=")).collect();
        let took = |line: &&super::wordcount::Line| line.number("took_us");
        let written = own.iter().filter(|line| line.text.contains("counts written")).filter_map(took);
        let floor = written.fold(0.0, f64::max);
        let committed = own.iter().filter(|line| line.text.contains("counts committed")).map(|line| line.at);
        let committed = committed.fold(published, f64::max);
        let intervals = own.iter().filter_map(|line| Some(((line.at - took(line)?).max(start), line.at.min(end))));
        Ok(Self {
            total: end - start,
            checkpoint: published - start,
            commit: committed - published,
            finish: released - committed,
            release: end - released,
            tasks: covered(intervals.collect()),
            floor,
        })
    }
}

/// How much time lies in any of the intervals.
fn covered(mut intervals: Vec<(f64, f64)>) -> f64 {
    intervals.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (mut covered, mut until) = (0.0, f64::MIN);
    for (start, end) in intervals {
        covered += (end - start.max(until)).max(0.0);
        until = until.max(end);
    }
    covered
}

/// Item 7.
pub(super) fn shutdown(scale: Scale) -> Result<Shutdown> {
    let program = Wordcount::build()?;
    program.write_input(scale.pick(1 << 20, 20 << 20, 20 << 20))?;
    let mut cases = Vec::new();
    for &workers in scale.pick(&[2][..], &[1, 4, 16], &[1, 4, 16, 64]) {
        cases.push(("embedded", workers, "1500ms"));
    }
    for &workers in scale.pick(&[1][..], &[1, 4], &[1, 4, 16]) {
        cases.push(("process", workers, "2s"));
    }
    let mut parts: Vec<Vec<Parts>> = vec![Vec::new(); cases.len()];
    for _ in 0..scale.pick(1, 3, 5) {
        for ((runtime, workers, after), parts) in cases.iter().zip(&mut parts) {
            // Slow enough that little text waits ahead of the barrier, and that the input does not
            // end before the stop.
            let arguments = format!("--runtime {runtime} --workers {workers} --rate 1000 --stop checkpoint@{after}");
            parts.push(Parts::of(&program.run(&arguments, true)?)?);
        }
    }
    let rows = cases.iter().zip(parts).map(|((runtime, workers, _), parts)| row(runtime, *workers, &parts)).collect();
    Ok(Shutdown { rows })
}

fn row(runtime: &str, workers: u32, parts: &[Parts]) -> ShutdownRow {
    let of = |part: fn(&Parts) -> f64| Samples::of(parts.iter().map(part).collect());
    ShutdownRow {
        runtime: runtime.to_owned(),
        workers,
        total: of(|it| it.total),
        checkpoint: of(|it| it.checkpoint),
        commit: of(|it| it.commit),
        finish: of(|it| it.finish),
        release: of(|it| it.release),
        tasks: of(|it| it.tasks),
        ours: of(|it| it.total - it.tasks),
        floor: of(|it| it.floor),
    }
}
