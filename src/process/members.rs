//! Which processes belong to a worker, and how they are told apart from everybody else's.
//!
//! Where control groups can be made, a process belongs to a worker if it is in the worker's: that can't be shed. Everywhere, it also belongs to
//! one if it is in the process group that the worker leads, if it carries the token of the worker's start in its environment, which every
//! child inherits, or if one of its parents belongs to it. Without control groups, a process that may be a child and does not show whether it is,
//! is *unknown*: it keeps the worker alive in the books, and is not signalled.

use std::{
    collections::{HashMap, HashSet},
    io,
};

use super::{
    SPAWN,
    cgroup::{Group, Home},
    origin::Origin,
    proc::{self, Identity, Process, Variable},
    record::{Record, Token},
};

/// What a worker's processes are recognised by.
#[derive(Clone, Debug)]
pub(super) struct Marks {
    pub(super) leader: Option<Identity>,
    pub(super) token: Token,
    pub(super) group: Option<Group>,
    /// All of it is in the control group. Not so where something may have left in the moment between its start and the group.
    pub(super) holds_all: bool,
    /// `None`: only what shows itself is its.
    pub(super) origin: Option<Origin>,
    /// The leader is known from a record alone, which says that it was started by this user: it must prove itself by its token.
    pub(super) recorded_user: Option<u32>,
    /// Processes that belonged to it when it was last looked at.
    pub(super) known: HashSet<Identity>,
}

impl Marks {
    /// Of a start that begins.
    pub(super) fn new(token: Token, origin: Option<Origin>) -> Self {
        Self { leader: None, token, group: None, holds_all: false, origin, recorded_user: None, known: HashSet::new() }
    }

    /// Of a worker that is known from its record.
    pub(super) fn recorded(record: &Record, here: &Origin) -> Self {
        Self {
            leader: record.process,
            token: record.token.clone(),
            group: record.group.clone().filter(|group| group.is_of(&record.token)),
            holds_all: record.holds_all,
            origin: Some(record.origin.as_ref().unwrap_or(here).clone()),
            recorded_user: Some(record.user.unwrap_or(0)),
            known: HashSet::new(),
        }
    }

    /// Of a start whose record can't be read: its token is all that is known of it.
    pub(super) fn nameless(token: &Token, home: Option<&Home>) -> Self {
        let group = home.map(|home| home.group_of(token));
        Self { group, recorded_user: Some(0), ..Self::new(token.clone(), None) }
    }

    /// The start of the oldest process that can be its.
    fn began(&self) -> u64 {
        let began = self.origin.as_ref().map_or(0, Origin::began);
        self.leader.map_or(began, |leader| leader.start)
    }

    fn is_carried(&self, variable: &Variable) -> bool {
        matches!(variable, Variable::Value(value) if value.split('/').any(|token| token == self.token.as_str()))
    }

    /// Whether the process of the leader's number and start time is the leader, surely.
    fn is_proven(&self, process: Identity) -> bool {
        let Some(user) = self.recorded_user else { return true };
        // Root may become anybody.
        let same_user = user == 0 || proc::user(process.pid).is_ok_and(|now| now == user);
        same_user && self.is_carried(&proc::variable(process.pid, SPAWN))
    }
}

/// What was found of a worker.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// Its live processes.
    pub(super) members: Vec<Process>,
    /// Something alive is in its control group, whether it is among the members or not.
    pub(super) is_populated: bool,
    /// Processes that may be its, and why that is not known.
    pub(super) unknown: Vec<(i32, &'static str)>,
}

impl Found {
    pub(super) fn is_nothing(&self) -> bool {
        self.members.is_empty() && !self.is_populated && self.unknown.is_empty()
    }

    /// Whether nothing but what is unknown is left.
    pub(super) fn is_unknown(&self) -> bool {
        self.members.is_empty() && !self.is_populated && !self.unknown.is_empty()
    }

    /// What is unknown, for people.
    pub(super) fn unknown_text(&self) -> String {
        let each = self.unknown.iter().map(|(pid, why)| format!("process {pid} ({why})"));
        format!("{} may be part of it and is not touched: look at what it is, and end it", crate::text::shortened(each))
    }
}

/// The live processes of each worker.
///
/// # Errors
/// Where it can't be known: "could not look" is never "nobody".
pub(super) fn survey(workers: &[&Marks]) -> io::Result<Vec<Found>> {
    let mut survey = Survey { workers, found: vec![Found::default(); workers.len()], owners: HashMap::new() };
    if !workers.is_empty() {
        survey.look()?;
    }
    Ok(survey.found)
}

struct Survey<'a> {
    workers: &'a [&'a Marks],
    found: Vec<Found>,
    /// The worker that a live process belongs to, by its position.
    owners: HashMap<i32, usize>,
}

