//! The program `wordcount` as a user runs it, and what it logs on the way.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::SystemTime,
};

use crate::report::{Result, page::repository};

/// The program, and a folder for input and state.
pub(super) struct Wordcount {
    program: PathBuf,
    folder: tempfile::TempDir,
}

/// One run that has ended.
pub(super) struct Run {
    pub(super) report: serde_json::Value,
    pub(super) log: Vec<Line>,
}

/// A line of a log.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Microseconds of the system's clock.
    pub(super) at: f64,
    pub(super) text: String,
}

impl Wordcount {
    /// Builds it in the profile that this program was built in.
    pub(super) fn build() -> Result<Self> {
        let here = std::env::current_exe()?;
        // `target/release/bench_report`, or `target/release/deps/performance-0123456789abcdef`.
        let profile = here.ancestors().skip(1).find(|folder| !folder.ends_with("deps"));
        let profile = profile.ok_or("expected to be in a target folder")?;
        let mut cargo = cargo();
        cargo.args(["build", "--quiet", "--manifest-path"]).arg(repository().join("Cargo.toml"));
        cargo.arg("--target-dir").arg(profile.parent().ok_or("expected to be in a target folder")?);
        cargo.args(["--bin", "wordcount"]);
        if cfg!(feature = "all-features") {
            // As the tests of the whole workspace are built, whose features a bench shares: nothing
            // is built again.
            cargo.args(["--workspace", "--all-features", "--bench", "performance"]);
        } else {
            cargo.args(["--package", "wordcount"]);
        }
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        if !cargo.status()?.success() {
            return Err("the program `wordcount` does not build".into());
        }
        Ok(Self { program: profile.join("wordcount"), folder: tempfile::tempdir_in(profile)? })
    }

    /// Writes so many bytes of text: this repository's own, over and over.
    pub(super) fn write_input(&self, bytes: usize) -> Result<()> {
        let mut text = Vec::new();
        for folder in ["src", "docs"] {
            add_text(&repository().join(folder), &mut text)?;
        }
        let mut input = Vec::with_capacity(bytes + text.len());
        while input.len() < bytes {
            input.extend_from_slice(&text);
        }
        Ok(fs::write(self.folder.path().join("input.txt"), input)?)
    }

    pub(super) fn input_bytes(&self) -> Result<u64> {
        Ok(fs::metadata(self.folder.path().join("input.txt"))?.len())
    }

    /// Runs it from the beginning.
    pub(super) fn run(&self, arguments: &str, log: bool) -> Result<Run> {
        let state = self.folder.path().join("state");
        let mut command = Command::new(&self.program);
        command.arg(self.folder.path().join("input.txt")).arg("--state-dir").arg(&state);
        command.args(["--fresh", "--report", "json"]).args(arguments.split_whitespace());
        command.env("RUST_LOG", if log { "winddown=debug,wordcount=debug" } else { "off" });
        let output = command.stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(format!("`wordcount {arguments}`: {}: {said}", output.status).into());
        }
        let report = String::from_utf8_lossy(&output.stdout);
        let report = serde_json::from_str(report.lines().last().ok_or("expected a report")?)?;
        let mut lines = parse(&said);
        // What worker processes say is in files.
        let mut logs = Vec::new();
        find(&state.join("processes"), "stderr", &mut logs)?;
        for path in logs {
            lines.extend(parse(&fs::read_to_string(path)?));
        }
        lines.sort_by(|one, other| one.at.total_cmp(&other.at));
        Ok(Run { report, log: lines })
    }
}

impl Run {
    /// When the first line that holds `text` was written.
    pub(super) fn when(&self, text: &str) -> Result<f64> {
        let line = self.log.iter().find(|line| line.text.contains(text));
        line.map(|line| line.at).ok_or_else(|| format!("expected a line with `{text}` in the log").into())
    }
}

impl Line {
    /// The number behind `name=`.
    pub(super) fn number(&self, name: &str) -> Option<f64> {
        let (_, rest) = self.text.split_once(&format!("{name}="))?;
        rest.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
    }
}

fn parse(log: &str) -> Vec<Line> {
    let line = |text: &str| {
        let (time, text) = text.split_once(' ')?;
        let time = humantime::parse_rfc3339(time).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(Line { at: time.as_secs_f64() * 1e6, text: text.to_owned() })
    };
    log.lines().filter_map(line).collect()
}

fn add_text(folder: &Path, text: &mut Vec<u8>) -> Result<()> {
    let mut files = Vec::new();
    find(folder, "rs", &mut files)?;
    find(folder, "md", &mut files)?;
    files.sort();
    for file in files {
        text.extend(fs::read(file)?);
    }
    Ok(())
}

/// All files below `folder` whose name ends like this; none if there is no such folder.
fn find(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, ending, found)?;
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
    Ok(())
}

/// Cargo, as called from outside. Inside `cargo test` and `cargo bench` it has set variables about
/// this package, on which some build scripts depend (ring's): with these, the scripts would run
/// again, and everything that depends on them would be compiled again.
pub(super) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    for (name, _) in std::env::vars_os() {
        if ["CARGO_MANIFEST_", "CARGO_PKG_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            cargo.env_remove(name);
        }
    }
    cargo
}
