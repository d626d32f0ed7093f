//! The log on real files: crashes, damage, limits; the thread around it.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    path::Path,
};

use kulprit_daemon::clock::ManualClock;
use kulprit_model::{Body, Domain, FindingCode, Moment, Occurrence, State, Status, Subject};

use super::{
    log::{Log, OpenedLog},
    *,
};

const BOOT: &str = "3a0ef6f9-32b5-4c1c-a2c2-9f3e0d0b7a11";
const SMALL: Limits = Limits { disk_bytes: 256 * 1024, memory_bytes: 256 * 1024 };

const fn at(sec: i64) -> Moment {
    Moment { wall_usec: 1_780_000_000_000_000 + sec * 1_000_000, boottime_usec: sec * 1_000_000 }
}

fn state(n: usize, status: Status) -> Body {
    Body::State(State {
        code: FindingCode::QemuThreadBlocked,
        subject: Subject::vm(format!("vm-{n}")),
        status,
        since: at(1),
        looked: at(2),
        unknown_because: None,
        attributes: kulprit_model::Attributes::new(),
        evidence: Vec::new(),
    })
}

fn happened(n: usize) -> Body {
    let subject = Subject::Process { pid: u32::try_from(n).unwrap(), start_ticks: 1 };
    Body::Occurrence(Occurrence {
        code: FindingCode::MemcgOomKill,
        subject,
        first: at(1),
        last: at(1),
        count: 1,
        attributes: kulprit_model::Attributes::new(),
        evidence: Vec::new(),
    })
}

fn batch(bodies: Vec<Body>) -> Batch {
    Batch { bodies, positions: Vec::new() }
}

fn open(dir: &Path, limits: Limits) -> OpenedLog {
    fs::create_dir_all(spool_dir(dir)).unwrap();
    Log::open(Some(dir), limits, BOOT, 1).unwrap()
}

fn write(log: &mut Log, bodies: Vec<Body>) -> Span {
    let span = log.append(batch(bodies), at(3));
    log.commit();
    span
}

type Pairs = Vec<(u64, u64)>;

/// Everything that a new reader gets: (epoch, seq) of records, and losses.
fn read_all(log: &mut Log) -> (Pairs, Pairs) {
    let (mut records, mut losses, mut cursor) = (Vec::new(), Vec::new(), Cursor::default());
    loop {
        let (items, next) = log.read(cursor);
        if items.is_empty() && next == cursor {
            return (records, losses);
        }
        cursor = next;
        for item in items {
            match item {
                Item::Record(record) => records.push((record.epoch, record.seq)),
                Item::Loss(loss) => {
                    assert!(records.is_empty(), "a loss stands before what follows it");
                    assert_eq!(loss.count, loss.last_seq - loss.first_seq + 1);
                    losses.push((loss.first_seq, loss.last_seq));
                }
            }
        }
    }
}

fn ack(epoch: u64, seq: u64) -> v1::Ack {
    v1::Ack { boot_id: BOOT.to_owned(), epoch, seq }
}

/// 600 records in some four segments.
fn write_600(log: &mut Log) {
    for n in 0..60 {
        write(log, (0..10).map(|m| happened((n + m) % 20)).collect());
    }
}

fn newest_segment(dir: &Path) -> PathBuf {
    let mut files: Vec<_> = fs::read_dir(spool_dir(dir)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.pop().unwrap()
}

#[test]
fn what_is_committed_is_there_after_a_restart_under_its_old_stamp() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path(), SMALL).log;
    assert_eq!(write(&mut log, vec![state(1, Status::Present), happened(1)]), Span { first_seq: 1, last_seq: 2 });
    let _never_committed = log.append(batch(vec![happened(2)]), at(3));
    drop(log);
    let mut again = open(dir.path(), SMALL).log;
    assert_eq!(again.epoch(), 2);
    write(&mut again, vec![happened(3)]);
    assert_eq!(read_all(&mut again).0, [(1, 1), (1, 2), (2, 1)]);
    assert_eq!(again.status().n_waiting, 3);
}

#[test]
fn what_is_acked_is_not_sent_again_and_its_files_go() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path(), SMALL).log;
    write_600(&mut log);
    let n_files = fs::read_dir(spool_dir(dir.path())).unwrap().count();
    assert!(n_files > 3, "{n_files}");
    log.ack(&ack(1, 450));
    assert!(fs::read_dir(spool_dir(dir.path())).unwrap().count() < n_files);
    assert_eq!(read_all(&mut log).0.first(), Some(&(1, 451)));
    log.ack(&ack(1, 9_999_999));
    assert_eq!(log.status().n_waiting, 0);
    log.ack(&ack(7, 1));
    log.close();
    let mut again = open(dir.path(), SMALL).log;
    assert_eq!(read_all(&mut again).0, []);
    assert_eq!(again.epoch(), 2, "the epoch grows even when nothing of the last one is left");
}

