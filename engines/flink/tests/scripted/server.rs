//! An HTTP server on loopback that answers as a `JobManager` does, from a script.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use winddown_flink::{RestClient, RestSettings};

pub(crate) const JOB: &str = "59fb3e87e2c1939ef85565f931a51227";

/// What happens instead of the usual answer, to the next request whose `METHOD path` begins so.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// This status and body.
    Says(u16, String),
    /// The request is carried out, and its answer is lost.
    LosesAnswer,
    /// The connection ends before anything is done.
    Hangs,
}

/// The cluster, as the answers show it.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) state: &'static str,
    /// The state of each subtask.
    pub(crate) subtasks: Vec<&'static str>,
    pub(crate) attempt: u32,
    /// What each trigger becomes, in the order in which they are given; the last one again and
    /// again.
    pub(crate) outcomes: VecDeque<Value>,
    pub(crate) triggers: BTreeMap<String, Value>,
    pub(crate) savepoint: Value,
    pub(crate) completed: Value,
    /// Each `TaskManager` of the list, and when it was heard.
    pub(crate) task_managers: Vec<(&'static str, u64)>,
    pub(crate) faults: Vec<(&'static str, Fault)>,
    /// After so many questions for the state, these are the states of the job and its subtasks.
    pub(crate) then: Option<(u32, &'static str, &'static str)>,
    /// Every request: method, path and body.
    pub(crate) requests: Vec<String>,
    pub(crate) headers: Vec<String>,
}

/// When the job ended, on the cluster's clock.
pub(crate) const END: u64 = 1_000_000;

impl Default for Cluster {
    fn default() -> Self {
        Self {
            state: "RUNNING",
            subtasks: vec!["RUNNING", "RUNNING"],
            attempt: 0,
            outcomes: VecDeque::from([in_progress()]),
            triggers: BTreeMap::new(),
            savepoint: Value::Null,
            completed: Value::Null,
            task_managers: vec![("tm-a", END + 1), ("tm-b", END + 1)],
            faults: Vec::new(),
            then: None,
            requests: Vec::new(),
            headers: Vec::new(),
        }
    }
}

pub(crate) fn in_progress() -> Value {
    json!({ "status": { "id": "IN_PROGRESS" }, "operation": null })
}

pub(crate) fn done(location: &str) -> Value {
    json!({ "status": { "id": "COMPLETED" }, "operation": { "location": location } })
}

pub(crate) fn failed(trace: &str) -> Value {
    json!({ "status": { "id": "COMPLETED" }, "operation": { "failure-cause": { "class": "x.Y", "stack-trace": trace } } })
}

pub(crate) fn savepoint(location: &str) -> Value {
    json!({ "id": 7, "status": "COMPLETED", "latest_ack_timestamp": 5, "checkpoint_type": "SYNC_SAVEPOINT", "external_path": location })
}

/// A server, until it is dropped.
pub(crate) struct Server {
    cluster: Arc<Mutex<Cluster>>,
    pub(crate) base: String,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Server {
    pub(crate) async fn start(cluster: Cluster) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let cluster = Arc::new(Mutex::new(cluster));
        let shared = Arc::clone(&cluster);
        let serving = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { cluster, base, serving }
    }

    pub(crate) fn client(&self) -> RestClient {
        RestClient::new(RestSettings::new(&self.base)).unwrap()
    }

    pub(crate) fn cluster(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().unwrap()
    }

    /// The requests that begin so.
    pub(crate) fn asked(&self, start: &str) -> Vec<String> {
        self.cluster().requests.iter().filter(|it| it.starts_with(start)).cloned().collect()
    }

    /// The ids of the triggers that were ordered.
    pub(crate) fn triggers(&self) -> Vec<String> {
        let id = |request: &String| {
            let body: Value =
                serde_json::from_str(request.split_once(" {").map(|(_, it)| format!("{{{it}")).as_deref()?).ok()?;
            Some(body["triggerId"].as_str()?.to_owned())
        };
        self.asked("POST").iter().filter_map(id).collect()
    }
}

/// One request on each connection: so a lost answer is a lost connection.
async fn serve(stream: TcpStream, cluster: Arc<Mutex<Cluster>>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let mut first = String::new();
    stream.read_line(&mut first).await.ok()?;
    let mut length = 0;
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).await.ok()?;
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        cluster.lock().unwrap().headers.push(header);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    let mut words = first.split(' ');
    let request = format!("{} {}", words.next()?, words.next()?);
    let body = String::from_utf8(body).ok()?;
    let answer = cluster.lock().unwrap().answer(&request, &body);
    let (status, body) = answer?;
    let head = format!("HTTP/1.1 {status} Some\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.ok()?;
    stream.write_all(body.as_bytes()).await.ok()?;
    stream.flush().await.ok()
}

impl Cluster {
    fn answer(&mut self, request: &str, body: &str) -> Option<(u16, String)> {
        self.requests.push(format!("{request} {body}").trim_end().to_owned());
        let fault = self.faults.iter().position(|(start, _)| request.starts_with(start));
        match fault.map(|position| self.faults.remove(position).1) {
            Some(Fault::Says(status, body)) => return Some((status, body)),
            Some(Fault::Hangs) => return None,
            Some(Fault::LosesAnswer) => {
                self.usual(request, body);
                return None;
            }
            None => {}
        }
        let (status, body) = self.usual(request, body);
        Some((status, body.to_string()))
    }

    fn usual(&mut self, request: &str, body: &str) -> (u16, Value) {
        let job = format!("/jobs/{JOB}");
        let (method, path) = request.split_once(' ').unwrap_or_default();
        let Some(path) = path.strip_prefix(&job) else {
            return match path {
                "/config" => (200, json!({ "refresh-interval": 1 })),
                "/jobs/overview" => (200, json!({ "jobs": [{ "jid": JOB, "name": "words", "state": self.state }] })),
                "/taskmanagers" => {
                    let list =
                        self.task_managers.iter().map(|(id, at)| json!({ "id": id, "timeSinceLastHeartbeat": at }));
                    (200, json!({ "taskmanagers": list.collect::<Vec<_>>() }))
                }
                _ => (404, json!({ "errors": ["no such thing"] })),
            };
        };
        match (method, path) {
            ("GET", "") => (200, self.graph()),
            ("GET", "/status") => {
                if let Some((left, state, subtask)) = &mut self.then {
                    *left = left.saturating_sub(1);
                    if *left == 0 {
                        (self.state, self.subtasks) = (*state, vec![*subtask; 2]);
                        self.then = None;
                    }
                }
                (200, json!({ "status": self.state }))
            }
            ("GET", "/checkpoints") => {
                let latest = json!({ "completed": self.completed, "savepoint": self.savepoint, "restored": null });
                (200, json!({ "latest": latest }))
            }
            ("GET", "/exceptions") => {
                (200, json!({ "exceptionHistory": { "entries": [{ "stacktrace": "a.B: a.C: out of disk\n\tat x" }] } }))
            }
            ("GET", "/vertices/v") => {
                let names = ["tm-a", "tm-b"];
                let subtask = |(place, status): (usize, &&str)| json!({ "subtask": place, "status": status, "attempt": self.attempt, "taskmanager-id": names[place % 2] });
                (200, json!({ "subtasks": self.subtasks.iter().enumerate().map(subtask).collect::<Vec<_>>() }))
            }
            ("POST", "/stop") => {
                let body: Value = serde_json::from_str(body).unwrap_or_default();
                let id = body["triggerId"].as_str().unwrap_or_default().to_owned();
                let outcome = self.outcomes.front().cloned().unwrap_or_default();
                if !self.triggers.contains_key(&id) && self.outcomes.len() > 1 {
                    self.outcomes.pop_front();
                }
                self.triggers.entry(id.clone()).or_insert(outcome);
                (202, json!({ "request-id": id }))
            }
            ("PATCH", "?mode=cancel") if self.state == "FINISHED" => (409, json!({ "errors": ["it has FINISHED"] })),
            ("PATCH", "?mode=cancel") => (202, json!({})),
            ("GET", path) => match path.strip_prefix("/savepoints/").and_then(|id| self.triggers.get(id)) {
                Some(outcome) => (200, outcome.clone()),
                None => (404, json!({ "errors": ["There is no savepoint operation with triggerId"] })),
            },
            _ => (405, json!({ "errors": ["no"] })),
        }
    }

    fn graph(&self) -> Value {
        let mut tasks: BTreeMap<&str, u32> = BTreeMap::new();
        for subtask in &self.subtasks {
            *tasks.entry(subtask).or_default() += 1;
        }
        json!({
            "name": "words", "state": self.state, "start-time": 3, "timestamps": { self.state: END },
            "vertices": [{ "id": "v", "name": "source", "parallelism": self.subtasks.len(), "tasks": tasks }],
        })
    }
}
