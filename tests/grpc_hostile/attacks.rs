//! The other process: the same binary, with an attack in its environment.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, SocketAddr},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};

const ATTACK: &str = "WINDDOWN_ATTACK";
/// Not the address that the workers have.
const FROM: &str = "127.0.0.2";

/// An attack that is under way, until it is dropped.
pub struct Attack {
    child: Child,
    says: BufReader<ChildStdout>,
}

impl Attack {
    /// `kind` and its figures, against `target`; returns once it is under way.
    pub fn start(kind: &str, target: SocketAddr) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "attacks::attacker", "--nocapture"])
            .env(ATTACK, format!("{target} {kind}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let says = BufReader::new(child.stdout.take().unwrap());
        let mut attack = Self { child, says };
        attack.hear("ready");
        attack
    }

    /// Waits until the attacker says so, and gives the rest of its words.
    pub fn hear(&mut self, word: &str) -> String {
        tokio::task::block_in_place(|| {
            let mut line = String::new();
            loop {
                line.clear();
                assert!(self.says.read_line(&mut line).unwrap() > 0, "the attacker ended before it said `{word}`");
                // What the test harness writes may stand before it.
                if let Some((_, rest)) = line.trim_end().split_once(&format!("attack: {word}")) {
                    return rest.trim().to_owned();
                }
            }
        })
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn say(words: impl std::fmt::Display) {
    println!("attack: {words}");
    std::io::stdout().flush().unwrap();
}

/// No test: what the other process does.
#[test]
fn attacker() {
    let Ok(attack) = std::env::var(ATTACK) else { return };
    let words: Vec<&str> = attack.split(' ').collect();
    let target: SocketAddr = words[0].parse().unwrap();
    let figure = |at: usize| words[at].parse::<usize>().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // It ends with the test.
        std::thread::spawn(|| {
            let _ = std::io::stdin().lock().read_line(&mut String::new());
            std::process::exit(0);
        });
        match words[1] {
            "idle" => idle(target, figure(2)).await,
            "trickle" => trickle(target, figure(2)).await,
            "polite" => polite(target, figure(2)).await,
            "deaf" => deaf(target, figure(2)).await,
            "half" => half(target, figure(2), figure(3), figure(4), words[5], words.get(6).copied()).await,
            other => panic!("no such attack: {other}"),
        }
        std::future::pending::<()>().await;
    });
}

async fn connect(target: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(FROM.parse::<IpAddr>().unwrap(), 0))?;
    socket.connect(target).await
}

/// Connections on which nothing is said.
async fn idle(target: SocketAddr, count: usize) {
    let mut held = Vec::new();
    for _ in 0..count {
        // Some hang in the listener's queue.
        held.push(tokio::time::timeout(Duration::from_millis(200), connect(target)).await);
        if held.last().is_some_and(Result::is_err) {
            break;
        }
    }
    say(format_args!("ready {}", held.len()));
    std::future::pending::<()>().await;
}

/// Connections that say what they have to, a byte at a time, and never the last one.
async fn trickle(target: SocketAddr, count: usize) {
    let mut all = JoinSet::new();
    for _ in 0..count {
        let mut stream = connect(target).await.unwrap();
        all.spawn(async move {
            // All but the last byte of what an HTTP/2 connection begins with.
            for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r" {
                tokio::time::sleep(Duration::from_millis(10)).await;
                if stream.write_all(&[*byte]).await.is_err() {
                    return;
                }
            }
            while stream.read(&mut [0; 64]).await.is_ok_and(|count| count > 0) {}
        });
    }
    say("ready");
    while all.join_next().await.is_some() {}
    say("closed");
}

/// Connections that speak HTTP/2, answer every ping, and want nothing.
async fn polite(target: SocketAddr, count: usize) {
    let alive = Arc::new(AtomicUsize::new(0));
    let mut all = JoinSet::new();
    let mut held = Vec::new();
    for _ in 0..count {
        let stream = connect(target).await.unwrap();
        let Ok((sender, mut connection)) = h2::client::handshake(stream).await else { continue };
        // Its answer tells that the server has let it in, and not only its kernel.
        let mut pings = connection.ping_pong().unwrap();
        let alive = Arc::clone(&alive);
        let driven = tokio::spawn(connection);
        if pings.ping(h2::Ping::opaque()).await.is_err() {
            continue;
        }
        alive.fetch_add(1, Ordering::Relaxed);
        held.push(sender);
        all.spawn(driven);
    }
    say(format_args!("ready {}", alive.load(Ordering::Relaxed)));
    say(format_args!("let in {}", alive.load(Ordering::Relaxed)));
    while all.join_next().await.is_some() {}
    say("closed");
}

/// Connections that speak HTTP/2 and answer nothing.
async fn deaf(target: SocketAddr, count: usize) {
    let mut all = JoinSet::new();
    for _ in 0..count {
        let mut stream = connect(target).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00").await.unwrap();
        all.spawn(async move {
            let mut buffer = [0; 1024];
            while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
        });
    }
    say("ready");
    while all.join_next().await.is_some() {}
    say("closed");
}

/// Connections with calls of which so much is promised, and all but the last byte is sent as far as the server lets it.
async fn half(target: SocketAddr, connections: usize, calls: usize, size: usize, method: &str, begins: Option<&str>) {
    let begins = begins.map(unhex).unwrap_or_default();
    let sent = Arc::new(AtomicUsize::new(0));
    let mut all = JoinSet::new();
    for _ in 0..connections {
        let stream = connect(target).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        all.spawn(async move {
            let _ = connection.await;
        });
        for _ in 0..calls {
            let (mut sender, method, begins, sent) =
                (sender.clone(), method.to_owned(), begins.clone(), Arc::clone(&sent));
            all.spawn(async move {
                let _ = half_call(&mut sender, target, &method, &begins, size, &sent).await;
            });
        }
    }
    // Until no more is taken.
    let mut before = usize::MAX;
    while before != sent.load(Ordering::Relaxed) {
        before = sent.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    say("ready");
    say(format_args!("sent {before}"));
    while all.join_next().await.is_some() {}
    say("closed");
}

async fn half_call(
    sender: &mut SendRequest<Bytes>,
    target: SocketAddr,
    method: &str,
    begins: &[u8],
    size: usize,
    sent: &AtomicUsize,
) -> Result<(), h2::Error> {
    let request = http::Request::post(format!("http://{target}/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    // Its turn comes when the server allows another stream.
    let mut ready = sender.clone().ready().await?;
    let (answer, mut stream) = ready.send_request(request, false)?;
    let mut message = vec![0];
    message.extend_from_slice(&u32::try_from(size).unwrap().to_be_bytes());
    message.extend_from_slice(begins);
    message.resize(size + 5, b'x');
    message.pop();
    let mut rest = Bytes::from(message);
    let push = async {
        while !rest.is_empty() {
            stream.reserve_capacity(rest.len());
            let granted = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
            let Some(Ok(granted)) = granted else { return };
            let part = rest.split_to(granted.min(rest.len()));
            sent.fetch_add(part.len(), Ordering::Relaxed);
            if stream.send_data(part, false).is_err() {
                return;
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = answer => {}
        () = push => {}
    }
    Ok(())
}

pub fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(value.into(), 16).unwrap();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.bytes().map(|digit| u8::try_from((digit as char).to_digit(16).unwrap()).unwrap()).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
