//! One entry of a job's log, and its form as bytes: a JSON body in an [`Envelope`].
//!
//! ```text
//! winddown-log 1 <length of the body> <CRC-32 of the body>⏎
//! {"job":"…","number":7,"run":2,"kept":[…],"checkpoint":{…}}
//! ```

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    contracts::{Epoch, JobId, Manifest, RunId, TaskId, TaskSnapshot},
    envelope::{Envelope, Mismatch, Unsound},
};

const ENVELOPE: Envelope = Envelope::new("winddown-log", 1);

/// Any body under a header that is right.
#[cfg(test)]
pub(super) fn sealed(body: &[u8]) -> Vec<u8> {
    ENVELOPE.seal(body)
}

/// One entry of a job's log: the claim of a run, or a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) job: JobId,
    /// Its number in the log, which is also its name.
    pub(super) number: u64,
    /// The run that wrote it: the highest so far.
    pub(super) run: RunId,
    /// The earlier manifests that are still needed, oldest first. Other earlier entries may be
    /// deleted.
    pub(super) kept: Vec<Kept>,
    /// The manifest; a claim has none.
    pub(super) manifest: Option<Manifest>,
}

/// An earlier manifest that an entry keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) number: u64,
    pub(super) run: RunId,
    pub(super) epoch: Epoch,
}

impl Entry {
    /// The job's manifests once this entry is written, oldest first, including this one if it is a
    /// manifest.
    pub(super) fn manifests(&self) -> Vec<Kept> {
        let own = self.manifest.as_ref().map(|m| Kept { number: self.number, run: self.run, epoch: m.epoch });
        self.kept.iter().copied().chain(own).collect()
    }

    /// The approximate size of the object in bytes.
    pub(super) fn size(&self) -> usize {
        const TASK: usize = 80;
        let tasks = self.manifest.iter().flat_map(|manifest| &manifest.tasks);
        tasks.map(|task| TASK + task.snapshot.len() + task.commit.as_ref().map_or(0, Bytes::len)).sum()
    }

    /// The bytes of the object.
    pub(super) fn encode(&self) -> Result<Bytes, serde_json::Error> {
        Ok(ENVELOPE.seal(&serde_json::to_vec(&Body::from(self))?).into())
    }

    /// Reads the bytes of the object that should be entry `number` of `job`.
    pub(super) fn decode(object: &[u8], job: &JobId, number: u64) -> Result<Self, Mismatch> {
        let body = ENVELOPE.open(object).map_err(mismatch)?;
        let body: Body = serde_json::from_slice(body).map_err(|error| {
            Mismatch::new("a claim or a manifest as JSON", format!("JSON that is neither: {error}"))
        })?;
        if body.job != *job {
            return Err(Mismatch::new(format!("an entry of job `{job}`"), format!("one of job `{}`", body.job)));
        }
        if body.number != number {
            return Err(Mismatch::new(format!("entry {number}"), format!("entry {}", body.number)));
        }
        Ok(body.into())
    }
}

/// In a log, a newer format counts as damage, because the last entry can't be skipped.
fn mismatch(unsound: Unsound) -> Mismatch {
    match unsound {
        Unsound::Damaged(mismatch) => mismatch,
        Unsound::Newer(version) => Mismatch::new(
            format!("format version {}, the newest that this winddown knows (upgrade it)", ENVELOPE.version()),
            format!("version {version}"),
        ),
    }
}

/// [`Entry`] as JSON.
#[derive(Serialize, Deserialize)]
struct Body {
    job: JobId,
    number: u64,
    run: RunId,
    kept: Vec<Kept>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checkpoint: Option<Checkpoint>,
}

/// [`Manifest`] as JSON, without the fields that the entry already has.
#[derive(Serialize, Deserialize)]
struct Checkpoint {
    epoch: Epoch,
    then_stop: bool,
    tasks: Vec<Task>,
}

#[derive(Serialize, Deserialize)]
struct Task {
    operator: u32,
    subtask: u32,
    snapshot: Base64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    commit: Option<Base64>,
    finished: bool,
}

impl From<&Entry> for Body {
    fn from(entry: &Entry) -> Self {
        let checkpoint = entry.manifest.as_ref().map(|manifest| Checkpoint {
            epoch: manifest.epoch,
            then_stop: manifest.then_stop,
            tasks: manifest.tasks.iter().map(Task::from).collect(),
        });
        Self { job: entry.job.clone(), number: entry.number, run: entry.run, kept: entry.kept.clone(), checkpoint }
    }
}

impl From<Body> for Entry {
    fn from(Body { job, number, run, kept, checkpoint }: Body) -> Self {
        let manifest = checkpoint.map(|Checkpoint { epoch, then_stop, tasks }| Manifest {
            job: job.clone(),
            run,
            epoch,
            then_stop,
            tasks: tasks.into_iter().map(TaskSnapshot::from).collect(),
        });
        Self { job, number, run, kept, manifest }
    }
}

impl From<&TaskSnapshot> for Task {
    fn from(task: &TaskSnapshot) -> Self {
        Self {
            operator: task.task.operator,
            subtask: task.task.subtask,
            snapshot: Base64(task.snapshot.clone()),
            commit: task.commit.clone().map(Base64),
            finished: task.finished,
        }
    }
}

impl From<Task> for TaskSnapshot {
    fn from(task: Task) -> Self {
        Self {
            task: TaskId::new(task.operator, task.subtask),
            snapshot: task.snapshot.0,
            commit: task.commit.map(|commit| commit.0),
            finished: task.finished,
        }
    }
}

/// Bytes in JSON.
struct Base64(Bytes);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(|bytes| Self(bytes.into())).map_err(serde::de::Error::custom)
    }
}
