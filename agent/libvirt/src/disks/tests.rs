//! The disks in a domain's XML: each kind of source, what is left out, and XML that is none.
//!
//! But for the recorded `tests/fixtures/running-domain.xml` the texts are made by hand, cut down to one disk each.

use super::*;

fn disk(target: &str, device: &str, source_type: &str, source: Option<&str>) -> Disk {
    Disk {
        target: target.into(),
        device: device.into(),
        source_type: source_type.into(),
        source: source.map(Into::into),
        alias: None,
        error_policy: None,
    }
}

#[track_caller]
fn check(disk_xml: &str, want: Option<Disk>) {
    let xml = format!("<domain><devices>{disk_xml}</devices></domain>");
    assert_eq!(parse_disks(&xml).unwrap(), Vec::from_iter(want), "{disk_xml}");
}

#[test]
fn a_recorded_running_domain_has_its_disk_with_alias() {
    let xml = include_str!("../../tests/fixtures/running-domain.xml");
    let mut want = disk("vda", "disk", "file", Some("/var/lib/libvirt/images/db-0.img"));
    want.alias = Some("virtio-disk0".into());
    assert_eq!(parse_disks(xml).unwrap(), [want]);
}

#[test]
fn every_source_type_has_its_own_attribute() {
    for (xml, source_type, source) in [
        ("type='block'><source dev='/dev/vg0/db'/>", "block", Some("/dev/vg0/db")),
        ("type='dir'><source dir='/srv/fat'/>", "dir", Some("/srv/fat")),
        ("type='volume'><source pool='p' volume='v'/>", "volume", Some("p/v")),
        ("type='network'><source protocol='rbd' name='pool/image@snap'/>", "network", Some("rbd:pool/image@snap")),
        ("type='network'><source protocol='nbd'><host name='h'/></source>", "network", Some("nbd:")),
        ("type='vhostuser'><source type='unix' path='/run/spdk.sock'/>", "vhostuser", Some("/run/spdk.sock")),
        ("type='nvme'><source type='pci' namespace='1'/>", "nvme", Some("nvme namespace 1")),
        ("type='of-a-newer-libvirt'><source file='/x'/>", "of-a-newer-libvirt", None),
        ("type='file'><source dev='/x'/>", "file", None),
    ] {
        check(&format!("<disk {xml}<target dev='vda'/></disk>"), Some(disk("vda", "disk", source_type, source)));
    }
}

#[test]
fn an_empty_drive_has_no_source() {
    check("<disk type='file' device='cdrom'><target dev='sda'/></disk>", Some(disk("sda", "cdrom", "file", None)));
}

#[test]
fn the_source_of_a_backing_file_is_not_the_disks() {
    check(
        "<disk type='file'><backingStore type='file'><source file='/base'/></backingStore><target dev='vda'/></disk>",
        Some(disk("vda", "disk", "file", None)),
    );
}

#[test]
fn a_disk_without_target_is_skipped() {
    check("<disk type='file'><source file='/x'/></disk>", None);
}

#[test]
fn error_policy_is_kept() {
    let want = Disk { error_policy: Some("report".into()), ..disk("vda", "disk", "file", None) };
    check("<disk><driver name='qemu' error_policy='report'/><target dev='vda'/></disk>", Some(want));
}

#[test]
fn secrets_in_network_names_are_cut_out() {
    for (name, want) in [
        ("export?token=s3cret", "https:export"),
        ("//user:s3cret@host/image", "https:<redacted>@host/image"),
        ("user:s3cret@host/image", "https:<redacted>@host/image"),
        ("iqn.2020-01.org:db/1", "https:iqn.2020-01.org:db/1"),
    ] {
        check(
            &format!("<disk type='network'><source protocol='https' name='{name}'/><target dev='vda'/></disk>"),
            Some(disk("vda", "disk", "network", Some(want))),
        );
    }
}

#[test]
fn what_is_no_domain_is_an_error() {
    for xml in ["", "<domain/>", "<network><devices/></network>", "<domain><devices>", "\u{0}"] {
        assert!(parse_disks(xml).is_err(), "{xml:?}");
    }
}

#[test]
fn entity_bombs_are_refused() {
    let xml = "<!DOCTYPE d [<!ENTITY a 'aaaa'>]><domain><devices>&a;</devices></domain>";
    assert!(matches!(parse_disks(xml), Err(DisksError::Xml(roxmltree::Error::DtdDetected))));
}

#[test]
fn a_hundred_thousand_levels_do_not_overflow_the_stack() {
    let xml = format!("<domain><devices>{}", "<a>".repeat(100_000));
    assert!(matches!(parse_disks(&xml), Err(DisksError::Xml(_))));
}

#[test]
fn an_endless_list_of_disks_is_cut() {
    let xml =
        format!("<domain><devices>{}</devices></domain>", "<disk><target dev='vda'/></disk>".repeat(MAX_DISKS + 1));
    assert_eq!(parse_disks(&xml).unwrap().len(), MAX_DISKS);
}
