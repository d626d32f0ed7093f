//! Files of a real journald, whole, rotated and broken; positions.

use std::io::Read as _;
use std::path::Path;

use super::*;

/// A fixture, unpacked: journald's own file.
fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/journal").join(format!("{name}.journal.zst"));
    let packed = std::fs::read(path).unwrap();
    let mut bytes = Vec::new();
    ruzstd::decoding::StreamingDecoder::new(packed.as_slice()).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

fn units() -> Vec<String> {
    ["kubelet.service", "containerd.service"].map(str::to_owned).to_vec()
}

#[derive(Clone, Debug, PartialEq)]
struct Seen {
    name_idx: usize,
    is_about: bool,
    priority: Option<u8>,
    identifier: String,
    realtime_usec: i64,
    message: String,
}

impl From<&JournalEntry<'_>> for Seen {
    fn from(entry: &JournalEntry<'_>) -> Self {
        Self {
            name_idx: entry.name_idx,
            is_about: entry.is_about,
            priority: entry.priority,
            identifier: entry.identifier.unwrap_or_default().to_owned(),
            realtime_usec: entry.realtime_usec,
            message: String::from_utf8_lossy(entry.message).into_owned(),
        }
    }
}

fn read(bytes: &[u8]) -> (Vec<Seen>, JournalPoll) {
    let mut seen = Vec::new();
    let poll = parse_journal(bytes, &units(), |entry| seen.push(Seen::from(entry))).unwrap();
    (seen, poll)
}

/// What the two units of every fixture wrote.
#[track_caller]
fn check_units(seen: &[Seen]) {
    let of =
        |name_idx, is_about| seen.iter().filter(move |entry| (entry.name_idx, entry.is_about) == (name_idx, is_about));
    let errors: Vec<&Seen> = of(0, false).filter(|entry| entry.message.contains("Error syncing pod")).collect();
    assert_eq!((of(0, false).count(), of(1, false).count(), errors.len()), (9, 3, 3), "{seen:#?}");
    for error in errors {
        assert!(error.message.len() > 512, "long enough to be compressed");
        assert!(error.message.ends_with("xxxx") && error.message.starts_with("E1121 06:42:0"), "{}", error.message);
        assert_eq!((error.priority, error.identifier.as_str()), (Some(6), "say.sh"));
    }
    assert!(of(1, true).any(|entry| entry.message.starts_with("Started containerd.service")));
    assert!(of(1, true).all(|entry| entry.identifier == "systemd"));
    assert!(seen.is_sorted_by_key(|entry| entry.realtime_usec), "in the file's order");
    assert!(seen.iter().all(|entry| !entry.message.contains("noise")), "other units are passed over");
}

#[test]
fn compact_and_regular_files_packed_or_not_give_what_the_units_wrote() {
    for name in ["compact-zstd", "regular-plain", "rotated-active", "rotated-archived"] {
        let (seen, poll) = read(&fixture(name));
        check_units(&seen);
        assert_eq!((poll.n_entries, poll.n_unreadable, poll.n_malformed), (seen.len() as u64, 0, 0), "{name}");
    }
}

#[test]
fn messages_packed_as_older_systemds_do_are_counted() {
    let mut bytes = fixture("compact-zstd");
    let zstd_data: Vec<usize> = (0..bytes.len() - 16)
        .step_by(8)
        .filter(|at| bytes[*at] == 1 && bytes[at + 1] == 4 && bytes[at + 2..at + 8] == [0; 6])
        .collect();
    assert!(zstd_data.len() >= 3, "{zstd_data:?}");
    // The flag of LZ4 in place of zstd's: no journald at hand writes LZ4 any more.
    zstd_data.iter().for_each(|at| bytes[at + 1] = 2);
    let (seen, poll) = read(&bytes);
    assert!(poll.n_unreadable >= 3 && poll.n_malformed == 0, "{poll:?}");
    assert!(seen.iter().any(|entry| entry.message.contains("PLEG is not healthy")), "short ones are not packed");
}

#[test]
fn the_fuzzers_seed_is_a_journal() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/seeds/journal/smallest");
    let (seen, poll) = read(&std::fs::read(path).unwrap());
    assert_eq!((seen.len(), poll.n_malformed), (3, 0));
    assert_eq!((seen[2].message.as_str(), seen[2].priority, seen[2].realtime_usec), ("failed", Some(3), 1_002));
}

