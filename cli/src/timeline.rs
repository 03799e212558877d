//! `winddown timeline`: a record as one static page.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::Path,
    time::{Duration, SystemTime},
};

use crate::record::Story;

const STYLE: &str = include_str!("timeline.css");

/// Text in HTML. It also shows what a terminal would obey.
struct Html<T>(T);

impl<T: std::fmt::Display> std::fmt::Display for Html<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in crate::printable::Printable(&self.0).to_string().chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// The page of the record at `path`.
pub(crate) fn timeline(path: &Path) -> Result<String, String> {
    Ok(page(&Story::read(path)?))
}

/// One who held the stop up, over the whole record.
struct Lane {
    spans: Vec<(SystemTime, SystemTime)>,
    said: String,
}

/// Everyone who ever held the stop up, the longest first.
fn lanes(story: &Story) -> Vec<(String, Lane)> {
    let mut lanes: BTreeMap<String, Lane> = BTreeMap::new();
    for (at, (from, why)) in story.whys.iter().enumerate() {
        let to = story.whys.get(at + 1).map_or(story.end, |(next, _)| *next);
        for culprit in &why.culprits {
            let lane =
                lanes.entry(culprit.who.to_string()).or_insert_with(|| Lane { spans: vec![], said: String::new() });
            lane.said = culprit.to_string();
            match lane.spans.last_mut().filter(|last| last.1 == *from) {
                Some(last) => last.1 = to,
                None => lane.spans.push((*from, to)),
            }
        }
    }
    let mut lanes: Vec<_> = lanes.into_iter().collect();
    lanes.sort_by_key(|(_, lane)| std::cmp::Reverse(length(&lane.spans)));
    lanes
}

fn length(spans: &[(SystemTime, SystemTime)]) -> Duration {
    spans.iter().map(|(from, to)| to.duration_since(*from).unwrap_or_default()).sum()
}

/// Where a time is on the page, in percent.
struct Scale {
    start: SystemTime,
    whole: f64,
}

impl Scale {
    fn at(&self, time: SystemTime) -> f64 {
        time.duration_since(self.start).unwrap_or_default().as_secs_f64() / self.whole * 100.0
    }

    fn style(&self, from: SystemTime, to: SystemTime) -> String {
        let left = self.at(from);
        format!("left:{left:.3}%;width:max({:.3}%,3px)", self.at(to) - left)
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.3} s", duration.as_secs_f64())
}

fn page(story: &Story) -> String {
    let whole = story.end.duration_since(story.start()).unwrap_or_default().as_secs_f64().max(0.001);
    let scale = Scale { start: story.start(), whole };
    let (job, run) = (Html(&story.job), story.run);
    let state = if story.has_stopped() { "done" } else { "failed" };
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <title>winddown: {job}, run {run}</title><style>{STYLE}</style></head><body>\
         <h1>{job}, run {run}</h1><p class=\"verdict {state}\">{}</p>",
        Html(story.verdict())
    );
    // Writing to a string can't fail, here and below.
    let start = humantime::format_rfc3339_millis(story.start());
    let _ = write!(page, "<p>from {start}, {whole:.3} s</p>");
    let gaps = story.gaps();
    if !gaps.is_empty() {
        let _ = write!(page, "<p class=\"failed\">the record is incomplete: {}</p>", Html(gaps));
    }
    page.push_str("<h2>Phases</h2><div class=\"lanes\">");
    for band in &story.bands {
        let state = if band.is_failure { "failed" } else { "" };
        let (style, took) = (scale.style(band.from, band.to), seconds(band.took()));
        let _ = write!(
            page,
            "<div class=\"lane\"><b>{}</b><div class=\"track\"><i class=\"band {state}\" style=\"{style}\"></i></div>\
             <span>{took}: {}</span></div>",
            Html(band.phase),
            Html(&band.reason)
        );
    }
    page.push_str("</div><h2>Who held it up, the longest first</h2><div class=\"lanes\">");
    let lanes = lanes(story);
    if lanes.is_empty() {
        page.push_str("<p>nobody</p>");
    }
    for (who, lane) in &lanes {
        let _ = write!(page, "<div class=\"lane\"><b>{}</b><div class=\"track\">", Html(who));
        for (from, to) in &lane.spans {
            let _ = write!(page, "<i class=\"held\" style=\"{}\"></i>", scale.style(*from, *to));
        }
        let _ = write!(page, "</div><span>{}: {}</span></div>", seconds(length(&lane.spans)), Html(&lane.said));
    }
    page.push_str("</div><h2>What happened</h2><table>");
    for (at, note) in &story.notes {
        let after = seconds(at.duration_since(story.start()).unwrap_or_default());
        let _ = write!(page, "<tr><td>{after}</td><td>{}</td></tr>", Html(note));
    }
    page.push_str("</table></body></html>\n");
    page
}
