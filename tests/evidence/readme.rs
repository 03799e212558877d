//! The README's example, word for word, in a folder that lasts.

use std::{path::Path, sync::Arc};

use winddown::*;

async fn source(mut ctx: TaskContext) -> Result<(), TaskError> {
    loop {
        match ctx.order().await {
            TaskOrder::Checkpoint(Barrier { epoch, then_stop }) => {
                ctx.events().checkpointed(epoch, "offset 42".into(), None).await?;
                if then_stop {
                    return Ok(());
                }
            }
            TaskOrder::Commit { .. } => {} // this task has nothing to commit
            TaskOrder::Stop(_) => return Ok(()),
        }
    }
}

#[rustfmt::skip]
async fn main(folder: &Path) -> Result<(RunId, Option<Epoch>), Box<dyn std::error::Error>> {
    let store = Arc::new(ObjectStoreCheckpoints::local(&folder)?);
    let open = store.open_run(&"clicks".into()).await?; // the run's names, and the checkpoint that it starts from
    let topology = Topology::builder().operator("source", Role::Source, [WorkerId::new(1)]).build()?;
    let (cluster, mailbox) = (EmbeddedCluster::default(), Mailbox::new(1024));
    let workers = cluster.start(&open, &topology, mailbox.sender(), source)?;
    let controller = ClusterController::builder(&open, topology, Arc::new(workers)).store(store).build();

    let (mut job, running) = JobContext::builder(&open).mailbox(mailbox).build(controller, cluster)?;
    job.sender().request(StopRequest::Checkpoint)?; // from the API server, the signal handler…
    let receipt = drive(running, &mut job, &Policy::escalate()).await?;
    assert!(matches!(receipt.stopped(), AnyStopped::Checkpointed(_)));
    Ok((receipt.run(), receipt.stopped().epoch()))
}

#[tokio::test]
async fn u1_the_readme_s_example_goes_on_from_its_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    for start in 1..=3 {
        let went = main(folder.path()).await.unwrap();
        assert_eq!(went, (RunId::new(start), Some(Epoch::new(start))), "start {start}");
    }
}

/// What is tried here is what the README says.
#[test]
fn u1_it_is_the_readme_s_example() {
    let (readme, here) = (include_str!("../../README.md"), include_str!("readme.rs"));
    let here: Vec<_> = here.lines().map(str::trim).collect();
    let begins = readme.find("async fn source").unwrap();
    let example = &readme[begins..begins + readme[begins..].find("```").unwrap()];
    let lines = example.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let missing: Vec<_> = lines.filter(|line| !here.contains(line)).collect();
    assert_eq!(missing, [""; 0]);
}