#[test]
fn what_is_no_journal_is_refused_and_a_newer_one_is_named() {
    let mut bytes = fixture("regular-plain");
    assert!(parse_journal(b"LPKSHHRH", &[], |_| ()).is_err());
    assert!(parse_journal(b"", &[], |_| ()).is_err());
    bytes[12] |= 64;
    let error = parse_journal(&bytes, &[], |_| ()).unwrap_err();
    assert!(error.to_string().contains("newer systemd"), "{error}");
}

/// Equal, without printing all of both where they are not.
#[track_caller]
fn check_same(got: &[Seen], want: &[Seen], what: &str) {
    let differs = got.iter().zip(want).position(|(got, want)| got != want);
    assert_eq!((got.len(), differs), (want.len(), None), "{what}");
}

/// A host root with journal files in it.
struct Host {
    folder: tempfile::TempDir,
}

const MACHINE: &str = "0123456789abcdef0123456789abcdef";

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("etc")).unwrap();
        std::fs::write(folder.path().join("etc/machine-id"), format!("{MACHINE}\n")).unwrap();
        Self { folder }
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.folder.path().join("run/log/journal").join(MACHINE);
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join(name), bytes).unwrap();
    }

    fn reader(&self, start: JournalStart) -> JournalReader {
        JournalReader::new(HostRoot::new(self.folder.path()), units(), start)
    }
}

fn poll(reader: &mut JournalReader, max_entries: usize) -> (Vec<Seen>, JournalPoll) {
    let mut seen = Vec::new();
    let poll = reader.poll(max_entries, |entry| seen.push(Seen::from(entry))).unwrap();
    (seen, poll)
}

#[test]
fn a_host_without_a_journal_is_not_found() {
    let error = Host::new().reader(JournalStart::Since(0)).poll(10, |_| ()).unwrap_err();
    assert!(error.is_not_found(), "{error}");
}

#[test]
fn a_broken_header_is_an_error_that_names_the_file() {
    let host = Host::new();
    host.put("system.journal", b"nothing of a journal");
    let error = host.reader(JournalStart::Since(0)).poll(10, |_| ()).unwrap_err();
    assert!(error.path().ends_with("system.journal"), "{error}");
}

#[test]
fn a_poll_is_bounded_and_the_next_one_goes_on() {
    let host = Host::new();
    host.put("system.journal", &fixture("compact-zstd"));
    let (all, _) = read(&fixture("compact-zstd"));
    let mut reader = host.reader(JournalStart::Since(0));
    let mut got = Vec::new();
    for _ in 0..all.len() {
        let (seen, result) = poll(&mut reader, 1);
        assert_eq!(seen.len(), 1);
        got.extend(seen);
        assert_eq!(result.is_drained, got.len() == all.len());
    }
    check_same(&got, &all, "in pieces");
    assert_eq!(poll(&mut reader, 100).0, [], "nothing new");
}

#[test]
fn a_reader_begins_where_another_ended_or_at_a_time() {
    let host = Host::new();
    host.put("system.journal", &fixture("regular-plain"));
    let (all, _) = read(&fixture("regular-plain"));
    for n_read in [0, 1, 5, all.len() - 1, all.len()] {
        let mut first = host.reader(JournalStart::Since(0));
        poll(&mut first, n_read);
        let start = first.position().map_or(JournalStart::Since(0), JournalStart::After);
        check_same(&poll(&mut host.reader(start), 100).0, &all[n_read..], &format!("after {n_read}"));
    }
    let from = all.partition_point(|entry| entry.realtime_usec < all[7].realtime_usec);
    assert!(from > 0);
    let mut since = host.reader(JournalStart::Since(all[from].realtime_usec));
    check_same(&poll(&mut since, 100).0, &all[from..], "since");
    let mut later = host.reader(JournalStart::Since(all[all.len() - 1].realtime_usec + 1));
    check_same(&poll(&mut later, 100).0, &[], "later");
}

