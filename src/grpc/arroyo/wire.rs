//! How our words become the protocol's, and back: states, commit data, refusals, times.
//!
//! A state or commit that our own worker kit gives is opaque bytes, and travels in a table of a reserved name, so that the manifest
//! holds exactly what the task gave, whatever transport brought it. What a worker of the Arroyo family gives is kept as it is
//! encoded on the wire, so that it can be handed back.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use tonic::{Code, Status};

use super::proto::arroyo_rpc::{
    CommitReq, GlobalKeyedTableSubtaskCheckpointMetadata, OperatorCommitData, SubtaskCheckpointMetadata,
    TableCommitData, TableEnum, TableSubtaskCheckpointMetadata,
};
use crate::contracts::{Epoch, OrderError, OrderErrorKind, TaskCommit, TaskId, Topology};

/// The table that holds a kit task's state.
const SNAPSHOT: &str = "winddown.snapshot";
/// The table that holds a kit task's commit data.
const COMMIT: &str = "winddown.commit";
/// What the commit data of an Arroyo-style task starts with in a manifest; an encoded `OperatorCommitData` follows. Commit data
/// of a kit task that happened to start with it would reach that task's own worker under other table names, and no one else.
const TABLES: &[u8; 16] = b"arroyo-commit/1\n";

/// Microseconds since the Unix epoch: what the protocol means by a time.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// The state of a kit task.
pub(super) fn metadata(subtask: u32, snapshot: &Bytes, commit: Option<&Bytes>) -> SubtaskCheckpointMetadata {
    let table = |table_type: TableEnum, data| TableSubtaskCheckpointMetadata {
        subtask_index: subtask,
        table_type: table_type.into(),
        data,
    };
    let mut table_metadata = BTreeMap::new();
    table_metadata.insert(SNAPSHOT.to_owned(), table(TableEnum::MissingTableType, snapshot.clone()));
    if let Some(commit) = commit {
        let data = GlobalKeyedTableSubtaskCheckpointMetadata {
            subtask_index: subtask,
            file: None,
            commit_data: Some(commit.clone()),
        };
        table_metadata.insert(COMMIT.to_owned(), table(TableEnum::GlobalKeyValue, data.encode_to_vec().into()));
    }
    let now = now();
    SubtaskCheckpointMetadata {
        subtask_index: subtask,
        start_time: now,
        finish_time: now,
        bytes: snapshot.len() as u64,
        table_metadata,
        ..SubtaskCheckpointMetadata::default()
    }
}

/// A task's state and commit data, as the manifest keeps them.
///
/// # Errors
/// What is wrong with a table's data.
pub(super) fn state(
    metadata: &SubtaskCheckpointMetadata,
    needs_commit: bool,
) -> Result<(Bytes, Option<Bytes>), String> {
    let is_kit = metadata.table_metadata.contains_key(SNAPSHOT);
    let commits = if needs_commit { commits_by_table(metadata)? } else { BTreeMap::new() };
    if let (true, Some(table)) = (is_kit, metadata.table_metadata.get(SNAPSHOT)) {
        let commit = needs_commit.then(|| commits.into_iter().find(|(name, _)| *name == COMMIT));
        return Ok((table.data.clone(), commit.map(|commit| commit.map(|(_, data)| data).unwrap_or_default())));
    }
    let snapshot = metadata.encode_to_vec().into();
    let commit = needs_commit.then(|| {
        let subtask = metadata.subtask_index;
        let table = |(name, data): (&str, Bytes)| {
            (name.to_owned(), TableCommitData { commit_data_by_subtask: BTreeMap::from([(subtask, data)]) })
        };
        let tables = OperatorCommitData { committing_data: commits.into_iter().map(table).collect() };
        let mut encoded = BytesMut::with_capacity(TABLES.len() + tables.encoded_len());
        encoded.put_slice(TABLES);
        encoded.put_slice(&tables.encode_to_vec());
        encoded.freeze()
    });
    Ok((snapshot, commit))
}

