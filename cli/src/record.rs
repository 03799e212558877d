//! A recorder's file, as `why`, `timeline` and `trace` read it.

use std::{fmt::Write as _, path::Path, time::Duration, time::SystemTime};

use winddown::{
    JobId, PhaseKind, RunId,
    recorder::{Entry, Record, read},
    why::Why,
};

use crate::{journal::Report, printable::Printable};

/// What a record tells, in order.
pub(crate) struct Story {
    pub(crate) job: JobId,
    pub(crate) run: RunId,
    /// The phases with their reasons; the end of the last one is the end of the record.
    pub(crate) bands: Vec<Band>,
    /// Who held it up, from then on until the next.
    pub(crate) whys: Vec<(SystemTime, Why)>,
    /// Other things that happened.
    pub(crate) notes: Vec<(SystemTime, String)>,
    pub(crate) end: SystemTime,
    pub(crate) dropped: u64,
    pub(crate) damaged: u32,
    pub(crate) newer: u32,
}

/// A stay in a phase.
pub(crate) struct Band {
    pub(crate) phase: PhaseKind,
    pub(crate) reason: String,
    pub(crate) is_failure: bool,
    pub(crate) from: SystemTime,
    pub(crate) to: SystemTime,
}

impl Band {
    pub(crate) fn took(&self) -> Duration {
        self.to.duration_since(self.from).unwrap_or_default()
    }
}

impl Story {
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let record = read(path).map_err(|error| format!("can't read `{}`: {error}", path.display()))?;
        Self::of(&record)
            .ok_or_else(|| format!("expected a record in `{}`, found no sound line of one", path.display()))
    }

    fn of(record: &Record) -> Option<Self> {
        let opened = record.lines.iter().find_map(|line| match &line.entry {
            Entry::Opened { job, run, .. } => Some((job.clone(), *run)),
            _ => None,
        });
        let (job, run) = opened?;
        let (damaged, newer) = (record.damaged, record.newer);
        let end = SystemTime::UNIX_EPOCH;
        let (bands, whys, notes) = (Vec::new(), Vec::new(), Vec::new());
        let mut story = Self { job, run, bands, whys, notes, end, dropped: 0, damaged, newer };
        let mut controllers = 0;
        for line in &record.lines {
            let Ok(at) = humantime::parse_rfc3339(&line.at) else {
                story.damaged += 1;
                continue;
            };
            // A wrong clock does not turn time around.
            let at = at.max(story.bands.last().map_or(SystemTime::UNIX_EPOCH, |band| band.from));
            story.end = story.end.max(at);
            match &line.entry {
                Entry::Opened { phase, .. } => {
                    controllers += 1;
                    if controllers > 1 {
                        story.notes.push((at, format!("controller {controllers} goes on in {phase}")));
                    }
                }
                Entry::Phase { phase, reason } => {
                    if let Some(last) = story.bands.last_mut() {
                        last.to = at;
                    }
                    let (text, is_failure) = (reason.to_string(), reason.kind().is_failure());
                    story.bands.push(Band { phase: *phase, reason: text, is_failure, from: at, to: at });
                }
                Entry::Requested { request } => story.notes.push((at, format!("a stop was requested: {request}"))),
                Entry::Figures { error: Some(error), .. } => {
                    let text = format!("error: {error}");
                    if story
                        .notes
                        .iter()
                        .rev()
                        .find(|(_, note)| note.starts_with("error: "))
                        .is_none_or(|(_, it)| *it != text)
                    {
                        story.notes.push((at, text));
                    }
                }
                Entry::Why { why } => story.whys.push((at, why.clone())),
                Entry::LetGo => story.notes.push((at, "the controller let the job go".into())),
                Entry::Dropped { lines } => story.dropped = *lines,
                _ => {}
            }
        }
        if let Some(last) = story.bands.last_mut() {
            last.to = story.end;
        }
        Some(story)
    }

    /// The outcome in one sentence.
    pub(crate) fn verdict(&self) -> String {
        match self.bands.last() {
            Some(band) if band.phase.is_terminal() => format!("{}: {}", band.phase, band.reason),
            Some(band) => format!("not stopped: the record ends in {} ({})", band.phase, band.reason),
            None => "no phase was recorded".into(),
        }
    }

    pub(crate) fn has_stopped(&self) -> bool {
        self.bands.last().is_some_and(|band| band.phase.is_terminal())
    }

    pub(crate) fn start(&self) -> SystemTime {
        self.bands.first().map_or(self.end, |band| band.from)
    }

    /// What is missing in the record; empty if nothing is.
    pub(crate) fn gaps(&self) -> String {
        let mut gaps = String::new();
        let all =
            [(self.dropped, "dropped"), (self.damaged.into(), "damaged"), (self.newer.into(), "of a newer version")];
        for (lines, what) in all {
            if lines > 0 {
                // Writing to a string can't fail.
                let _ = write!(gaps, "{}{lines} lines {what}", if gaps.is_empty() { "" } else { ", " });
            }
        }
        gaps
    }
}

/// `winddown why` on a record: the phases, and who held the stop up.
pub(crate) fn why(path: &Path) -> Result<Report, String> {
    let story = Story::read(path)?;
    let mut text = String::new();
    let mut line = |it: String| text.extend([it, "\n".into()]);
    line(format!("job `{}`, run {}: {}", Printable(&story.job), story.run, Printable(story.verdict())));
    for band in &story.bands {
        let took = humantime::format_duration(Duration::from_millis(
            u64::try_from(band.took().as_millis()).unwrap_or(u64::MAX),
        ));
        line(format!("  {:<22} {took}: {}", band.phase, Printable(&band.reason)));
    }
    let last = story.whys.iter().rev().find(|(_, why)| !why.culprits.is_empty());
    if let Some((at, why)) = last {
        let said = if story.has_stopped() { "it was last held up" } else { "who holds it up" };
        line(format!("{said}, at {}:", humantime::format_rfc3339_seconds(*at)));
        line(why.to_string());
    }
    let gaps = story.gaps();
    if !gaps.is_empty() {
        line(format!("the record is incomplete: {gaps}"));
    }
    Ok(Report { text, is_sound: gaps.is_empty() })
}
