//! The worker's service: what it does with an order.

use std::{sync::atomic::Ordering, time::Duration};

use winddown::grpc::{
    proto::arroyo_rpc::{worker_grpc_server::WorkerGrpc, *},
    tonic::{Request, Response, Status, async_trait},
};

use super::{Does, Worker};

type Answer<T> = Result<Response<T>, Status>;

impl Worker {
    /// A handler of Arroyo's that unwraps what is not there.
    #[allow(clippy::result_large_err, reason = "tonic's own signature")]
    fn panicked(&self, why: &str) -> Status {
        self.diary.write(format!("panic: {why}"));
        self.leaves.notify_one();
        Status::internal(why)
    }

    /// Answers an order as the manners say, and does what follows in the background, as a real
    /// worker does.
    async fn order<T>(&self, does: Does, answer: T, obey: impl FnOnce() + Send) -> Answer<T> {
        match does {
            Does::Obeys => obey(),
            Does::Nothing => {}
            Does::Hangs => std::future::pending::<()>().await,
            Does::ObeysAndHangs => {
                obey();
                std::future::pending::<()>().await;
            }
            Does::Refuses(code) => return Err(Status::new(code, "no")),
            Does::Fails => self.fail(),
            Does::Dies => {
                self.node_is_dead.store(true, Ordering::Relaxed);
                self.leaves.notify_one();
                std::future::pending::<()>().await;
            }
            Does::GoesSilent => *self.silent.lock().unwrap() = true,
        }
        Ok(Response::new(answer))
    }
}

#[async_trait]
impl WorkerGrpc for Worker {
    async fn checkpoint(&self, request: Request<CheckpointReq>) -> Answer<CheckpointResp> {
        let CheckpointReq { epoch, then_stop, is_commit, .. } = *request.get_ref();
        assert!(request.metadata().contains_key("grpc-timeout"), "an order carries its deadline");
        assert!(!is_commit, "no controller sends it so any more");
        self.diary.write(format!("checkpoint {epoch} then_stop={then_stop}"));
        let source = self.graph[0].id;
        if self.tasks.lock().unwrap().get(&source).is_some_and(|task| task.has_ended) {
            return Err(self.panicked("a checkpoint after the source's end"));
        }
        let worker = self.clone();
        let obey = move || {
            if worker.manners.stumbles {
                worker.stumble();
            }
            worker.barrier(epoch, then_stop);
        };
        self.order(self.manners.checkpoint, CheckpointResp {}, obey).await
    }

    async fn commit(&self, request: Request<CommitReq>) -> Answer<CommitResp> {
        let message = request.into_inner();
        for (operator, data) in &message.committing_data {
            let files = data.committing_data.get("p").map(|it| it.commit_data_by_subtask.keys().collect::<Vec<_>>());
            let what = files.map_or_else(|| "nothing".into(), |subtasks| format!("subtasks {subtasks:?}"));
            self.diary.write(format!("commit {} of {operator}: {what}", message.epoch));
            let node = self.graph.iter().find(|node| node.operators.iter().any(|(it, _)| it == operator));
            let Some(node) = node else { return Err(self.panicked("no node of that operator")) };
            match self.tasks.lock().unwrap().get(&node.id) {
                None => return Err(self.panicked("no subtask of that node here")),
                Some(task) if task.has_ended => return Err(self.panicked("a commit after the sink's end")),
                Some(_) => {}
            }
        }
        let worker = self.clone();
        self.order(self.manners.commit, CommitResp {}, move || worker.commit(&message)).await
    }

    async fn stop_execution(&self, request: Request<StopExecutionReq>) -> Answer<StopExecutionResp> {
        assert!(request.metadata().contains_key("grpc-timeout"), "an order carries its deadline");
        self.diary.write(format!("stop {:?}", request.get_ref().stop_mode()));
        let worker = self.clone();
        let obey = move || {
            for (id, task) in &mut *worker.tasks.lock().unwrap() {
                (task.is_last, task.waits) = (true, None);
                worker.end_if_done(*id, task);
            }
        };
        self.order(self.manners.stop, StopExecutionResp {}, obey).await
    }

    async fn job_finished(&self, _: Request<JobFinishedReq>) -> Answer<JobFinishedResp> {
        self.diary.write("job finished");
        let worker = self.clone();
        let obey = move || {
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                worker.leaves.notify_one();
            });
        };
        self.order(self.manners.release, JobFinishedResp {}, obey).await
    }
}
