//! What the kernel tells of processes in `/proc`.

use std::{fs, io};

use rustix::process::{PidfdFlags, Signal, geteuid, getgroups, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

pub(super) use rustix::process::Pid;

/// `PF_KTHREAD` of the flags, field 9 of `/proc/<pid>/stat`.
const KERNEL_THREAD: u32 = 0x0020_0000;

/// One process at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) id: Identity,
    pub(super) parent: i32,
    /// The process group.
    pub(super) group: i32,
    /// It runs kernel code alone, and is nobody's child.
    is_kernel: bool,
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

/// All processes, and whether some are hidden. It is no snapshot: one that starts or ends meanwhile may or may not be there.
pub(super) fn all() -> io::Result<(Vec<Process>, Option<Hidden>)> {
    let (mut processes, mut hidden) = (Vec::new(), None);
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        match read(pid) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => hidden = Some(Hidden { pid, error }),
            process => processes.extend(process?.filter(|process| !process.is_kernel)),
        }
    }
    Ok((processes, hidden))
}

/// A process of which not even the start time may be seen (`hidepid=1`).
#[derive(Debug)]
pub(super) struct Hidden {
    pub(super) pid: i32,
    pub(super) error: io::Error,
}

/// What the environment of a process says of a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Variable {
    Value(String),
    /// It is readable and whole, and does not have it.
    Absent,
    /// It may not be read, or is none any more: nobody knows what was in it.
    Unknown,
}

/// The value of a variable in the environment that a process was started with.
pub(super) fn variable(pid: i32, name: &str) -> Variable {
    let found = fs::read(format!("/proc/{pid}/environ")).map_or(Variable::Unknown, |it| find(&it, name));
    if found != Variable::Unknown {
        return found;
    }
    // That of a first thread that has ended is empty; those that live on have it still.
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut of_tasks = tasks.filter_map(|task| fs::read(task.path().join("environ")).ok()).map(|it| find(&it, name));
    of_tasks.find(|found| *found != Variable::Unknown).unwrap_or(Variable::Unknown)
}

fn find(environment: &[u8], name: &str) -> Variable {
    let mut entries = environment.split(|byte| *byte == 0).filter(|entry| !entry.is_empty()).peekable();
    let is_empty = entries.peek().is_none();
    // A program that writes its title over its environment leaves something else than names and values.
    let mut is_whole = !is_empty;
    for entry in entries {
        if let Some(value) = entry.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"=")) {
            return String::from_utf8(value.to_vec()).map_or(Variable::Unknown, Variable::Value);
        }
        is_whole &= entry.contains(&b'=');
    }
    if is_whole { Variable::Absent } else { Variable::Unknown }
}

/// The user that a process was started by, its real one.
pub(super) fn user(pid: i32) -> io::Result<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let user = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_ascii_whitespace().next()?.parse().ok());
    user.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/status has no user")))
}

/// The control groups that a process is in.
pub(super) fn control_groups(pid: i32) -> io::Result<String> {
    fs::read_to_string(format!("/proc/{pid}/cgroup"))
}

/// What keeps this process from seeing others in `/proc`, if anything does.
pub(super) fn hiding() -> io::Result<Option<String>> {
    const CAP_SYS_PTRACE: u64 = 1 << 19;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let of_proc = |line: &&str| line.split(' ').nth(4) == Some("/proc");
    // The last one lies over the others.
    let Some(options) = mounts.lines().rfind(of_proc).and_then(|line| line.rsplit(' ').next()) else {
        return Ok(None);
    };
    let option = |name: &str| options.split(',').find_map(|option| option.strip_prefix(name));
    let Some(hidepid) = option("hidepid=").filter(|value| !matches!(*value, "0" | "off")) else { return Ok(None) };
    let status = fs::read_to_string("/proc/self/status")?;
    let may = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    let of_group = || -> io::Result<bool> {
        let group = option("gid=").and_then(|group| group.parse::<u32>().ok());
        let ours = getgroups()?.into_iter().chain([rustix::process::getegid()]);
        Ok(!matches!(hidepid, "4" | "ptraceable")
            && ours.map(rustix::process::Gid::as_raw).any(|ours| group == Some(ours)))
    };
    if may.is_some_and(|may| may & CAP_SYS_PTRACE != 0) || of_group()? {
        return Ok(None);
    }
    Ok(Some(format!("/proc is mounted with `hidepid={hidepid}` and this is user {}", geteuid().as_raw())))
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
        parent: field(4)?.parse().map_err(|_| bad())?,
        group: field(5)?.parse().map_err(|_| bad())?,
        is_kernel: field(9)?.parse::<u32>().map_err(|_| bad())? & KERNEL_THREAD != 0,
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
            let expected = Process { id, parent: 1, group: 9, is_kernel: false, live: true };
            assert_eq!(process, expected, "{name:?}");
        }
    }

    #[test]
    fn i2_a_zombie_with_living_threads_is_alive() {
        assert!(!parse(7, &line("worker", 'Z', 1)).unwrap().live);
        assert!(parse(7, &line("worker", 'Z', 2)).unwrap().live);
        assert!(parse(7, &line("worker", 'T', 1)).unwrap().live, "a stopped one is alive");
    }

    #[test]
    fn b2_an_environment_that_is_none_any_more_is_unknown_and_not_without_the_variable() {
        let found = |text: &[u8]| find(text, "TOKEN");
        assert_eq!(found(b"A=1\0TOKEN=x\0"), Variable::Value("x".to_owned()));
        assert_eq!(found(b"A=1\0TOKENS=x\0"), Variable::Absent);
        for overwritten in [&b""[..], b"\0\0\0", b"worker: idle\0\0\0", b"worker: idle\0B=2\0", b"TOKEN=\xff\0"] {
            assert_eq!(found(overwritten), Variable::Unknown, "{:?}", overwritten.escape_ascii().to_string());
        }
        assert_eq!(found(b"worker: idle\0TOKEN=x\0"), Variable::Value("x".to_owned()), "that part is still there");
        assert_eq!(variable(i32::MAX, "TOKEN"), Variable::Unknown);
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
        assert!(all().unwrap().0.contains(&this));
        assert_eq!(read(i32::MAX).unwrap(), None);
    }
}
