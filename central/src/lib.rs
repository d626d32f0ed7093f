//! The central service: takes what agents see, explains every VM in trouble, keeps incidents, answers queries.
//!
//! Read in this order: [`state`] (what is known now; pure) and [`live`] (the same, shared), [`ingest`] (agents report; [`connections`] come first),
//! [`store`] (what survives a restart), [`incident`] (pure) and [`engine`] (when to decide), [`figures`] (what it comes to in numbers; pure), [`wishes`] (what
//! agents are asked for), [`access`] (who may talk to central), [`query`] (people ask), [`record`] (a case to take away), [`support`] (what one has to see of central), [`kubernetes`] (what is watched of the cluster),
//! [`conditions`] and [`taints`] (what nodes are marked with; pure), [`events`] (what objects are told; pure) and [`publish`] (who writes it), [`leadership`] (of several centrals one), [`tls`] (how connections are kept and who is at their other end), [`config`], [`metrics`], [`app`] (the only file that knows all parts),
//! [`cleanup`] (takes away what it left in a cluster).
//!
//! A record acts in memory at once and is acked when it is on disk, so a disk that hangs stops acks and no verdicts.

pub mod access;
pub mod alerts;
pub mod app;
pub mod cleanup;
pub mod conditions;
pub mod config;
pub mod connections;
pub mod engine;
pub mod events;
pub mod figures;
pub mod incident;
pub mod ingest;
pub mod kubernetes;
pub mod leadership;
pub mod live;
pub mod metrics;
pub mod publish;
pub mod query;
pub mod record;
pub mod state;
pub mod store;
pub mod support;
pub mod taints;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod wishes;
