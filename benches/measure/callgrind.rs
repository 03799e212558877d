//! Instruction counts: this program is run under callgrind, does one thing so many times and then twice as often, and the difference
//! is what it costs, to the instruction and whatever else the machine does.

use std::{process::Command, sync::OnceLock};

use super::{messages, transitions};
use crate::report::Result;

/// One thing to be done many times.
pub(crate) struct Probe {
    what: String,
    times: usize,
}

impl Probe {
    pub(crate) fn parse(words: &[String]) -> Result<Self> {
        let [what, times] = words else { return Err("expected what is probed and how often".into()) };
        Ok(Self { what: what.clone(), times: times.parse()? })
    }

    pub(crate) fn run(&self) -> Result<()> {
        if messages::probe(&self.what, self.times)? || transitions::probe(&self.what, self.times)? {
            return Ok(());
        }
        Err(format!("there is nothing to be probed by the name `{}`", self.what).into())
    }
}

/// The instructions of one `what`; `None` where valgrind is not installed.
pub(super) fn instructions(what: &str, times: usize) -> Result<Option<f64>> {
    if !is_there() {
        return Ok(None);
    }
    let (less, more) = (count(what, times)?, count(what, 2 * times)?);
    #[expect(clippy::cast_precision_loss, reason = "of counts far below 2^52")]
    Ok(Some((more as f64 - less as f64) / times as f64))
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

fn count(what: &str, times: usize) -> Result<u64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    valgrind.arg(std::env::current_exe()?).args(["--probe", what, &times.to_string()]);
    let output = valgrind.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    match collected {
        Some(count) if output.status.success() => Ok(count),
        _ => Err(format!("callgrind on `{what}`: {}: {said}", output.status).into()),
    }
}
