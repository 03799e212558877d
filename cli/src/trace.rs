//! `winddown trace`: a record as Chrome trace events, for Perfetto.

use std::{path::Path, time::SystemTime};

use serde_json::{Value, json};

use crate::record::Story;

/// The trace of the record at `path`.
pub(crate) fn trace(path: &Path) -> Result<String, String> {
    let events = events(&Story::read(path)?);
    serde_json::to_string(&json!({ "displayTimeUnit": "ms", "traceEvents": events })).map_err(|error| error.to_string())
}

fn events(story: &Story) -> Vec<Value> {
    let micros = |time: SystemTime| {
        let since = time.duration_since(story.start()).unwrap_or_default();
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    };
    let name = format!("{} run {}", story.job, story.run);
    let lane =
        |tid, name: &str| json!({"ph": "M", "pid": 1, "tid": tid, "name": "thread_name", "args": {"name": name}});
    let mut events = vec![
        json!({"ph": "M", "pid": 1, "name": "process_name", "args": {"name": name}}),
        lane(1, "phases"),
        lane(2, "held up by"),
    ];
    for band in &story.bands {
        let (from, to) = (micros(band.from), micros(band.to));
        let (name, reason) = (band.phase.name(), &band.reason);
        events.push(json!({"ph": "X", "pid": 1, "tid": 1, "ts": from, "dur": to - from, "name": name, "args": {"reason": reason}}));
    }
    for (at, (from, why)) in story.whys.iter().enumerate() {
        let to = story.whys.get(at + 1).map_or(story.end, |(next, _)| *next);
        let Some(first) = why.culprits.first() else { continue };
        let (from, to) = (micros(*from), micros(to));
        let all: Vec<_> = why.culprits.iter().map(ToString::to_string).collect();
        let args = json!({"why": all});
        events.push(json!({"ph": "X", "pid": 1, "tid": 2, "ts": from, "dur": to.saturating_sub(from), "name": first.who.to_string(), "args": args}));
    }
    for (at, note) in &story.notes {
        events.push(json!({"ph": "i", "pid": 1, "tid": 1, "ts": micros(*at), "s": "p", "name": note}));
    }
    events
}
