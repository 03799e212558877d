//! The rules of a [`Scheduler`].

use std::{slice, time::Duration};

use futures_util::future::{join_all, try_join_all};

use super::{
    report::Report,
    rule::{Contract, Rule},
    suite::{Finding, Hook, LIMIT, Outcome, Suite, broken, cut_off, eventually, ok, same},
};
use crate::contracts::{JobId, RunId, Scheduler, WorkerId};

/// The behaviour of a worker in a check. It runs until it is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Manners {
    /// It leaves when it is asked to.
    Leaves,
    /// It ignores requests to leave.
    Stays,
    /// It has a child (a process, a thread, a container) that ignores requests to leave, and would
    /// outlive it.
    HasChild,
    /// After a request to leave or a kill, it runs for another moment (a few tenths of a second).
    EndsLate,
}

/// One worker of a check.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Placed {
    /// The job.
    pub job: JobId,
    /// The run.
    pub run: RunId,
    /// The worker. Each worker of a check has its own id.
    pub worker: WorkerId,
}

/// A place to run workers in, initially empty, on which a [`Scheduler`] is checked. Dropping it
/// must end the remaining workers.
pub trait SchedulerSubject: 'static {
    /// The scheduler.
    type Scheduler: Scheduler + 'static;

    /// The time limit of one rule. A check that takes longer has found a call that does not answer.
    const LIMIT: Duration = LIMIT;

    /// The scheduler of this place.
    fn scheduler(&self) -> Self::Scheduler;

    /// Starts the workers of a run, and returns when they are running. Runs of a job are started in
    /// the order of their numbers.
    fn start(&self, job: &JobId, run: RunId, workers: &[(WorkerId, Manners)]) -> impl Future<Output = Hook>;

    /// Whether any code of the worker or of its children is running, found out independently of the
    /// scheduler; `None` if unknown.
    fn is_running(&self, worker: &Placed) -> impl Future<Output = Option<bool>> {
        let _ = worker;
        async { None }
    }

    /// Whether the worker was asked to leave, as recorded by the worker itself; `None` if unknown.
    fn was_asked(&self, worker: &Placed) -> impl Future<Output = Option<bool>> {
        let _ = worker;
        async { None }
    }

    /// Makes the worker unreachable (frozen, or behind a partition), although it is alive.
    fn cut_off(&self, worker: &Placed) -> impl Future<Output = Hook> {
        let _ = worker;
        async { Hook::Unsupported }
    }
}

/// Checks a [`Scheduler`]. `make` creates an empty place; it is called once for each rule.
///
/// # Cancel safety
/// The current check continues to its end or its limit, on its own thread.
pub async fn scheduler<S: SchedulerSubject>(make: impl AsyncFn() -> S + Send + Sync + 'static) -> Report {
    let mut suite = Suite::new(Contract::Scheduler, make, S::LIMIT);
    suite.check(Rule::SchedulerListsAlive, lists_alive);
    suite.check(Rule::SchedulerOnlyReads, only_reads);
    suite.check(Rule::SchedulerUnknownRun, unknown_run);
    suite.check(Rule::SchedulerStopAgain, stop_again);
    suite.check(Rule::SchedulerFencing, fencing);
    suite.check(Rule::SchedulerEveryRun, every_run);
    suite.check(Rule::SchedulerAsks, asks);
    suite.check(Rule::SchedulerAskedIsAlive, asked_is_alive);
    suite.check(Rule::SchedulerForce, force);
    suite.check(Rule::SchedulerForceChildren, force_children);
    suite.check(Rule::SchedulerKillVerified, kill_verified);
    suite.check(Rule::SchedulerNeverLeftOut, never_left_out);
    suite.check(Rule::SchedulerCancelSafe, cancel_safe);
    suite.report().await
}

/// A subject at work.
struct Stage<S: SchedulerSubject> {
    subject: S,
    scheduler: S::Scheduler,
}

impl<S: SchedulerSubject> Stage<S> {
    fn new(subject: S) -> Self {
        let scheduler = subject.scheduler();
        Self { subject, scheduler }
    }

