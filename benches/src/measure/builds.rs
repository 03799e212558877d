//! What the crate costs a user to build: from nothing, and after a change of one's own.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use super::{Scale, wordcount::cargo};
use crate::report::{
    Result,
    data::{BuildRow, Builds, DEFAULTS, FIRST_COMMAND, NO_DEFAULTS},
    page::repository,
};

/// A user's crate that depends on something.
struct User {
    folder: tempfile::TempDir,
}

impl User {
    /// With these lines in `[dependencies]`, and this library.
    fn new(dependencies: &str, library: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let manifest = format!(
            "[package]\nname = \"user\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\n{dependencies}\n[workspace]\n"
        );
        fs::write(folder.path().join("Cargo.toml"), manifest)?;
        fs::create_dir(folder.path().join("src"))?;
        fs::write(folder.path().join("src/lib.rs"), library)?;
        // The same versions as here, and nothing to be downloaded.
        fs::copy(repository().join("Cargo.lock"), folder.path().join("Cargo.lock"))?;
        Ok(Self { folder })
    }

    fn cargo(&self, arguments: &[&str]) -> Result<String> {
        let mut command = cargo();
        command.args(arguments).arg("--offline").current_dir(self.folder.path());
        command.env("CARGO_TARGET_DIR", self.target()).env_remove("RUSTFLAGS");
        let output = command.output()?;
        if !output.status.success() {
            return Err(format!("cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    fn target(&self) -> PathBuf {
        self.folder.path().join("target")
    }

    fn library(&self) -> PathBuf {
        self.folder.path().join("src/lib.rs")
    }

    /// The crates of its tree without itself.
    fn crates(&self) -> Result<usize> {
        let tree = self.cargo(&["tree", "-e", "normal,build", "--prefix", "none"])?;
        Ok(crates_of(&tree).saturating_sub(1))
    }

    fn build(&self) -> Result<f64> {
        let start = Instant::now();
        self.cargo(&["build", "--quiet"])?;
        Ok(start.elapsed().as_secs_f64())
    }

    fn row(&self, what: &str) -> Result<BuildRow> {
        let crates = self.crates()?;
        let cold_s = self.build()?;
        let library = fs::read_to_string(self.library())?;
        fs::write(self.library(), format!("{library}\n/// A change.\npub fn changed() {{}}\n"))?;
        Ok(BuildRow { what: what.to_owned(), crates, cold_s, incremental_s: Some(self.build()?) })
    }
}

/// How many different crates `cargo tree --prefix none` lists.
fn crates_of(tree: &str) -> usize {
    let crates = tree.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some((words.next()?, words.next()?))
    });
    crates.collect::<BTreeSet<_>>().len()
}

/// What the first command of the README compiles, from nothing.
fn first_command(scale: Scale) -> Result<BuildRow> {
    let folder = tempfile::tempdir()?;
    let run = |arguments: &[&str]| -> Result<String> {
        let mut command = cargo();
        command.args(arguments).args(["-p", "wordcount", "--offline"]).current_dir(repository());
        let output = command.env("CARGO_TARGET_DIR", folder.path()).env_remove("RUSTFLAGS").output()?;
        if !output.status.success() {
            return Err(format!("cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(String::from_utf8(output.stdout)?)
    };
    let crates = crates_of(&run(&["tree", "-e", "normal,build", "--prefix", "none"])?);
    let start = Instant::now();
    if scale != Scale::Smoke {
        run(&["build", "--quiet", "--release"])?;
    }
    let cold_s = if scale == Scale::Smoke { 0.0 } else { start.elapsed().as_secs_f64() };
    Ok(BuildRow { what: FIRST_COMMAND.to_owned(), crates, cold_s, incremental_s: None })
}

fn winddown(features: &str) -> String {
    format!("winddown = {{ path = {:?}, {features} }}\n", repository().display().to_string())
}

/// Every feature of the crate.
fn features() -> Result<Vec<String>> {
    let arguments = ["metadata", "--format-version=1", "--no-deps", "--offline"];
    let output = cargo().args(arguments).current_dir(repository()).output()?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().ok_or("expected packages")?;
    let package = packages.iter().find(|package| package["name"] == "winddown").ok_or("expected `winddown`")?;
    let features = package["features"].as_object().ok_or("expected features")?;
    Ok(features.keys().filter(|name| *name != "default").cloned().collect())
}

/// The dependencies that gRPC needs in any case, in the versions that the repository requires.
fn plain_tonic() -> Result<String> {
    let manifest = fs::read_to_string(repository().join("Cargo.toml"))?;
    let mut lines = String::new();
    for name in ["prost", "tonic", "tonic-prost"] {
        let line = manifest.lines().find(|line| line.starts_with(&format!("{name} = {{")));
        lines += &line.ok_or_else(|| format!("expected a dependency on {name}"))?.replace("optional = true, ", "");
        lines.push('\n');
    }
    lines += "tokio = { version = \"1\", default-features = false, features = [\"macros\", \"net\", \"rt\", \"sync\", \"time\"] }\n";
    Ok(lines)
}

/// Item 8.
pub(super) fn builds(scale: Scale) -> Result<Builds> {
    let stop = "/// Stops a job.\npub fn sender(job: &winddown::JobContext<winddown::Detached, ()>) -> winddown::JobSender { job.sender() }\n";
    let generated: &Path = &repository().join("src/grpc/generated/arroyo_rpc.rs");
    let messages = format!("/// Messages.\npub mod messages {{ include!({:?}); }}\n", generated.display().to_string());
    let mut cases = vec![(NO_DEFAULTS, winddown("default-features = false"), stop.to_owned())];
    if scale != Scale::Smoke {
        cases.push(("`tonic` alone, with the same messages", plain_tonic()?, messages));
        let grpc = winddown("default-features = false, features = [\"grpc\"]");
        cases.push(("winddown, the feature `grpc` alone", grpc, stop.to_owned()));
    }
    if scale == Scale::Full {
        cases.push((DEFAULTS, winddown("features = []"), stop.to_owned()));
        let store = winddown("features = [\"object-store\"]");
        cases.push(("winddown, default features and `object-store`", store, stop.to_owned()));
        let kubernetes = winddown("default-features = false, features = [\"kubernetes\"]");
        cases.push(("winddown, the feature `kubernetes` alone", kubernetes, stop.to_owned()));
        cases.push(("winddown, all features", winddown(&format!("features = {:?}", features()?)), stop.to_owned()));
    }
    let rows = cases.iter().map(|(what, dependencies, library)| {
        let user = User::new(dependencies, library)?;
        if scale == Scale::Smoke {
            return Ok(BuildRow { what: (*what).to_owned(), crates: user.crates()?, cold_s: 0.0, incremental_s: None });
        }
        user.row(what)
    });
    let mut rows = rows.collect::<Result<Vec<_>>>()?;
    rows.push(first_command(scale)?);
    Ok(Builds { rows })
}
