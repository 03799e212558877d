//! The generated code is what `proto/` says, and `proto/` says what the wire table of `docs/wire.md` says.
#![cfg(feature = "grpc")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, env, fs, path::Path};

use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
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
             WINDDOWN_REGENERATE=1 cargo test --all-features --test proto"
        );
    }
}