    /// One run with one worker.
    async fn start(&self, job: &JobId, run: u64, worker: u64, manners: Manners) -> Result<Placed, Finding> {
        let placed = Placed { job: job.clone(), run: RunId::new(run), worker: WorkerId::new(worker) };
        let started = self.subject.start(job, placed.run, &[(placed.worker, manners)]).await;
        started.needed("needs such a worker of `SchedulerSubject::start`")?;
        Ok(placed)
    }

    async fn stop(&self, job: &JobId, run: Option<u64>, force: bool) -> Outcome {
        ok("`stop_workers`", self.scheduler.stop_workers(job, run.map(RunId::new), force).await)
    }

    async fn list(&self, job: &JobId, run: Option<u64>) -> Result<Vec<WorkerId>, Finding> {
        let mut workers = ok("`workers_for_job`", self.scheduler.workers_for_job(job, run.map(RunId::new)).await)?;
        workers.sort_unstable();
        Ok(workers)
    }

    async fn lists(&self, job: &JobId, run: Option<u64>, expected: &[u64]) -> Outcome {
        let expected: Vec<_> = expected.iter().copied().map(WorkerId::new).collect();
        same("these workers listed:", &self.list(job, run).await?, &expected)
    }

    async fn is_listed(&self, worker: &Placed) -> Result<bool, Finding> {
        Ok(self.list(&worker.job, Some(worker.run.get())).await?.contains(&worker.worker))
    }

    /// The truth, or the scheduler's answer if the truth is unknown.
    async fn runs(&self, worker: &Placed) -> Result<bool, Finding> {
        match self.subject.is_running(worker).await {
            Some(is_running) => Ok(is_running),
            None => self.is_listed(worker).await,
        }
    }

    async fn ends(&self, workers: &[Placed], after: &str) -> Outcome {
        for worker in workers {
            let gone = async || Ok(!self.runs(worker).await? && !self.is_listed(worker).await?);
            if !eventually(S::LIMIT, gone).await? {
                return Err(broken(format_args!("worker {} to end after {after}", worker.worker), "it is alive"));
            }
        }
        Ok(())
    }

    async fn is_untouched(&self, worker: &Placed) -> Outcome {
        same("it to be alive:", &(worker.worker, self.runs(worker).await?), &(worker.worker, true))?;
        if self.subject.was_asked(worker).await == Some(true) {
            return Err(broken(
                format_args!("worker {} of run {} to be left alone", worker.worker, worker.run),
                "it was asked to leave",
            ));
        }
        Ok(())
    }
}

fn jobs() -> (JobId, JobId) {
    (JobId::new("conformance"), JobId::new("conformance-other"))
}

async fn lists_alive<S: SchedulerSubject>(subject: S) -> Outcome {
    let (stage, (job, other)) = (Stage::new(subject), jobs());
    stage.lists(&job, None, &[]).await?;
    let two = [(WorkerId::new(1), Manners::Stays), (WorkerId::new(2), Manners::Stays)];
    stage.subject.start(&job, RunId::new(1), &two).await.needed("needs `SchedulerSubject::start`")?;
    stage.start(&job, 2, 3, Manners::Stays).await?;
    stage.start(&other, 1, 4, Manners::Stays).await?;
    for (job, run, expected) in
        [(&job, Some(1), &[1, 2][..]), (&job, Some(2), &[3]), (&job, None, &[1, 2, 3]), (&other, None, &[4])]
    {
        stage.lists(job, run, expected).await?;
    }
    Ok(())
}

async fn only_reads<S: SchedulerSubject>(subject: S) -> Outcome {
    let (stage, (job, _)) = (Stage::new(subject), jobs());
    let worker = stage.start(&job, 1, 1, Manners::Leaves).await?;
    for _ in 0..20 {
        stage.lists(&job, Some(1), &[1]).await?;
        stage.lists(&job, None, &[1]).await?;
    }
    stage.is_untouched(&worker).await
}

