//! The processes of a round, found by its folder: those that a soak kills and freezes, and those
//! that must not be left over.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

/// The number of a process.
pub(crate) type Pid = u32;

/// A frozen worker stays frozen when its controller dies, since this process becomes its parent:
/// otherwise its group would be an orphaned one, which the kernel wakes up with a SIGHUP. That
/// would be the easier case.
#[cfg(target_os = "linux")]
pub(crate) fn adopt_orphans() -> std::io::Result<()> {
    nix::sys::prctl::set_child_subreaper(true).map_err(Into::into)
}

/// Elsewhere there are no worker processes.
#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "as on Linux")]
pub(crate) fn adopt_orphans() -> std::io::Result<()> {
    Ok(())
}

/// The live processes that have `folder` in their command line or environment, or work in it. The
/// dead have neither.
pub(crate) fn of(folder: &Path) -> Vec<Pid> {
    let is_ours = |pid: &Pid| {
        let named = ["cmdline", "environ"].iter().any(|file| text(*pid, file).contains(&*folder.to_string_lossy()));
        named || fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(folder))
    };
    all().filter(is_ours).collect()
}

/// The worker processes of `folder`, by worker: each names its assignment,
/// `…/processes/assignments/WORKER.json`.
pub(crate) fn workers(folder: &Path) -> BTreeMap<u64, Pid> {
    let worker = |pid: Pid| {
        let line = text(pid, "cmdline");
        let assignment = Path::new(line.split('\0').nth(1)?);
        let is_ours = assignment.starts_with(folder) && assignment.parent()?.ends_with("processes/assignments");
        let worker = assignment.file_stem()?.to_str()?.parse().ok()?;
        is_ours.then_some((worker, pid))
    };
    all().filter_map(worker).collect()
}

/// Waits until every process of `folder` has ended; gives those that have not.
pub(crate) fn left(folder: &Path, within: Duration) -> Vec<Pid> {
    let end = Instant::now() + within;
    loop {
        let left = of(folder);
        if left.is_empty() || Instant::now() >= end {
            return left;
        }
        sleep(Duration::from_millis(20));
    }
}

fn all() -> impl Iterator<Item = Pid> {
    // Empty where there is no `/proc`; there are no worker processes either.
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// A file of a process; empty if it is gone.
fn text(pid: Pid, file: &str) -> String {
    String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default()).into_owned()
}

/// What can be done to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Kill,
    Terminate,
    Freeze,
    Thaw,
}

/// Sends a signal to a process of `folder`, if it is still there. Says whether it was.
#[cfg(target_os = "linux")]
pub(crate) fn send(pid: Pid, folder: &Path, signal: Signal) -> bool {
    use nix::sys::signal::{Signal as Number, kill};
    // The number may belong to another process by now.
    if !text(pid, "cmdline").contains(&*folder.to_string_lossy()) {
        return false;
    }
    let number = match signal {
        Signal::Kill => Number::SIGKILL,
        Signal::Terminate => Number::SIGTERM,
        Signal::Freeze => Number::SIGSTOP,
        Signal::Thaw => Number::SIGCONT,
    };
    i32::try_from(pid).is_ok_and(|pid| kill(nix::unistd::Pid::from_raw(pid), number).is_ok())
}

/// Elsewhere there are no worker processes.
#[cfg(not(target_os = "linux"))]
pub(crate) fn send(_: Pid, _: &Path, _: Signal) -> bool {
    false
}

/// Reaps adopted processes that have ended. Call it while no child of this process runs.
#[cfg(target_os = "linux")]
pub(crate) fn reap() {
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status != WaitStatus::StillAlive) {}
}

/// Elsewhere nothing is adopted.
#[cfg(not(target_os = "linux"))]
pub(crate) fn reap() {}
