//! Whose a line is, what weighs nothing, and that repeated lines are one statement.

use kulprit_host::log::{Clock, parse_line};
use kulprit_model::said::{actor, class, operation};

use super::*;

const AT: i64 = 1_795_243_350_000_000; // 2026-11-21T06:42:30Z
const CLOCK: Clock = Clock { at_usec: AT, btime_usec: None };

fn hear_line(source: &LogSource, line: &str) -> Heard {
    let at = Moment { wall_usec: AT, boottime_usec: AT };
    hear(&Signatures::new(), source, &parse_line(line, CLOCK), at, true)
}

#[track_caller]
fn attributes(source: &LogSource, line: &str) -> Attributes {
    match hear_line(source, line) {
        Heard::Error(verdict) => {
            assert_eq!((verdict.code, verdict.count), (FindingCode::ErrorSaid, 1));
            verdict.attributes
        }
        other => panic!("{other:?}: {line}"),
    }
}

fn unit(name: &str) -> LogSource {
    LogSource::Unit(name.to_owned())
}

fn container(speaker: Speaker, container: &str) -> LogSource {
    LogSource::Pod {
        speaker,
        namespace: "prod".to_owned(),
        pod: "virt-launcher-db-0-x7k2p".to_owned(),
        container: container.to_owned(),
    }
}

#[test]
fn units_say_what_failed_on_the_node() {
    for (name, line, want) in [
        (
            "kubelet.service",
            "I1121 06:42:03.314982   17014 kubelet.go:2412] \"Skipping pod synchronization\" err=\"PLEG is not healthy: pleg was last seen active 3m3.2s ago; threshold is 3m0s\"",
            (actor::RUNTIME, operation::LIST_PODS, class::TIMEOUT),
        ),
        (
            "kubelet.service",
            "E1121 06:42:03.2 17014 nestedpendingoperations.go:348] Operation for \"{volumeName:kubernetes.io/csi/x^pvc-1}\" failed. No retries permitted until 2026-11-21. Error: MountVolume.SetUp failed for volume \"pvc-1\" : rpc error: code = DeadlineExceeded desc = context deadline exceeded",
            (actor::CSI, operation::MOUNT, class::TIMEOUT),
        ),
        (
            "containerd.service",
            "time=\"2026-11-21T06:42:01Z\" level=error msg=\"PullImage \\\"quay.io/x:1\\\" failed\" error=\"failed to resolve reference: dial tcp 10.0.0.1:443: connect: connection refused\"",
            (actor::RUNTIME, operation::PULL, class::REFUSED),
        ),
    ] {
        let said = attributes(&unit(name), line);
        let get = |key| said.get(key).unwrap_or_default();
        assert_eq!((get(attribute::ACTOR), get(attribute::OPERATION), get(attribute::CLASS)), want, "{line}");
    }
}

#[test]
fn lines_of_healthy_systems_and_chatter_weigh_nothing() {
    let launcher = container(Speaker::Launcher, "compute");
    for (source, line) in [
        (
            &unit("kubelet.service"),
            "I1121 06:42:03.3 1 kubelet.go:1] \"Skipping pod synchronization\" err=\"PLEG is not healthy: pleg has yet to be successful\"",
        ),
        (
            &launcher,
            r#"{"component":"virt-launcher","level":"error","msg":"End of file while reading data: Input/output error","subcomponent":"libvirt","timestamp":"2026-11-21T06:42:01.0Z"}"#,
        ),
        (
            &launcher,
            r#"{"component":"virt-launcher","level":"info","msg":"could not find the flux","timestamp":"2026-11-21T06:42:01.0Z"}"#,
        ),
        (&container(Speaker::Launcher, "guest-console-log"), "EXT4-fs error (device vda1): I/O error"),
        (&LogSource::Qemu { domain: "prod_killed".to_owned() }, "-name guest=killed,debug-threads=on \\"),
    ] {
        assert_eq!(hear_line(source, line), Heard::Harmless, "{line}");
    }
    assert_eq!(
        hear_line(&unit("kubelet.service"), "I1121 06:42:03.3 1 kubelet.go:1] \"SyncLoop ADD\""),
        Heard::Nothing
    );
}