#[test]
fn a_torn_tail_is_cut_off_wherever_it_was_torn() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path(), SMALL).log;
    write(&mut log, vec![happened(1)]);
    let good = fs::metadata(newest_segment(dir.path())).unwrap().len();
    write(&mut log, vec![happened(2), happened(3)]);
    drop(log);
    let path = newest_segment(dir.path());
    let whole = fs::read(&path).unwrap();
    for len in good..whole.len() as u64 {
        let torn = tempfile::tempdir().unwrap();
        fs::create_dir_all(spool_dir(torn.path())).unwrap();
        let copy = spool_dir(torn.path()).join(path.file_name().unwrap());
        fs::write(&copy, &whole[..usize::try_from(len).unwrap()]).unwrap();
        // A crash may also leave the rest of the block as zeros.
        OpenOptions::new().write(true).open(&copy).unwrap().set_len(len + (len % 3) * 512).unwrap();
        let mut again = open(torn.path(), SMALL).log;
        assert_eq!(read_all(&mut again).0, [(1, 1)], "torn at {len} of {}", whole.len());
        write(&mut again, vec![happened(4)]);
        drop(again);
        assert_eq!(read_all(&mut open(torn.path(), SMALL).log).0, [(1, 1), (2, 1)]);
    }
}

#[test]
fn a_flipped_bit_costs_the_frame_and_what_follows_in_its_segment_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path(), SMALL).log;
    write_600(&mut log);
    drop(log);
    let mut files: Vec<_> = fs::read_dir(spool_dir(dir.path())).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut bytes = fs::read(&files[1]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&files[1], bytes).unwrap();
    let seqs: Vec<u64> = read_all(&mut open(dir.path(), SMALL).log).0.into_iter().map(|(_, seq)| seq).collect();
    assert!(seqs.len() > 400 && seqs.len() < 600, "{}", seqs.len());
    assert_eq!((seqs.first(), seqs.last()), (Some(&1), Some(&600)));
    assert!(seqs.is_sorted());
}

#[test]
fn a_full_spool_drops_the_oldest_and_says_exactly_what() {
    for is_on_disk in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let mut log =
            if is_on_disk { open(dir.path(), SMALL).log } else { Log::open(None, SMALL, BOOT, 1).unwrap().log };
        for n in 0..100 {
            write(&mut log, (0..50).map(|m| happened((n + m) % 50)).collect());
        }
        assert!(log.status().bytes <= SMALL.disk_bytes, "{:?}", log.status());
        let (records, losses) = read_all(&mut log);
        let first_kept = records[0].1;
        let lost: u64 = losses.iter().map(|(first, last)| last - first + 1).sum();
        assert_eq!(lost, first_kept - 1, "everything before the first kept record is said to be lost");
        assert_eq!((losses[0].0, losses.last().unwrap().1), (1, first_kept - 1));
        assert!(losses.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0), "no gap between the gaps: {losses:?}");
        assert_eq!(log.status().n_lost, lost);
        if is_on_disk {
            drop(log);
            let mut again = open(dir.path(), SMALL).log;
            assert_eq!(read_all(&mut again), (records, losses), "a restart forgets no loss");
            again.ack(&ack(1, 5_000));
            assert_eq!(read_all(&mut again), (vec![], vec![]), "told is told");
        }
    }
}

#[test]
fn the_newest_record_of_each_key_and_the_positions_outlive_all_acks() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path(), SMALL).log;
    let domain = |uid: &str| {
        Body::Domain(Domain {
            uid: uid.to_owned(),
            name: String::new(),
            state: 1,
            reason: 0,
            since: at(1),
            is_persistent: true,
        })
    };
    write(&mut log, vec![domain("vm-1"), domain("vm-2"), state(1, Status::Present), state(2, Status::Present)]);
    log.append(
        Batch { bodies: vec![happened(1)], positions: vec![("kernel-log".to_owned(), "b/7".to_owned())] },
        at(3),
    );
    log.commit();
    for n in 0..300 {
        write(&mut log, vec![state(1, if n % 2 == 0 { Status::Absent } else { Status::Present })]);
    }
    write(&mut log, vec![Body::SubjectGone { subject: Subject::vm("vm-2"), at: at(4) }]);
    log.ack(&ack(1, 306));
    log.close();
    let memory = open(dir.path(), SMALL).memory;
    assert_eq!(memory.positions, BTreeMap::from([("kernel-log".to_owned(), "b/7".to_owned())]));
    let mut bodies: Vec<_> = memory.records.into_iter().map(|record| record.body).collect();
    bodies.sort_by_key(|body| std::mem::discriminant(body) != std::mem::discriminant(&happened(1)));
    assert_eq!(bodies, [happened(1), state(1, Status::Present), domain("vm-1")]);
}

