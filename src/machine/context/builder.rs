//! What a job's context is made of.

use std::{
    fmt,
    panic::Location,
    sync::{Arc, LazyLock},
};

use tokio::time::Instant;

use super::{JobContext, new_identity};
use crate::{
    contracts::{Attach, OpenRun},
    limits::Limits,
    machine::{
        BoxJournal, BuildError, HealthWatch, Journal, PhaseKind, PhaseRecord, Progress, ReasonKind, Running, Visit,
        journaling::Journaling,
        live::Live,
        phases::sealed::{Entry, Mint},
        progress::LiveProgress,
        trail::LiveTrail,
    },
    mailbox::Mailbox,
};

/// Builds a [`JobContext`].
#[must_use = "call `build` to get the job and its `Running` phase"]
pub struct JobBuilder {
    open: OpenRun,
    limits: Arc<Limits>,
    mailbox: Option<Mailbox>,
    journal: Option<BoxJournal>,
    is_simulated: bool,
}

impl fmt::Debug for JobBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobBuilder").field("open", &self.open).finish_non_exhaustive()
    }
}

impl JobBuilder {
    pub(super) fn new(open: &OpenRun) -> Self {
        // Shared by all jobs with the default limits.
        static DEFAULT: LazyLock<Arc<Limits>> = LazyLock::new(Arc::default);
        let (open, limits) = (open.clone(), Arc::clone(&DEFAULT));
        Self { open, limits, mailbox: None, journal: None, is_simulated: false }
    }

    /// Sets other limits than the default ones. Many jobs can share one `Arc`.
    pub fn limits(mut self, limits: impl Into<Arc<Limits>>) -> Self {
        self.limits = limits.into();
        self
    }

    /// Sets an existing mailbox, for senders that must exist before the controller.
    pub fn mailbox(mut self, mailbox: Mailbox) -> Self {
        self.mailbox = Some(mailbox);
        self
    }

    /// Sets the journal, which records each phase before it acts. Without one, a shutdown is
    /// forgotten when its controller crashes.
    pub fn journal(mut self, journal: impl Journal + 'static) -> Self {
        self.journal = Some(Arc::new(journal));
        self
    }

    pub(crate) fn boxed_journal(mut self, journal: BoxJournal) -> Self {
        self.journal = Some(journal);
        self
    }

    /// For tests: this context stands for one in another process, so it may exist at the same time
    /// as another one of the same run.
    ///
    /// The tests of a program share a process. Give each its own job name, or call this.
    pub fn simulated(mut self) -> Self {
        self.is_simulated = true;
        self
    }

    /// The job, and the only `Running` that it will ever have.
    ///
    /// # Errors
    /// [`BuildError`]: the controller is another run's, or the run has a context in this process
    /// already.
    #[track_caller]
    pub fn build<C: Attach, S>(self, controller: C, scheduler: S) -> Result<(JobContext<C, S>, Running), BuildError> {
        self.build_after(None, Location::caller(), controller, scheduler)
    }

    /// The same if a previous controller has written `last` to the journal.
    pub(crate) fn build_after<C: Attach, S>(
        self,
        last: Option<&PhaseRecord>,
        place: &'static Location<'static>,
        controller: C,
        scheduler: S,
    ) -> Result<(JobContext<C, S>, Running), BuildError> {
        let Self { open, limits, mailbox, journal, is_simulated } = self;
        controller.attaches(&open)?;
        let live = if is_simulated { Live::elsewhere() } else { Live::claim(&open, place)? };
        let now = Instant::now();
        let entry = Entry::new(new_identity(), now, Running::budget(&limits));
        let job = JobContext {
            id: open.job().clone(),
            run: open.run(),
            controller,
            scheduler,
            mailbox: mailbox.unwrap_or_else(|| Mailbox::new(limits.mailbox_capacity)),
            limits,
            parked: None,
            health: HealthWatch::default(),
            journaling: Journaling::new(journal, last),
            superseded: false,
            identity: entry.identity,
            trail: LiveTrail::new(&Visit::new(PhaseKind::Running, now, ReasonKind::Started.into())),
            progress: LiveProgress::new(Progress::new(PhaseKind::Running, now, entry.deadline)),
            live,
        };
        Ok((job, Running::mint(entry, ())))
    }
}
