//! How our words become the protocol's, and back: states, commit data, refusals, times.
//!
//! A state or commit that our own worker kit gives is opaque bytes, and travels in a table of a reserved name, so that the manifest
//! holds exactly what the task gave, whatever transport brought it. What a worker of the Arroyo family gives is kept as it is
//! encoded on the wire, so that it can be handed back.

use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use tonic::{Code, Status};

use super::proto::arroyo_rpc::{
    CommitReq, GlobalKeyedTableConfig, GlobalKeyedTableSubtaskCheckpointMetadata, OperatorCommitData,
    SubtaskCheckpointMetadata, TableCommitData, TableConfig, TableEnum, TableSubtaskCheckpointMetadata, WorkerContext,
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

/// As much of somebody's words as is sent and kept: room for the trace of a stack.
pub(super) fn said(words: &str) -> &str {
    crate::text::beginning(words, 16 << 10)
}

/// Who speaks, by the beginning of a report: its first field.
pub(super) fn context(beginning: &[u8]) -> Option<WorkerContext> {
    /// Field 1, with a length before it.
    const CONTEXT: u8 = 1 << 3 | 2;
    let (tag, mut rest) = beginning.split_first()?;
    let len = prost::decode_length_delimiter(&mut rest).ok().filter(|_| *tag == CONTEXT)?;
    WorkerContext::decode(rest.get(..len)?).ok()
}

/// Bytes of a message that live longer than it does: a slice would keep the whole of what came in.
fn kept(slice: &Bytes) -> Bytes {
    Bytes::copy_from_slice(slice)
}

/// The state of a kit task.
pub(super) fn metadata(subtask: u32, snapshot: &Bytes, commit: Option<&Bytes>) -> SubtaskCheckpointMetadata {
    let table = |table_type: TableEnum, data| TableSubtaskCheckpointMetadata {
        subtask_index: subtask,
        table_type: table_type.into(),
        data,
    };
    let (mut table_metadata, mut table_configs) = (BTreeMap::new(), BTreeMap::new());
    table_metadata.insert(SNAPSHOT.to_owned(), table(TableEnum::MissingTableType, snapshot.clone()));
    if let Some(commit) = commit {
        let data = GlobalKeyedTableSubtaskCheckpointMetadata {
            subtask_index: subtask,
            file: None,
            commit_data: Some(commit.clone()),
        };
        table_metadata.insert(COMMIT.to_owned(), table(TableEnum::GlobalKeyValue, data.encode_to_vec().into()));
        // A controller of the Arroyo family wants one for every table that has a type.
        let config =
            GlobalKeyedTableConfig { table_name: COMMIT.to_owned(), uses_two_phase_commit: true, ..Default::default() };
        let config = TableConfig {
            table_type: TableEnum::GlobalKeyValue.into(),
            config: config.encode_to_vec().into(),
            state_version: 0,
        };
        table_configs.insert(COMMIT.to_owned(), config);
    }
    let now = now();
    SubtaskCheckpointMetadata {
        subtask_index: subtask,
        start_time: now,
        finish_time: now,
        bytes: snapshot.len() as u64,
        table_metadata,
        table_configs,
        ..SubtaskCheckpointMetadata::default()
    }
}

/// What a task's state says of the second phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Commit {
    /// Nothing.
    None,
    /// This task has to commit this.
    Own(Bytes),
    /// Every subtask of the operator has to commit: this is what this one gave.
    Whole(Bytes),
}

/// A task's state and commit data, as the manifest keeps them.
///
/// # Errors
/// What is wrong with a table's data.
pub(super) fn state(metadata: &SubtaskCheckpointMetadata, needs_commit: bool) -> Result<(Bytes, Commit), String> {
    if let Some(table) = metadata.table_metadata.get(SNAPSHOT) {
        let commit = if needs_commit {
            Commit::Own(commits_by_table(metadata)?.remove(COMMIT).as_ref().map(kept).unwrap_or_default())
        } else {
            Commit::None
        };
        return Ok((kept(&table.data), commit));
    }
    let snapshot = metadata.encode_to_vec().into();
    // Arroyo's workers say it by the configuration of their tables, and never by the flag; theirs is the whole operator's word.
    let two_phase = two_phase_tables(metadata)?;
    let commit = match (two_phase.is_empty(), needs_commit) {
        (false, _) => {
            let mut commits = commits_by_table(metadata)?;
            let tables = two_phase.into_iter().map(|name| (name, commits.remove(name)));
            Commit::Whole(by_table(metadata.subtask_index, tables))
        }
        (true, true) => {
            let tables = commits_by_table(metadata)?.into_iter().map(|(name, data)| (name, Some(data)));
            Commit::Own(by_table(metadata.subtask_index, tables))
        }
        (true, false) => Commit::None,
    };
    Ok((snapshot, commit))
}

