//! Opening a state folder: what is checked before any worker is started, and what an earlier scheduler has left.

use std::{
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, RwLock, atomic::AtomicBool},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::{
    fs::{CWD, Mode, OFlags, mkfifoat, open},
    process::Signal,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use super::{
    cgroup::Home,
    error::{ProcessError, state},
    folder,
    keeper::Keeper,
    lock::lock,
    members::{Marks, survey_twice},
    origin::Origin,
    proc,
    record::{Damaged, Loaded, Records, Token},
    scheduler::{ProcessScheduler, Shared, aside},
    start::Place,
    table::{Key, Table, Which},
    watchdog::{Plan, Running, START_SETTLES, Watchdog},
};

/// How long what belongs to a damaged record may take to end after SIGKILL.
const NAMELESS_ENDS: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How a scheduler holds its workers: what finds their children, whatever those do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeldBy {
    /// Each worker is in a control group of its own (cgroup v2), below the scheduler's: its children are too, and can't leave it without
    /// privileges. A kill ends all of it in one step.
    ControlGroup,
    /// Children are recognised by process group, environment and parents. One that hides all of them is *unknown*: it keeps its worker alive
    /// in the books, a stop says so, and it is not killed. See `docs/security.md` for what can't be known.
    Environment,
}

/// Collects how a [`ProcessScheduler`] is to work.
#[derive(Clone, Debug)]
#[must_use = "call `open` to get the scheduler"]
pub struct ProcessSchedulerBuilder {
    folder: PathBuf,
    grace: Duration,
    orphan_grace: Duration,
    watchdog: Watchdog,
    held_by: Option<HeldBy>,
}

impl ProcessSchedulerBuilder {
    pub(super) fn new(folder: PathBuf) -> Self {
        let seconds = Duration::from_secs;
        Self { folder, grace: seconds(5), orphan_grace: seconds(5), watchdog: Watchdog::default(), held_by: None }
    }

    /// From SIGTERM to SIGKILL in a stop without force. 5 s: within the default [`Limits::release`](crate::limits::Limits::release), at
    /// whose end the phases kill anyway.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// From the scheduler's death to SIGKILL of its workers. 5 s.
    pub fn orphan_grace(mut self, grace: Duration) -> Self {
        self.orphan_grace = grace;
        self
    }

    /// Which program ends the workers when the scheduler dies.
    pub fn watchdog(mut self, watchdog: Watchdog) -> Self {
        self.watchdog = watchdog;
        self
    }

    /// How workers are held. Control groups where they can be made, else by their environment.
    pub fn held_by(mut self, held_by: HeldBy) -> Self {
        self.held_by = Some(held_by);
        self
    }

    /// Takes the state folder (it is created if it is missing), adopts the workers of an earlier scheduler, and starts the watchdog.
    ///
    /// It belongs to the runtime that it is called on, which needs its I/O and timer enabled: when the runtime is dropped, the watchdog ends
    /// the workers.
    ///
    /// # Errors
    /// - [`ProcessError::InUse`]: another scheduler has the folder.
    /// - [`ProcessError::NotInitialised`], [`ProcessError::Watchdog`]: there is no watchdog.
    /// - [`ProcessError::Untrusted`]: others may write to the state folder, so that a record in it proves nothing.
    /// - [`ProcessError::Hidden`], [`ProcessError::NoControlGroup`]: nothing would find a child of a worker's that hides.
    /// - [`ProcessError::State`], [`ProcessError::Record`], [`ProcessError::Proc`]: the folder or `/proc` can't be used.
    ///
    /// # Cancel safety
    /// Safe: what a dropped call has started ends by itself. The folder may be in use for that long.
    pub async fn open(self) -> Result<ProcessScheduler, ProcessError> {
        let child_ended = signal(SignalKind::child()).map_err(ProcessError::Proc)?;
        let grace = self.grace;
        let opened = aside(move || self.prepare()).await.ok_or(ProcessError::Runtime)??;
        let Opened { lock, table, place, plan, lifeline, watchdog, running } = opened;
        let guarded = Arc::new(AtomicBool::new(true));
        let (closing, closed) = oneshot::channel();
        let keeper = Keeper {
            table: Arc::clone(&table),
            folder: place.folder.clone(),
            watchdog,
            plan,
            lifeline,
            guarded: Arc::clone(&guarded),
            lock,
            child_ended,
        };
        let keeper = tokio::spawn(keeper.keep(running, closed));
        let (closing, keeper) = (RwLock::new(Some(closing)), Mutex::new(Some(keeper)));
        let shared = Shared { table, place, grace, guarded, closing, keeper };
        Ok(ProcessScheduler { shared: Arc::new(shared) })
    }

    fn prepare(self) -> Result<Opened, ProcessError> {
        let Self { folder, orphan_grace, watchdog, held_by, .. } = self;
        let folder = folder::open(&folder)?;
        let lock = lock(&folder)?;
        let home = home(held_by)?;
        remove_old_lifelines(&folder)?;
        let records = Records::below(&folder);
        records.create_folder()?;
        let boot = proc::boot_id().map_err(ProcessError::Proc)?;
        let scheduler = Token::random().map_err(ProcessError::Proc)?;
        let origin = Origin::here().map_err(ProcessError::Proc)?;
        let table = Arc::new(adopt(records, &boot, &scheduler, &origin, home.as_ref())?);

        let name = format!("lifeline-{}", scheduler.as_str());
        let path = folder.join(&name);
        let lifeline = make_lifeline(&path).map_err(state(&path))?;
        let plan = Plan { scheduler: scheduler.clone(), orphan_grace, lifeline: name, home: home.clone() };
        let running = watchdog.start(&folder, &plan).inspect_err(|_| {
            let _ = fs::remove_file(&path);
        })?;
        let place = Place { folder, lifeline: path, scheduler, boot, origin, home };
        Ok(Opened { lock, table, place, plan, lifeline, watchdog, running })
    }
}

struct Opened {
    lock: File,
    table: Arc<Table>,
    place: Place,
    plan: Plan,
    lifeline: OwnedFd,
    watchdog: Watchdog,
    running: Option<Running>,
}

/// Whoever opens one of them from now on finds nothing, which means the same as its end.
fn remove_old_lifelines(folder: &Path) -> Result<(), ProcessError> {
    for entry in fs::read_dir(folder).map_err(state(folder))? {
        let entry = entry.map_err(state(folder))?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with("lifeline-")) {
            // A watchdog that is still at work may be faster.
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// A named pipe, and its end that is open for writing. Workers may read it as any user.
fn make_lifeline(path: &Path) -> io::Result<OwnedFd> {
    mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH)?;
    // Open for writing alone would wait for a reader.
    Ok(open(path, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?)
}

/// Where control groups are made.
fn home(wanted: Option<HeldBy>) -> Result<Option<Home>, ProcessError> {
    let found = if wanted == Some(HeldBy::Environment) { Err("none was wanted".to_owned()) } else { Home::find() };
    let reason = match found {
        Ok(home) => return Ok(Some(home)),
        Err(reason) if wanted == Some(HeldBy::ControlGroup) => return Err(ProcessError::NoControlGroup { reason }),
        Err(reason) => reason,
    };
    tracing::debug!(reason, "workers are held by their environment, and not by control groups");
    match proc::hiding().map_err(ProcessError::Proc)? {
        Some(hidden) => Err(ProcessError::Hidden { hidden, no_group: reason }),
        None => Ok(None),
    }
}

/// The workers that earlier schedulers have left. They are under the new watchdog's eyes too, and stay under those of an older one.
fn adopt(
    records: Records,
    boot: &str,
    scheduler: &Token,
    here: &Origin,
    home: Option<&Home>,
) -> Result<Table, ProcessError> {
    let Loaded { records: found, damaged } = records.load()?;
    for damaged in damaged {
        end_nameless(damaged, home)?;
    }
    let table = Table::new(records);
    for mut record in found {
        if record.boot != boot {
            // The machine was restarted since, so the worker is gone, and its numbers mean nothing any more.
            table.records().remove(&record.token, None);
            continue;
        }
        record.schedulers.push(scheduler.clone());
        table.records().write(&record)?;
        let mut not_before = Instant::now();
        if record.process.is_none() {
            not_before += START_SETTLES;
        }
        let marks = Marks::recorded(&record, here);
        table.adopt(Key { job: record.job, run: record.run, worker: record.worker }, not_before, marks);
    }
    table.alive(&Which::default()).map_err(ProcessError::Proc)?;
    Ok(table)
}

/// Ends what carries the token of a start whose record is damaged: nobody knows of which run it is, so that no stop would end it.
fn end_nameless(Damaged { path, reason, token }: Damaged, home: Option<&Home>) -> Result<(), ProcessError> {
    let marks = Marks::nameless(&token, home);
    let began = Instant::now();
    loop {
        let found = survey_twice(&[&marks]).map_err(ProcessError::Proc)?.pop().unwrap_or_default();
        if found.is_nothing() {
            break;
        }
        if began.elapsed() >= NAMELESS_ENDS {
            return Err(ProcessError::Record { path, reason, left: found.members.len() });
        }
        tracing::warn!(path = %path.display(), processes = found.members.len(), "killing what belongs to a damaged record");
        if let Some(group) = &marks.group {
            group.kill().map_err(ProcessError::Proc)?;
        }
        for member in &found.members {
            // What may not be killed is still there at the end.
            let _ = proc::signal(member.id, Signal::KILL);
        }
        sleep(LOOK_EVERY);
    }
    if let Some(group) = &marks.group {
        group.remove();
    }
    tracing::warn!(
        path = %path.display(), reason,
        "a worker's record can't be read: it was set aside, and nothing that belongs to it is alive"
    );
    Ok(())
}
