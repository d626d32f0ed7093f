//! The `kulprit.v1` contract: generated code and the conversions between model and wire.

/// The private protocol between the agent and its libvirt worker.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod worker {
    tonic::include_proto!("kulprit.worker.v1");
}
