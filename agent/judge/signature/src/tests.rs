//! Every row on its own example, texts of forms that no row knows, look-alikes, and arbitrary bytes.

mod generic;

use kulprit_model::said::{actor, class, operation};
use proptest::prelude::*;

use super::*;

#[test]
fn every_row_is_named_by_its_own_example() {
    let signatures = Signatures::new();
    let mut wrong = Vec::new();
    for row in SIGNATURES {
        let said = Text { speaker: Speaker::Other, reason: None, text: row.example };
        let name = match signatures.peel(&said) {
            Peeled::Said(attributes) => attributes.get(kulprit_model::attribute::SIGNATURE).map(str::to_owned),
            other => Some(format!("{other:?}")),
        };
        if name.as_deref() != Some(row.name) || !signatures.is_candidate(row.example.as_bytes()) {
            wrong.push(format!("{} ({}): {name:?}", row.name, row.example));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// They are compiled when their needle is first found, so nothing else would notice.
#[test]
fn every_pattern_compiles() {
    let patterns = SIGNATURES.iter().map(|row| row.pattern).chain(healthy::HEALTHY.iter().map(|row| row.pattern));
    for pattern in patterns {
        peel::compile(pattern);
    }
}

fn said(speaker: Speaker, reason: Option<&str>, text: &str) -> Peeled {
    thread_local! {
        static SIGNATURES: Signatures = Signatures::new();
    }
    SIGNATURES.with(|signatures| signatures.peel(&Text { speaker, reason, text }))
}

#[test]
fn names_of_rows_are_kebab_case_and_their_words_are_of_the_vocabulary() {
    for row in SIGNATURES {
        assert!(
            row.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'),
            "{}",
            row.name
        );
        assert_eq!(row.needle, row.needle.to_ascii_lowercase());
        assert!(row.needle.len() >= 3 && !row.source.is_empty(), "{}", row.name);
        for (value, all) in [(row.actor, actor::ALL), (row.operation, operation::ALL), (row.class, class::ALL)] {
            assert!(value == table::ANY || all.contains(&value), "{}: {value}", row.name);
        }
    }
    let names: std::collections::BTreeSet<_> = SIGNATURES.iter().map(|row| row.name).collect();
    assert!(names.len() >= 150, "{}", names.len());
}

#[test]
fn harmless_texts_weigh_nothing() {
    for harmless in healthy::HEALTHY {
        let found = said(Speaker::Other, Some("Warning"), harmless.example);
        assert_eq!(found, Peeled::Healthy, "{}", harmless.example);
        assert!(harmless.example.to_ascii_lowercase().contains(harmless.needle), "{}", harmless.needle);
    }
}

/// Once after a normal end it is noise; at the longest back-off kubelet has tried for minutes.
#[test]
fn a_container_disk_that_never_unmounts_is_no_noise() {
    let line = |back_off: &str| {
        format!(
            "Operation for \"{{volumeName:kubernetes.io/empty-dir/1c-container-disks podName:1c nodeName:}}\" failed. No retries \
             permitted until 2026-01-01 00:00:00 (durationBeforeRetry {back_off}). Error: \"UnmountVolume.TearDown failed for \
             volume \\\"container-disks\\\" : unlinkat /var/lib/kubelet/pods/1c: device or resource busy\""
        )
    };
    for back_off in ["500ms", "1s", "16s"] {
        assert_eq!(said(Speaker::Kubelet, None, &line(back_off)), Peeled::Healthy, "{back_off}");
    }
    for back_off in ["1m4s", "2m2s"] {
        let Peeled::Said(found) = said(Speaker::Kubelet, None, &line(back_off)) else { panic!("{back_off}") };
        assert_eq!(found.get(kulprit_model::attribute::OPERATION), Some(operation::UNMOUNT), "{back_off}");
        assert_eq!(found.get(kulprit_model::attribute::CLASS), Some(class::BUSY), "{back_off}");
    }
}

#[test]
fn texts_that_tell_of_no_failure_say_nothing() {
    for text in [
        "",
        "starting the error reporter",
        r#"{"component":"virt-handler","level":"info","msg":"resync virt-launcher domains, no errors","reason":""}"#,
        r#"{"component":"virt-launcher","level":"info","msg":"Successfully connected to domain notify socket"}"#,
        r#"level=info msg="image pulled" error="<nil>""#,
        r#"I0101 00:00:00.000000 1 kubelet.go:1] "SyncLoop UPDATE" source="api" pods=["prod/db-0"]"#,
        r#"I0101 00:00:00.000000 1 operation_generator.go:622] "MountVolume.WaitForAttach entering for volume \"pvc\"""#,
        "rebalance done: 0 errors, 3 moved",
        "garbage collection finished, errors:0 failed:0",
        "probe: err: <nil>",
        "using crc32c checksum algorithm",
        "Started container compute",
        "Successfully assigned prod/virt-launcher-db-0 to n1",
        "-device virtio-blk-pci,werror=stop,rerror=stop",
        "request timeout is set to 30s",
    ] {
        assert_eq!(said(Speaker::Other, None, text), Peeled::Nothing, "{text}");
    }
}

/// `text` is peeled to `want`, some of its attributes.
#[track_caller]
fn check(speaker: Speaker, reason: Option<&str>, text: &str, want: &[(&str, &str)]) {
    let Peeled::Said(attributes) = said(speaker, reason, text) else { panic!("nothing is said by {text}") };
    for (key, value) in want {
        assert_eq!(attributes.get(key), Some(*value), "{key} of {text}\n{attributes:?}");
    }
}

#[test]
fn a_socket_that_ends_is_no_disk_error() {
    assert_eq!(said(Speaker::Launcher, None, "End of file while reading data: Input/output error"), Peeled::Healthy);
    check(
        Speaker::Qemu,
        None,
        "qemu-kvm: load of migration failed: Input/output error",
        &[("class", "reset"), ("side", "target")],
    );
    // As recorded: the source was told to cancel.
    check(
        Speaker::Qemu,
        None,
        "qemu-system-x86_64: check_section_footer: Read section footer failed: -5",
        &[("class", "reset"), ("side", "target"), ("signature", "load-state-stream-broken")],
    );
}

#[test]
fn a_qemu_that_does_not_start_in_a_migration_is_the_targets() {
    let text = r#"error encountered during MigrateToURI3 libvirt api call: virError(Code=1, Domain=10, Message='internal error: QEMU unexpectedly closed the monitor (vm='prod_db-0'): qemu-kvm: -blockdev {}: Failed to get "write" lock')"#;
    check(Speaker::Launcher, None, text, &[("operation", "lock-image"), ("side", "target")]);
    let own = r#"internal error: QEMU unexpectedly closed the monitor (vm='prod_db-0'): qemu-kvm: -blockdev {}: Failed to get "write" lock"#;
    let Peeled::Said(attributes) = said(Speaker::Launcher, None, own) else { panic!("nothing is said") };
    assert_eq!(attributes.get("side"), None);
}

#[test]
fn room_in_the_guests_address_space_is_no_disk_space() {
    check(
        Speaker::Handler,
        Some("SyncFailed"),
        r#"server error. command SyncVMI failed: "LibvirtError(Code=1, Domain=10, Message='internal error: QEMU unexpectedly closed the monitor (vm='prod_db-0'): 2024-05-14T08:33:42.215448Z qemu-kvm: -device {\"driver\":\"virtio-mem-pci\"}: not enough space, currently 0x0 in use of total space for memory devices 0x165a100000')""#,
        &[
            ("actor", "qemu"),
            ("class", "invalid"),
            ("signature", "guest-address-space-too-small"),
            ("vmi", "prod/db-0"),
        ],
    );
}

#[test]
fn opening_an_image_tells_cgroup_rights_absence_and_disk_apart() {
    for (end, class) in [
        ("Operation not permitted", "not-permitted"),
        ("Permission denied", "denied"),
        ("No such file or directory", "not-found"),
        ("Input/output error", "io-error"),
        ("Stale file handle", "stale"),
    ] {
        let text = format!("virError(Code=38, Domain=18, Message='Cannot access storage file '/dev/disk-1': {end}')");
        check(
            Speaker::Launcher,
            None,
            &text,
            &[("operation", "open-image"), ("class", class), ("object", "/dev/disk-1")],
        );
    }
}

#[test]
fn the_destinations_words_decide_a_migration() {
    check(
        Speaker::Handler,
        Some("Migrated"),
        "virError(Code=9, Domain=10, Message='migration failed. Message from the source host: operation failed: job 'migration out' failed: Connection reset by peer. Message from the destination host: operation failed: guest CPU doesn't match specification: missing features: avx512')",
        &[("class", "incompatible"), ("side", "target"), ("signature", "cpu-missing-features")],
    );
}

#[test]
fn a_nested_error_names_what_it_was_about() {
    check(
        Speaker::Kubelet,
        None,
        r#"E1121 06:00:00.000000   77 pod_workers.go:1301] "Error syncing pod, skipping" err="failed to \"StartContainer\" for \"volumeroot-init\" with ErrImagePull: \"failed to pull and unpack image \\\"quay.io/lab/guest@sha256:aa\\\": failed to resolve image: dial tcp: lookup quay.io on 10.0.0.2:53: read udp 10.0.0.7:4->10.0.0.2:53: i/o timeout\"" pod="prod/virt-launcher-app-1-x" podUID="1c2c4c5c-0000-4000-8000-000000000001""#,
        &[
            ("actor", "runtime"),
            ("operation", "pull"),
            ("class", "name"),
            ("signature", "dns-timeout"),
            ("pod", "prod/virt-launcher-app-1-x"),
            ("pod_uid", "1c2c4c5c-0000-4000-8000-000000000001"),
            ("container", "volumeroot-init"),
            ("image", "quay.io/lab/guest@sha256:aa"),
        ],
    );
    check(
        Speaker::Kubelet,
        Some("FailedMount"),
        r#"MountVolume.SetUp failed for volume "pvc-d061512e-870a-4ece-bd45-2f04672d5256" : mount failed: exit status 32 Mounting command: mount Mounting arguments: -t nfs 10.0.0.5:/export/a /var/lib/kubelet/x Output: mount.nfs: Connection timed out"#,
        &[
            ("actor", "csi"),
            ("operation", "mount"),
            ("class", "timeout"),
            ("backend", "nfs"),
            ("server", "10.0.0.5:/export/a"),
            ("volume", "pvc-d061512e-870a-4ece-bd45-2f04672d5256"),
        ],
    );
    check(
        Speaker::Handler,
        None,
        r#"{"component":"virt-handler","kind":"","level":"error","msg":"Synchronizing the VirtualMachineInstance failed.","name":"app-1","namespace":"prod","pos":"vm.go:1","reason":"unknown error encountered sending command Shutdown: rpc error: code = DeadlineExceeded desc = context deadline exceeded","uid":"1"}"#,
        &[("actor", "launcher"), ("operation", "shutdown-domain"), ("class", "timeout"), ("vmi", "prod/app-1")],
    );
}

#[test]
fn a_number_is_read_as_an_errno_where_words_are_missing() {
    check(Speaker::Csi, None, "failed to stage volume: ioctl: error -110", &[("class", "timeout")]);
    check(Speaker::Csi, None, "rbd: failed to map image, result -108", &[("class", "held")]);
    check(Speaker::Csi, None, "failed to stage volume after 5 tries", &[("class", "other")]);
}

#[test]
fn an_image_named_after_a_network_plugin_is_no_network() {
    check(
        Speaker::Kubelet,
        Some("Failed"),
        r#"Failed to pull image "quay.io/cilium/cni-ceph:v1": rpc error: code = Unknown desc = connection refused"#,
        &[("actor", "runtime"), ("operation", "pull"), ("class", "refused")],
    );
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,300}", reason in proptest::option::of("[A-Za-z]{0,12}")) {
        said(Speaker::Other, reason.as_deref(), &text);
    }

    #[test]
    fn no_damaged_text_makes_it_panic_and_what_is_said_was_a_candidate(
        row in 0..SIGNATURES.len(), other in 0..SIGNATURES.len(), cut in 0_usize..300, junk in ".{0,10}",
    ) {
        let example = SIGNATURES[row].example;
        let cut = example.floor_char_boundary(cut);
        let text = format!("{{\"level\":\"error\",\"msg\":\"{}{junk}{}{}\"", &example[..cut], SIGNATURES[other].example, &example[cut..]);
        for text in [text.as_str(), &text[24..]] {
            said(Speaker::Kubelet, Some("FailedMount"), text);
            if said(Speaker::Kubelet, None, text) != Peeled::Nothing {
                prop_assert!(candidate::Candidate::new().is_match(text.as_bytes()));
            }
        }
    }
}
