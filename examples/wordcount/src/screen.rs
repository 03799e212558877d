//! The display while the job runs: bars on a terminal, plain lines elsewhere. All of it goes to
//! stderr.

use std::{
    convert::Infallible,
    fmt,
    io::{IsTerminal, Write, stderr},
    sync::Arc,
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at},
};
use winddown::{
    Progress,
    contracts::{CheckpointStage, Count},
};

use crate::{meter::Meter, stops::Stops};

/// How often bars are drawn.
const FRAME: Duration = Duration::from_millis(100);

/// How often a plain line says how far the job is.
const PLAIN: Duration = Duration::from_secs(2);

/// Where people look.
pub(crate) struct Screen {
    bars: Option<Bars>,
    lines_total: u64,
}

struct Bars {
    all: MultiProgress,
    phase: ProgressBar,
    lines: ProgressBar,
    acks: ProgressBar,
    workers: ProgressBar,
}

impl Screen {
    /// The screen of a job over `lines_total` lines.
    pub(crate) fn new(lines_total: u64, workers: u32) -> Self {
        Self { bars: stderr().is_terminal().then(|| Bars::new(lines_total, workers)), lines_total }
    }

    /// Says one line.
    pub(crate) fn say(&self, line: &str) {
        match &self.bars {
            // A terminal or a listener that is gone is no reason to stop.
            Some(bars) => drop(bars.all.println(line)),
            None => drop(writeln!(stderr(), "{line}")),
        }
    }

    /// Removes the bars.
    pub(crate) fn clear(&self) {
        if let Some(bars) = &self.bars {
            // Not `MultiProgress::clear`: bars that have not ended are drawn once more when they
            // are dropped.
            for bar in [&bars.phase, &bars.lines, &bars.acks, &bars.workers] {
                bar.finish_and_clear();
            }
        }
    }

    /// Shows how far a run is, for ever.
    ///
    /// Cancel safe: nothing is lost but the picture.
    pub(crate) async fn follow(
        &self,
        mut progress: watch::Receiver<Progress>,
        meter: &Meter,
        stops: &Stops,
    ) -> Infallible {
        let start = Instant::now();
        let period = if self.bars.is_some() { FRAME } else { PLAIN };
        let mut tick = interval_at(start + period, period);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut shown = Shown::default();
        loop {
            let now = progress.borrow_and_update().clone();
            for line in shown.news(&now, start.elapsed(), stops) {
                self.say(&line);
            }
            if let Some(bars) = &self.bars {
                bars.draw(&now, meter.lines(), stops);
            }
            tokio::select! {
                changed = progress.changed() => if changed.is_err() {
                    // The job is over; there is nothing more to see.
                    std::future::pending::<()>().await;
                },
                _ = tick.tick() => if self.bars.is_none() {
                    self.say(&figures(&progress.borrow(), meter.lines(), self.lines_total));
                },
            }
        }
    }
}

impl Bars {
    fn new(lines: u64, workers: u32) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let bar = |length, template: &str| {
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let style = style.with_key("speed", |state: &ProgressState, out: &mut dyn fmt::Write| {
                let _ = write!(out, "{:.0}", state.per_sec());
            });
            all.add(ProgressBar::new(length).with_style(style.progress_chars("=> ")))
        };
        Self {
            phase: bar(0, "{spinner} {msg}"),
            lines: bar(lines, "  input       [{bar:32}] {human_pos} of {human_len} lines, {speed}/s"),
            acks: bar(0, "  checkpoint  [{bar:32}] {pos} of {len} {msg}"),
            workers: bar(u64::from(workers), "  workers     [{bar:32}] {pos} of {len} alive"),
            all,
        }
    }

    fn draw(&self, progress: &Progress, lines: u64, stops: &Stops) {
        let since = progress.since.elapsed().as_secs_f32();
        self.phase.set_message(format!("{} for {since:.1} s · {}", progress.phase, stops.hint()));
        self.phase.tick();
        self.lines.set_position(lines);
        let (acks, what) = acks(progress);
        self.acks.set_length(u64::from(acks.total));
        self.acks.set_position(u64::from(acks.done));
        self.acks.set_message(what);
        self.workers.set_position(u64::from(progress.alive.unwrap_or(progress.status.workers_left)));
    }
}

