//! On recorded records, on this machine's own log where it may be read and written, and on bytes that are no records.

use std::borrow::Cow;
use std::io::Write;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::HostRoot;

/// Splits a recording into the records that `read` would give: continuation lines begin with a space.
fn recorded() -> Vec<Vec<u8>> {
    let mut records: Vec<Vec<u8>> = Vec::new();
    for line in include_bytes!("../../fixtures/debian-12/kmsg").split_inclusive(|byte| *byte == b'\n') {
        match records.last_mut().filter(|_| line.starts_with(b" ")) {
            Some(record) => record.extend_from_slice(line),
            None => records.push(line.to_vec()),
        }
    }
    records
}

#[test]
fn every_recorded_record_parses_in_order() {
    let records = recorded();
    let seqs: Vec<u64> = records.iter().map(|bytes| parse_kmsg_record(bytes).unwrap().seq).collect();
    assert!(seqs.len() > 30 && seqs.is_sorted(), "{seqs:?}");
    for bytes in &records {
        let record = parse_kmsg_record(bytes).unwrap();
        assert!(record.is_from_kernel() && !record.is_continuation);
        let is_escaped = bytes.split(|byte| *byte == b'\n').next().unwrap().contains(&b'\\');
        assert_eq!(matches!(record.text, Cow::Owned(_)), is_escaped, "copied only when escaped: {record:?}");
    }
}

#[test]
fn a_record_gives_its_header_text_and_fields() {
    let bytes =
        b"3,5400,123456789,-,caller=T42;I/O error, dev sda; sector 7\n SUBSYSTEM=block\n DEVICE=b8:0\n nonsense\n";
    let record = parse_kmsg_record(bytes).unwrap();
    assert_eq!((record.level, record.facility, record.seq, record.usec), (3, 0, 5400, 123_456_789));
    assert_eq!(record.text, "I/O error, dev sda; sector 7");
    assert_eq!(
        record.fields().collect::<Vec<_>>(),
        [("SUBSYSTEM".into(), "block".into()), ("DEVICE".into(), "b8:0".into())]
    );
}

#[test]
fn a_message_of_user_space_is_told_from_the_kernels() {
    let record = parse_kmsg_record(b"12,1,2,c;hello\n").unwrap();
    assert_eq!((record.level, record.facility, record.is_from_kernel()), (4, 1, false));
    assert!(record.is_continuation);
}

#[test]
fn escapes_are_decoded_and_bad_ones_left_as_they_are() {
    let record = parse_kmsg_record(b"6,1,2,-;a\\x09b\\x5cc \\xc3\\xa9 \\xff \\xzz \\x1").unwrap();
    assert_eq!(record.text, "a\tb\\c \u{e9} \u{fffd} \\xzz \\x1");
}

#[test]
fn what_has_no_header_is_malformed() {
    for bytes in [
        &b""[..],
        b"\n",
        b"6,1,2,-",
        b"6,1,;x",
        b"6,1,2;x",
        b",1,2,-;x",
        b"-6,1,2,-;x",
        b"6,99999999999999999999,2,-;x",
        b"6,1,2,-\n;x",
    ] {
        assert_eq!(parse_kmsg_record(bytes).unwrap_err().line, 1, "{}", String::from_utf8_lossy(bytes));
    }
}

/// This machine's log with a line of our own at its end, or `None` where we may not.
fn own_log(marker: &str) -> Option<HostRoot> {
    // With its line's end: a record without one stays open for more, and is not given to readers yet.
    let line = format!("{marker}\n");
    let written =
        std::fs::OpenOptions::new().write(true).open("/dev/kmsg").and_then(|mut log| log.write_all(line.as_bytes()));
    match written {
        Ok(()) => Some(HostRoot::new("/")),
        Err(error) => {
            eprintln!("left out without the right to write the kernel's log: {error}");
            None
        }
    }
}

