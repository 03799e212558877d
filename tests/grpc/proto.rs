//! The generated code is what `proto/` says, and `proto/` has the names, numbers and types that
//! workers of the Arroyo family are built on.

use std::{collections::BTreeSet, env, fs, path::Path};

use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet, ServiceDescriptorProto,
    field_descriptor_proto::{Label, Type},
};

const GENERATED: &str = "src/grpc/generated";
const DESCRIPTORS: &str = "descriptors.bin";

fn descriptors() -> FileDescriptorSet {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    protox::compile(["arroyo_rpc.proto", "winddown.proto"], [root]).unwrap()
}

fn generate(into: &Path) {
    let mut set = descriptors();
    tonic_prost_build::configure().bytes(".").btree_map(".").out_dir(into).compile_fds(set.clone()).unwrap();
    // The comments are in the code; a reflection client has no use for them.
    for file in &mut set.file {
        file.source_code_info = None;
    }
    fs::write(into.join(DESCRIPTORS), set.encode_to_vec()).unwrap();
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn the_generated_code_is_what_the_proto_files_say() {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join(GENERATED);
    if env::var_os("WINDDOWN_REGENERATE").is_some() {
        generate(&committed);
    }
    let fresh = tempfile::tempdir().unwrap();
    generate(fresh.path());
    assert_eq!(names(&committed), names(fresh.path()), "{GENERATED} holds other files than proto/ gives");
    for name in names(fresh.path()) {
        let same = fs::read(committed.join(&name)).unwrap() == fs::read(fresh.path().join(&name)).unwrap();
        assert!(
            same,
            "{GENERATED}/{name} is not what proto/ gives. Write it anew: \
             WINDDOWN_REGENERATE=1 cargo test --all-features --test grpc proto"
        );
    }
}

/// The wire facts. Written by hand, and never from `proto/`.
const WIRE: &str = "\
service WorkerGrpc: Checkpoint(CheckpointReq)->CheckpointResp, Commit(CommitReq)->CommitResp, \
  StopExecution(StopExecutionReq)->StopExecutionResp, JobFinished(JobFinishedReq)->JobFinishedResp
service JobControllerGrpc: Heartbeat(HeartbeatReq)->HeartbeatResp, \
  TaskCheckpointEvent(TaskCheckpointEventReq)->TaskCheckpointEventResp, \
  TaskCheckpointCompleted(TaskCheckpointCompletedReq)->TaskCheckpointCompletedResp, \
  TaskFinished(TaskFinishedReq)->TaskFinishedResp, TaskFailed(TaskFailedReq)->TaskFailedResp, \
  NonfatalError(NonfatalErrorReq)->WorkerErrorRes
service ControllerGrpc: RegisterWorker(RegisterWorkerReq)->RegisterWorkerResp, \
  TaskStarted(TaskStartedReq)->TaskStartedResp, \
  WorkerInitializationComplete(WorkerInitializationCompleteReq)->WorkerInitializationCompleteResp, \
  SendSinkData(SinkDataReq)->SinkDataResp, WorkerFinished(WorkerFinishedReq)->WorkerFinishedResp
message WorkerContext: machine_id=1 string, worker_id=2 uint64, job_id=3 string, generation=4 uint64, pipeline_id=5 string
message CheckpointReq: epoch=1 uint64, min_epoch=2 uint64, timestamp=3 uint64, then_stop=4 bool, is_commit=5 bool
message CheckpointResp:
message CommitReq: epoch=1 uint64, committing_data=2 map<string, OperatorCommitData>
message CommitResp:
message OperatorCommitData: committing_data=1 map<string, TableCommitData>
message TableCommitData: commit_data_by_subtask=1 map<uint32, bytes>
enum StopMode: GRACEFUL=0, IMMEDIATE=1
message StopExecutionReq: stop_mode=1 StopMode
message StopExecutionResp:
message JobFinishedReq:
message JobFinishedResp:
message HeartbeatReq: worker_context=1 WorkerContext, time=3 uint64
message HeartbeatResp:
enum TaskCheckpointEventType: STARTED_ALIGNMENT=0, STARTED_CHECKPOINTING=1, FINISHED_OPERATOR_SETUP=2, FINISHED_SYNC=3, \
  FINISHED_COMMIT=4
message TaskCheckpointEventReq: worker_context=1 WorkerContext, time=2 uint64, subtask_idx=5 uint32, epoch=6 uint64, \
  event_type=7 TaskCheckpointEventType, operator_id=8 string
message TaskCheckpointEventResp:
message TaskCheckpointCompletedReq: worker_context=1 WorkerContext, time=2 uint64, operator_id=4 string, epoch=5 uint64, \
  metadata=6 SubtaskCheckpointMetadata, needs_commit=7 bool
message TaskCheckpointCompletedResp:
message SubtaskCheckpointMetadata: subtask_index=1 uint32, start_time=2 uint64, finish_time=3 uint64, \
  watermark=4 optional uint64, bytes=5 uint64, table_metadata=10 map<string, TableSubtaskCheckpointMetadata>, \
  table_configs=11 map<string, TableConfig>
enum TableEnum: MissingTableType=0, GlobalKeyValue=1, ExpiringKeyedTimeTable=2
message TableSubtaskCheckpointMetadata: subtask_index=1 uint32, table_type=2 TableEnum, data=3 bytes
message TableConfig: table_type=1 TableEnum, config=2 bytes, state_version=3 uint32
message GlobalKeyedTableConfig: table_name=1 string, description=2 string, uses_two_phase_commit=3 bool
message GlobalKeyedTableSubtaskCheckpointMetadata: subtask_index=1 uint32, file=2 optional string, \
  commit_data=3 optional bytes
message TaskStartedReq: worker_context=1 WorkerContext, time=2 uint64, task_id=4 uint32, subtask_idx=5 uint32
message TaskStartedResp:
message TaskFinishedReq: worker_context=1 WorkerContext, time=2 uint64, task_id=4 uint32, subtask_idx=5 uint32
message TaskFinishedResp:
message TaskFailedReq: worker_context=1 WorkerContext, time=2 uint64, error=3 TaskError
message TaskFailedResp:
enum ErrorDomain: USER=0, INTERNAL=1, EXTERNAL=2
enum RetryHint: NO_RETRY=0, WITH_BACKOFF=1
message TaskError: operator_id=1 string, task_id=2 uint32, subtask_idx=3 uint32, error=4 string, \
  error_domain=5 ErrorDomain, retry_hint=6 RetryHint, details=7 string
message NonfatalErrorReq: worker_context=1 WorkerContext, time=2 uint64, error=3 TaskError
message WorkerErrorRes:
message WorkerInitializationCompleteReq: worker_context=1 WorkerContext, time=3 uint64, success=4 bool, \
  error_message=5 optional string
message WorkerInitializationCompleteResp:
message SinkDataReq: job_id=1 string, operator_id=2 string, subtask_idx=3 uint32, timestamps=4 repeated uint64, \
  start_id=6 uint64, batch=7 string, done=8 bool
message SinkDataResp:
message WorkerResources: slots=1 uint64
message RegisterWorkerReq: worker_context=1 WorkerContext, time=2 uint64, rpc_address=4 string, data_address=5 string, \
  resources=6 WorkerResources, slots=8 uint64
message RegisterWorkerResp:
message WorkerFinishedReq: worker_context=1 WorkerContext, time=2 uint64, slots=3 uint64
message WorkerFinishedResp:";

#[test]
fn names_numbers_and_types_are_the_wire_facts() {
    let set = FileDescriptorSet::decode(winddown::grpc::proto::DESCRIPTORS).unwrap();
    let file = set.file.iter().find(|file| file.package() == "arroyo_rpc").unwrap();
    assert_eq!(file.syntax(), "proto3");
    let messages = file.message_type.iter().map(message);
    let found: BTreeSet<String> =
        file.service.iter().map(service).chain(messages).chain(file.enum_type.iter().map(enumeration)).collect();
    let expected: BTreeSet<String> = WIRE.lines().map(str::to_owned).collect();
    assert_eq!(found.difference(&expected).collect::<Vec<_>>(), Vec::<&String>::new(), "not on the wire");
    assert_eq!(expected.difference(&found).collect::<Vec<_>>(), Vec::<&String>::new(), "not in proto/");
}

fn line(kind: &str, name: &str, entries: impl Iterator<Item = String>) -> String {
    format!("{kind} {name}: {}", entries.collect::<Vec<_>>().join(", ")).trim_end().to_owned()
}

fn short(name: &str) -> &str {
    name.strip_prefix(".arroyo_rpc.").unwrap()
}

fn service(service: &ServiceDescriptorProto) -> String {
    let methods = service.method.iter().map(|method| {
        assert!(!method.client_streaming() && !method.server_streaming(), "every call is unary");
        format!("{}({})->{}", method.name(), short(method.input_type()), short(method.output_type()))
    });
    line("service", service.name(), methods)
}

fn enumeration(of: &EnumDescriptorProto) -> String {
    line("enum", of.name(), of.value.iter().map(|value| format!("{}={}", value.name(), value.number())))
}

fn message(of: &DescriptorProto) -> String {
    let mut fields: Vec<_> = of.field.iter().collect();
    fields.sort_by_key(|field| field.number());
    let fields = fields.into_iter().map(|field| format!("{}={} {}", field.name(), field.number(), type_of(of, field)));
    line("message", of.name(), fields)
}

fn type_of(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let name = match field.r#type() {
        Type::Message | Type::Enum => {
            let nested = field.type_name().rsplit('.').next().unwrap();
            if let Some(entry) = message.nested_type.iter().find(|entry| entry.name() == nested) {
                assert!(
                    entry.options.as_ref().is_some_and(prost_types::MessageOptions::map_entry),
                    "only maps are nested"
                );
                return format!("map<{}, {}>", type_of(entry, &entry.field[0]), type_of(entry, &entry.field[1]));
            }
            short(field.type_name()).to_owned()
        }
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    if field.label() == Label::Repeated {
        return format!("repeated {name}");
    }
    if field.proto3_optional() { format!("optional {name}") } else { name }
}
