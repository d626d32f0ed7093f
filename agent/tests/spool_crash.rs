//! `kill -9` in the middle of writing, 200 times: what was said to be durable is there, once, in order.
//!
//! This program is its own victim: with `KULPRIT_CRASH_DIR` set it writes to the spool there for as long as it lives, each
//! batch with the position that covers it, and prints what is committed. The parent kills it at a random moment and looks.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use kulprit_agent::{
    spool::{Cursor, Item, Limits, Spool},
    tracker::Batch,
};
use kulprit_daemon::{Clock, backoff::stable_seed};
use kulprit_model::{Attributes, Body, FindingCode, Moment, Occurrence, Subject};
use kulprit_proto::v1::{self, record};

const VICTIM: &str = "KULPRIT_CRASH_DIR";
const BOOT: &str = "3a0ef6f9-32b5-4c1c-a2c2-9f3e0d0b7a11";
const N_CRASHES: u64 = 200;

fn main() {
    match std::env::var_os(VICTIM) {
        Some(dir) => runtime().block_on(write_for_ever(Path::new(&dir))),
        None => crash_again_and_again(),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Small enough that segments come and go within one life, and more than the fastest disk takes between two lives with a central.
fn limits() -> Limits {
    Limits { disk_bytes: 4 << 20, memory_bytes: 4 << 20 }
}

/// Line `n` of a source of which each line happens once: what the kernel log is to the agent.
fn line(n: u64) -> Body {
    Body::Occurrence(Occurrence {
        code: FindingCode::MemcgOomKill,
        subject: Subject::Process { pid: u32::try_from(n % 7).expect("below 7"), start_ticks: 1 },
        first: Moment { wall_usec: i64::try_from(n).expect("small"), boottime_usec: 0 },
        last: Moment::default(),
        count: 1,
        attributes: Attributes::new(),
        evidence: Vec::new(),
    })
}

async fn write_for_ever(dir: &Path) {
    let opened = Spool::open(Some(dir), limits(), BOOT, &Clock::kernel()).expect("the spool opens after any crash");
    let start_at = opened.memory.positions.get("kernel-log").map_or(0, |text| text.parse().expect("our own number"));
    let mut next: u64 = start_at;
    // Every third victim has a central: it acks in order, so that segments come and go.
    let has_central = opened.epoch.is_multiple_of(3);
    if has_central {
        ack_backlog(&opened.spool).await;
    }
    let mut n_batches = 0_u64;
    loop {
        let n_lines = next % 4 + 1;
        let bodies = (next..next + n_lines).map(line).collect();
        next += n_lines;
        let batch = Batch { bodies, positions: vec![("kernel-log".to_owned(), next.to_string())] };
        let span = opened.spool.append(batch).await.expect("open").committed().await.expect("open");
        let mut out = std::io::stdout().lock();
        writeln!(out, "committed {} {} {next}", opened.epoch, span.last_seq).expect("the parent listens");
        out.flush().expect("the parent listens");
        drop(out);
        n_batches += 1;
        if has_central && n_batches.is_multiple_of(3) {
            ack(&opened.spool, opened.epoch, span.last_seq - 1).await;
        }
    }
}

async fn ack_backlog(spool: &Spool) {
    let mut last = BTreeMap::new();
    for record in read_all(spool).await {
        last.insert(record.epoch, record.seq);
    }
    for (epoch, seq) in last {
        ack(spool, epoch, seq).await;
    }
}

/// Told before it is done: the parent may then find more than it must, never less.
#[expect(clippy::print_stdout, reason = "how the victim tells its parent")]
async fn ack(spool: &Spool, epoch: u64, seq: u64) {
    println!("acking {epoch} {seq}");
    spool.ack(v1::Ack { boot_id: BOOT.to_owned(), epoch, seq }).await.expect("open");
}

async fn read_all(spool: &Spool) -> Vec<v1::Record> {
    let (mut records, mut cursor) = (Vec::new(), Cursor::default());
    loop {
        let (items, next) = spool.read(cursor).await.expect("open");
        if items.is_empty() && next == cursor {
            return records;
        }
        cursor = next;
        for item in items {
            match item {
                Item::Record(record) => records.push(*record),
                Item::Loss(loss) => panic!("the limit is more than was written: {loss:?}"),
            }
        }
    }
}

#[derive(Default)]
struct Told {
    /// Lines are durable below this.
    position: u64,
    /// (epoch, seq) that is acked, of the newest epoch that acked anything.
    acked: (u64, u64),
    committed: (u64, u64),
}

#[expect(clippy::print_stdout, reason = "a test without the harness says what it did")]
fn crash_again_and_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut told = Told::default();
    let mut n_records = 0;
    for crash in 0..N_CRASHES {
        let_live_and_kill(dir.path(), crash, &mut told);
        n_records = runtime().block_on(look(dir.path(), &told));
    }
    println!("{N_CRASHES} crashes, {} lines durable, {n_records} records waiting", told.position);
    assert!(told.position > N_CRASHES, "the victim did get to write: {}", told.position);
    assert!(told.acked.1 > 0 && (n_records as u64) < told.position, "and its central to ack: {n_records} wait");
}

fn let_live_and_kill(dir: &Path, crash: u64, told: &mut Told) {
    let program = std::env::current_exe().expect("a path");
    let mut victim = Command::new(program).env(VICTIM, dir).stdout(Stdio::piped()).spawn().expect("it starts");
    let out = BufReader::new(victim.stdout.take().expect("piped"));
    // From before its first write to some 40 ms into it. Each look takes an epoch too, so that this is the victim whose epoch is a
    // multiple of 5, the one with a central: it lives long enough to read what waits and to have it acked.
    let longest_usec = if crash % 5 == 2 { 200_000 } else { 40_000 };
    let live = Duration::from_micros(stable_seed(&[&crash.to_string()]) % longest_usec);
    let killer = std::thread::spawn(move || {
        let (_keep, never) = std::sync::mpsc::channel::<()>();
        let _ = never.recv_timeout(live);
        victim.kill().expect("it runs");
        victim.wait().expect("it ran");
    });
    for line in out.lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |index: usize| words.get(index).and_then(|word: &&str| word.parse::<u64>().ok());
        match (words[0], number(1), number(2), number(3)) {
            ("committed", Some(epoch), Some(seq), Some(position)) => {
                told.committed = (epoch, seq);
                told.position = position;
            }
            ("acking", Some(epoch), Some(seq), _) => told.acked = (epoch, seq),
            _ => {} // Cut in the middle of a line by the kill.
        }
    }
    killer.join().expect("it killed");
}