#[test]
fn what_programs_write_is_found_by_their_identifier_in_whatever_unit() {
    let host = Host::new();
    host.put("system.journal", &fixture("compact-zstd"));
    let of = |identifiers: &[&str]| {
        let identifiers = identifiers.iter().map(|&name| name.to_owned()).collect();
        let root = HostRoot::new(host.folder.path());
        poll(&mut JournalReader::of_identifiers(root, identifiers, JournalStart::Since(0)), 1_000).0
    };
    let (systemd, said) = (of(&["systemd"]), of(&["say.sh"]));
    assert!(systemd.iter().any(|entry| entry.message.starts_with("Started containerd.service")), "{systemd:#?}");
    assert!(systemd.iter().all(|entry| entry.identifier == "systemd" && !entry.is_about));
    assert!(said.iter().any(|entry| entry.message.contains("Error syncing pod")), "{said:#?}");
    assert_eq!(of(&["say.sh", "systemd"]).len(), systemd.len() + said.len());
    check_same(&of(&["kubelet.service", "containerd.service"]), &[], "units are no identifiers");
}

#[test]
fn rotation_loses_nothing_and_gives_nothing_twice() {
    let (archived, active) = (fixture("rotated-archived"), fixture("rotated-active"));
    let (mut want, _) = read(&archived);
    want.extend(read(&active).0);
    let host = Host::new();
    // What is archived was the active file before.
    host.put("system.journal", &archived);
    let mut reader = host.reader(JournalStart::Since(0));
    let (mut got, _) = poll(&mut reader, 5);
    let folder = host.folder.path().join("run/log/journal").join(MACHINE);
    let old = folder.join("system@1fba20346d844ce9a349aa863de05061-0000000000000001-000660c9e77b4494.journal");
    std::fs::rename(folder.join("system.journal"), old).unwrap();
    host.put("system.journal", &active);
    got.extend(poll(&mut reader, 100).0);
    check_same(&got, &want, "over a rotation");
    assert_eq!(reader.files.len(), 1, "what is archived and read is let go of");
    // Whoever starts anew in the middle reads the rest of both.
    let mut first = host.reader(JournalStart::Since(0));
    poll(&mut first, 7);
    let mut second = host.reader(JournalStart::After(first.position().unwrap()));
    check_same(&poll(&mut second, 100).0, &want[7..], "by another");
}

#[test]
fn a_file_removed_before_it_was_read_is_counted() {
    let host = Host::new();
    host.put("system.journal", &fixture("rotated-archived"));
    let mut reader = host.reader(JournalStart::Since(0));
    poll(&mut reader, 3);
    host.put("system.journal", &fixture("rotated-active"));
    let (_, result) = poll(&mut reader, 100);
    assert_eq!((result.n_removed, result.is_drained), (1, true));
}

#[test]
fn truncated_files_keep_what_was_read_and_never_panic() {
    let bytes = fixture("compact-zstd");
    let (all, _) = read(&bytes);
    let n_used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    let mut most = 0;
    for n_bytes in (0..n_used).step_by(509) {
        let mut seen = Vec::new();
        if parse_journal(&bytes[..n_bytes], &units(), |entry| seen.push(Seen::from(entry))).is_ok() {
            assert!(seen.iter().all(|entry| all.contains(entry)), "nothing made up at {n_bytes}");
            most = most.max(seen.len());
        }
    }
    assert!(most > 5, "good rows are kept: {most}");
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(200))]

    #[test]
    fn no_change_of_bytes_makes_it_panic_or_loop(
        changes in proptest::collection::vec((0_usize..90_000, proptest::prelude::any::<u64>()), 1..40),
    ) {
        thread_local!(static BYTES: Vec<u8> = fixture("compact-zstd"));
        let mut bytes = BYTES.with(Clone::clone);
        for (at, value) in changes {
            let at = at / 8 * 8;
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        let mut n_seen = 0;
        let _ = parse_journal(&bytes, &units(), |_| n_seen += 1);
        assert!(n_seen < 100_000);
    }
}

#[test]
fn a_position_is_written_and_read() {
    let position = JournalPosition { boot_id: *b"0123456789abcdef", monotonic_usec: 7, realtime_usec: -3, seqnum: 9 };
    let text = position.to_string();
    assert_eq!(text, "30313233343536373839616263646566/7/-3/9");
    assert_eq!(parse_journal_position(&text), Some(position));
    for wrong in [
        "",
        "x/7/8/9",
        "+0313233343536373839616263646566/7/8/9",
        "30313233343536373839616263646566/7",
        "30313233343536373839616263646566/-7/8/9",
    ] {
        assert_eq!(parse_journal_position(wrong), None, "{wrong}");
    }
}
