//! One job, from its start to its receipt: `cargo run --example embedded --features object-store`.
//! Ctrl-C stops it with a checkpoint, a second one at once, a third by force. Run it again: it counts on.
use std::{error::Error, sync::Arc, time::Duration};
use winddown::{
    Barrier, CheckpointStore, ClusterController, EmbeddedCluster, JobContext, Mailbox, ObjectStoreCheckpoints, Policy,
    Role, StopRequest, TaskContext, TaskError, TaskOrder, Topology, WorkerId, drive,
};

/// A task: it counts, and its snapshot is where it has got to.
async fn count(mut ctx: TaskContext) -> Result<(), TaskError> {
    let number = |bytes: &[u8]| bytes.try_into().map(u64::from_be_bytes).map_err(|_| TaskError::fatal("not 8 bytes"));
    let mut count = ctx.restored().map_or(Ok(0), |restored| number(&restored.snapshot))?;
    println!("counting from {count}");
    loop {
        tokio::select! {
            order = ctx.order() => match order {
                TaskOrder::Checkpoint(Barrier { epoch, then_stop }) => {
                    ctx.events().checkpointed(epoch, count.to_be_bytes().to_vec().into(), None).await?;
                    if then_stop {
                        return Ok(()); // the final checkpoint
                    }
                }
                TaskOrder::Commit { .. } => {} // this task has nothing to commit
                TaskOrder::Stop(_) => return Ok(()),
            },
            () = tokio::time::sleep(Duration::from_millis(1)) => count += 1,
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let store = Arc::new(ObjectStoreCheckpoints::local("counter-checkpoints")?);
    let open = store.open_run(&"counter".into()).await?; // the run's names, and the checkpoint that it starts from
    let topology = Topology::builder().operator("count", Role::Source, [WorkerId::new(1)]).build()?;
    let (cluster, mailbox) = (EmbeddedCluster::default(), Mailbox::new(1024));
    let workers = cluster.start(&open, &topology, mailbox.sender(), count)?;
    let controller = ClusterController::builder(&open, topology, Arc::new(workers)).store(store).build();

    let (mut job, running) = JobContext::builder(&open).mailbox(mailbox).build(controller, cluster)?;
    job.hear_of_ends(); // a worker that dies is heard of at once, and not by its silence
    let requests = job.sender(); // also for the API server, the scheduler's notice…
    tokio::spawn(async move {
        for request in [StopRequest::Checkpoint, StopRequest::Immediate, StopRequest::Force] {
            tokio::signal::ctrl_c().await?;
            requests.request(request)?;
        }
        Ok::<_, Box<dyn Error + Send + Sync>>(())
    });
    println!("{}", drive(running, &mut job, &Policy::escalate()).await?);
    Ok(())
}