#[test]
fn a_launchers_error_is_of_its_pod_and_of_the_vm_it_names() {
    let line = r#"{"component":"virt-launcher","kind":"","level":"error","msg":"Failed to terminate process 76 with SIGTERM: Device or resource busy","name":"db-0","namespace":"prod","subcomponent":"libvirt","timestamp":"2026-11-21T06:42:01.0Z"}"#;
    let said = attributes(&container(Speaker::Launcher, "compute"), line);
    assert_eq!(said.get(attribute::VMI), Some("prod/db-0"));
    assert_eq!(said.get(attribute::POD), Some("prod/virt-launcher-db-0-x7k2p"));
    assert_eq!(said.get(attribute::CONTAINER), Some("compute"));
    assert_eq!(said.get(attribute::OPERATION), Some(operation::DESTROY_DOMAIN));
    // What virt-handler says is about others.
    let said = attributes(&container(Speaker::Handler, "virt-handler"), line);
    assert_eq!((said.get(attribute::POD), said.get(attribute::VMI)), (None, Some("prod/db-0")));
}

#[test]
fn a_log_of_a_domain_is_of_its_vm() {
    let source = LogSource::Qemu { domain: "prod_db-0".to_owned() };
    let line = "2026-11-21T06:42:01.123456Z qemu-kvm: load of migration failed: Input/output error";
    assert_eq!(attributes(&source, line).get(attribute::VMI), Some("prod/db-0"));
    assert_eq!(vm_of_source(&container(Speaker::Launcher, "compute")).as_deref(), Some("prod/db-0"));
    assert_eq!(vm_of_domain("plain"), "plain");
}

#[test]
fn programs_are_told_by_the_names_of_units_and_pods() {
    for (ident, unit, want) in [
        ("kubelet", "kubelet.service", Speaker::Kubelet),
        ("say.sh", "k3s.service", Speaker::Host),
        ("", "crio.service", Speaker::Runtime),
        ("", "virtqemud.service", Speaker::Libvirt),
        ("iscsid", "iscsid.service", Speaker::Host),
    ] {
        assert_eq!(speaker_of_unit(ident, unit), want, "{ident} {unit}");
    }
    for (pod, container, want) in [
        ("virt-launcher-db-0-x7k2p", "compute", Speaker::Launcher),
        ("virt-launcher-db-0-x7k2p", "volumerootdisk", Speaker::LauncherSidecar),
        ("virt-handler-4x8rk", "virt-handler", Speaker::Handler),
        ("calico-node-2b9xz", "calico-node", Speaker::Cni),
        ("csi-rbdplugin-9xk2p", "csi-rbdplugin", Speaker::Csi),
        ("antrea-agent-7xk2p", "antrea-ovs", Speaker::Cni),
        ("aws-node-7xk2p", "aws-node", Speaker::Cni),
        ("aws-node-termination-handler-7xk2p", "aws-node-termination-handler", Speaker::Other),
        ("kube-router-7xk2p", "kube-router", Speaker::Cni),
        ("whereabouts-7xk2p", "whereabouts", Speaker::Cni),
        ("mayastor-io-engine-7xk2p", "io-engine", Speaker::Csi),
        ("px-cluster-7xk2p", "portworx", Speaker::Csi),
        ("topolvm-node-7xk2p", "lvmd", Speaker::Csi),
        ("db-0", "postgres", Speaker::Other),
    ] {
        assert_eq!(speaker_of_pod(pod, container), want, "{pod}/{container}");
    }
}

fn verdict(secs: i64, what: &str) -> OccurrenceVerdict {
    let at = Moment { wall_usec: AT + secs * 1_000_000, boottime_usec: secs * 1_000_000 };
    OccurrenceVerdict {
        code: FindingCode::ErrorSaid,
        subject: Subject::Node,
        at,
        count: 1,
        attributes: Attributes::new().with(attribute::ACTOR, actor::CSI).with(attribute::OBJECT, what),
        evidence: vec![Evidence::new("kubelet", at, what)],
    }
}

fn said(statements: Statements) -> Vec<(i64, u64, Option<String>)> {
    let row = |one: OccurrenceVerdict| {
        (one.at.boottime_usec / 1_000_000, one.count, one.attributes.get(attribute::OBJECT).map(str::to_owned))
    };
    statements.into_verdicts(|attributes| attributes).map(row).collect()
}

#[test]
fn the_same_line_repeated_is_one_statement_with_its_first_and_last_time() {
    let mut statements = Statements::new(10);
    for (secs, what) in [(3, "a"), (1, "a"), (2, "b"), (9, "a")] {
        statements.add(verdict(secs, what));
    }
    let a = || Some("a".to_owned());
    assert_eq!(said(statements), [(1, 1, a()), (9, 2, a()), (2, 1, Some("b".to_owned()))]);
}

#[test]
fn too_many_statements_are_counted_without_their_names() {
    let mut statements = Statements::new(2);
    (0..100).for_each(|n| statements.add(verdict(n, &n.to_string())));
    assert_eq!(statements.len(), 3);
    let rows = said(statements);
    assert_eq!(rows.iter().map(|(_, count, _)| count).sum::<u64>(), 100, "none is lost");
}
