//! On a QEMU recorded from KubeVirt, command lines written for the purpose, and files this process opens itself.

use std::os::fd::AsRawFd;

use proptest::prelude::*;

use super::*;
use crate::HostRoot;

fn args(line: &[&str]) -> CommandLine {
    let args: Vec<String> =
        std::iter::once("qemu-system-x86_64").chain(line.iter().copied()).map(str::to_owned).collect();
    parse_command_line(&args)
}

#[test]
fn a_recorded_qemu_of_kubevirt_is_found_with_its_disks() {
    let procfs = Procfs::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/kubevirt-1.8.4/proc"));
    let (qemus, errors) = procfs.qemus(&CgroupFilter::All).unwrap();
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(qemus.len(), 1, "the launcher's monitor is none");
    assert_eq!((qemus[0].id.pid, qemus[0].ppid, qemus[0].comm.as_str()), (3888, 3762, "qemu-kvm"));
    let line = qemus[0].command_line.as_ref().unwrap();
    assert_eq!(line.name.as_deref(), Some("prod_db-0"));
    assert_eq!(line.uuid.as_deref(), Some("91bddd55-69d4-4779-8fdc-d80c1d2627d7"));
    assert_eq!((line.incoming.as_deref(), line.is_started_paused), (None, true));
    assert_eq!(
        (line.machine.as_deref(), line.accelerators.as_slice()),
        (Some("pc-q35-10.0"), ["kvm".to_owned()].as_slice())
    );
    assert_eq!(line.memory_bytes, Some(128 << 20));
    assert_eq!(line.monitor, Some(Monitor::Inherited));
    let disk = |node: &str, path: &str, is_read_only| Disk {
        node_name: Some(node.to_owned()),
        driver: Some("file".to_owned()),
        path: Some(path.to_owned()),
        is_read_only,
        is_cache_direct: Some(true),
        is_flush_ignored: Some(false),
    };
    let want = [
        disk("libvirt-2-storage", "/var/run/kubevirt/container-disks/disk_0.img", Some(true)),
        disk("libvirt-1-storage", "/var/run/kubevirt-ephemeral-disks/disk-data/root/disk.qcow2", None),
    ];
    assert_eq!(line.disks, want);
}

#[test]
fn a_migration_target_is_told_by_where_its_state_comes_from() {
    assert_eq!(args(&["-incoming", "defer", "-S"]).incoming.as_deref(), Some("defer"));
    assert_eq!(args(&["-incoming"]), CommandLine::default(), "an option cut off is no option");
}

#[test]
fn doubled_commas_belong_to_the_name() {
    assert_eq!(args(&["-name", "guest=a,,b,debug-threads=on"]).name.as_deref(), Some("a,b"));
    assert_eq!(args(&["-name", "db,process=x"]).name.as_deref(), Some("db"));
    assert_eq!(args(&["-name", "debug-threads=on"]).name, None);
}

#[test]
fn accelerators_and_memory_come_in_several_notations() {
    let line = args(&["-machine", "pc,accel=kvm:tcg", "-m", "1024"]);
    assert_eq!(
        (line.machine.as_deref(), line.accelerators, line.memory_bytes),
        (Some("pc"), vec!["kvm".into(), "tcg".into()], Some(1 << 30))
    );
    let line = args(&[
        "--machine",
        "type=q35",
        "--accel",
        "tcg,thread=multi",
        "-m",
        "size=2G,slots=2,maxmem=4G",
        "-enable-kvm",
    ]);
    assert_eq!(
        (line.machine.as_deref(), line.accelerators, line.memory_bytes),
        (Some("q35"), vec!["tcg".into(), "kvm".into()], Some(2 << 30))
    );
    assert_eq!(args(&["-m", "99999999999999999999G"]).memory_bytes, None);
    assert_eq!(args(&["-m", "4Q"]).memory_bytes, None);
}

#[test]
fn a_monitor_is_a_path_or_handed_over() {
    let by_path = [
        "-chardev",
        "socket,id=charmonitor,path=/var/lib/libvirt/qemu/domain-1-db/monitor.sock,server=on,wait=off",
        "-mon",
        "chardev=charmonitor,id=monitor,mode=control",
    ];
    assert_eq!(
        args(&by_path).monitor,
        Some(Monitor::Path("/var/lib/libvirt/qemu/domain-1-db/monitor.sock".to_owned()))
    );
    assert_eq!(args(&["-qmp", "unix:/tmp/qmp,server=on"]).monitor, Some(Monitor::Path("/tmp/qmp".to_owned())));
    assert_eq!(args(&["-chardev", "socket,id=serial0,path=/x"]).monitor, None, "another socket is no monitor");
}

#[test]
fn drives_of_the_old_notation_are_disks_too() {
    let line = args(&[
        "-drive",
        "file=/srv/a,,b.img,format=raw,if=none,id=drive0,cache=none,readonly=on",
        "-cdrom",
        "/iso",
        "-drive",
        "if=floppy",
        "-drive",
        "file=nbd:10.0.0.1:10809,cache=unsafe",
    ]);
    let [disk, cdrom, nbd] = line.disks.as_slice() else { panic!("{:?}", line.disks) };
    assert_eq!((disk.path.as_deref(), disk.node_name.as_deref()), (Some("/srv/a,b.img"), Some("drive0")));
    assert_eq!((disk.is_read_only, disk.is_cache_direct, disk.is_flush_ignored), (Some(true), Some(true), Some(false)));
    assert_eq!((cdrom.path.as_deref(), cdrom.is_read_only), (Some("/iso"), None));
    assert_eq!((nbd.path.as_deref(), nbd.driver.as_deref(), nbd.is_flush_ignored), (None, Some("nbd"), Some(true)));
}

