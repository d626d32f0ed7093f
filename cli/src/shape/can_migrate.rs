//! The shape of `can-migrate`: answer, obstacles, nodes, limits.
//!
//! Words of the wire's enumerations become words that a script can compare; what is empty is there all the same, so that no key has to
//! be looked for twice. Source: `kulprit/v1/query.proto`.

use kulprit_proto::v1;
use serde::Serialize;

use super::{Subject, rfc3339};

/// Answer of `can-migrate`.
#[derive(Debug, Serialize)]
pub(crate) struct CanMigrate {
    pub(crate) subject: Subject,
    /// `yes`, `yes-with-warnings`, `no` or `unknown`.
    pub(crate) answer: &'static str,
    pub(crate) because: String,
    pub(crate) blockers: Vec<Obstacle>,
    pub(crate) warnings: Vec<Obstacle>,
    pub(crate) unknown: Vec<String>,
    pub(crate) notes: Vec<String>,
    pub(crate) terms: Terms,
    pub(crate) nodes: Vec<Candidate>,
    pub(crate) at: Option<String>,
    #[serde(skip)]
    pub(crate) reference_wall_usec: i64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Obstacle {
    pub(crate) what: String,
    pub(crate) source: String,
    pub(crate) fix: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) cause: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct Candidate {
    pub(crate) node: String,
    /// `fits`, `fits-with-warnings`, `unseen` or `does-not-fit`.
    pub(crate) fit: &'static str,
    pub(crate) misfits: Vec<Obstacle>,
    pub(crate) warnings: Vec<Obstacle>,
    pub(crate) unknown: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct Terms {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) policy: String,
    /// 0: no limit.
    pub(crate) bandwidth_bytes_per_sec: i64,
    pub(crate) completion_secs_per_gib: i64,
    pub(crate) progress_secs: i64,
    pub(crate) allows_auto_converge: bool,
    pub(crate) allows_post_copy: bool,
    pub(crate) per_cluster: i64,
    pub(crate) per_node: i64,
    pub(crate) running: Vec<String>,
    pub(crate) leaving: Vec<String>,
}

impl From<v1::CanMigrateResponse> for CanMigrate {
    fn from(response: v1::CanMigrateResponse) -> Self {
        let answer = match response.answer() {
            v1::MigrationAnswer::Yes => "yes",
            v1::MigrationAnswer::YesWithWarnings => "yes-with-warnings",
            v1::MigrationAnswer::No => "no",
            v1::MigrationAnswer::Unknown | v1::MigrationAnswer::Unspecified => "unknown",
        };
        let v1::CanMigrateResponse {
            subject,
            answer: _,
            because,
            blockers,
            warnings,
            unknown,
            notes,
            terms,
            nodes,
            reference_wall_usec,
        } = response;
        Self {
            subject: subject.unwrap_or_default().into(),
            answer,
            because,
            blockers: blockers.into_iter().map(Obstacle::from).collect(),
            warnings: warnings.into_iter().map(Obstacle::from).collect(),
            unknown,
            notes,
            terms: terms.unwrap_or_default().into(),
            nodes: nodes.into_iter().map(Candidate::from).collect(),
            at: rfc3339(reference_wall_usec),
            reference_wall_usec,
        }
    }
}

impl From<v1::MigrationObstacle> for Obstacle {
    fn from(obstacle: v1::MigrationObstacle) -> Self {
        let v1::MigrationObstacle { what, source, fix, cause } = obstacle;
        Self { what, source, fix, cause }
    }
}

impl From<v1::MigrationCandidate> for Candidate {
    fn from(candidate: v1::MigrationCandidate) -> Self {
        let fit = match candidate.fit() {
            v1::MigrationFit::Fits => "fits",
            v1::MigrationFit::FitsWithWarnings => "fits-with-warnings",
            v1::MigrationFit::Unseen | v1::MigrationFit::Unspecified => "unseen",
            v1::MigrationFit::DoesNotFit => "does-not-fit",
        };
        let v1::MigrationCandidate { node, fit: _, misfits, warnings, unknown } = candidate;
        Self {
            node,
            fit,
            misfits: misfits.into_iter().map(Obstacle::from).collect(),
            warnings: warnings.into_iter().map(Obstacle::from).collect(),
            unknown,
        }
    }
}

impl From<v1::MigrationTerms> for Terms {
    fn from(terms: v1::MigrationTerms) -> Self {
        let v1::MigrationTerms {
            policy,
            bandwidth_bytes_per_sec,
            completion_secs_per_gib,
            progress_secs,
            allows_auto_converge,
            allows_post_copy,
            per_cluster,
            per_node,
            running,
            leaving,
        } = terms;
        Self {
            policy,
            bandwidth_bytes_per_sec,
            completion_secs_per_gib,
            progress_secs,
            allows_auto_converge,
            allows_post_copy,
            per_cluster,
            per_node,
            running,
            leaving,
        }
    }
}
