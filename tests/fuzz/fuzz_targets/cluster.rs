//! Objects of Kubernetes, whole or damaged: adding and describing them.
#![no_main]

use std::sync::LazyLock;

use kulprit_cluster::{Asked, Cluster};
use kulprit_signature::Signatures;
use libfuzzer_sys::fuzz_target;
use serde_json::{Deserializer, Value};

/// 2026-03-01T10:15:00Z
const AT_USEC: i64 = 1_772_360_100_000_000;

static SIGNATURES: LazyLock<Signatures> = LazyLock::new(Signatures::new);

fuzz_target!(|data: &[u8]| {
    let mut cluster = Cluster::new();
    for object in Deserializer::from_slice(data).into_iter::<Value>() {
        let Ok(object) = object else { break };
        _ = cluster.add(&object);
    }
    for (namespace, name) in cluster.vm_keys() {
        let asked = Asked { migration: Some(name.clone()), at_usec: AT_USEC, ..Asked::default() };
        let named = cluster.describe(&namespace, &name, &asked, &SIGNATURES);
        assert_eq!((&named.namespace, &named.name), (&namespace, &name), "a VM keeps its name");
        let vm = cluster.describe(&namespace, &name, &Asked { at_usec: AT_USEC, ..Asked::default() }, &SIGNATURES);
        assert_eq!(vm.uid, named.uid, "the migration in question does not change who the VM is");
    }
    _ = cluster.describe_nodes(AT_USEC, &SIGNATURES);
});