/// The commit data of one subtask. A table is there also where the subtask gave nothing for it.
fn by_table<'a>(subtask: u32, tables: impl Iterator<Item = (&'a str, Option<Bytes>)>) -> Bytes {
    let table = |(name, data): (&str, Option<Bytes>)| {
        let commit_data_by_subtask = data.map(|data| (subtask, data)).into_iter().collect();
        (name.to_owned(), TableCommitData { commit_data_by_subtask })
    };
    let tables = OperatorCommitData { committing_data: tables.map(table).collect() };
    let mut encoded = BytesMut::with_capacity(TABLES.len() + tables.encoded_len());
    encoded.put_slice(TABLES);
    encoded.put_slice(&tables.encode_to_vec());
    encoded.freeze()
}

/// The tables that take part in two-phase commit.
fn two_phase_tables(metadata: &SubtaskCheckpointMetadata) -> Result<Vec<&str>, String> {
    let mut tables = Vec::new();
    for (name, table) in &metadata.table_configs {
        if table.table_type != i32::from(TableEnum::GlobalKeyValue) {
            continue;
        }
        let config = GlobalKeyedTableConfig::decode(table.config.clone()).map_err(|error| {
            format!("expected the config of table `{name}` to be a GlobalKeyedTableConfig, got {error}")
        })?;
        if config.uses_two_phase_commit {
            tables.push(name.as_str());
        }
    }
    Ok(tables)
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

/// The commit order for these tasks. An operator is in it also where none of its subtasks gave anything.
pub(super) fn commit_req(topology: &Topology, epoch: Epoch, tasks: &[TaskCommit]) -> CommitReq {
    let mut committing_data: BTreeMap<String, OperatorCommitData> = BTreeMap::new();
    let by_table: HashSet<u32> =
        tasks.iter().filter(|it| it.data.starts_with(TABLES)).map(|it| it.task.operator).collect();
    for TaskCommit { task, data } in tasks {
        // It said nothing of a table: another subtask said that the whole operator commits.
        if data.is_empty() && by_table.contains(&task.operator) {
            continue;
        }
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

/// The commit data of one task by table.
fn tables(task: TaskId, data: &Bytes) -> OperatorCommitData {
    let arroyo = data.starts_with(TABLES).then(|| OperatorCommitData::decode(data.slice(TABLES.len()..)));
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
                commits.push(TaskCommit { task, data: kept(data) });
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

/// What an error says of an order's effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It has none: the order did not arrive, or was turned away.
    None,
    /// It may have been taken.
    Unknown,
}

/// Whether a worker may have taken the order that this came of.
pub(super) fn effect(status: &Status) -> Effect {
    let mut cause = std::error::Error::source(status);
    if cause.is_some() {
        // It is our own side of the connection that speaks.
        while let Some(error) = cause {
            if error.is::<tonic::ConnectError>() {
                return Effect::None;
            }
            cause = error.source();
        }
        return Effect::Unknown;
    }
    match status.code() {
        Code::FailedPrecondition
        | Code::InvalidArgument
        | Code::OutOfRange
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented
        | Code::ResourceExhausted
        | Code::Unavailable => Effect::None,
        // A handler that failed, or was cut off, in the middle of its work.
        _ => Effect::Unknown,
    }
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

/// Whether these bytes are a state or a commit, which are read as far as anything is.
#[cfg(test)]
pub(super) fn takes(bytes: &[u8]) -> bool {
    use super::proto::arroyo_rpc::TaskCheckpointCompletedReq;
    let topology = Topology::builder().operator("count", crate::contracts::Role::Source, [1.into()]).build().unwrap();
    let _ = context(bytes);
    if let Ok(order) = CommitReq::decode(bytes) {
        commits(&topology, &order, |_| true);
    }
    let Ok(report) = TaskCheckpointCompletedReq::decode(bytes) else { return false };
    let Some(metadata) = &report.metadata else { return true };
    let Ok((_, Commit::Own(data) | Commit::Whole(data))) = state(metadata, report.needs_commit) else { return true };
    let order = commit_req(&topology, Epoch::new(report.epoch), &[TaskCommit { task: TaskId::new(0, 0), data }]);
    assert!(CommitReq::decode(&*order.encode_to_vec()).is_ok_and(|again| again == order));
    true
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
            let expected = commit.clone().map_or(Commit::None, Commit::Own);
            assert_eq!(state(&received, commit.is_some()).unwrap(), (snapshot, expected));
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
        let (snapshot, Commit::Own(commit)) = state(&sent, true).unwrap() else { panic!("{sent:?}") };
        assert_eq!(SubtaskCheckpointMetadata::decode(snapshot).unwrap(), sent, "it can be handed back");

        let commit = TaskCommit { task: TaskId::new(1, 1), data: commit };
        let request = commit_req(&topology(), Epoch::new(3), &[commit]);
        let of = |data: &'static [u8]| TableCommitData {
            commit_data_by_subtask: BTreeMap::from([(1, Bytes::from_static(data))]),
        };
        let expected =
            OperatorCommitData { committing_data: [("p".into(), of(b"pre")), ("r".into(), of(b"rec"))].into() };
        assert_eq!(request.committing_data, BTreeMap::from([("sink".to_owned(), expected)]));
    }

    fn configured(tables: &[(&str, TableEnum, bool)]) -> SubtaskCheckpointMetadata {
        let config = |(name, kind, uses_two_phase_commit): &(&str, TableEnum, bool)| {
            let config = GlobalKeyedTableConfig {
                table_name: (*name).to_owned(),
                description: "state".into(),
                uses_two_phase_commit: *uses_two_phase_commit,
            };
            let config =
                TableConfig { table_type: (*kind).into(), config: config.encode_to_vec().into(), state_version: 1 };
            ((*name).to_owned(), config)
        };
        SubtaskCheckpointMetadata {
            subtask_index: 1,
            table_configs: tables.iter().map(config).collect(),
            ..SubtaskCheckpointMetadata::default()
        }
    }

    #[test]
    fn a1_who_commits_is_said_by_the_table_configurations() {
        use TableEnum::{ExpiringKeyedTimeTable, GlobalKeyValue};
        for (tables, commits) in [
            (&[][..], false),
            (&[("s", GlobalKeyValue, false)], false),
            // Its `config` is another message, whose third field may be anything.
            (&[("w", ExpiringKeyedTimeTable, true)], false),
            (&[("i", GlobalKeyValue, true)], true),
            (&[("a", GlobalKeyValue, false), ("p", GlobalKeyValue, true), ("w", ExpiringKeyedTimeTable, false)], true),
        ] {
            let (_, commit) = state(&configured(tables), false).unwrap();
            assert_eq!(matches!(commit, Commit::Whole(_)), commits, "{tables:?}");
            assert_eq!(matches!(commit, Commit::None), !commits, "{tables:?}");
        }
        let mut damaged = configured(&[("p", GlobalKeyValue, true)]);
        damaged.table_configs.get_mut("p").unwrap().config = Bytes::from_static(b"\xff");
        let error = state(&damaged, false).unwrap_err();
        assert!(error.starts_with("expected the config of table `p` to be a GlobalKeyedTableConfig"), "{error}");
    }

    /// As Kafka's sink: its table takes part in two-phase commit, and holds nothing.
    #[test]
    fn a1_an_operator_without_commit_data_is_in_the_order() {
        let (_, commit) = state(&configured(&[("i", TableEnum::GlobalKeyValue, true)]), false).unwrap();
        let Commit::Whole(data) = commit else { panic!("{commit:?}") };
        let silent = TaskCommit { task: TaskId::new(1, 0), data: Bytes::new() };
        let request = commit_req(&topology(), Epoch::new(3), &[silent, TaskCommit { task: TaskId::new(1, 1), data }]);
        let table = OperatorCommitData { committing_data: [("i".into(), TableCommitData::default())].into() };
        assert_eq!(request.committing_data, BTreeMap::from([("sink".to_owned(), table)]));
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
