//! `docs/performance.md`: a template, and the figures in it.

use std::path::Path;

use super::{
    Result,
    data::{Circumstances, Report},
    goals, plots, tables,
};

/// The figures that the page was made of.
pub const DATA: &str = "docs/performance/data.json";
/// The page.
pub const PAGE: &str = "docs/performance.md";

/// The repository, which this package is a folder of.
pub fn repository() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

const TEMPLATE: &str = include_str!("page.md");

/// Every file that is made of the figures: where it lies in the repository, and what is in it.
pub fn files(report: &Report) -> Result<Vec<(String, String)>> {
    let pictures = plots::all(report)?;
    let mut page = String::new();
    for line in TEMPLATE.lines() {
        match line.strip_prefix("{{").and_then(|line| line.strip_suffix("}}")) {
            Some("goals") => page += &goals::table(report),
            Some("machine") => page += &machine(report),
            Some(name) if pictures.iter().any(|(file, _)| *file == name) => {
                let (alt, _) = name.split_once('.').unwrap_or((name, ""));
                page += &["![", alt, "](performance/", name, ")\n"].concat();
            }
            // A picture that there are no figures for.
            Some(name) if name.contains('.') => {}
            Some(section) => page += &tables::section(section, report),
            None => {
                page += line;
                page.push('\n');
            }
        }
    }
    let pictures = pictures.into_iter().map(|(file, svg)| (format!("docs/performance/{file}"), svg));
    Ok(std::iter::once((PAGE.to_owned(), page)).chain(pictures).collect())
}

/// What the sections were measured on; one line as long as it is the same for all.
fn machine(report: &Report) -> String {
    let runs: [Option<&Circumstances>; 9] = [
        report.fan_out.as_ref().map(|it| &it.run),
        report.sick_worker.as_ref().map(|it| &it.run),
        report.messages.as_ref().map(|it| &it.run),
        report.transitions.as_ref().map(|it| &it.run),
        report.backlog.as_ref().map(|it| &it.run),
        report.memory.as_ref().map(|it| &it.run),
        report.shutdown.as_ref().map(|it| &it.run),
        report.throughput.as_ref().map(|it| &it.run),
        report.builds.as_ref().map(|it| &it.run),
    ];
    let mut lines: Vec<String> = Vec::new();
    for run in runs.into_iter().flatten() {
        let valgrind = run.valgrind.as_deref().unwrap_or("no valgrind");
        let Circumstances { cpu, cores, memory_gib, system, rustc, .. } = run;
        let line = format!("- {cpu}, {cores} cores, {memory_gib} GiB; {system}; {rustc}; {valgrind}\n");
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines.concat()
}