async fn unknown_run<S: SchedulerSubject>(subject: S) -> Outcome {
    let (stage, (job, other)) = (Stage::new(subject), jobs());
    stage.start(&job, 1, 1, Manners::Leaves).await?;
    for (job, run) in [(&job, Some(99)), (&other, Some(1)), (&other, None)] {
        for force in [false, true] {
            stage.stop(job, run, force).await?;
        }
        stage.lists(job, run, &[]).await?;
    }
    Ok(())
}

async fn stop_again<S: SchedulerSubject>(subject: S) -> Outcome {
    let (stage, (job, _)) = (Stage::new(subject), jobs());
    let worker = stage.start(&job, 1, 1, Manners::Leaves).await?;
    stage.stop(&job, Some(1), false).await?;
    stage.ends(slice::from_ref(&worker), "being asked").await?;
    for force in [false, true, true, false] {
        stage.stop(&job, Some(1), force).await?;
        stage.stop(&job, None, force).await?;
        stage.lists(&job, Some(1), &[]).await?;
    }
    Ok(())
}

async fn fencing<S: SchedulerSubject>(subject: S) -> Outcome {
    let (stage, (job, other)) = (Stage::new(subject), jobs());
    let old = stage.start(&job, 1, 1, Manners::Leaves).await?;
    let new = stage.start(&job, 2, 2, Manners::Leaves).await?;
    let foreign = stage.start(&other, 1, 3, Manners::Leaves).await?;
    stage.stop(&job, Some(1), false).await?;
    stage.stop(&job, Some(1), true).await?;
    stage.ends(slice::from_ref(&old), "force").await?;
    // Whether that is `Ok` is another rule's.
    let _ = stage.stop(&job, Some(99), true).await;
    stage.is_untouched(&new).await?;
    stage.is_untouched(&foreign).await
}

async fn every_run<S: SchedulerSubject>(subject: S) -> Outcome {
    let (stage, (job, other)) = (Stage::new(subject), jobs());
    let runs = [stage.start(&job, 1, 1, Manners::Leaves).await?, stage.start(&job, 2, 2, Manners::Leaves).await?];
    let foreign = stage.start(&other, 1, 3, Manners::Leaves).await?;
    stage.stop(&job, None, true).await?;
    stage.ends(&runs, "the stop of every run").await?;
    stage.is_untouched(&foreign).await
}

async fn asks<S: SchedulerSubject>(subject: S) -> Outcome {
    let (stage, (job, _)) = (Stage::new(subject), jobs());
    let worker = stage.start(&job, 1, 1, Manners::Leaves).await?;
    stage.stop(&job, Some(1), false).await?;
    stage.ends(slice::from_ref(&worker), "being asked").await?;
    match stage.subject.was_asked(&worker).await {
        Some(true) => Ok(()),
        Some(false) => Err(broken("the worker to have been asked", "it was not, and is gone")
            .advise("without force, a worker gets a grace period before it is killed")),
        None => Err(Finding::NotChecked("needs `SchedulerSubject::was_asked`")),
    }
}

/// How long to wait for a scheduler to forget a worker that ignores it: longer than the usual grace
/// periods.
const FORGETS: Duration = Duration::from_secs(8);

async fn asked_is_alive<S: SchedulerSubject>(subject: S) -> Outcome {
    let (stage, (job, _)) = (Stage::new(subject), jobs());
    let mut workers = vec![stage.start(&job, 1, 1, Manners::Stays).await?];
    if stage.subject.is_running(&workers[0]).await.is_none() {
        return Err(Finding::NotChecked("needs `SchedulerSubject::is_running`"));
    }
    // The same for a worker that is gone while its child is not, if the subject has such workers.
    workers.extend(stage.start(&job, 2, 2, Manners::HasChild).await.ok());
    let asked = workers.iter().map(|worker| stage.stop(&job, Some(worker.run.get()), false));
    let watched = workers.iter().map(|worker| {
        let stage = &stage;
        async move {
            // It may be killed after a grace period: then it is gone, and need not be listed.
            let is_gone = async || {
                if stage.is_listed(worker).await? {
                    return Ok(false);
                }
                match stage.subject.is_running(worker).await {
                    Some(true) => Err(broken(
                        format_args!("worker {} to be listed for as long as it runs, though it was asked to leave", worker.worker),
                        "not listed, and running",
                    )
                    .advise("a worker that takes no notice of SIGTERM is killed or stays on the list: it is never forgotten")),
                    _ => Ok(true),
                }
            };
            eventually(FORGETS.min(S::LIMIT / 2) * 2, is_gone).await
        }
    });
    // Whether and how the request is answered is checked by another rule.
    let asked = join_all(asked);
    let (watched, _) = tokio::join!(try_join_all(watched), tokio::time::timeout(S::LIMIT / 2, asked));
    watched.map(drop)
}

