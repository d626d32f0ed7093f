//! On the recorded nodes of a real KubeVirt, and on small trees made to break a reader or to meet a threshold.

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use kulprit_model::FindingCode::{self, *};
use kulprit_model::Severity;
use kulprit_model::Status::{Absent, Present, Unknown};

use super::*;

/// The recordings that rules may be written from.
const RECORDINGS: [&str; 13] = [
    "03a-migration-not-converging-running",
    "03b-migration-not-converging-aborted",
    "05a-libvirt-sigstopped-deleting",
    "05b-libvirt-sigstopped-gone",
    "06a-kubelet-stopped-deleting",
    "08a-qemu-sigstopped-running",
    "12b-migration-port-blocked-stuck",
    "15-guest-ignores-acpi-stopping",
    "17-excessive-migrations",
    "20b-target-image-pull-fails",
    "22b-kubelet-restarted-start",
    "23a-pvc-missing",
    "24-migration-cancelled-by-user",
];

/// 2026-11-21T06:00:00Z: within the hours of the recordings.
const AT: Moment = Moment { wall_usec: 1_795_240_800_000_000, boottime_usec: 1_795_240_800_000_000 };

fn unpack(recording: &str) -> tempfile::TempDir {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../../central/diagnosis/fixtures/recordings");
    let archive = std::fs::File::open(Path::new(fixtures).join(format!("{recording}.tar.gz"))).unwrap();
    let dir = tempfile::tempdir().unwrap();
    tar::Archive::new(flate2::read::GzDecoder::new(archive)).unpack(dir.path()).unwrap();
    dir
}

/// The folder of a node, wherever the archive has it.
fn node_of(dir: &Path, node: &str) -> PathBuf {
    let direct = dir.join("nodes").join(node);
    if direct.exists() {
        return direct;
    }
    let below = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path().join("nodes").join(node));
    below.into_iter().find(|path| path.exists()).unwrap()
}

fn read(root: &Path) -> Gathered {
    let mut out = Gathered::default();
    read_tree(&HostRoot::new(root), AT, &mut out);
    for verdict in &out.verdicts {
        let (code, subject) = match verdict {
            Verdict::State(state) => (state.code, &state.subject),
            Verdict::Occurrence(occurrence) => (occurrence.code, &occurrence.subject),
        };
        assert!(code.spec().subject.allows(subject), "{code} of {subject}");
    }
    out
}

fn read_node(recording: &str, node: &str) -> Gathered {
    let dir = unpack(recording);
    read(&node_of(dir.path(), node).join("root"))
}

fn status(out: &Gathered, code: FindingCode, subject: &str) -> Option<Status> {
    out.verdicts.iter().find_map(|verdict| match verdict {
        Verdict::State(state) if state.code == code && state.subject.to_string() == subject => Some(state.status),
        _ => None,
    })
}

/// Faults that are there, as `Code subject`.
fn faults(out: &Gathered) -> Vec<String> {
    let fault = |verdict: &Verdict| match verdict {
        Verdict::State(state) if state.status == Present && state.code.spec().severity == Severity::Fault => {
            assert_eq!(state.attributes.get(attribute::FIRST_LOOK), Some("true"), "{}", state.code);
            Some(format!("{} {}", state.code, state.subject))
        }
        Verdict::Occurrence(occurrence) if occurrence.code.spec().severity == Severity::Fault => {
            Some(format!("{} {}", occurrence.code, occurrence.subject))
        }
        _ => None,
    };
    let mut faults: Vec<String> = out.verdicts.iter().filter_map(fault).collect();
    faults.sort();
    faults
}

#[test]
fn show() {
    for recording in RECORDINGS {
        let dir = unpack(recording);
        for node in ["n1", "n2"] {
            let out = read(&node_of(dir.path(), node).join("root"));
            println!("== {recording} {node}: {:?} {:?} {:?}", faults(&out), out.problems, out.looked);
            println!("   {:?}", out.launchers.iter().map(|l| (&l.name, l.pod_uid.is_some())).collect::<Vec<_>>());
            println!("   {:?}", out.qemus.iter().map(|q| (&q.uid, &q.name, q.since, q.disks.len())).collect::<Vec<_>>());
            if recording.starts_with("05a") {
            for v in &out.verdicts { match v { Verdict::State(s) => println!("     {} {} {:?} {:?} {:?}", s.code, s.subject, s.status, s.unknown_because, s.evidence.first().map(|e| &e.text)), Verdict::Occurrence(o) => println!("     {} {} {:?}", o.code, o.subject, o.evidence) } }
            }
        }
    }
}
