//! One run after the other, until the job is finished, stopped, or has failed too often.

use std::sync::Arc;

use tokio::time::Instant;
use winddown::{
    ClusterController, FileJournal, JobContext, JobController, JobId, Limits, Mailbox, ObjectStoreCheckpoints, Policy,
    Receipt, RunId, Scheduler, TaskId,
    contracts::{CheckpointStore, Manifest, RunFailure, StoreError, TaskError, TopologyError},
    drive,
    drive::{DriveError, RehydrateError, Unfit},
    journal::JournalError,
    machine::BuildError,
};

use crate::{
    claim::Claim,
    cli::{self, Args},
    input::{Input, InputError},
    output::{self, Output, OutputError, Part},
    report::{Report, millis, walked},
    resume,
    runtime::{Embedded, NewRun, Runtime, kill},
    screen::Screen,
    state_dir::StateDir,
    stops::{self, Stops},
    tasks::{Fault, Stall, Work, Workload, blocking, topology},
};

/// The job's name. A state directory has one job.
pub const JOB: &str = "wordcount";

/// Why a call of this program has failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobError {
    /// The shutdown is stuck.
    #[error(transparent)]
    Stuck(#[from] DriveError),
    /// The checkpoint store can't be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal can't be used, or not be trusted.
    #[error("{0}; or start over with --fresh")]
    Journal(#[from] JournalError),
    /// The shutdown of an earlier call can't be taken up.
    #[error(transparent)]
    Resume(#[from] RehydrateError),
    /// The same, found out a moment later.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// Workers of an earlier run may be alive.
    #[error("workers of an earlier run can't be ended: {0}; end them by hand, then try again")]
    Leftovers(String),
    /// The run can't be started.
    #[error(transparent)]
    Start(#[from] winddown::embedded::StartError),
    /// Worker processes can't be had.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    Process(#[from] winddown::process::ProcessError),
    /// Files and ports of this program's own.
    #[error("can't start the workers: {0}")]
    Io(#[from] std::io::Error),
    /// The output can't be used.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The input can't be used any more.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The checkpoint holds something else than this program wrote.
    #[error("the checkpoint can't be used: {0}; start over with --fresh")]
    Checkpoint(TaskError),
    /// What a run is made of is not all of one run.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// No such topology.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// Signals, or the scheduler.
    #[error("{0}")]
    System(String),
}

/// Everything that is the same for all runs of a call.
struct Job<'a> {
    args: &'a Args,
    state: &'a StateDir,
    id: JobId,
    workload: Workload,
    store: ObjectStoreCheckpoints,
    journal: FileJournal,
    stops: Arc<Stops>,
    screen: Arc<Screen>,
    start: Instant,
}

/// One run that has stopped.
struct Stopped {
    receipt: Receipt,
    failure: Option<RunFailure>,
}

/// Runs the job to its end, and tells how that was. After an error the report says what is known.
///
/// # Cancel safety
/// Not to be dropped: a run under way would be aborted.
pub(crate) async fn run(args: &Args, rate: Option<u64>, input: &Input, state: &StateDir) -> Report {
    let start = Instant::now();
    let mut report = Report::new(input.lines());
    if let Err(error) = run_job(args, rate, input, state, start, &mut report).await {
        report = report.failed(&error);
    }
    report.elapsed_ms = millis(start.elapsed());
    report
}

async fn run_job(
    args: &Args,
    rate: Option<u64>,
    input: &Input,
    state: &StateDir,
    start: Instant,
    report: &mut Report,
) -> Result<(), JobError> {
    let job = Job::new(args, rate, input, state, start)?;
    report.resumed_shutdown =
        resume::finish(&job.id, &job.journal, &job.store, &topology(args.workers)?, &state.processes(), &job.screen)
            .await?;
    report.workers_left = Some(0);
    let latest = job.note_checkpoint(report).await?;
    blocking(|| job.check_output(latest.as_ref()))?;
    if report.input_done {
        // Nothing to run. The last run may have been killed before it had committed or merged
        // everything.
        blocking(|| job.write_result(latest.as_ref()))?;
        report.run = latest.map_or(0, |latest| latest.run.get());
        // All input had been consumed and committed before.
        report.evidence = Some("completed");
        return Ok(());
    }
    stops::climb_on_signals(&job.stops, &job.screen)?;
    stops::schedule(&job.stops, &job.screen, &args.stop, job.start);
    match args.runtime {
        cli::Runtime::Embedded => job.run_on(Embedded::new(args.workers), report).await,
        #[cfg(target_os = "linux")]
        cli::Runtime::Process => {
            let screen = Arc::clone(&job.screen);
            let runtime = crate::runtime::Process::open(state.processes(), args.workers, screen).await?;
            job.run_on(runtime, report).await
        }
        #[cfg(all(target_os = "linux", feature = "kubernetes"))]
        cli::Runtime::Kubernetes => {
            let screen = Arc::clone(&job.screen);
            let runtime =
                crate::runtime::Kubernetes::open(&state.processes(), args.workers, &args.pods, screen).await?;
            // The requests to the API server make a large future.
            Box::pin(job.run_on(runtime, report)).await
        }
    }
}

/// Why no run follows.
enum Why {
    /// A stop was asked for, or the time to live is over (invariant I8).
    Asked,
    /// Another run would fare no better.
    Hopeless(String),
}

impl<'a> Job<'a> {
    fn new(
        args: &'a Args,
        rate: Option<u64>,
        input: &'a Input,
        state: &'a StateDir,
        start: Instant,
    ) -> Result<Self, JobError> {
        let work = |(worker, share)| {
            // The first worker's alone.
            let fault = args.fail_at_line.filter(|_| worker == 0).map(|at_line| Fault { at_line });
            let stall = args.stall_at_line.zip(args.stall_for).filter(|_| worker == 0);
            let stall = stall.map(|(at_line, time)| Stall { at_line, time });
            Work { worker, share, output: state.output(worker), rate, fault, stall }
        };
        Ok(Self {
            args,
            state,
            id: JobId::from(JOB),
            workload: Workload { works: (0..).zip(input.shares(args.workers)?).map(work).collect() },
            store: ObjectStoreCheckpoints::local(state.checkpoints())?,
            journal: FileJournal::open(state.journal())?,
            stops: Arc::default(),
            screen: Arc::new(Screen::new(input.lines(), args.workers)),
            start,
        })
    }

    async fn run_on<R: Runtime>(mut self, runtime: R, report: &mut Report) -> Result<(), JobError> {
        let mut end = self.until_end(&runtime, report).await;
        if end.is_err() {
            // Nobody stops them any more.
            let _ = kill(runtime.scheduler(), &self.id, None).await;
        }
        let alive = runtime.scheduler().workers_for_job(&self.id, None).await;
        report.workers_left = alive.as_ref().ok().map(Vec::len);
        end = end.and(alive.map(drop).map_err(|error| JobError::System(error.to_string())));
        self.screen.clear();
        runtime.close().await;
        end
    }

    /// One run after the other, as long as another one is of use.
    async fn until_end<R: Runtime>(&mut self, runtime: &R, report: &mut Report) -> Result<(), JobError> {
        let mut restarts = 0;
        loop {
            let stopped = self.run_once(runtime, report).await?;
            self.workload.note(stopped.failure.as_ref());
            let latest = self.note_checkpoint(report).await?;
            if report.input_done {
                blocking(|| self.write_result(latest.as_ref()))?;
                return Ok(());
            }
            match self.why_not_again(&stopped, restarts) {
                Some(Why::Asked) => return Ok(()),
                Some(Why::Hopeless(reason)) => {
                    report.error = Some(reason);
                    return Ok(());
                }
                None => {}
            }
            restarts += 1;
            let (reason, most) = (stopped.reason(), self.args.restarts);
            self.screen.say(&format!("{reason}; restart {restarts} of {most} follows from the last checkpoint"));
        }
    }

    /// One run, from the last complete checkpoint to `Stopped`.
    async fn run_once<R: Runtime>(&self, runtime: &R, report: &mut Report) -> Result<Stopped, JobError> {
        let open = self.store.open_run(&self.id).await?;
        let run = open.run();
        (report.run, report.phases, report.evidence) = (run.get(), Vec::new(), None);
        let limits = self.limits();
        let topology = Arc::new(topology(self.args.workers)?);
        let mailbox = Mailbox::new(limits.mailbox_capacity);
        let (transport, hold) = runtime
            .start(NewRun {
                open: &open,
                topology: Arc::clone(&topology),
                workload: &self.workload,
                limits: &limits,
                mailbox: mailbox.sender(),
            })
            .await?;
        let controller = ClusterController::builder(&open, topology, transport)
            .limits(limits.clone())
            .store(Arc::new(self.store.clone()));
        let builder = JobContext::builder(&open).limits(limits).mailbox(mailbox).journal(self.journal.clone());
        let (mut job, running) = builder.build(controller.build(), runtime.scheduler().clone())?;
        job.hear_of_ends();
        self.stops.attach(job.sender());
        let progress = job.progress();
        // A final checkpoint that can't be completed is abandoned, so that the command always ends;
        // the next start replays.
        let policy = Policy::escalate();
        let driven = tokio::select! {
            driven = drive(running, &mut job, &policy) => driven,
            never = self.screen.follow(progress, runtime.meter(), &self.stops) => match never {},
        };
        report.phases = walked(&job);
        let receipt = driven?;
        report.evidence = Some(receipt.stopped().name());
        drop(hold);
        let failure = job.controller().failure().cloned();
        self.screen.say(&format!("run {} has stopped: {}", run.get(), receipt.stopped().name()));
        Ok(Stopped { receipt, failure })
    }

    fn limits(&self) -> Limits {
        Limits {
            // It counts for the job and not for each run.
            ttl: self.args.ttl.map(|ttl| ttl.saturating_sub(self.start.elapsed())),
            checkpoint_every: Some(self.args.checkpoint_every),
            ..Limits::default()
        }
    }

    fn why_not_again(&self, stopped: &Stopped, restarts: u32) -> Option<Why> {
        let fatal = matches!(&stopped.failure, Some(RunFailure::TaskFailed { error, .. }) if !error.retryable);
        let over = self.args.ttl.is_some_and(|ttl| self.start.elapsed() >= ttl);
        if over || !stopped.receipt.may_restart() || self.stops.strongest().is_some() {
            Some(Why::Asked)
        } else if fatal {
            Some(Why::Hopeless(stopped.reason()))
        } else if restarts >= self.args.restarts {
            Some(Why::Hopeless(format!("{}; given up after {restarts} restarts (--restarts)", stopped.reason())))
        } else {
            None
        }
    }

    /// The last complete checkpoint, and how far the job is with it.
    async fn note_checkpoint(&self, report: &mut Report) -> Result<Option<Manifest>, JobError> {
        let latest = self.store.latest(&self.id).await?;
        let done = self.workload.done(latest.as_ref()).map_err(JobError::Checkpoint)?;
        report.epoch = latest.as_ref().map(|latest| latest.epoch.get());
        (report.input_lines_committed, report.input_done) = (done.lines, done.all);
        Ok(latest)
    }

    /// Checks that the output of all workers is what the checkpoint names, before anything is
    /// started or written.
    fn check_output(&self, latest: Option<&Manifest>) -> Result<(), OutputError> {
        self.workload.works.iter().try_for_each(|Work { worker, output: folder, .. }| {
            Output::check(folder, latest.map(|latest| latest.epoch), &parts(latest, *worker)?)
        })
    }

    /// Merges what all workers have committed, unless that is done. No worker runs, so the
    /// controller commits what the last checkpoint names; its run may have been killed before the
    /// commit.
    fn write_result(&self, latest: Option<&Manifest>) -> Result<(), OutputError> {
        let counts = self.state.counts();
        if counts.exists() {
            return Ok(());
        }
        let (mut outputs, mut claims) = (Vec::new(), Vec::new());
        for Work { worker, output: folder, .. } in &self.workload.works {
            let (run, from) = (latest.map_or(RunId::new(0), |latest| latest.run), latest.map(|latest| latest.epoch));
            claims.push(Claim::take(folder, run)?);
            outputs.push(Output::open(folder, run, from, &parts(latest, *worker)?)?);
        }
        output::merge(&outputs, &counts)
    }
}

/// The parts of a worker's output that a checkpoint names.
fn parts(checkpoint: Option<&Manifest>, worker: u32) -> Result<Vec<Part>, OutputError> {
    let snapshots = checkpoint.map(|manifest| manifest.tasks.as_slice()).unwrap_or_default();
    let sink = snapshots.iter().find(|snapshot| snapshot.task == TaskId::new(2, worker));
    Part::restored(checkpoint.map(|manifest| manifest.epoch), sink.map(|sink| &*sink.snapshot))
}

impl Stopped {
    /// Why the run ended although nobody asked for it.
    fn reason(&self) -> String {
        match (&self.failure, self.receipt.last_error()) {
            (Some(failure), _) => failure.to_string(),
            (None, Some(error)) => error.to_string(),
            (None, None) => "the run ended before the input did".to_owned(),
        }
    }
}
