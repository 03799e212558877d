//! The notice that a worker gives before it leaves.

use std::time::Duration;

use backon::BackoffBuilder as _;
use tokio::time::{sleep, timeout};
use tonic::{IntoRequest as _, transport::Channel};

use super::reports::{Answer, context};
use crate::{
    clock::bearable,
    grpc::{
        GrpcWorkerOptions,
        arroyo::{
            fence::{Addressee, Dialect},
            wire,
        },
        proto::{
            arroyo_rpc::WorkerContext,
            winddown::{WorkerLeavingReq, winddown_controller_grpc_client::WinddownControllerGrpcClient},
        },
    },
};

/// What a worker says when it is asked to leave, beside its reports: a backlog of those must not delay it.
pub(super) struct Notice {
    context: WorkerContext,
    channel: Channel,
    options: GrpcWorkerOptions,
    /// How long the worker works on.
    time: Duration,
}

impl Notice {
    pub(super) fn new(addressee: &Addressee, channel: Channel, options: GrpcWorkerOptions, time: Duration) -> Self {
        Self { context: context(addressee), channel, options, time }
    }

    /// Tells the controller, and returns when the time is over.
    pub(super) async fn give(&self) {
        if self.time.is_zero() {
            return;
        }
        let told = async {
            self.tell().await;
            std::future::pending::<()>().await;
        };
        // Told or not, the time is the same.
        let _ = timeout(self.time, told).await;
    }

    async fn tell(&self) {
        let mut waits = self.options.backoff().build();
        loop {
            let mut client = WinddownControllerGrpcClient::new(self.channel.clone());
            let message = WorkerLeavingReq { worker_context: Some(self.context.clone()), time: wire::now() };
            let mut request = message.into_request();
            request.set_timeout(bearable(self.options.calls.call));
            Dialect::say_kit(request.metadata_mut());
            match timeout(self.options.calls.call, client.worker_leaving(request)).await {
                Ok(Ok(_)) => return,
                // A controller that does not know the call hears of it by the worker's end.
                Ok(Err(status)) if Answer::of(&status) == Answer::Never => return,
                _ => sleep(waits.next().unwrap_or(self.options.backoff_max)).await,
            }
        }
    }
}
