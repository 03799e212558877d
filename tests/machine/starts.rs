//! Workers whose start crosses a stop, as the phases see them.

use std::sync::{Arc, Mutex};

use winddown::{
    contracts::{JobId, OpenRun, RunId, Scheduler, SchedulerError, WorkerId},
    drive::{Policy, drive},
    machine::JobContext,
    testing::scripted::ScriptedController,
};

use crate::support::{JOB, RUN, completes, controller, secs};

/// A scheduler that lists a worker which was being started when the order came: it leaves at the
/// next order, and not before.
#[derive(Clone, Default)]
struct EntersLate(Arc<Mutex<Vec<bool>>>);

impl Scheduler for EntersLate {
    async fn stop_workers(&self, _: &JobId, _: Option<RunId>, force: bool) -> Result<(), SchedulerError> {
        self.0.lock().unwrap().push(force);
        Ok(())
    }

    async fn workers_for_job(&self, _: &JobId, _: Option<RunId>) -> Result<Vec<WorkerId>, SchedulerError> {
        Ok(if self.0.lock().unwrap().len() < 2 { vec![WorkerId::new(2)] } else { vec![] })
    }
}

#[tokio::test(start_paused = true)]
async fn i2_b1_a_worker_that_is_entered_between_order_and_list_is_told_within_the_attempt() {
    let build = |scheduler: &EntersLate, controller: &ScriptedController| {
        let builder = JobContext::builder(&OpenRun::without_store(JOB, RUN)).simulated();
        builder.build(controller.clone(), scheduler.clone()).unwrap()
    };
    let (workers, control) = (EntersLate::default(), controller());
    let (mut job, running) = build(&workers, &control);
    drop(running.force(&mut job).unwrap().next(&mut job).await.unwrap());
    assert_eq!(*workers.0.lock().unwrap(), [true, true]);

    let (workers, control) = (EntersLate::default(), controller());
    completes(&control, secs(1), secs(1));
    let (mut job, running) = build(&workers, &control);
    let stopping = running.stop_with_checkpoint(&mut job).unwrap();
    let receipt = drive(stopping, &mut job, &Policy::give_back()).await.unwrap();
    assert!(!receipt.stopped().killed_workers(), "it was asked, and left: {receipt}");
    assert_eq!(*workers.0.lock().unwrap(), [false, false]);
}