#[test]
fn a_foreign_file_is_named_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(spool_dir(dir.path())).unwrap();
    fs::write(spool_dir(dir.path()).join("0000000000000001.seg"), "SQLite format 3").unwrap();
    fs::write(spool_dir(dir.path()).join("README"), "not ours and not in the way").unwrap();
    let error = Spool::open(Some(dir.path()), SMALL, BOOT, &Clock::kernel()).unwrap_err();
    let line = kulprit_daemon::exit::ExitReason::of(&error);
    assert_eq!(line.code, 2);
    assert!(
        line.line.contains("0000000000000001.seg` is not a spool segment") && line.line.contains("--state-dir"),
        "{}",
        line.line
    );
}

#[test]
fn garbage_in_the_start_counter_is_said_and_the_epoch_still_grows() {
    let dir = tempfile::tempdir().unwrap();
    let epoch = |text: Option<&str>| {
        if let Some(text) = text {
            fs::write(dir.path().join("epoch"), text).unwrap();
        }
        let clock = ManualClock::new(at(0));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let opened = Spool::open(Some(dir.path()), SMALL, BOOT, &clock.clock()).unwrap();
        runtime.block_on(opened.spool.close());
        (opened.epoch, opened.notes)
    };
    assert_eq!(epoch(None), (1, vec![]));
    let (garbage, notes) = epoch(Some("\0\u{1}x"));
    assert_eq!(garbage, 1_780_000_000);
    assert!(notes[0].contains("was damaged"), "{notes:?}");
    assert!(epoch(None).0 > garbage);
}

#[test]
fn a_folder_in_use_is_told_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let _first = Spool::open(Some(dir.path()), SMALL, BOOT, &Clock::kernel()).unwrap();
    let error = Spool::open(Some(dir.path()), SMALL, BOOT, &Clock::kernel()).unwrap_err();
    assert!(error.to_string().contains("in use by another agent"), "{error}");
}

#[tokio::test]
async fn without_a_folder_everything_works_from_memory_and_says_so() {
    let clock = ManualClock::new(at(0));
    let opened = Spool::open(Some(Path::new("/proc/nothing/here")), SMALL, BOOT, &clock.clock()).unwrap();
    assert_eq!(opened.epoch, 1_780_000_000);
    assert!(opened.notes[0].contains("`/proc/nothing/here` cannot be written"), "{:?}", opened.notes);
    let span = opened.spool.append(batch(vec![happened(1)])).await.unwrap().committed().await.unwrap();
    assert_eq!(span, Span { first_seq: 1, last_seq: 1 });
    let (items, _) = opened.spool.read(Cursor::default()).await.unwrap();
    assert_eq!(items.len(), 1);
    assert!(!opened.spool.status().borrow().is_durable);
    opened.spool.close().await;
    assert!(opened.spool.append(batch(vec![happened(1)])).await.is_err());
}

#[tokio::test]
async fn a_reader_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(Some(dir.path()), Limits::default(), BOOT, &Clock::kernel()).unwrap().spool;
    let mut cursor = Cursor::default();
    for n in 1..=20 {
        spool.append(batch(vec![happened(n)])).await.unwrap().committed().await.unwrap();
        let (items, next) = spool.read(cursor).await.unwrap();
        cursor = next;
        assert!(matches!(&items[..], [Item::Record(record)] if record.seq == n as u64), "{items:?}");
    }
    assert_eq!(spool.status().borrow().n_waiting, 20);
}

#[tokio::test]
async fn where_the_log_ends_moves_with_what_is_committed_and_not_with_acks() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Spool::open(Some(dir.path()), SMALL, BOOT, &Clock::kernel()).unwrap();
    let mut status = opened.spool.status();
    let mut cursor = Cursor::default();
    // Over the ends of segments.
    for n in 0..60 {
        let span =
            opened.spool.append(batch((0..10).map(happened).collect())).await.unwrap().committed().await.unwrap();
        assert_ne!(status.borrow().end, cursor, "who is told of a commit finds it there");
        while status.borrow().end != cursor {
            cursor = opened.spool.read(cursor).await.unwrap().1;
        }
        if n % 2 == 0 {
            opened.spool.ack(ack(opened.epoch, span.last_seq)).await.unwrap();
            status.wait_for(|status| status.acked_seq == span.last_seq).await.unwrap();
            assert_eq!(status.borrow().end, cursor);
        }
        assert_eq!(opened.spool.read(cursor).await.unwrap(), (Vec::new(), cursor));
    }
}

#[test]
fn a_disk_that_fails_in_between_loses_nothing_of_this_run() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path(), SMALL).log;
    write(&mut log, vec![happened(1)]);
    // Any next segment fails: its name is taken by a folder.
    for id in 2..40_u64 {
        fs::create_dir(spool_dir(dir.path()).join(format!("{id:016x}.seg"))).unwrap();
    }
    for n in 2..200 {
        write(&mut log, vec![happened(n)]);
    }
    assert!(!log.status().is_durable);
    let seqs: Vec<u64> = read_all(&mut log).0.into_iter().map(|(_, seq)| seq).collect();
    assert_eq!(seqs, (1..200).collect::<Vec<_>>());
}
