//! Which runs may have no worker started any more: those that were stopped with force.

use std::collections::{BTreeSet, HashMap};

use crate::contracts::{JobId, RunId};

/// The fences that forced stops have raised. It is kept under the same lock as the list of what is alive: so a start is entered before the stop, and
/// seen by it, or after it, and refused.
#[derive(Debug, Default)]
pub(crate) struct Fences(HashMap<JobId, OfJob>);

#[derive(Debug, Default)]
struct OfJob {
    /// The newest run that a start was asked for.
    newest: Option<RunId>,
    /// A stop of all runs has fenced those up to this one.
    up_to: Option<RunId>,
    /// Stops of single runs have fenced these.
    runs: BTreeSet<RunId>,
}

impl Fences {
    /// Whether a start of that run is let through. It is remembered, for a stop of all runs that comes later.
    pub(crate) fn lets_through(&mut self, job: &JobId, run: RunId) -> bool {
        let of_job = self.0.entry(job.clone()).or_default();
        of_job.newest = of_job.newest.max(Some(run));
        !self.refuses(job, run)
    }

    /// Whether the run was stopped with force.
    pub(crate) fn refuses(&self, job: &JobId, run: RunId) -> bool {
        self.0.get(job).is_some_and(|of_job| of_job.up_to >= Some(run) || of_job.runs.contains(&run))
    }

    /// A run, or every run of which there was a start, is stopped with force: from now on no start of it is let through.
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