fn drain(reader: &mut KmsgReader) -> Vec<String> {
    let mut texts = Vec::new();
    while let Some(item) = reader.try_next().unwrap() {
        match item {
            KmsgItem::Record(record) => texts.push(record.text.into_owned()),
            KmsgItem::Lost { .. } => {}
            KmsgItem::Malformed(malformed) => panic!("{malformed}"),
        }
    }
    texts
}

#[tokio::test]
async fn reading_goes_on_after_a_kept_position_and_reads_nothing_twice() {
    let marker = format!("kulprit-host test {}", std::process::id());
    let Some(root) = own_log(&marker) else { return };
    let mut first = KmsgReader::open(&root, &KmsgStart::Oldest).unwrap();
    assert_eq!(first.position(), None);
    let texts = drain(&mut first);
    assert_eq!(texts.iter().filter(|text| text.contains(&marker)).count(), 1);
    let position = first.position().unwrap();

    let again = format!("{marker} again");
    own_log(&again).unwrap();
    let mut second = KmsgReader::open(&root, &KmsgStart::After(position.clone())).unwrap();
    let item = tokio::time::timeout(Duration::from_secs(5), second.next()).await.unwrap().unwrap();
    assert!(matches!(&item, KmsgItem::Record(record) if record.seq == position.seq + 1 ), "{item:?}");
    let mut newest = KmsgReader::open(&root, &KmsgStart::New).unwrap();
    assert!(!drain(&mut newest).contains(&again), "what was there before is not new");
}

#[tokio::test]
async fn a_position_of_another_boot_begins_with_the_oldest() {
    let marker = format!("kulprit-host boot test {}", std::process::id());
    let Some(root) = own_log(&marker) else { return };
    let other = KmsgPosition { boot_id: "00000000-0000-0000-0000-000000000000".to_owned(), seq: u64::MAX };
    let mut reader = KmsgReader::open(&root, &KmsgStart::After(other)).unwrap();
    assert!(drain(&mut reader).contains(&marker));
}

#[tokio::test]
async fn records_overwritten_before_they_were_read_are_counted() {
    let marker = format!("kulprit-host gap test {}", std::process::id());
    let Some(root) = own_log(&marker) else { return };
    // A reader whose position lies before what the kernel has kept looks like one that was overtaken.
    let mut reader = KmsgReader::open(&root, &KmsgStart::Oldest).unwrap();
    drain(&mut reader);
    let last = reader.position().unwrap();
    reader.expect_from(last.seq - 1);
    own_log(&marker).unwrap();
    reader.expect_from(last.seq - 1);
    let item = tokio::time::timeout(Duration::from_secs(5), reader.next()).await.unwrap().unwrap();
    let KmsgItem::Lost { n_records } = item else { panic!("{item:?}") };
    assert!(n_records >= 2, "{n_records}");
    let item = reader.try_next().unwrap().unwrap();
    assert!(
        matches!(&item, KmsgItem::Record(record) if record.seq > last.seq),
        "the record behind the gap is kept: {item:?}"
    );
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_kmsg_record(&bytes).map(|record| record.fields().count());
    }

    #[test]
    fn no_near_miss_makes_the_parser_panic(line in "[0-9]{0,21},[0-9]{0,21},[0-9]{0,21},?[-c,a-z]{0,3};?(\\\\x?[0-9a-fA-F]{0,2}|[ =é\n]|SUBSYSTEM){0,12}") {
        let _ = parse_kmsg_record(line.as_bytes()).map(|record| record.fields().count());
    }

    #[test]
    fn what_the_kernel_escapes_comes_back(text in "\\PC{0,60}") {
        // As `printk` does: everything outside printable ASCII, and the backslash itself.
        let escaped: String = text.bytes().map(|byte| match byte {
            b' '..=b'~' if byte != b'\\' => char::from(byte).to_string(),
            other => format!("\\x{other:02x}"),
        }).collect();
        let line = format!("6,1,2,-;{escaped}\n");
        prop_assert_eq!(parse_kmsg_record(line.as_bytes()).unwrap().text, text);
    }
}
