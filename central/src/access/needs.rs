//! What each question needs: the one table. A question that is not in it is answered to nobody.

use super::rights::{Resource, Right};

/// What whoever asks has to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// To be somebody: nothing of the cluster is told.
    Somebody,
    /// Get on the VM that is named; node facts in its explanation are part of it.
    TheVm,
    /// Get on the migration that is named.
    TheMigration,
    /// Get on the node that is named; of the VMs on it those are told that he may get.
    TheNode,
    /// Get on nodes.
    Nodes,
    /// Get on the VM that is named, and on nodes.
    TheVmAndNodes,
    /// Get on VMs, migrations and nodes everywhere: a recorded case holds what is around its subject, and a support bundle
    /// what central knows.
    Everything,
    /// Nothing for the question itself: what he may not get is left out of the answer, and counts for nothing in it.
    WhatHeMaySee,
    /// Get on the node that is named, or on nodes; else a question about one VM that he may get.
    TheNodeOrItsVm,
}

/// Every RPC of the Query service.
pub const NEEDS: [(&str, Need); 16] = [
    ("ExplainVm", Need::TheVm),
    ("ExplainMigration", Need::TheMigration),
    ("ExplainNode", Need::TheNode),
    ("ListVerdicts", Need::WhatHeMaySee),
    ("CanMigrate", Need::TheVm),
    ("ListIncidents", Need::WhatHeMaySee),
    ("WatchIncidents", Need::WhatHeMaySee),
    ("GetIncident", Need::WhatHeMaySee),
    ("Capture", Need::TheVmAndNodes),
    ("ListNodes", Need::Nodes),
    ("GetNode", Need::TheNode),
    ("ListVms", Need::WhatHeMaySee),
    ("ListFindings", Need::TheNodeOrItsVm),
    ("ListCauses", Need::Somebody),
    ("RecordCase", Need::Everything),
    ("SupportBundle", Need::Everything),
];

/// What an RPC needs; `None`: nobody may ask it.
#[must_use]
pub fn of(rpc: &str) -> Option<Need> {
    NEEDS.iter().find(|(name, _)| *name == rpc).map(|(_, need)| *need)
}

impl Need {
    /// The rights that are needed whatever is named.
    #[must_use]
    pub fn in_any_case(self) -> Vec<Right> {
        match self {
            Self::Nodes | Self::TheVmAndNodes => vec![Resource::Node.all()],
            Self::Everything => vec![Resource::Node.all(), Resource::Vm.all(), Resource::Migration.all()],
            Self::Somebody
            | Self::TheVm
            | Self::TheMigration
            | Self::TheNode
            | Self::WhatHeMaySee
            | Self::TheNodeOrItsVm => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_question_of_the_contract_is_in_the_table_and_nothing_else() {
        let proto = include_str!("../../../proto/kulprit/v1/query.proto");
        let rpcs: BTreeSet<&str> =
            proto.lines().filter_map(|line| line.trim().strip_prefix("rpc ")?.split('(').next()).collect();
        assert_eq!(rpcs, NEEDS.iter().map(|(rpc, _)| *rpc).collect());
        assert_eq!(of("Grpc"), None);
    }
}
