//! Where and when it was measured.

use std::{fs, process::Command, time::SystemTime};

use super::Scale;
use crate::report::data::Circumstances;

pub(super) fn now(scale: Scale) -> Circumstances {
    let cpu = field("/proc/cpuinfo", "model name");
    let memory: Option<f64> = field("/proc/meminfo", "MemTotal").and_then(|kib| kib.split(' ').next()?.parse().ok());
    let load = fs::read_to_string("/proc/loadavg").ok();
    let load: Option<f64> = load.and_then(|load| load.split(' ').next()?.parse().ok());
    Circumstances {
        date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        cpu: cpu.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        cores: std::thread::available_parallelism().map_or(0, Into::into),
        memory_gib: memory.map_or(0.0, |kib| (kib / 1024.0 / 1024.0).round()),
        system: said_by("uname", &["-sr"]).unwrap_or_else(|| std::env::consts::OS.to_owned()),
        rustc: said_by("rustc", &["--version"]).unwrap_or_else(|| "unknown".to_owned()),
        valgrind: said_by("valgrind", &["--version"]),
        load_before: load.unwrap_or(f64::NAN),
        scale: scale.pick("smoke", "quick", "full").to_owned(),
        seconds: 0.0,
    }
}

/// The first value of a `name: value` file.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'))?;
    Some(value.trim().to_owned())
}

fn said_by(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
