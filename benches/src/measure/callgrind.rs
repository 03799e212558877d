//! Instruction counts: this program is run under callgrind, which counts in one function alone.
//! They repeat, whatever else the machine does.

use std::{process::Command, sync::OnceLock};

use super::{messages, transitions};
use crate::report::Result;

/// One thing to be done many times.
pub struct Probe {
    what: String,
    times: usize,
}

impl Probe {
    pub fn parse(words: &[String]) -> Result<Self> {
        let [what, times] = words else { return Err("expected what is probed and how often".into()) };
        Ok(Self { what: what.clone(), times: times.parse()? })
    }

    pub fn run(&self) -> Result<()> {
        if messages::probe(&self.what, self.times)? || transitions::probe(&self.what, self.times)? {
            return Ok(());
        }
        Err(format!("there is nothing to be probed by the name `{}`", self.what).into())
    }
}

/// The instructions of one `what`, of which the function of this name does `times`. `None` if
/// valgrind is not installed.
pub(super) fn instructions(what: &str, times: usize, function: &str) -> Result<Option<f64>> {
    if !is_there() {
        return Ok(None);
    }
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", &format!("--toggle-collect=*{function}*")]);
    valgrind.arg(std::env::current_exe()?).args(["--probe", what, &times.to_string()]);
    let output = valgrind.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    match collected {
        #[expect(clippy::cast_precision_loss, reason = "of counts far below 2^52")]
        Some(count @ 1_u64..) if output.status.success() => Ok(Some(count as f64 / times as f64)),
        _ => Err(format!("callgrind on `{function}` for `{what}`: {}: {said}", output.status).into()),
    }
}

/// Whether callgrind can be run; says so once if not.
fn is_there() -> bool {
    static THERE: OnceLock<bool> = OnceLock::new();
    *THERE.get_or_init(|| {
        let there = Command::new("valgrind").arg("--version").output().is_ok_and(|output| output.status.success());
        if !there {
            eprintln!("instructions are not measured: there is no valgrind");
        }
        there
    })
}
