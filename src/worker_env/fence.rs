//! Records the runs that were stopped with force, for which no worker may be started any more.

use std::collections::{BTreeSet, HashMap};

use crate::contracts::{JobId, RunId};

/// The fences that forced stops have raised. They are kept under the same lock as the list of live
/// workers. A start is therefore entered either before the stop, which then sees it, or after the
/// stop, and is refused.
#[derive(Debug, Default)]
pub(crate) struct Fences(HashMap<JobId, OfJob>);

#[derive(Debug, Default)]
struct OfJob {
    /// The newest run for which a start was requested.
    newest: Option<RunId>,
    /// A stop of all runs has fenced the runs up to this one.
    up_to: Option<RunId>,
    /// Runs that were fenced individually.
    runs: BTreeSet<RunId>,
}

impl Fences {
    /// Whether a start of that run is allowed. The request is remembered, for a later stop of all
    /// runs.
    pub(crate) fn lets_through(&mut self, job: &JobId, run: RunId) -> bool {
        let of_job = self.0.entry(job.clone()).or_default();
        of_job.newest = of_job.newest.max(Some(run));
        !self.refuses(job, run)
    }

    /// Whether the run was stopped with force.
    pub(crate) fn refuses(&self, job: &JobId, run: RunId) -> bool {
        self.0.get(job).is_some_and(|of_job| of_job.up_to >= Some(run) || of_job.runs.contains(&run))
    }

    /// Fences a run, or every run of which there was a start: from now on every start of it is
    /// refused.
    pub(crate) fn raise(&mut self, job: &JobId, run: Option<RunId>) {
        let of_job = self.0.entry(job.clone()).or_default();
        if let Some(run) = run {
            of_job.runs.insert(run);
        } else {
            let up_to = of_job.up_to.max(of_job.newest);
            of_job.up_to = up_to;
            of_job.runs.retain(|run| Some(*run) > up_to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b1_what_was_stopped_with_force_is_not_started_and_everything_else_is() {
        let (job, other) = (JobId::from("words"), JobId::from("other"));
        let [one, two, three] = [1, 2, 3].map(RunId::new);
        let mut fences = Fences::default();
        fences.raise(&job, None);
        assert!(fences.lets_through(&job, two), "there was no run to be stopped");
        fences.raise(&job, Some(three));
        assert!(!fences.lets_through(&job, three));
        assert!(fences.lets_through(&job, one) && fences.lets_through(&other, three));
        fences.raise(&other, None);
        assert!(fences.refuses(&other, three) && fences.refuses(&other, one));
        assert!(fences.lets_through(&other, three.next()), "the next run may start");
        fences.raise(&job, None);
        assert!([one, two, three].iter().all(|run| fences.refuses(&job, *run)));
    }
}