/// How far the checkpoint in flight is, and what is counted.
fn acks(progress: &Progress) -> (Count, String) {
    let tasks = progress.status.tasks.total;
    match progress.status.checkpoint {
        CheckpointStage::Collecting { epoch, acks } => (acks, format!("states of epoch {epoch}")),
        CheckpointStage::Publishing { epoch } => {
            (Count::new(tasks, tasks), format!("states of epoch {epoch}, publishing"))
        }
        CheckpointStage::Committing { epoch, acks } => (acks, format!("commits of epoch {epoch}")),
        CheckpointStage::Idle => {
            let last = progress.status.last_complete;
            (Count::new(0, tasks), last.map_or_else(String::new, |epoch| format!("(last complete: epoch {epoch})")))
        }
    }
}

/// How far the job is, in one line.
fn figures(progress: &Progress, lines: u64, lines_total: u64) -> String {
    let status = &progress.status;
    let epoch = status.last_complete.map_or_else(|| "none yet".to_owned(), |epoch| epoch.to_string());
    format!(
        "{}: {lines} of {lines_total} lines read, last complete checkpoint: {epoch}, {} tasks finished",
        progress.phase, status.tasks
    )
}

/// What has been said already.
#[derive(Default)]
struct Shown {
    phase: Option<winddown::PhaseKind>,
    error: Option<Arc<str>>,
}

impl Shown {
    /// The lines that are due.
    fn news(&mut self, progress: &Progress, elapsed: Duration, stops: &Stops) -> Vec<String> {
        let mut lines = Vec::new();
        if self.error != progress.last_error {
            self.error.clone_from(&progress.last_error);
            lines.extend(self.error.iter().map(|error| format!("error: {error}")));
        }
        if self.phase != Some(progress.phase) {
            self.phase = Some(progress.phase);
            lines.push(format!("[{:>8.3} s] {} · {}", elapsed.as_secs_f64(), progress.phase, stops.hint()));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use winddown::{Detached, Epoch, JobContext, OpenRun, PhaseKind, RunId, StopRequest};

    use super::*;

    /// What a job shows that has just started.
    fn progress() -> Progress {
        let open = OpenRun::without_store("words", RunId::new(1));
        JobContext::builder(&open).simulated().build(Detached, ()).unwrap().0.progress_now()
    }

    #[tokio::test]
    async fn each_phase_and_each_error_is_said_once() {
        let (mut shown, mut now, stops) = (Shown::default(), progress(), Stops::default());
        let mut said = |now: &Progress, stops: &Stops| shown.news(now, Duration::from_millis(1500), stops);
        assert_eq!(said(&now, &stops), ["[   1.500 s] Running · Ctrl-C: stop with a checkpoint"]);
        now.retries = 1;
        assert_eq!(said(&now, &stops), [""; 0]);
        (now.phase, now.last_error) = (PhaseKind::CheckpointStopping, Some("no".into()));
        stops.ask(StopRequest::Checkpoint);
        let hint = "Ctrl-C again: stop at once, without the checkpoint";
        let expected = ["error: no".to_owned(), format!("[   1.500 s] CheckpointStopping · {hint}")];
        assert_eq!(said(&now, &stops), expected);
        assert_eq!(said(&now, &stops), [""; 0]);
    }

    #[tokio::test]
    async fn the_figures_tell_lines_epoch_and_tasks() {
        let mut now = progress();
        now.status.tasks = Count::new(3, 12);
        let line = "Running: 7 of 9 lines read, last complete checkpoint: none yet, 3/12 tasks finished";
        assert_eq!(figures(&now, 7, 9), line);
        let epoch = Epoch::new(4);
        now.status.checkpoint = CheckpointStage::Committing { epoch, acks: Count::new(1, 4) };
        assert_eq!(acks(&now), (Count::new(1, 4), "commits of epoch 4".to_owned()));
        (now.status.checkpoint, now.status.last_complete) = (CheckpointStage::Idle, Some(epoch));
        assert_eq!(acks(&now), (Count::new(0, 12), "(last complete: epoch 4)".to_owned()));
    }
}