#[test]
fn nodes_within_nodes_and_servers_are_found() {
    let nested = r#"{"driver":"qcow2","node-name":"f","file":{"driver":"host_device","filename":"/dev/vg/db","cache":{"direct":true}},"backing":null}"#;
    let rbd = r#"{"driver":"rbd","pool":"p","image":"i","node-name":"libvirt-1-storage"}"#;
    let line = args(&[
        "-blockdev",
        nested,
        "-blockdev",
        rbd,
        "-blockdev",
        "driver=raw,node-name=r,file.driver=file,file.filename=/x",
        "-blockdev",
        "driver=qcow2,node-name=q,file=r",
        "-blockdev",
        "{broken",
    ]);
    let seen: Vec<_> = line.disks.iter().map(|disk| (disk.driver.as_deref().unwrap(), disk.path.as_deref())).collect();
    assert_eq!(seen, [("host_device", Some("/dev/vg/db")), ("rbd", None), ("file", Some("/x"))]);
    assert_eq!(line.disks[0].is_cache_direct, Some(true));
}

#[test]
fn names_of_qemu_are_told_from_its_neighbours() {
    for (name, want) in [
        ("qemu-system-x86", true),
        ("qemu-system-x86_64", true),
        ("qemu-kvm", true),
        ("kvm", true),
        ("qemu-img", false),
        ("kvm-nx-lpage-re", false),
        ("virtqemud", false),
        ("qemu-nbd", false),
    ] {
        assert_eq!(is_qemu_name(name), want, "{name}");
    }
}

#[test]
fn pidfiles_of_both_kinds_are_read_through_an_absolute_link() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("volumes/libvirt/qemu/run")).unwrap();
    std::fs::create_dir(dir.path().join("run")).unwrap();
    std::os::unix::fs::symlink("/volumes/libvirt", dir.path().join("run/libvirt")).unwrap();
    for (name, text) in
        [("web.pid", "41\n"), ("driver.pid", "7"), ("half.pid", ""), ("web.xml", "<x/>"), ("run/prod_db-0.pid", "77")]
    {
        std::fs::write(dir.path().join("volumes/libvirt/qemu").join(name), text).unwrap();
    }
    let (files, errors) = read_pidfiles(&HostRoot::new(dir.path())).unwrap();
    assert_eq!(
        files.iter().map(|file| (file.domain.as_str(), file.pid)).collect::<Vec<_>>(),
        [("web", 41), ("prod_db-0", 77)]
    );
    assert!(
        matches!(errors.as_slice(), [ReadError::Malformed { path, .. }] if path.ends_with("half.pid")),
        "{errors:?}"
    );
}

#[test]
fn a_host_without_libvirt_has_no_pidfiles() {
    let (files, errors) = read_pidfiles(&HostRoot::new(tempfile::tempdir().unwrap().path())).unwrap();
    assert!(files.is_empty() && errors.is_empty());
}

#[test]
fn open_files_show_their_file_system_and_whether_the_name_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.img");
    let kept = std::fs::File::create(&path).unwrap();
    let before = Procfs::default().open_files(std::process::id()).unwrap();
    let before = before.into_iter().find(|file| file.path == path).unwrap();
    let by_now = || Procfs::default().is_deleted_by_now(std::process::id(), &before);
    assert_eq!((before.is_deleted, by_now()), (false, Some(false)));
    let (_, null) = (std::fs::remove_file(&path).unwrap(), std::fs::File::open("/dev/null").unwrap());
    assert_eq!(by_now(), Some(true));
    let source = std::fs::File::open("/proc/self/stat").unwrap();
    let files = Procfs::default().open_files(std::process::id()).unwrap();
    let find = |fd: i32| files.iter().find(|file| file.fd == fd.cast_unsigned());
    let disk = find(kept.as_raw_fd()).unwrap();
    assert_eq!(
        (disk.path.as_path(), disk.is_deleted, disk.is_writable, disk.is_direct),
        (path.as_path(), true, Some(true), Some(false))
    );
    let device = std::os::unix::fs::MetadataExt::dev(&kept.metadata().unwrap());
    assert_eq!(disk.device, Some(crate::mount::DeviceNumber::from_raw(device)));
    assert_eq!(find(null.as_raw_fd()), None, "a character device is no disk");
    assert_eq!(find(source.as_raw_fd()).unwrap().is_writable, Some(false));
    let of_another = OpenFile { fd: null.as_raw_fd().cast_unsigned(), ..before.clone() };
    assert_eq!(Procfs::default().is_deleted_by_now(std::process::id(), &of_another), None);
}

proptest! {
    #[test]
    fn no_arguments_make_a_parser_panic(
        pairs in proptest::collection::vec(("-{1,2}(name|m|machine|accel|drive|blockdev|chardev|mon|qmp|cdrom|S|x)", "[a-z:{},=/\"é.0-9]{0,30}"), 0..6),
        text in "\\PC{0,60}",
    ) {
        let mut args: Vec<String> = vec![String::new()];
        args.extend(pairs.into_iter().flat_map(|(option, value)| [option, value]));
        let _ = parse_command_line(&args);
        let _ = parse_command_line(&["q".to_owned(), "-blockdev".to_owned(), text.clone()]);
        let _ = (parse_fdinfo(&text), parse_pid(&text));
    }

    #[test]
    fn nested_json_does_not_exhaust_the_stack(n_levels in 0_usize..400) {
        let text = format!("{}{{}}{}", "{\"file\":".repeat(n_levels), "}".repeat(n_levels));
        let _ = args(&["-blockdev", &text]);
    }
}