impl Survey<'_> {
    fn look(&mut self) -> io::Result<()> {
        for (position, marks) in self.workers.iter().enumerate() {
            let Some(group) = &marks.group else { continue };
            self.found[position].is_populated = group.is_populated()?;
            for pid in if self.found[position].is_populated { group.pids()? } else { vec![] } {
                self.owners.insert(pid, position);
            }
        }
        let (processes, hidden) = proc::all()?;
        if let Some(hidden) = hidden.filter(|_| self.workers.iter().any(|marks| marks.group.is_none())) {
            let what = format!("process {} can't be looked at: {}", hidden.pid, hidden.error);
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
        }
        let by_pid: HashMap<i32, &Process> = processes.iter().map(|process| (process.id.pid, process)).collect();
        let groups = self.groups(&by_pid);
        let first = self.workers.iter().map(|marks| marks.began()).min().unwrap_or(0);
        // A child is not older than the worker: this spares a look at everything else on the machine.
        let (mut live, mut rest): (Vec<_>, Vec<_>) =
            (processes.iter().filter(|process| process.live).collect(), vec![]);
        live.retain(|process| {
            process.id.start >= first
                || groups.contains_key(&process.group)
                || self.owners.contains_key(&process.id.pid)
        });
        for process in &live {
            match self.owner(process, &groups) {
                Ok(owner) => drop(self.owners.insert(process.id.pid, owner)),
                Err(mark) => rest.push((*process, mark)),
            }
        }
        for (process, mark) in rest {
            self.judge(process, &mark, first, &by_pid);
        }
        for process in live {
            if let Some(owner) = self.owners.get(&process.id.pid) {
                self.found[*owner].members.push(*process);
            }
        }
        Ok(())
    }

    /// The process groups that workers lead. One whose leader is there can't be another's by now; a zombie is enough.
    fn groups(&mut self, by_pid: &HashMap<i32, &Process>) -> HashMap<i32, usize> {
        let mut groups = HashMap::new();
        for (position, marks) in self.workers.iter().enumerate() {
            let Some(leader) = marks.leader else { continue };
            let Some(process) = by_pid.get(&leader.pid).filter(|process| process.id == leader) else { continue };
            if self.owners.get(&leader.pid) == Some(&position) || marks.is_proven(leader) {
                groups.insert(leader.pid, position);
            } else if process.live {
                let why = "it has the number and start time on record, but does not show the token of the start";
                self.found[position].unknown.push((leader.pid, why));
            }
        }
        groups
    }

    /// Whose a process is by what it shows itself; else what its environment says.
    fn owner(&self, process: &Process, groups: &HashMap<i32, usize>) -> Result<usize, Variable> {
        let is_known = |marks: &&Marks| marks.known.contains(&process.id);
        let owner = self.owners.get(&process.id.pid).or_else(|| groups.get(&process.group)).copied();
        if let Some(owner) = owner.or_else(|| self.workers.iter().position(is_known)) {
            return Ok(owner);
        }
        let mark = proc::variable(process.id.pid, SPAWN);
        let carried = self.workers.iter().position(|marks| marks.is_carried(&mark));
        carried.filter(|owner| !self.is_refuted(*owner, process)).ok_or(mark)
    }

    /// A leader that carries the token and is not who the record says.
    fn is_refuted(&self, owner: usize, process: &Process) -> bool {
        self.found[owner].unknown.iter().any(|(pid, _)| *pid == process.id.pid)
    }

    /// Whose a process is by its parents, or whose it may be.
    fn judge(&mut self, process: &Process, mark: &Variable, first: u64, by_pid: &HashMap<i32, &Process>) {
        let mut top = process;
        // No chain of parents is longer than there are processes.
        for _ in 0..by_pid.len() {
            if let Some(owner) = self.owners.get(&top.parent).copied() {
                self.owners.insert(process.id.pid, owner);
                return;
            }
            match by_pid.get(&top.parent) {
                Some(parent) if parent.id.start >= first => top = parent,
                _ => break,
            }
        }
        for (marks, found) in self.workers.iter().zip(&mut self.found) {
            let origin = marks.origin.as_ref().filter(|_| !marks.holds_all && process.id.start >= marks.began());
            if let Some(why) = origin.and_then(|origin| origin.suspects(process, mark, top, marks.recorded_user.is_none()))
                // It may have ended meanwhile: then there was nothing to read.
                && !matches!(proc::read(process.id.pid), Ok(now) if now.is_none_or(|now| now.id != process.id || !now.live))
            {
                found.unknown.push((process.id.pid, why));
            }
        }
    }
}

/// Gets what a worker has forked before it was in its control group into that, and says whether the group holds all of it: whether nothing is left
/// that may be its as well.
pub(super) fn gather(marks: &Marks, group: &Group) -> io::Result<bool> {
    // As with an empty survey, once is not enough: what forks and ends while `/proc` is read can be missed.
    let mut quiet = 0;
    while quiet < 2 {
        let found = survey(&[marks])?.pop().unwrap_or_default();
        if !found.unknown.is_empty() {
            return Ok(false);
        }
        let inside = group.pids()?;
        let outside: Vec<_> =
            found.members.iter().map(|member| member.id.pid).filter(|pid| !inside.contains(pid)).collect();
        quiet = if outside.is_empty() { quiet + 1 } else { 0 };
        for pid in outside {
            group.take(pid)?;
        }
    }
    Ok(true)
}

/// As [`survey`], but a worker has no process only if it had none twice in a row: `/proc` is not read in one moment, so a process
/// that moves while it is read (a fork, then the end of the parent) can be missed once.
pub(super) fn survey_twice(workers: &[&Marks]) -> io::Result<Vec<Found>> {
    let mut found = survey(workers)?;
    let empty: Vec<usize> = (0..found.len()).filter(|position| found[*position].is_nothing()).collect();
    let again = survey(&empty.iter().map(|position| workers[*position]).collect::<Vec<_>>())?;
    for (position, again) in empty.into_iter().zip(again) {
        found[position] = again;
    }
    Ok(found)
}
