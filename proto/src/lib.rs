//! The `kulprit.v1` contract: generated code and the conversions between model and wire.
//!
//! [`v1`] is what agents, central and people speak; [`worker`] is private between the agent and its libvirt worker; [`cri`] is what
//! Kubernetes' container runtimes speak.
//! Conversions are total from model to wire; from wire to model they fail with the name of the field.

pub mod convert;

pub use convert::ConvertError;

/// The public contract, package `kulprit.v1`.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::pedantic, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("kulprit.v1");
}

/// The private protocol between the agent and its libvirt worker, package `kulprit.worker.v1`.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::pedantic, reason = "generated")]
pub mod worker {
    tonic::include_proto!("kulprit.worker.v1");
}

/// What the agent asks a container runtime, package `runtime.v1` of Kubernetes' CRI.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::pedantic, reason = "generated")]
pub mod cri {
    tonic::include_proto!("runtime.v1");
}

/// The compiled descriptors of every .proto file of ours, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
