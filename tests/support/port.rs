//! A port between two that talk, for tests that cut them off from each other.

use std::net::SocketAddr;

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// The way to a server: a port that can be closed, with all connections through it.
pub(crate) struct Port {
    address: SocketAddr,
    server: SocketAddr,
    passing: Option<JoinSet<()>>,
}

impl Port {
    pub(crate) async fn open(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut port = Self { address: listener.local_addr().unwrap(), server, passing: None };
        port.pass(listener);
        port
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    fn pass(&mut self, listener: TcpListener) {
        let server = self.server;
        let mut passing = JoinSet::new();
        passing.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                connections.spawn(async move {
                    let mut server = TcpStream::connect(server).await?;
                    tokio::io::copy_bidirectional(&mut client, &mut server).await
                });
            }
        });
        self.passing = Some(passing);
    }

    pub(crate) async fn close(&mut self) {
        if let Some(mut passing) = self.passing.take() {
            passing.shutdown().await;
        }
    }

    pub(crate) async fn open_again(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.pass(listener);
    }
}
