//! What the kernel tells of processes in `/proc`.

use std::{fs, io};

use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

pub(super) use rustix::process::Pid;

/// One process at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) id: Identity,
    /// The process group.
    pub(super) group: i32,
    /// Whether it may still run code: it is not a zombie, or is one with threads that live on.
    pub(super) live: bool,
}

/// A process told apart from every other one of this boot: numbers are used again, but not at the same clock tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) pid: i32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks between the boot and the start of the process.
    pub(super) start: u64,
}

/// The process of this number, if there is one (a zombie counts).
pub(super) fn read(pid: i32) -> io::Result<Option<Process>> {
    match fs::read(format!("/proc/{pid}/stat")) {
        Ok(stat) => parse(pid, &stat).map(Some),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// All processes. It is no snapshot: one that starts or ends meanwhile may or may not be there.
pub(super) fn all() -> io::Result<Vec<Process>> {
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        processes.extend(read(pid)?);
    }
    Ok(processes)
}

/// The value of a variable in the environment that a process was started with. `None` also for one that may not be looked at.
pub(super) fn variable(pid: i32, name: &str) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = environment.split(|byte| *byte == 0).find_map(|entry| {
        let value = entry.strip_prefix(name.as_bytes())?;
        value.strip_prefix(b"=")
    })?;
    String::from_utf8(value.to_vec()).ok()
}

/// What tells this boot of the machine from every other one.
pub(super) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Sends a signal to exactly this process. `Ok` if it is gone, even if its number is in use again: a pidfd stays with one process,
/// and the start time is looked at after it was opened.
pub(super) fn signal(process: Identity, signal: Signal) -> io::Result<()> {
    let Some(pid) = Pid::from_raw(process.pid) else { return Ok(()) };
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        pidfd => pidfd?,
    };
    if read(process.pid)?.is_none_or(|now| now.id != process) {
        return Ok(());
    }
    gone_is_ok(pidfd_send_signal(pidfd, signal))
}

/// A signal that finds nobody has nothing left to do.
pub(super) fn gone_is_ok(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Err(rustix::io::Errno::SRCH) => Ok(()),
        result => Ok(result?),
    }
}

fn is_gone(error: &io::Error) -> bool {
    // A process that ends between open and read gives ESRCH.
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// Reads `pid (name) state ppid pgrp …`; see `proc_pid_stat(5)`.
fn parse(pid: i32, stat: &[u8]) -> io::Result<Process> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat: {}", stat.escape_ascii()));
    // The name may hold anything, brackets and bytes that are no UTF-8 as well; no later field can hold a bracket.
    let after_name = stat.iter().rposition(|byte| *byte == b')').ok_or_else(bad)? + 1;
    let fields = std::str::from_utf8(&stat[after_name..]).map_err(|_| bad())?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    // The first one here is the third of the manual.
    let field = |number: usize| fields.get(number - 3).copied().ok_or_else(bad);
    let state = field(3)?;
    let threads: u32 = field(20)?.parse().map_err(|_| bad())?;
    Ok(Process {
        id: Identity { pid, start: field(22)?.parse().map_err(|_| bad())? },
        group: field(5)?.parse().map_err(|_| bad())?,
        // A process whose first thread has ended shows as a zombie, while its other threads run on.
        live: !matches!(state, "Z" | "X" | "x") || threads > 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: &str = "0 -1 4194560 1 0 0 0 0 0 0 0 20 0 THREADS 0 4711 2 3";

    fn line(name: &str, state: char, threads: u32) -> Vec<u8> {
        format!("7 ({name}) {state} 1 9 9 {}\n", REST.replace("THREADS", &threads.to_string())).into_bytes()
    }

    #[test]
    fn a_name_with_brackets_and_blanks_moves_no_field() {
        for name in ["sh", "a) Z 1 2 (", ") ) )", ""] {
            let process = parse(7, &line(name, 'S', 1)).unwrap();
            let id = Identity { pid: 7, start: 4711 };
            assert_eq!(process, Process { id, group: 9, live: true }, "{name:?}");
        }
    }

    #[test]
    fn i2_a_zombie_with_living_threads_is_alive() {
        assert!(!parse(7, &line("worker", 'Z', 1)).unwrap().live);
        assert!(parse(7, &line("worker", 'Z', 2)).unwrap().live);
        assert!(parse(7, &line("worker", 'T', 1)).unwrap().live, "a stopped one is alive");
    }

    #[test]
    fn a_line_that_is_cut_off_is_an_error_and_not_a_process() {
        let whole = line("sh", 'S', 1);
        for end in 0..whole.len() - "4711 2 3\n".len() {
            assert!(parse(7, &whole[..end]).is_err(), "{:?}", whole[..end].escape_ascii().to_string());
        }
    }

    #[test]
    fn this_process_is_found_as_itself() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let this = read(pid).unwrap().unwrap();
        assert!(this.live);
        assert!(all().unwrap().contains(&this));
        assert_eq!(read(i32::MAX).unwrap(), None);
    }
}
