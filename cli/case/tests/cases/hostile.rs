//! Input that is damaged or made to do harm: a clear message or a less sure verdict, never a crash.

use std::{fmt::Write as _, fs, path::Path};

use kulprit_case::{Case, CaseError, Options};

const MANIFEST: &str =
    "apiVersion: kulprit.io/v1\nkind: Case\nat: 2026-03-01T10:15:00Z\nsubject: {namespace: prod, name: db-0}\n";

fn mk_case(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, bytes) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    folder
}

fn open(folder: &Path) -> Result<Case, CaseError> {
    Case::open(folder, &Options::default(), &mut |_, _| {})
}

/// The case is read, one verdict comes out, and the problem is said.
#[track_caller]
fn check(file: &str, bytes: &[u8], problem: Option<&str>) {
    let folder = mk_case(&[("case.yaml", MANIFEST.as_bytes()), (file, bytes)]);
    let case = open(folder.path()).unwrap();
    assert_eq!(case.attributions().len(), 1, "a named subject always gets exactly one verdict");
    let problems: Vec<String> = case.problems.iter().map(ToString::to_string).collect();
    match problem {
        Some(want) => {
            assert!(problems.iter().any(|line| line.starts_with(file) && line.contains(want)), "{problems:?}");
        }
        None => assert!(problems.iter().all(|line| !line.starts_with(file)), "{problems:?}"),
    }
}

#[test]
fn an_empty_folder_is_said_to_be_empty() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(open(folder.path()), Err(CaseError::Empty { .. })));
}

#[test]
fn a_folder_without_a_manifest_says_what_to_write() {
    let folder = mk_case(&[("notes.txt", b"x"), ("logs/a.log", b"y")]);
    let error = open(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("no case.yaml") && error.contains("logs, notes.txt") && error.contains("kind: Case"),
        "{error}"
    );
}

#[test]
fn a_case_of_nothing_but_a_manifest_is_unexplained() {
    let folder = mk_case(&[("case.yaml", MANIFEST.as_bytes())]);
    let case = open(folder.path()).unwrap();
    let attributions = case.attributions();
    assert_eq!(attributions[0].causes[0].id, "Unexplained");
    assert!(!attributions[0].unknown.is_empty(), "what was not seen is said");
}

#[test]
fn truncated_and_broken_objects_are_named_with_their_line() {
    check("cluster/a.json", b"{\"kind\": \"Pod\",\n \"metadata\": {\"name\"", Some("not JSON"));
    check("cluster/a.yaml", b"kind: Pod\nmetadata: {name: [\n", Some("not YAML"));
    check("cluster/b.yaml", b"just a text\n", Some("holds no object"));
    check("cluster/c.yaml", b"", Some("empty"));
}

#[test]
fn one_broken_document_costs_only_itself() {
    let text = b"kind: VirtualMachineInstance\napiVersion: kubevirt.io/v1\nmetadata: {name: db-0, namespace: prod}\nstatus: {phase: Running}\n---\nbroken: [\n---\nkind: Node\napiVersion: v1\nmetadata: {name: n1}\n";
    let folder = mk_case(&[("case.yaml", MANIFEST.as_bytes()), ("cluster/a.yaml", text)]);
    let case = open(folder.path()).unwrap();
    assert!(case.snapshot.cluster_nodes.iter().any(|node| node.name == "n1"));
    assert!(case.snapshot.cluster_vms.iter().any(|vm| vm.life.phase.as_deref() == Some("Running")));
    assert!(!case.problems.is_empty());
}

#[test]
fn a_yaml_bomb_does_not_go_off() {
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for n in 1..30 {
        let _ = writeln!(bomb, "a{n}: &a{n} [*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p}]", p = n - 1);
    }
    check("cluster/bomb.yaml", bomb.as_bytes(), Some("not YAML"));
    let deep = "[".repeat(100_000);
    check("cluster/deep.yaml", deep.as_bytes(), Some(""));
    check("cluster/deep.json", deep.as_bytes(), Some("not JSON"));
}

#[test]
fn junk_in_logs_is_read_over() {
    let mut junk: Vec<u8> = (0..=255_u8).cycle().take(100_000).collect();
    junk.extend(b"\r\n[  12.5] EXT4-fs error (device sda): x\r\n");
    for file in [
        "nodes/n1/kmsg.log",
        "nodes/n1/journal/kubelet.log",
        "pods/prod_virt-launcher-db-0-x_compute.log",
        "nodes/n1/cmd/df.txt",
        "nodes/n1/ps.txt",
        "nodes/n1/virsh/prod_db-0.domstate",
        "nodes/n1/systemctl/kubelet.txt",
        "nodes/n1/root/proc/stat",
        "nodes/n1/root/proc/1/stat",
    ] {
        let folder = mk_case(&[("case.yaml", MANIFEST.as_bytes()), (file, &junk)]);
        assert_eq!(open(folder.path()).unwrap().attributions().len(), 1, "{file}");
    }
}

#[test]
fn a_line_of_a_megabyte_is_cut_and_what_follows_is_read() {
    let mut text = b"Feb 28 10:00:00 n1 kubelet[1]: ".to_vec();
    text.extend(vec![b'x'; 1 << 20]);
    text.extend(b"\nMar  1 10:14:00 n1 kernel: Out of memory: Killed process 4711 (qemu-kvm) total-vm:1kB, anon-rss:1kB, file-rss:0kB, shmem-rss:0kB, UID:107 pgtables:1kB oom_score_adj:0\n");
    let folder = mk_case(&[("case.yaml", MANIFEST.as_bytes()), ("nodes/n1/journal/kubelet.log", &text)]);
    let case = open(folder.path()).unwrap();
    let codes: Vec<_> = case.snapshot.nodes[0].occurrences.iter().map(|occurrence| occurrence.code.as_str()).collect();
    assert!(codes.contains(&"NodeOomKill"), "{codes:?}");
}

