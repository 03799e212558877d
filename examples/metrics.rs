//! Metrics of a job for Prometheus: `cargo run --example metrics --features metrics`, then
//! `curl http://127.0.0.1:9464/metrics`. Ctrl-C stops the job.
use std::{error::Error, sync::Arc};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use winddown::{EmbeddedCluster, Mailbox, metrics, prelude::*};

/// Answers every request with the metrics.
async fn serve(listener: TcpListener, metrics: PrometheusHandle) -> std::io::Result<()> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        let body = metrics.render();
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {}\r\n", body.len());
        tokio::spawn(async move {
            let _request = stream.read(&mut [0; 1024]).await;
            let _gone = stream.write_all(format!("{head}connection: close\r\n\r\n{body}").as_bytes()).await;
        });
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let exporter = PrometheusBuilder::new().install_recorder()?;
    metrics::describe();
    let listener = TcpListener::bind("127.0.0.1:9464").await?;
    tokio::spawn(serve(listener, exporter));

    let open = OpenRun::without_store("measured", RunId::new(1));
    let topology = Topology::builder().operator("idle", Role::Source, [WorkerId::new(1)]).build()?;
    let (cluster, mailbox) = (EmbeddedCluster::default(), Mailbox::new(64));
    let workers = cluster.start(&open, &topology, mailbox.sender(), |mut ctx| async move {
        while !matches!(ctx.order().await, TaskOrder::Stop(_)) {}
        Ok(())
    })?;
    let controller = ClusterController::builder(&open, topology, Arc::new(workers)).build();
    let (mut job, running) = JobContext::builder(&open).mailbox(mailbox).build(controller, cluster)?;
    metrics::follow(&job);
    let requests = job.sender();
    tokio::spawn(async move {
        tokio::signal::ctrl_c().await?;
        requests.request(StopRequest::Graceful)?;
        Ok::<_, Box<dyn Error + Send + Sync>>(())
    });
    println!("{}", drive(running, &mut job, &Policy::escalate()).await?);
    Ok(())
}
