//! One run after the other, until the job is finished, stopped, or has failed too often.

use std::sync::Arc;

use tokio::time::Instant;
use winddown::{
    CheckpointStore, ClusterController, DriveError, JobContext, JobController, JobId, Limits, Mailbox, Manifest,
    ObjectStoreCheckpoints, Policy, Receipt, RunFailure, RunId, Scheduler, StoreError, TaskError, TaskId,
    TopologyError, drive,
};

use crate::{
    claim::Claim,
    cli::{self, Args},
    input::{Input, InputError},
    output::{self, Output, OutputError, Transaction},
    report::{PhaseTime, Report},
    runtime::{Embedded, NewRun, Runtime},
    screen::Screen,
    state_dir::StateDir,
    stops::{self, Stops},
    tasks::{Done, Fault, Plan, Work, blocking, topology},
};

/// The job's name. A state directory has one job.
pub(crate) const JOB: &str = "wordcount";

/// Why a call of this program has failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobError {
    /// The shutdown is stuck.
    #[error(transparent)]
    Stuck(#[from] DriveError),
    /// The checkpoint store can't be used.
    #[error(transparent)]
    Store(#[from] StoreError),
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
    /// No such topology.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// Signals, or the scheduler.
    #[error("{0}")]
    System(String),
}

/// How a call ended.
pub(crate) struct End {
    /// What is reported.
    pub(crate) report: Report,
    /// Why the job has failed for good, if it has.
    pub(crate) given_up: Option<String>,
}

/// Everything that is the same for all runs of a call.
struct Job<'a> {
    args: &'a Args,
    input: &'a Input,
    state: &'a StateDir,
    id: JobId,
    plan: Plan,
    store: ObjectStoreCheckpoints,
    stops: Arc<Stops>,
    screen: Arc<Screen>,
    start: Instant,
}

/// One run that has stopped.
struct Stopped {
    receipt: Receipt,
    failure: Option<RunFailure>,
}

