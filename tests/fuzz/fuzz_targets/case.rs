//! A case of which every file holds the same bytes: each reader, the joining of what they say, and the engine.
#![no_main]

use std::{fs, path::PathBuf, sync::LazyLock};

use kulprit_case::{Case, Options};
use libfuzzer_sys::fuzz_target;

const MANIFEST: &str = "apiVersion: kulprit.io/v1\nkind: Case\nat: 2026-03-01T10:15:00Z\nsubject: {namespace: prod, name: db-0}\nnodes: {hosting: n1}\n";
/// One file of each kind.
const FILES: [&str; 24] = [
    "cluster/a.yaml",
    "cluster/b.json",
    "nodes/n1/kmsg.log",
    "nodes/n1/journal/kubelet.log",
    "nodes/n1/journal/containerd.log",
    "nodes/n1/libvirt/virtqemud.log",
    "nodes/n1/qemu/prod_db-0.log",
    "nodes/n1/virsh/prod_db-0.domstate",
    "nodes/n1/virsh/prod_db-0.domjobinfo",
    "nodes/n1/virsh/prod_db-0.dumpxml",
    "nodes/n1/ps.txt",
    "nodes/n1/systemctl/kubelet.txt",
    "nodes/n1/cmd/df.txt",
    "nodes/n1/cmd/unknown.txt",
    "nodes/n1/root/proc/stat",
    "nodes/n1/root/proc/meminfo",
    "nodes/n1/root/proc/mounts",
    "nodes/n1/root/proc/pressure/memory",
    "nodes/n1/root/proc/7/stat",
    "nodes/n1/root/proc/7/status",
    "nodes/n1/root/proc/7/cmdline",
    "nodes/n1/root/proc/7/cgroup",
    "pods/prod_virt-launcher-db-0-x7x7x_compute.log",
    "pods/kubevirt_virt-handler-8v5x2_virt-handler.log",
];

/// `scripts/fuzz.sh` gives a temporary folder that it takes away afterwards.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("kulprit-fuzz-case-{}", std::process::id()));
    for file in FILES {
        let path = folder.join(file);
        fs::create_dir_all(path.parent().expect("below the folder")).expect("a folder");
    }
    fs::write(folder.join("case.yaml"), MANIFEST).expect("a file");
    folder
});

// Bytes that choose their files: the first says which one alone, or all.
fuzz_target!(|data: &[u8]| {
    let Some((first, data)) = data.split_first() else { return };
    let chosen = usize::from(*first);
    for (index, file) in FILES.iter().enumerate() {
        let bytes = if chosen >= FILES.len() || chosen == index { data } else { &[] };
        fs::write(FOLDER.join(file), bytes).expect("a file");
    }
    let case = Case::open(&FOLDER, &Options::default(), &mut |_, _| {}).expect("a manifest is enough");
    let attributions = case.attributions();
    assert_eq!(attributions.len(), 1, "a named subject gets one verdict");
    let sum: f64 = attributions[0].causes.iter().map(|cause| cause.probability).sum();
    assert!(sum <= 1.0 + 1e-6, "probabilities are of one whole: {sum}");
});
