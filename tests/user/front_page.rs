//! The first thing that a user reads and runs: `examples/embedded.rs`, which the README and the
//! crate's documentation show.

const README: &str = include_str!("../../README.md");
const EXAMPLE: &str = include_str!("../../examples/embedded.rs");

/// The crate's documentation includes the file; the README can't, so it holds a copy.
#[test]
fn the_readme_shows_the_first_example_as_it_is() {
    let (_, block) = README.split_once("```rust,no_run\n").unwrap();
    let (shown, _) = block.split_once("```\n").unwrap();
    assert!(shown == EXAMPLE, "README.md: put examples/embedded.rs into the first block of Rust");
}

#[cfg(target_os = "linux")]
mod run {
    use std::{
        fs,
        path::{Path, PathBuf},
        process::{Child, Command, Stdio},
        thread::sleep,
        time::Duration,
    };

    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };

    /// The program. Cargo builds examples before tests; it does not where only one test was asked
    /// for.
    fn program() -> PathBuf {
        let test = std::env::current_exe().unwrap();
        let profile = test.ancestors().nth(2).unwrap();
        let program = profile.join("examples/embedded");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/embedded.rs");
        let written = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
        if written(&program).map_or(true, |built| built < written(&source).unwrap()) {
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["build", "--example", "embedded", "--features", "embedded,object-store", "--manifest-path"]);
            cargo.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
            if profile.ends_with("release") {
                cargo.arg("--release");
            }
            assert!(cargo.status().unwrap().success(), "the example does not build");
        }
        program
    }

    /// Whether a Ctrl-C would be handled, and not just end it.
    fn handles_ctrl_c(child: &Child) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim();
        u64::from_str_radix(caught, 16).unwrap() & (1 << (Signal::SIGINT as u64 - 1)) != 0
    }

    /// Runs it for a moment, and stops it with Ctrl-C: what it said.
    fn run(folder: &Path) -> String {
        let mut command = Command::new(program());
        let mut child = command.current_dir(folder).stdout(Stdio::piped()).spawn().unwrap();
        while !handles_ctrl_c(&child) {
            assert_eq!(child.try_wait().unwrap(), None, "it waits for Ctrl-C");
            sleep(Duration::from_millis(10));
        }
        sleep(Duration::from_millis(100));
        kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// It has not got anywhere within its moment on a machine that is busy enough; some run has.
    #[test]
    fn u1_each_run_of_the_first_example_goes_on_from_the_checkpoint_of_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        for number in 1..=50 {
            let said = run(folder.path());
            let (began, receipt) = said.split_once('\n').unwrap();
            let expected = format!("job `counter`, run {number}: checkpointed (epoch {number})\n");
            assert!(receipt.starts_with(&expected), "{said}");
            let began: u64 = began.strip_prefix("counting from ").unwrap().parse().unwrap();
            if number == 1 {
                assert_eq!(began, 0, "nothing was there");
            } else if began > 0 {
                return;
            }
        }
        panic!("no run has gone on from the one before");
    }
}