/// Opens what the victim left and checks it against what it told.
async fn look(dir: &Path, told: &Told) -> usize {
    let opened = Spool::open(Some(dir), limits(), BOOT, &Clock::kernel()).expect("the spool opens after any crash");
    assert!(opened.epoch > told.committed.0, "the epoch grows with each start");
    let position: u64 =
        opened.memory.positions.get("kernel-log").map_or(0, |text| text.parse().expect("our own number"));
    assert!(position >= told.position, "a durable position went back: {position} < {}", told.position);
    let records = read_all(&opened.spool).await;
    opened.spool.close().await;
    check_order(&records, told);
    check_lines(&records, position);
    records.len()
}

/// No gap within an epoch; nothing that was committed and not acked is missing.
fn check_order(records: &[v1::Record], told: &Told) {
    for pair in records.windows(2) {
        let (one, two) = (&pair[0], &pair[1]);
        if one.epoch == two.epoch {
            assert_eq!(one.seq + 1, two.seq, "epoch {}", one.epoch);
        } else {
            assert!(one.epoch < two.epoch && two.seq == 1, "{}/{} then {}/{}", one.epoch, one.seq, two.epoch, two.seq);
        }
    }
    let is_missing =
        told.committed > told.acked && !records.iter().any(|record| (record.epoch, record.seq) == told.committed);
    assert!(!is_missing, "{:?} was committed and is not there", told.committed);
}

/// Each line once, up to exactly the position: a crash between a record and its position neither loses nor repeats.
fn check_lines(records: &[v1::Record], position: u64) {
    let numbers = records.iter().filter_map(|record| match &record.body {
        Some(record::Body::Occurrence(occurrence)) => occurrence.first.map(|first| first.wall_usec.unsigned_abs()),
        _ => None,
    });
    let numbers: Vec<u64> = numbers.collect();
    for pair in numbers.windows(2) {
        assert_eq!(pair[0] + 1, pair[1], "lines are there once and in order");
    }
    if let Some(last) = numbers.last() {
        assert_eq!(last + 1, position, "records and their position are one");
    }
}
