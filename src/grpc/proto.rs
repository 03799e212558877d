//! The generated messages and services of `proto/`. `docs/wire.md` explains them.
//!
//! The code is committed, so that users need no protobuf compiler; a test generates it again and
//! fails if it differs.

#![allow(clippy::all, clippy::pedantic, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "generated code")]

/// The part of Arroyo's worker protocol that a shutdown needs.
pub mod arroyo_rpc {
    include!("generated/arroyo_rpc.rs");
}

/// What winddown's own worker kit adds to the protocol.
pub mod winddown {
    include!("generated/winddown.rs");
}

/// The encoded `FileDescriptorSet` of both packages, for reflection and for tools.
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/descriptors.bin");