/// Runs the job to its end.
///
/// # Errors
/// [`JobError`] when a run could not be started, could not be stopped, or has left something that can't be trusted.
///
/// # Cancel safety
/// Not to be dropped: a run under way would be aborted.
pub(crate) async fn run(args: &Args, rate: Option<u64>, input: &Input, state: &StateDir) -> Result<End, JobError> {
    let job = Job::new(args, rate, input, state)?;
    let latest = job.store.latest(&job.id).await?;
    if job.done(latest.as_ref())?.all {
        // Nothing to run, and none alive: opening the state directory has seen to that. The last run may have been killed before it
        // had committed or merged everything.
        return Ok(End { report: job.report(None, latest.as_ref(), 0)?, given_up: None });
    }
    stops::climb_on_signals(&job.stops, &job.screen)?;
    stops::schedule(&job.stops, &job.screen, &args.stop, job.start);
    match args.runtime {
        cli::Runtime::Embedded => job.run_on(Embedded::new(args.workers)).await,
        #[cfg(target_os = "linux")]
        cli::Runtime::Process => {
            let screen = Arc::clone(&job.screen);
            let runtime = crate::runtime::Process::open(state.processes(), args.workers, screen).await?;
            job.run_on(runtime).await
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
    fn new(args: &'a Args, rate: Option<u64>, input: &'a Input, state: &'a StateDir) -> Result<Self, JobError> {
        let work = |(worker, share)| {
            // The first worker's alone.
            let fault = args.fail_at_line.filter(|_| worker == 0).map(|at_line| Fault { at_line });
            Work { worker, share, output: state.output(worker), rate, fault }
        };
        Ok(Self {
            args,
            input,
            state,
            id: JobId::from(JOB),
            plan: Plan { works: (0..).zip(input.shares(args.workers)?).map(work).collect() },
            store: ObjectStoreCheckpoints::local(state.checkpoints())?,
            stops: Arc::default(),
            screen: Arc::new(Screen::new(input.lines(), args.workers)),
            start: Instant::now(),
        })
    }

    async fn run_on<R: Runtime>(mut self, runtime: R) -> Result<End, JobError> {
        let end = self.until_end(&runtime).await;
        self.screen.clear();
        runtime.close().await;
        end
    }

    /// One run after the other, as long as another one is of use.
    async fn until_end<R: Runtime>(&mut self, runtime: &R) -> Result<End, JobError> {
        let mut restarts = 0;
        loop {
            let stopped = self.run_once(runtime).await?;
            self.plan.note(stopped.failure.as_ref());
            let latest = self.store.latest(&self.id).await?;
            let finished = self.done(latest.as_ref())?.all;
            let given_up = match self.why_not_again(&stopped, restarts) {
                Some(Why::Hopeless(reason)) if !finished => Some(reason),
                None if !finished => {
                    restarts += 1;
                    let (reason, most) = (stopped.reason(), self.args.restarts);
                    self.screen
                        .say(&format!("{reason}; restart {restarts} of {most} follows from the last checkpoint"));
                    continue;
                }
                _ => None,
            };
            let alive = runtime.scheduler().workers_for_job(&self.id, None).await;
            let alive = alive.map_err(|error| JobError::System(error.to_string()))?.len();
            return Ok(End { report: self.report(Some(&stopped.receipt), latest.as_ref(), alive)?, given_up });
        }
    }

    /// One run, from the last complete checkpoint to `Stopped`.
    async fn run_once<R: Runtime>(&self, runtime: &R) -> Result<Stopped, JobError> {
        let restored = self.store.open_run(&self.id).await?;
        let (run, manifest) = (restored.run, restored.manifest.as_ref());
        let limits = self.limits();
        let topology = Arc::new(topology(self.args.workers)?);
        let mailbox = Mailbox::new(limits.mailbox_capacity);
        let (transport, hold) = runtime
            .start(NewRun {
                job: &self.id,
                run,
                topology: Arc::clone(&topology),
                manifest,
                plan: &self.plan,
                limits: &limits,
                mailbox: mailbox.sender(),
            })
            .await?;
        let mut controller = ClusterController::builder(self.id.clone(), run, topology, transport)
            .limits(limits.clone())
            .store(Arc::new(self.store.clone()));
        if let Some(manifest) = manifest {
            controller = controller.restored(manifest);
        }
        let builder = JobContext::builder(self.id.clone(), run).limits(limits).mailbox(mailbox);
        let (mut job, running) = builder.build(controller.build(), runtime.scheduler().clone());
        self.stops.attach(job.sender());
        let progress = job.progress();
        // A final checkpoint that can't be had is given up, so that the command always ends; the next start replays.
        let policy = Policy::escalate();
        let receipt = tokio::select! {
            receipt = drive(running, &mut job, &policy) => receipt?,
            never = self.screen.follow(progress, runtime.meter(), &self.stops) => match never {},
        };
        drop(hold);
        let failure = job.controller().failure().cloned();
        self.screen.say(&format!("run {} has stopped: {}", run.get(), receipt.stopped.name()));
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

    fn done(&self, manifest: Option<&Manifest>) -> Result<Done, JobError> {
        self.plan.done(manifest).map_err(JobError::Checkpoint)
    }

    /// Completes what the last checkpoint promises, and tells where the job is.
    fn report(&self, receipt: Option<&Receipt>, latest: Option<&Manifest>, alive: usize) -> Result<Report, JobError> {
        let done = self.done(latest)?;
        if done.all {
            blocking(|| self.write_result(latest))?;
        }
        let legs = receipt.map(|receipt| receipt.legs.as_slice()).unwrap_or_default();
        Ok(Report {
            run: receipt.map(|receipt| receipt.run).or(latest.map(|latest| latest.run)).map_or(0, RunId::get),
            phases: legs.iter().map(|leg| PhaseTime { phase: leg.phase.name(), ms: millis(leg.took) }).collect(),
            // Without a run all input had been consumed and committed before.
            evidence: receipt.map_or("drained", |receipt| receipt.stopped.name()),
            epoch: latest.map(|latest| latest.epoch.get()),
            input_lines_total: self.input.lines(),
            input_lines_committed: done.lines,
            input_done: done.all,
            workers_left: alive,
            elapsed_ms: millis(self.start.elapsed()),
        })
    }

    /// Merges what all workers have committed, unless that has been done. No worker runs: this is the controller's turn to
    /// commit again what the last checkpoint names, in case that its run was killed before the commit.
    fn write_result(&self, latest: Option<&Manifest>) -> Result<(), OutputError> {
        let counts = self.state.counts();
        if counts.exists() {
            return Ok(());
        }
        let (mut outputs, mut claims) = (Vec::new(), Vec::new());
        for Work { worker, output: folder, .. } in &self.plan.works {
            let snapshots = latest.map(|latest| latest.tasks.as_slice()).unwrap_or_default();
            let sink = snapshots.iter().find(|snapshot| snapshot.task == TaskId::new(2, *worker));
            let commit = sink.and_then(|sink| sink.commit.as_deref());
            let transactions = commit.map_or_else(|| Ok(Vec::new()), Transaction::decode)?;
            claims.push(Claim::take(folder, latest.map_or(RunId::new(0), |latest| latest.run))?);
            outputs.push(Output::open(folder.clone(), latest.map(|latest| latest.epoch), &transactions)?);
        }
        output::merge(&outputs, &counts)
    }
}

impl Stopped {
    /// Why the run ended although nobody asked for it.
    fn reason(&self) -> String {
        match (&self.failure, &self.receipt.last_error) {
            (Some(failure), _) => failure.to_string(),
            (None, Some(error)) => error.to_string(),
            (None, None) => "the run ended before the input did".to_owned(),
        }
    }
}

fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
