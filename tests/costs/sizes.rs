//! How much memory a job in flight takes, counted, and that no transition allocates.

use std::mem::{size_of, size_of_val};

use tokio::sync::mpsc;
use winddown::{
    AnyPhase, ClusterController, Detached, EmbeddedCluster, Force, Immediate, JobContext, JobId, OpenRun, PhaseKind,
    Policy, Role, RunId, Running, Topology, WorkerId,
    contracts::WorkerEvent,
    drive,
    embedded::EmbeddedRun,
    worker::{EventSink, SinkClosed, WorkerOptions},
};

/// No future of a phase or a drive is larger: tens of thousands of jobs may stop at the same time.
const MOST_OF_A_FUTURE: usize = 2048;

/// What a job holds besides its controller and its scheduler, whatever phase it is in.
const MOST_OF_A_JOB: usize = 1024;

type Job = JobContext<ClusterController<EmbeddedRun>, EmbeddedCluster>;

fn job(number: u64) -> (Job, Running) {
    struct Nobody(#[allow(dead_code)] mpsc::UnboundedSender<WorkerEvent>);
    impl EventSink for Nobody {
        async fn deliver(&self, _: WorkerEvent) -> Result<(), SinkClosed> {
            Ok(())
        }
    }
    let (run, worker) = (RunId::new(number), WorkerId::new(1));
    let topology = Topology::builder().operator("source", Role::Source, [worker]).build().unwrap();
    let cluster = EmbeddedCluster::new(WorkerOptions::default());
    let sink = Nobody(mpsc::unbounded_channel().0);
    let hosted = cluster.start(&OpenRun::without_store("job", run), &topology, sink, |_| async { Ok(()) }).unwrap();
    let controller = ClusterController::builder(&OpenRun::without_store("job", run), topology, hosted.into()).build();
    JobContext::builder(&OpenRun::without_store("job", run)).simulated().build(controller, cluster).unwrap()
}

#[tokio::test]
async fn no_future_of_a_phase_or_a_drive_is_larger_than_two_kibibytes() {
    let mut sizes = Vec::new();
    macro_rules! size {
        ($name:literal, $phase:ident, $job:ident, $($make:tt)*) => {{
            let (mut $job, running) = job(1);
            let $phase = running.$($make)*;
            sizes.push((concat!($name, "::next"), size_of_val(&$phase.next(&mut $job))));
        }};
    }
    {
        let (mut job, running) = job(1);
        sizes.push(("Running::next", size_of_val(&running.next(&mut job))));
    }
    size!("Finishing", phase, job, finish(&mut job).unwrap());
    size!("Recovering", phase, job, recover(&mut job).unwrap());
    size!("CheckpointStopping", phase, job, stop_with_checkpoint(&mut job).unwrap());
    size!("Stopping<Graceful>", phase, job, stop_gracefully(&mut job).unwrap());
    size!("Stopping<Immediate>", phase, job, stop_immediately(&mut job).unwrap());
    size!("Stopping<Force>", phase, job, force(&mut job).unwrap());
    {
        let (mut job, running) = job(1);
        let policy = Policy::escalate();
        sizes.push(("drive", size_of_val(&drive(running, &mut job, &policy))));
    }
    println!("{sizes:#?}");
    let large: Vec<_> = sizes.iter().filter(|(_, size)| *size > MOST_OF_A_FUTURE).collect();
    assert!(large.is_empty(), "{large:?}");
}

#[test]
fn a_job_in_flight_fits_into_one_kibibyte() {
    let (context, phase) = (size_of::<JobContext<Detached, ()>>(), size_of::<AnyPhase>());
    println!("context {context}, phase {phase}, context with the cluster controller {}", size_of::<Job>());
    assert!(context + phase <= MOST_OF_A_JOB, "{context} + {phase}");
}

/// The mailbox and live progress included, whatever phase the job is in. Its name is the user's.
#[test]
fn a_job_in_flight_holds_no_more_than_that_on_the_heap_too() {
    let id = JobId::from("job");
    // The default limits are there from the first job on.
    drop(
        JobContext::builder(&OpenRun::without_store(id.clone(), RunId::new(1)))
            .simulated()
            .build(Detached, ())
            .unwrap(),
    );
    let mut resting: Option<(JobContext<Detached, ()>, AnyPhase)> = None;
    let counted = allocation_counter::measure(|| {
        let (mut job, running) = JobContext::builder(&OpenRun::without_store(id.clone(), RunId::new(1)))
            .simulated()
            .build(Detached, ())
            .unwrap();
        let phase = running.force(&mut job).unwrap().into();
        resting = Some((job, phase));
    });
    let heap = usize::try_from(counted.bytes_current).unwrap();
    let all = size_of_val(&resting) + heap;
    println!("{all} bytes, {heap} of them on the heap");
    assert!(all <= MOST_OF_A_JOB && heap > 0, "{all}, {heap} of them on the heap");
}

/// The walk that takes the most steps without waiting, watched as a dashboard does.
#[tokio::test]
async fn no_transition_allocates() {
    let (mut job, running) = job(1);
    let (progress, mut phases) = (job.progress(), job.phases());
    let mut stopping = None;
    let counted = allocation_counter::measure(|| {
        let finishing = running.finish(&mut job).unwrap();
        let immediate = finishing.give_up(&mut job).unwrap();
        stopping = Some(immediate.escalate::<Force, _, _>(&mut job).unwrap());
    });
    assert_eq!((counted.count_total, counted.count_current), (0, 0));
    assert_eq!(progress.borrow().phase, PhaseKind::StoppingForce);
    for phase in [PhaseKind::Running, PhaseKind::Finishing, PhaseKind::StoppingImmediate, PhaseKind::StoppingForce] {
        assert_eq!(phases.next().await.map(|visit| visit.phase), Some(phase), "u8: none is skipped, for nothing");
    }

    let (mut job, running) = self::job(1);
    let mut graceful = None;
    let counted = allocation_counter::measure(|| {
        let stopping = running.stop_gracefully(&mut job).unwrap();
        graceful = Some(stopping.escalate::<Immediate, _, _>(&mut job).unwrap());
    });
    assert_eq!(counted.count_total, 0);
    let (mut job, running) = self::job(1);
    let mut recovering = None;
    let counted = allocation_counter::measure(|| {
        recovering = Some(running.stop_with_checkpoint(&mut job).unwrap().force(&mut job).unwrap());
    });
    assert_eq!(counted.count_total, 0);
    assert!(stopping.is_some() && graceful.is_some() && recovering.is_some());
}
