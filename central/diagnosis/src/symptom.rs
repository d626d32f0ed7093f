//! Who is in trouble, and how: the symptoms of a snapshot.
//!
//! A VM shows at most one symptom, the most telling: stopped before stuck stopping, before paused, before unresponsive. Normal
//! life (start, stop, pause by a user, save, restore, migration, snapshot) shows none, and a node whose agent is silent raises
//! none: nothing is known of it.

mod domain_migration;
pub(crate) mod kubevirt;
mod migration;
mod rules;

pub use kubevirt::is_at_rest;
pub(crate) use kubevirt::{DEAD_SOCKET, UNANSWERED};
pub(crate) use rules::{symptom_in, symptoms_in};
pub use rules::{symptom_of, symptoms};

use kulprit_cluster::MigrationRecord;

use crate::snapshot::Snapshot;

/// The symptoms of the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SymptomId {
    /// Wanted to run, and its VMI does not get to Running.
    StuckStarting,
    /// Asked or made to stop, and it does not.
    StuckStopping,
    /// Deleted, and it does not go.
    StuckTerminating,
    /// Shown in an error state: crash loop, unschedulable, image, claim.
    InError,
    /// A migration stays in a phase beyond its clock.
    StuckMigrating,
    /// A migration failed.
    MigrationFailed,
    /// Migrated too often.
    ExcessiveMigrations,
    /// Paused, and nobody asked for it.
    PausedUnexpectedly,
    /// Shown running while its host side is hung or gone.
    Unresponsive,
    /// The domain is gone, crashed or shut off, and nobody asked for it.
    StoppedUnexpectedly,
    /// It is to leave its node, and does not.
    EvacuationBlocked,
    /// No symptom can be derived: asked for by name, or a node with a fault of its own.
    Unspecified,
}

impl SymptomId {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::StuckStarting,
        Self::StuckStopping,
        Self::StuckTerminating,
        Self::InError,
        Self::StuckMigrating,
        Self::MigrationFailed,
        Self::ExcessiveMigrations,
        Self::PausedUnexpectedly,
        Self::Unresponsive,
        Self::StoppedUnexpectedly,
        Self::EvacuationBlocked,
        Self::Unspecified,
    ];

    /// The id as it is written everywhere.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::StuckStarting => "StuckStarting",
            Self::StuckTerminating => "StuckTerminating",
            Self::InError => "InError",
            Self::StuckMigrating => "StuckMigrating",
            Self::MigrationFailed => "MigrationFailed",
            Self::ExcessiveMigrations => "ExcessiveMigrations",
            Self::EvacuationBlocked => "EvacuationBlocked",
            Self::StuckStopping => "StuckStopping",
            Self::PausedUnexpectedly => "PausedUnexpectedly",
            Self::Unresponsive => "Unresponsive",
            Self::StoppedUnexpectedly => "StoppedUnexpectedly",
            Self::Unspecified => "Unspecified",
        }
    }

    /// Whether the guest does not serve while its VM shows it.
    #[must_use]
    pub const fn is_outage(self) -> bool {
        match self {
            Self::StuckStarting
            | Self::InError
            | Self::PausedUnexpectedly
            | Self::Unresponsive
            | Self::StoppedUnexpectedly => true,
            Self::StuckStopping
            | Self::StuckTerminating
            | Self::StuckMigrating
            | Self::MigrationFailed
            | Self::ExcessiveMigrations
            | Self::EvacuationBlocked
            | Self::Unspecified => false,
        }
    }
}

impl Symptom {
    /// The migrations of the last day that belong to the answer, newest first: where there were too many of them. None otherwise.
    #[must_use]
    pub fn past_migrations<'s>(&self, snapshot: &'s Snapshot) -> &'s [MigrationRecord] {
        match (&self.subject, self.id) {
            (SymptomSubject::Vm { uid, .. }, SymptomId::ExcessiveMigrations) => {
                snapshot.cluster_vm(uid).map_or(&[], |vm| &vm.life.past_migrations)
            }
            _ => &[],
        }
    }
}

/// Whom a symptom is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SymptomSubject {
    /// A VM on a node.
    Vm {
        /// Name of the node.
        node: String,
        /// UID of the VM.
        uid: String,
    },
    /// A node with a fault of its own.
    Node {
        /// Name of the node.
        node: String,
    },
}

/// One symptom of one subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symptom {
    /// Whom it is about.
    pub subject: SymptomSubject,
    /// Which symptom.
    pub id: SymptomId,
    /// Its onset, Unix time in microseconds; `None` if not known.
    pub since_wall_usec: Option<i64>,
    /// What it was derived from, one sentence.
    pub text: String,
    /// Name of the migration it is about; empty where the symptom is about one that has no object. `None`: not about a migration.
    pub migration: Option<String>,
}
