//! Central as a whole, over real gRPC: with a scripted agent in the same process, and as the real binary.

#[path = "central/agent.rs"]
mod agent;
#[path = "central/app.rs"]
mod app;
#[path = "central/binary.rs"]
mod binary;
#[path = "central/crash.rs"]
mod crash;
#[path = "central/delivery.rs"]
mod delivery;
#[path = "central/metrics.rs"]
mod metrics;
#[path = "central/query.rs"]
mod query;
