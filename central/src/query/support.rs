//! `SupportBundle`: gathers what [`crate::support`] makes files of. A store that does not answer costs the findings only.

use std::sync::Arc;

use kulprit_daemon::{http::Pages, telemetry};
use kulprit_proto::v1;
use tokio::task::spawn_blocking;
use tonic::Status;

use super::{Sources, record, wire};
use crate::support::{Bundle, Said};

/// Findings so old are in it, microseconds.
const FINDINGS_USEC: i64 = 3_600_000_000;

/// The messages of an answer.
pub(super) type Messages = Vec<Result<v1::SupportBundleResponse, Status>>;

/// Makes the bundle.
pub(super) async fn bundle(sources: Arc<Sources>, pages: Option<Pages>) -> Result<Messages, Status> {
    let now_usec = sources.live.clock().now().wall_usec;
    let mut bundle = Bundle::default();
    let said =
        pages.map(|pages| Said { missing: pages.missing(), metrics: pages.metrics(), config: pages.config_json() });
    let live = sources.live.clone();
    match spawn_blocking(move || live.snapshot_at_once().cluster_sight.unseen).await {
        Ok(unseen) => bundle.add_said(said, &unseen, now_usec),
        Err(_) => bundle.lack("what central says of itself", "it could not be gathered; the log of central says why"),
    }
    bundle.add_log(telemetry::recent_lines().as_deref());
    let nodes: Vec<v1::Node> =
        sources.live.look(|state| state.nodes().map(|(id, node)| wire::node(id, node, now_usec)).collect());
    bundle.add_nodes(&nodes);
    bundle.add_incidents(&sources.decided.incidents());
    match record::history(&sources, "", now_usec.saturating_sub(FINDINGS_USEC), now_usec).await {
        Ok((entries, is_cut)) => bundle.add_findings(entries, is_cut),
        Err(why) => bundle.lack("the findings of the last hour", &why),
    }
    let (files, notes) = bundle.into_parts();
    let pieces = files.into_iter().flat_map(|file| {
        let pieces: Vec<v1::SupportBundleResponse> = file
            .content
            .chunks(record::CHUNK_BYTES)
            .map(|piece| v1::SupportBundleResponse {
                path: file.path.clone(),
                content: piece.to_vec(),
                note: String::new(),
            })
            .collect();
        pieces
    });
    let notes =
        notes.into_iter().map(|note| v1::SupportBundleResponse { note, ..v1::SupportBundleResponse::default() });
    Ok(pieces.chain(notes).map(Ok).collect())
}