async fn force<S: SchedulerSubject>(subject: S) -> Outcome {
    let (stage, (job, _)) = (Stage::new(subject), jobs());
    let stubborn = stage.start(&job, 1, 1, Manners::Stays).await?;
    stage.stop(&job, Some(1), true).await?;
    stage.ends(slice::from_ref(&stubborn), "force").await
}

async fn force_children<S: SchedulerSubject>(subject: S) -> Outcome {
    let (stage, (job, _)) = (Stage::new(subject), jobs());
    let parent = stage.start(&job, 1, 1, Manners::HasChild).await?;
    if stage.subject.is_running(&parent).await.is_none() {
        return Err(Finding::NotChecked("needs `SchedulerSubject::is_running`"));
    }
    stage.stop(&job, Some(1), true).await?;
    stage.ends(slice::from_ref(&parent), "force, its child included,").await
}

/// The scheduler is queried constantly during a kill. Whenever it reports that the worker is gone,
/// this must be true.
async fn kill_verified<S: SchedulerSubject>(subject: S) -> Outcome {
    let (stage, (job, _)) = (Stage::new(subject), jobs());
    for (run, force) in [(1, true), (2, false)] {
        let worker = stage.start(&job, run, run, Manners::EndsLate).await?;
        if stage.subject.is_running(&worker).await.is_none() {
            return Err(Finding::NotChecked("needs `SchedulerSubject::is_running`"));
        }
        let is_refuted = async || {
            if stage.is_listed(&worker).await? {
                return Ok(false);
            }
            match stage.subject.is_running(&worker).await {
                Some(true) => {
                    Err(broken("the worker to be listed until it runs no more code", "not listed, and running")
                        .advise("list from what was seen to end (reaped, deleted, joined), not from what was ordered"))
                }
                _ => Ok(true),
            }
        };
        // Whether it ends at all is checked by another rule.
        let (stopped, seen) = tokio::join!(stage.stop(&job, Some(run), force), eventually(S::LIMIT, is_refuted));
        seen?;
        stopped?;
    }
    Ok(())
}

async fn never_left_out<S: SchedulerSubject>(subject: S) -> Outcome {
    let (stage, (job, _)) = (Stage::new(subject), jobs());
    let lost = stage.start(&job, 1, 1, Manners::Leaves).await?;
    stage.subject.cut_off(&lost).await.needed("needs `SchedulerSubject::cut_off`")?;
    for run in [Some(lost.run), None] {
        match stage.scheduler.workers_for_job(&job, run).await {
            Ok(listed) if !listed.contains(&lost.worker) => {
                return Err(broken("the worker that can't be asked about, or an error", listed)
                    .advise("\"not known\" is never an empty list"));
            }
            // An error is fine, too.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

async fn cancel_safe<S: SchedulerSubject>(subject: S) -> Outcome {
    let (stage, (job, _)) = (Stage::new(subject), jobs());
    for (run, polls) in (1..).zip(0..6) {
        let worker = stage.start(&job, run, run, Manners::Leaves).await?;
        let force = polls % 2 == 1;
        cut_off(stage.scheduler.workers_for_job(&job, Some(worker.run)), polls).await;
        cut_off(stage.scheduler.stop_workers(&job, Some(worker.run), force), polls).await;
        stage.stop(&job, Some(run), force).await?;
        stage.ends(slice::from_ref(&worker), "a stop that was dropped and made again").await?;
    }
    Ok(())
}
