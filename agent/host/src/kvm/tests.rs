//! On recorded trees, on this machine's device, and on nodes made for the purpose.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use proptest::prelude::*;
use rustix::fs::{FileType, Mode};

use rustix::io::Errno;

use super::*;

fn recorded() -> HostRoot {
    HostRoot::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/debian-12"))
}

/// A root with a `dev` of its own.
fn with_dev() -> (tempfile::TempDir, HostRoot) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("dev")).unwrap();
    let root = HostRoot::new(dir.path());
    (dir, root)
}

#[test]
fn recorded_built_in_modules_are_named_and_told_from_loaded_ones() {
    let modules = read_kvm_modules(&recorded()).unwrap();
    let want =
        ["kvm", "kvm_pvm"].map(|name| KvmModule { name: name.to_owned(), is_built_in: true, is_nested_enabled: None });
    assert_eq!(modules, want);
    assert!(is_kvm_registered(&recorded()).unwrap());
}

#[test]
fn a_loaded_module_shows_its_nested_parameter() {
    let dir = tempfile::tempdir().unwrap();
    let module = dir.path().join("sys/module/kvm_intel");
    std::fs::create_dir_all(module.join("parameters")).unwrap();
    std::fs::write(module.join("initstate"), "live\n").unwrap();
    for (text, want) in [("Y\n", Some(true)), ("0\n", Some(false)), ("maybe\n", None)] {
        std::fs::write(module.join("parameters/nested"), text).unwrap();
        let want = KvmModule { name: "kvm_intel".to_owned(), is_built_in: false, is_nested_enabled: want };
        assert_eq!(read_kvm_modules(&HostRoot::new(dir.path())).unwrap(), [want]);
    }
}

#[test]
fn recorded_processors_show_their_flags() {
    let cloud = read_cpu_virtualization(&recorded()).unwrap();
    assert_eq!(cloud, CpuVirtualization { has_vmx: false, has_svm: false, has_hypervisor: true });
    let metal = parse_cpu_flags("processor\t: 0\nflags\t\t: fpu vmx hypervisory\n").unwrap().unwrap();
    assert_eq!(metal, CpuVirtualization { has_vmx: true, has_svm: false, has_hypervisor: false });
    assert_eq!(parse_cpu_flags("processor\t: 0\nFeatures\t: fp asimd\n"), Ok(None), "not x86");
    assert!(parse_cpu_flags("").is_err());
}

#[test]
fn this_machines_device_is_asked_step_by_step() {
    let root = HostRoot::new("/");
    let Some(node) = read_kvm_node(&root).unwrap() else {
        assert_eq!(read_kvm_calls(&root).open, Err(OsError { errno: Errno::NOENT.raw_os_error() }));
        return;
    };
    assert!(matches!(node.kind, NodeKind::CharacterDevice(number) if number.major == 10), "{node:?}");
    let calls = read_kvm_calls(&root);
    match calls.open {
        Ok(()) => assert_eq!(calls.api_version, Some(Ok(12))),
        Err(_) => {
            assert_eq!((calls.api_version, calls.create_vm), (None, None), "what follows a failed step is not tried");
        }
    }
}

#[test]
fn a_node_of_another_driver_opens_and_refuses_the_call() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("left out without root: making device nodes");
        return;
    }
    let (dir, root) = with_dev();
    let null = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.path().join("dev/kvm"),
        FileType::CharacterDevice,
        Mode::from_raw_mode(0o600),
        null,
    )
    .unwrap();
    let node = read_kvm_node(&root).unwrap().unwrap();
    assert_eq!(node.kind, NodeKind::CharacterDevice(crate::mount::DeviceNumber { major: 1, minor: 3 }));
    let calls = read_kvm_calls(&root);
    assert_eq!(calls.open, Ok(()));
    assert_eq!(calls.api_version, Some(Err(OsError { errno: Errno::NOTTY.raw_os_error() })));
    assert_eq!(calls.create_vm, None);
}

#[test]
fn a_missing_node_is_none_and_a_plain_file_is_said_to_be_one() {
    let (dir, root) = with_dev();
    assert_eq!(read_kvm_node(&root).unwrap(), None);
    let path = dir.path().join("dev/kvm");
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    let node = read_kvm_node(&root).unwrap().unwrap();
    assert_eq!((node.kind, node.mode), (NodeKind::RegularFile, 0o640));
}

async fn next(watch: &mut KvmWatch) -> KvmChange {
    tokio::time::timeout(Duration::from_secs(5), watch.next()).await.expect("an event within 5 s").unwrap()
}

#[tokio::test]
async fn appearing_changing_and_vanishing_are_each_reported() {
    let (dir, root) = with_dev();
    let path = dir.path().join("dev/kvm");
    let mut watch = KvmWatch::open(&root).unwrap();
    std::fs::write(dir.path().join("dev/null"), "").unwrap();
    std::fs::write(&path, "").unwrap();
    assert_eq!(next(&mut watch).await, KvmChange::Appeared);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    assert_eq!(next(&mut watch).await, KvmChange::AttributesChanged);
    std::fs::remove_file(&path).unwrap();
    while next(&mut watch).await != KvmChange::Removed {}
    std::fs::write(&path, "").unwrap();
    while next(&mut watch).await != KvmChange::Appeared {}
}

#[tokio::test]
async fn a_node_whose_other_name_changed_is_reported() {
    let (dir, root) = with_dev();
    // As with a bind mount: the change is made under another directory.
    let elsewhere = dir.path().join("elsewhere");
    std::fs::write(&elsewhere, "").unwrap();
    std::fs::hard_link(&elsewhere, dir.path().join("dev/kvm")).unwrap();
    let mut watch = KvmWatch::open(&root).unwrap();
    std::fs::set_permissions(&elsewhere, std::fs::Permissions::from_mode(0o000)).unwrap();
    assert_eq!(next(&mut watch).await, KvmChange::AttributesChanged);
}

#[tokio::test]
async fn a_directory_that_goes_away_leaves_nothing_certain() {
    let (dir, root) = with_dev();
    let mut watch = KvmWatch::open(&root).unwrap();
    std::fs::remove_dir(dir.path().join("dev")).unwrap();
    assert_eq!(next(&mut watch).await, KvmChange::Unknown);
}

proptest! {
    #[test]
    fn no_text_makes_a_parser_panic(text in "\\PC{0,60}(processor|flags)?[ \t]*:?\\PC{0,60}") {
        let _ = parse_cpu_flags(&text);
        let _ = parse_misc_has_kvm(&text);
    }
}
