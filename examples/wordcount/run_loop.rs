//! One run after the other, until the job is finished, stopped, or has failed too often.

use std::sync::{Arc, atomic::AtomicBool};

use tokio::time::Instant;
use winddown::{
    CheckpointStore, ClusterController, DriveError, EmbeddedCluster, JobContext, JobController, JobId, Limits, Mailbox,
    Manifest, ObjectStoreCheckpoints, Policy, Receipt, RunFailure, RunId, Scheduler, StoreError, TaskError, TaskId,
    TopologyError, WorkerOptions, drive,
};

use crate::{
    cli::{Args, Runtime},
    input::{Input, InputError},
    output::{self, Output, OutputError, Transaction},
    report::{PhaseTime, Report},
    screen::Screen,
    state_dir::StateDir,
    stops::{self, Stops},
    tasks::{Done, Fault, Meter, Plan, blocking},
};

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
    cluster: EmbeddedCluster,
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
        // Nothing to run. The last run may have been killed before it had committed or merged everything.
        return Ok(End { report: job.report(None, latest.as_ref()).await?, given_up: None });
    }
    stops::climb_on_signals(&job.stops, &job.screen).map_err(|error| JobError::System(error.to_string()))?;
    stops::schedule(&job.stops, &job.screen, &args.stop, job.start);
    let end = job.until_end().await;
    job.screen.clear();
    end
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
        let Runtime::Embedded = args.runtime;
        let fault = |at_line| Fault { at_line, armed: Arc::new(AtomicBool::new(true)) };
        let plan = Plan {
            shares: input.shares(args.workers)?,
            outputs: (0..args.workers).map(|worker| state.output(worker)).collect(),
            rate,
            meter: Meter::new(args.workers),
            fault: args.fail_at_line.map(fault),
        };
        Ok(Self {
            args,
            input,
            state,
            id: JobId::from("wordcount"),
            plan,
            store: ObjectStoreCheckpoints::local(state.checkpoints())?,
            cluster: EmbeddedCluster::new(WorkerOptions::default()),
            stops: Arc::default(),
            screen: Arc::new(Screen::new(input.lines(), args.workers)),
            start: Instant::now(),
        })
    }

    /// One run after the other, as long as another one is of use.
    async fn until_end(&self) -> Result<End, JobError> {
        let mut restarts = 0;
        loop {
            let stopped = self.run_once().await?;
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
            return Ok(End { report: self.report(Some(&stopped.receipt), latest.as_ref()).await?, given_up });
        }
    }

    /// One run, from the last complete checkpoint to `Stopped`.
    async fn run_once(&self) -> Result<Stopped, JobError> {
        let restored = self.store.open_run(&self.id).await?;
        let (run, manifest) = (restored.run, restored.manifest.as_ref());
        let limits = self.limits();
        let topology = self.plan.topology()?;
        let mailbox = Mailbox::new(limits.mailbox_capacity);
        let mut parts = self.plan.parts(manifest.map(|manifest| manifest.epoch));
        let sink = mailbox.sender();
        let hosted = self.cluster.start(self.id.clone(), run, &topology, manifest, sink, |ctx| parts.start(ctx))?;
        let mut controller = ClusterController::builder(self.id.clone(), run, topology, Arc::new(hosted))
            .limits(limits.clone())
            .store(Arc::new(self.store.clone()));
        if let Some(manifest) = manifest {
            controller = controller.restored(manifest);
        }
        let builder = JobContext::builder(self.id.clone(), run).limits(limits).mailbox(mailbox);
        let (mut job, running) = builder.build(controller.build(), self.cluster.clone());
        self.stops.attach(job.sender());
        let progress = job.progress();
        // A final checkpoint that can't be had is given up, so that the command always ends; the next start replays.
        let policy = Policy::escalate();
        let receipt = tokio::select! {
            receipt = drive(running, &mut job, &policy) => receipt?,
            never = self.screen.follow(progress, &self.plan.meter, &self.stops) => match never {},
        };
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
    async fn report(&self, receipt: Option<&Receipt>, latest: Option<&Manifest>) -> Result<Report, JobError> {
        let done = self.done(latest)?;
        if done.all {
            blocking(|| self.write_result(latest))?;
        }
        let alive = self.cluster.workers_for_job(&self.id, None).await;
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
            workers_left: alive.map_err(|error| JobError::System(error.to_string()))?.len(),
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
        let mut outputs = Vec::new();
        for (subtask, folder) in (0..).zip(&self.plan.outputs) {
            let snapshots = latest.map(|latest| latest.tasks.as_slice()).unwrap_or_default();
            let sink = snapshots.iter().find(|snapshot| snapshot.task == TaskId::new(2, subtask));
            let commit = sink.and_then(|sink| sink.commit.as_deref());
            let transactions = commit.map_or_else(|| Ok(Vec::new()), Transaction::decode)?;
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