fn commits_by_table(metadata: &SubtaskCheckpointMetadata) -> Result<BTreeMap<&str, Bytes>, String> {
    let mut commits = BTreeMap::new();
    for (name, table) in &metadata.table_metadata {
        if table.table_type != i32::from(TableEnum::GlobalKeyValue) {
            continue;
        }
        let decoded = GlobalKeyedTableSubtaskCheckpointMetadata::decode(table.data.clone()).map_err(|error| {
            format!("expected table `{name}` to hold a GlobalKeyedTableSubtaskCheckpointMetadata, got {error}")
        })?;
        if let Some(data) = decoded.commit_data {
            commits.insert(name.as_str(), data);
        }
    }
    Ok(commits)
}

/// The commit order for these tasks.
pub(super) fn commit_req(topology: &Topology, epoch: Epoch, tasks: &[TaskCommit]) -> CommitReq {
    let mut committing_data: BTreeMap<String, OperatorCommitData> = BTreeMap::new();
    for TaskCommit { task, data } in tasks {
        // A controller makes orders for tasks of its topology only.
        let Some(operator) = topology.operators().get(task.operator as usize) else { continue };
        let entry = committing_data.entry(operator.name().to_string()).or_default();
        for (table, by_subtask) in tables(*task, data).committing_data {
            let place = entry.committing_data.entry(table).or_default();
            place.commit_data_by_subtask.extend(by_subtask.commit_data_by_subtask);
        }
    }
    CommitReq { epoch: epoch.get(), committing_data }
}

/// Whether commit data is that of an Arroyo-style task.
pub(super) fn is_by_table(data: &Bytes) -> bool {
    data.starts_with(TABLES)
}

/// The commit data of one task by table.
fn tables(task: TaskId, data: &Bytes) -> OperatorCommitData {
    let arroyo = is_by_table(data).then(|| OperatorCommitData::decode(data.slice(TABLES.len()..)));
    if let Some(Ok(tables)) = arroyo {
        return tables;
    }
    let by_subtask = TableCommitData { commit_data_by_subtask: BTreeMap::from([(task.subtask, data.clone())]) };
    OperatorCommitData { committing_data: BTreeMap::from([(COMMIT.to_owned(), by_subtask)]) }
}

/// The commits of kit tasks in an order: those of the tasks that `is_here`.
pub(super) fn commits(topology: &Topology, request: &CommitReq, is_here: impl Fn(TaskId) -> bool) -> Vec<TaskCommit> {
    let mut commits = Vec::new();
    for (name, operator) in &request.committing_data {
        let index = topology.operator_index(name);
        let Some((index, table)) = index.zip(operator.committing_data.get(COMMIT)) else { continue };
        for (subtask, data) in &table.commit_data_by_subtask {
            let task = TaskId::new(index, *subtask);
            if is_here(task) {
                commits.push(TaskCommit { task, data: data.clone() });
            }
        }
    }
    commits
}

/// What a worker's refusal means. The table is in `docs/wire.md`.
pub(super) fn order_error(status: &Status) -> OrderError {
    let kind = match status.code() {
        Code::FailedPrecondition => OrderErrorKind::NotRunning,
        Code::Unavailable => OrderErrorKind::Unreachable,
        // Our own side of a call that has run out of time says `CANCELLED`.
        Code::DeadlineExceeded | Code::Cancelled => OrderErrorKind::TimedOut,
        Code::InvalidArgument
        | Code::OutOfRange
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented => OrderErrorKind::Rejected,
        // A connection that broke in the middle of a call.
        _ if std::error::Error::source(status).is_some() => OrderErrorKind::Unreachable,
        _ => OrderErrorKind::Refused,
    };
    let message = if status.message().is_empty() { status.code().description() } else { status.message() };
    OrderError::new(kind, message)
}

