//! libvirt's files as recorded, and the forms they may take.

use proptest::prelude::*;

use super::*;

fn recorded(name: &str) -> DomainStatus {
    let path = format!("{}/fixtures/libvirt-status/{name}.xml", env!("CARGO_MANIFEST_DIR"));
    parse_domain_status(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_domain_without_a_job_has_none() {
    for name in ["running", "after-a-cancelled-migration"] {
        let status = recorded(name);
        assert_eq!((status.state.as_str(), status.job), ("running", None), "{name}");
        assert!(status.pid.is_some() && status.uuid.len() == 36, "{name}");
    }
    assert_eq!(recorded("running").name, "dirty");
}

#[test]
fn both_ends_of_a_migration_tell_their_phase_and_begin() {
    let job = recorded("migration-out").job.unwrap();
    assert_eq!((job.kind.as_str(), job.phase.as_str()), ("migration out", "perform3"));
    assert_eq!(job.max_bandwidth_bytes, Some(40 << 20));
    let began = job.began_ms.unwrap();
    let target = recorded("migration-in");
    assert_eq!((target.state.as_str(), target.reason.as_str()), ("paused", "migration"));
    let job = target.job.unwrap();
    assert_eq!((job.kind.as_str(), job.phase.as_str()), ("migration in", "prepare"));
    assert!(job.began_ms.unwrap().abs_diff(began) < 1_000);
}

#[track_caller]
fn check(job: &str, description: &str, want: Option<(&str, Option<u64>)>) {
    let text = format!(
        "<domstatus state='running' reason='booted' pid='7'>\n  {job}\n  <domain type='kvm'>\n    <name>a&amp;b</name>\n    \
         {description}\n    <uuid>ABCD</uuid>\n  </domain>\n</domstatus>\n"
    );
    let status = parse_domain_status(&text).unwrap();
    assert_eq!((status.name.as_str(), status.uuid.as_str()), ("a&b", "abcd"));
    let job = status.job.as_ref().map(|job| (job.kind.as_str(), job.began_ms));
    assert_eq!(job, want);
}

#[test]
fn a_job_that_is_none_or_of_an_older_libvirt_is_read_as_it_is() {
    check("<job type='modify' async='none'/>", "", None);
    check(
        "<job type='none' async='migration out' phase='perform3' flags='0x0'>\n</job>",
        "",
        Some(("migration out", None)),
    );
    check("<job type='none' async='migration in' phase='prepare' asyncStarted='x'/>", "", Some(("migration in", None)));
    check("<job type='none' async='save' asyncStarted='5'/>", "", Some(("save", Some(5))));
}

#[test]
fn what_the_owner_of_a_domain_writes_is_not_libvirts_word() {
    check("", "<description>\n<job type='none' async='migration out' phase='perform3'>\n</description>", None);
}

#[test]
fn only_files_that_were_written_anew_are_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let root = HostRoot::new(dir.path());
    let folder = dir.path().join("run/libvirt/qemu");
    let mut statuses = DomainStatuses::default();
    assert_eq!(statuses.read(&root).unwrap().0, [], "no libvirt");
    std::fs::create_dir_all(folder.join("run")).unwrap();
    let write = |name: &str, uuid: &str| {
        let text = format!(
            "<domstatus state='running' pid='7'>\n<domain type='kvm'>\n<name>{name}</name>\n<uuid>{uuid}</uuid>\n"
        );
        std::fs::write(folder.join(format!("{name}.xml.new")), text).unwrap();
        std::fs::rename(folder.join(format!("{name}.xml.new")), folder.join(format!("{name}.xml"))).unwrap();
    };
    write("a", "1");
    write("b", "2");
    std::fs::write(folder.join("c.xml"), "").unwrap();
    std::fs::write(folder.join("run/d.xml"), "<domstatus>\n").unwrap();
    std::fs::write(folder.join("a.pid"), "7").unwrap();
    let uuids = |statuses: &mut DomainStatuses| {
        let (read, errors) = statuses.read(&root).unwrap();
        (read.into_iter().map(|status| status.uuid).collect::<Vec<_>>(), errors.len())
    };
    assert_eq!(uuids(&mut statuses), (vec!["1".to_owned(), "2".to_owned()], 2));
    let kept = statuses.read.clone();
    write("a", "3");
    std::fs::remove_file(folder.join("b.xml")).unwrap();
    assert_eq!(uuids(&mut statuses), (vec!["3".to_owned()], 2));
    assert_ne!(kept, statuses.read);
}

#[test]
fn the_names_of_copying_threads_are_known_from_all_versions_of_qemu() {
    for name in ["migration", "live_migration", "mig/src/main", "mig/src/send_0", "multifdsend_1"] {
        assert!(is_copy_thread(name), "{name}");
    }
    for name in ["mig/dst/main", "CPU 0/KVM", "multifdrecv_0", "qemu-system-x86", "mig/src", ""] {
        assert!(!is_copy_thread(name), "{name}");
    }
}

#[test]
fn our_own_process_shows_its_sockets_and_times() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let own = std::process::id();
    let sockets = Procfs::default().tcp_of(own).unwrap();
    let port = listener.local_addr().unwrap().port();
    assert!(sockets.iter().any(|socket| socket.local.port() == port && socket.state == 10), "{sockets:?}");
    assert_eq!(Procfs::default().copy_threads(own).unwrap(), []);
    let arrival = Procfs::default().arrival_threads(own).unwrap();
    assert_eq!(arrival.iter().map(|thread| thread.tid).collect::<Vec<_>>(), [own], "the main thread, of any process");
    assert!(["mig/dst/recv_0", "multifdrecv_3"].into_iter().all(is_arrival_thread));
    assert!(!["mig/src/send_0", "multifdsend_0", "CPU 0/KVM"].into_iter().any(is_arrival_thread));
    assert_eq!(parse_schedstat("8211 17 3\n"), Some((8211, 17)));
    assert_eq!(parse_schedstat("x"), None);
    assert!(Procfs::default().tcp_of(u32::MAX).unwrap_err().is_not_found());
}

proptest! {
    #[test]
    fn no_text_makes_the_parsers_panic(text in "(<(domstatus|job|domain|param|name|uuid)[ >]?( (async|phase|name|value|state|x)='\\PC{0,4}'?){0,3}>?\\PC{0,6}\n){0,6}") {
        let _ = parse_domain_status(&text);
        let _ = parse_schedstat(&text);
    }
}
