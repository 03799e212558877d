//! What is seen while the job runs: bars on a terminal, plain lines elsewhere. All of it goes to stderr.

use std::{
    convert::Infallible,
    io::{IsTerminal, stderr},
    sync::Arc,
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at},
};
use winddown::{CheckpointStage, Count, Progress};

use crate::{stops::Stops, tasks::Meter};

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
            // A terminal that is gone is no reason to stop.
            Some(bars) => drop(bars.all.println(line)),
            None => eprintln!("{line}"),
        }
    }

    /// Removes the bars.
    pub(crate) fn clear(&self) {
        if let Some(bars) = &self.bars {
            let _ = bars.all.clear();
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
            all.add(ProgressBar::new(length).with_style(style.progress_chars("=> ")))
        };
        Self {
            phase: bar(0, "{spinner} {msg}"),
            lines: bar(lines, "  input       [{bar:32}] {human_pos} of {human_len} lines, {per_sec}"),
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
        CheckpointStage::Collecting { epoch, acks } => (acks, format!("states of {epoch}")),
        CheckpointStage::Publishing { epoch } => (Count::new(tasks, tasks), format!("states of {epoch}, publishing")),
        CheckpointStage::Committing { epoch, acks } => (acks, format!("commits of {epoch}")),
        CheckpointStage::Idle => {
            let last = progress.status.last_complete;
            (Count::new(0, tasks), last.map_or_else(String::new, |epoch| format!("(last complete: {epoch})")))
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