/// How a worker says that it did not take an order: the inverse of [`order_error`].
pub(super) fn refusal(error: OrderError) -> Status {
    let code = match error.kind {
        OrderErrorKind::Unreachable => Code::Unavailable,
        OrderErrorKind::TimedOut => Code::DeadlineExceeded,
        OrderErrorKind::NotRunning => Code::FailedPrecondition,
        OrderErrorKind::Refused => Code::Aborted,
        OrderErrorKind::Rejected => Code::InvalidArgument,
    };
    Status::new(code, error.message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contracts::{Role, WorkerId};

    fn topology() -> Topology {
        let workers = [WorkerId::new(1), WorkerId::new(2)];
        Topology::builder()
            .operator("source", Role::Source, workers)
            .operator("sink", Role::Inner, workers)
            .build()
            .unwrap()
    }

    #[test]
    fn a_kit_tasks_state_comes_through_as_it_is() {
        for (snapshot, commit) in [(&b"offset 42"[..], Some(&b"rows"[..])), (b"", Some(b"")), (b"offset", None)] {
            let (snapshot, commit) = (Bytes::copy_from_slice(snapshot), commit.map(Bytes::copy_from_slice));
            let sent = metadata(1, &snapshot, commit.as_ref());
            let received = SubtaskCheckpointMetadata::decode(Bytes::from(sent.encode_to_vec())).unwrap();
            assert_eq!(state(&received, commit.is_some()).unwrap(), (snapshot, commit));
        }
    }

    #[test]
    fn a_kit_tasks_commit_comes_back_to_it_alone() {
        let (here, there) = (TaskId::new(1, 0), TaskId::new(1, 1));
        let commit = |task, data: &'static [u8]| TaskCommit { task, data: Bytes::from_static(data) };
        let request = commit_req(&topology(), Epoch::new(3), &[commit(here, b"a"), commit(there, b"b")]);
        assert_eq!(commits(&topology(), &request, |task| task == here), [commit(here, b"a")]);
    }

    #[test]
    fn an_arroyo_style_tasks_commit_comes_back_by_table_and_subtask() {
        let table = |data: &[u8]| TableSubtaskCheckpointMetadata {
            subtask_index: 1,
            table_type: TableEnum::GlobalKeyValue.into(),
            data: GlobalKeyedTableSubtaskCheckpointMetadata {
                subtask_index: 1,
                file: Some("part-1".into()),
                commit_data: Some(Bytes::copy_from_slice(data)),
            }
            .encode_to_vec()
            .into(),
        };
        let other = TableSubtaskCheckpointMetadata { data: Bytes::from_static(b"\xff"), ..Default::default() };
        let sent = SubtaskCheckpointMetadata {
            subtask_index: 1,
            table_metadata: [("p".into(), table(b"pre")), ("r".into(), table(b"rec")), ("s".into(), other)].into(),
            ..Default::default()
        };
        let (snapshot, commit) = state(&sent, true).unwrap();
        assert_eq!(SubtaskCheckpointMetadata::decode(snapshot).unwrap(), sent, "it can be handed back");

        let commit = TaskCommit { task: TaskId::new(1, 1), data: commit.unwrap() };
        let request = commit_req(&topology(), Epoch::new(3), &[commit]);
        let of = |data: &'static [u8]| TableCommitData {
            commit_data_by_subtask: BTreeMap::from([(1, Bytes::from_static(data))]),
        };
        let expected =
            OperatorCommitData { committing_data: [("p".into(), of(b"pre")), ("r".into(), of(b"rec"))].into() };
        assert_eq!(request.committing_data, BTreeMap::from([("sink".to_owned(), expected)]));
    }

    #[test]
    fn a_refusal_comes_through_with_its_kind() {
        for kind in [
            OrderErrorKind::Unreachable,
            OrderErrorKind::TimedOut,
            OrderErrorKind::NotRunning,
            OrderErrorKind::Refused,
            OrderErrorKind::Rejected,
        ] {
            let error = OrderError::new(kind, "why");
            assert_eq!(order_error(&refusal(error.clone())), error);
        }
    }
}