#[test]
fn a_link_out_of_the_case_is_not_followed() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    fs::write(secret.path(), "Out of memory: Killed process 1 (qemu-kvm)").unwrap();
    let folder = mk_case(&[("case.yaml", MANIFEST.as_bytes()), ("nodes/n1/ps.txt", b"")]);
    std::os::unix::fs::symlink(secret.path(), folder.path().join("nodes/n1/kmsg.log")).unwrap();
    std::os::unix::fs::symlink("/", folder.path().join("nodes/n1/root")).unwrap();
    let case = open(folder.path()).unwrap();
    assert!(case.problems.iter().any(|problem| problem.why.contains("symbolic links were not followed")));
    assert!(case.snapshot.nodes.iter().all(|node| node.occurrences.is_empty()));
}

#[test]
fn progress_is_told_within_one_log_and_ends_at_the_end() {
    let text = "Mar  1 09:00:00 n1 kubelet[7]: I0301 09:00:00.000000       7 x.go:1] fine\n".repeat(50_000);
    let folder = mk_case(&[("case.yaml", MANIFEST.as_bytes()), ("nodes/n1/journal/kubelet.log", text.as_bytes())]);
    let mut seen = Vec::new();
    Case::open(folder.path(), &Options::default(), &mut |read, all| seen.push((read, all))).unwrap();
    let all = text.len() as u64;
    assert!(seen.iter().all(|(read, of)| read <= of && *of == all), "{seen:?}");
    assert!(seen.is_sorted() && seen.iter().filter(|(read, _)| (1..all).contains(read)).count() >= 2, "{seen:?}");
    assert_eq!(seen.last(), Some(&(all, all)));
}

#[test]
fn clocks_far_apart_give_an_answer() {
    let log = "2031-01-01T00:00:00Z n1 kernel: EXT4-fs error (device sda): x\n1999-01-01T00:00:00Z n1 kernel: EXT4-fs error (device sda): x\n";
    let folder = mk_case(&[("case.yaml", MANIFEST.as_bytes()), ("nodes/n1/kmsg.log", log.as_bytes())]);
    assert_eq!(open(folder.path()).unwrap().attributions().len(), 1);
}

#[test]
fn two_vms_of_one_name_are_asked_back() {
    let objects = "kind: List\napiVersion: v1\nitems:\n- {kind: VirtualMachine, apiVersion: kubevirt.io/v1, metadata: {name: db-0, namespace: a}}\n- {kind: VirtualMachine, apiVersion: kubevirt.io/v1, metadata: {name: db-0, namespace: b}}\n";
    let manifest = MANIFEST.replace("namespace: prod, ", "");
    let folder = mk_case(&[("case.yaml", manifest.as_bytes()), ("cluster/a.yaml", objects.as_bytes())]);
    let error = open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("two VMs named `db-0`") && error.contains("NAMESPACE/db-0"), "{error}");
}

#[test]
fn a_damaged_file_of_a_captured_tree_is_named_from_the_cases_root() {
    check("nodes/n1/root/proc/meminfo", b"MemTotal: lots kB\nMemFree: 1 kB\n", Some(""));
    let folder = mk_case(&[
        ("sosreport-n1-2026-03-01-abc/sos_commands/kernel/dmesg", b"[    1.000000] x\n"),
        ("sosreport-n1-2026-03-01-abc/date", b"Sun Mar  1 10:15:00 UTC 2026\n"),
        ("sosreport-n1-2026-03-01-abc/proc/meminfo", b"MemTotal: lots kB\n"),
    ]);
    let case = open(folder.path()).unwrap();
    let problems: Vec<String> = case.problems.iter().map(ToString::to_string).collect();
    assert!(problems.iter().any(|line| line.starts_with("sosreport-n1-2026-03-01-abc/proc/meminfo")), "{problems:?}");
}

#[test]
fn hundreds_of_thousands_of_lines_of_trouble_stay_bounded() {
    let mut text = String::new();
    for n in 0..60_000 {
        let (minute, second) = (n / 60 % 60, n % 60);
        let _ = writeln!(
            text,
            "Mar  1 09:{minute:02}:{second:02} n1 kernel: I/O error, dev sd{n}, sector {n} op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2"
        );
        let _ = writeln!(
            text,
            "Mar  1 09:{minute:02}:{second:02} n1 kubelet[7]: W0301 09:{minute:02}:{second:02}.000000       7 x.go:1] db-0 is odd {n}"
        );
    }
    let folder = mk_case(&[("case.yaml", MANIFEST.as_bytes()), ("nodes/n1/journal/all.log", text.as_bytes())]);
    let case = open(folder.path()).unwrap();
    let n_occurrences: usize = case.snapshot.nodes.iter().map(|node| node.occurrences.len()).sum();
    assert!((1..=12_000).contains(&n_occurrences), "{n_occurrences}");
    let symptoms = case.symptoms();
    assert!((1..=20).contains(&case.mentions(&symptoms[0]).count()));
}
