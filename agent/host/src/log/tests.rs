//! One table of lines per form, the clock's rules, and streams that no program should write.

use std::io::Cursor;

use proptest::prelude::*;

use super::*;

/// 2026-11-21T06:42:30Z.
const AT: i64 = 1_795_243_350_000_000;
const SEC: i64 = 1_000_000;
const CLOCK: Clock = Clock { at_usec: AT, btime_usec: None };

/// `stamp` counts in microseconds from 2026-11-21T06:42:30Z.
#[track_caller]
fn check(line: &str, stamp: Option<i64>, ident: Option<&str>, priority: Option<u8>, text: &str) {
    let got = parse_line(line, CLOCK);
    let want = (stamp.map(|stamp| AT + stamp), ident, priority, text);
    assert_eq!((got.stamp_usec, got.ident.as_deref(), got.priority, &*got.text), want, "{line}");
}

#[test]
fn journalctl_in_each_of_its_forms() {
    for line in [
        "Nov 21 06:42:30 n1 kubelet[17]: hello: world",
        "Nov 21 06:42:30.000000 n1 kubelet[17]: hello: world",
        "2026-11-21T06:42:30+0000 n1 kubelet[17]: hello: world",
        "2026-11-21T07:42:30.000000+0100 n1 kubelet[17]: hello: world",
        "2026-11-21T06:42:30.000000+00:00 n1 kubelet[17]: hello: world",
        "Sat 2026-11-21 06:42:30 UTC n1 kubelet[17]: hello: world",
        "Sat 2026-11-21 07:42:30 CET n1 kubelet[17]: hello: world",
        "1795243350.000000 n1 kubelet[17]: hello: world",
        "Nov 21 06:42:30 kubelet[17]: hello: world",
        r#"{"__REALTIME_TIMESTAMP":"1795243350000000","_PID":"17","SYSLOG_IDENTIFIER":"kubelet","MESSAGE":"hello: world"}"#,
        r#"{"__REALTIME_TIMESTAMP":"1795243350000000","_PID":"17","SYSLOG_IDENTIFIER":"kubelet","MESSAGE":[104,101,108,108,111,58,32,119,111,114,108,100]}"#,
    ] {
        check(line, Some(0), Some("kubelet"), None, "hello: world");
        let got = parse_line(line, CLOCK);
        assert_eq!((got.pid, got.is_kernel), (Some(17), Some(false)), "{line}");
    }
    check("Nov  1 06:42:30 n1 kernel: x", Some(-20 * 86_400 * SEC), Some("kernel"), None, "x");
    check("[    5.123456] n1 kernel: x: y", None, Some("kernel"), None, "x: y");
}

#[test]
fn dmesg_in_each_of_its_forms() {
    check("[  123.456789] nfs: server a not responding", None, None, None, "nfs: server a not responding");
    check("[Sat Nov 21 06:42:30 2026] nfs: x", Some(0), None, None, "nfs: x");
    check("2026-11-21T06:42:30,000000+00:00 nfs: x", Some(0), None, None, "nfs: x");
    check("kern  :warn  : [  123.456789] nfs: x", None, None, Some(4), "nfs: x");
    check("kern  :err   : [Sat Nov 21 06:42:30 2026] nfs: x", Some(0), None, Some(3), "nfs: x");
    check("[  123.456789][ T1234] nfs: x", None, None, None, "nfs: x");
    check("[  123.456789] [ T1234] nfs: x", None, None, None, "nfs: x");
    check("[Nov21 06:42] nfs: x", Some(-30 * SEC), None, None, "nfs: x");
    check("[Nov 1 06:42] nfs: x", Some(-20 * 86_400 * SEC - 30 * SEC), None, None, "nfs: x");
    check("[  +0.010370] nfs: x", None, None, None, "nfs: x");
    check("kern  :info  : [  +0.01] [Sat Nov 21 06:42:30 2026] [  T129]  x", Some(0), None, Some(6), "x");
    check("[ +x.1] nfs: x", None, None, None, "[ +x.1] nfs: x");
    check("<3>[  123.456789] nfs: x", None, None, Some(3), "nfs: x");
    check("[  12.345678] kvm [1234]: vcpu0 x", None, None, None, "kvm [1234]: vcpu0 x");
    check("[  12.345678] usb usb1: x", None, None, None, "usb usb1: x");
    check(
        "2026-11-21T06:42:30,000000+00:00 critical medium error, dev sda",
        Some(0),
        None,
        None,
        "critical medium error, dev sda",
    );
    check("[Sat Nov 21 06:42:30 2026] WARNING: Pool 'a'", Some(0), None, None, "WARNING: Pool 'a'");
    check("[  1.5] critical target error, dev sda", None, None, None, "critical target error, dev sda");
    check("3,5400,123456789,-;I/O error, dev sda", None, None, Some(3), "I/O error, dev sda");
    check("6,1,2,-,caller=T1;a\\x09b", None, None, Some(6), "a\tb");
    assert_eq!(parse_line("kern  :warn  : [  1.5] x", CLOCK).is_kernel, Some(true));
    assert_eq!(parse_line("daemon:info  : [  1.5] x", CLOCK).is_kernel, Some(false));
}

#[test]
fn klog_alone_and_in_the_journal() {
    check(r#"E1121 06:42:30.000000    6715 file.go:348] "x" err="y""#, Some(0), None, Some(3), r#""x" err="y""#);
    check(
        r#"Nov 21 06:42:31 n1 kubelet[5]: W1121 06:42:30.500000    6715 file.go:348] x"#,
        Some(SEC / 2),
        Some("kubelet"),
        Some(4),
        "x",
    );
    check(
        "2026-11-21T06:42:31.000000+0000 n1 kubelet[5]: I1121 06:42:30.500000 6715 f.go:1] x",
        Some(SEC),
        Some("kubelet"),
        Some(6),
        "x",
    );
    check("Error: something", None, None, None, "Error: something");
}

#[test]
fn json_of_kubevirt_and_others() {
    let line = r#"{"component":"virt-handler","kind":"VirtualMachineInstance","level":"error","msg":"failed","name":"db-0","namespace":"prod","pos":"vm.go:1","reason":"no route","timestamp":"2026-11-21T06:42:30.000000Z","uid":"u-1"}"#;
    check(line, Some(0), Some("virt-handler"), Some(3), "failed: no route");
    let about = parse_line(line, CLOCK).about;
    assert_eq!((about.namespace.as_deref(), about.uid.as_deref()), (Some("prod"), Some("u-1")));
    let line = r#"{"component":"virt-launcher","level":"error","msg":"x","pos":"a:1","subcomponent":"libvirt","thread":"24","timestamp":"2026-11-21T06:42:30.000000Z"}"#;
    assert_eq!(parse_line(line, CLOCK).part.as_deref(), Some("libvirt"));
    check(
        r#"{"level":"error","ts":1795243350.5,"logger":"import","msg":"a","error":"b","stacktrace":"c"}"#,
        Some(SEC / 2),
        Some("import"),
        Some(3),
        "a: b",
    );
    check(
        r#"{"level":"info","ts":"2026-11-21T06:42:30Z","msg":"a","volume":"pvc-1"}"#,
        Some(0),
        None,
        Some(6),
        r#"a volume="pvc-1""#,
    );
    check(
        r#"{"log":"E1121 06:42:30.000000 1 a.go:1] x\n","stream":"stderr","time":"2026-11-21T06:42:30.0Z"}"#,
        Some(0),
        None,
        Some(3),
        "x",
    );
    check(r#"{"no":"message"}"#, None, None, None, r#"{"no":"message"}"#);
}

#[test]
fn the_log_of_qemu_that_the_monitor_prints_keeps_its_own_time() {
    check(
        r#"{"component":"virt-launcher-monitor","level":"info","msg":"2026-11-21T06:42:29.000000Z qemu-kvm: terminating on signal 15","pos":"a.go:1","timestamp":"2026-11-21T06:42:30.000000Z"}"#,
        Some(-SEC),
        Some("virt-launcher-monitor"),
        Some(6),
        "qemu-kvm: terminating on signal 15",
    );
}

#[test]
fn libvirt_and_qemu() {
    check(
        "2026-11-21 06:42:30.000+0000: 123: error : virFoo:77 : no such thing",
        Some(0),
        None,
        Some(3),
        "no such thing",
    );
    check("2026-11-21 06:42:30.000+0000: initiating migration", Some(0), None, None, "initiating migration");
    check("2026-11-21T06:42:30.000000Z qemu-kvm: Failed: x", Some(0), None, None, "qemu-kvm: Failed: x");
    check("2026-11-21T06:42:30.000000Z error 25 virFoo:7100: aborted", Some(0), None, Some(3), "aborted");
    check("2026-11-21T06:42:30.000000Z info 25 : hostname: a", Some(0), None, Some(6), "hostname: a");
}

#[test]
fn containers_and_go_programs() {
    check("2026-11-21T06:42:30.000000000Z stderr F boom: x", Some(0), None, None, "boom: x");
    check(
        "2026-11-21T06:42:30.000000000+00:00 stdout F E1121 06:42:30.000000 1 a.go:1] x",
        Some(0),
        None,
        Some(3),
        "x",
    );
    check("2026-11-21T06:42:30.000000000Z boom bang: x", Some(0), None, None, "boom bang: x");
    check(
        r#"time="2026-11-21T06:42:30.000000000Z" level=error msg="a \"b\"" error="c d" id=7"#,
        Some(0),
        None,
        Some(3),
        r#"a "b": c d id="7""#,
    );
    check(r#"time="2026-11-21 06:42:30.000000000Z" level=warning msg=a"#, Some(0), None, Some(4), "a");
    check(r#"[longhorn-manager] time="2026-11-21T06:42:30Z" level=error msg="a""#, Some(0), None, Some(3), "a");
    check("2026/11/21 06:42:30 boom: x", Some(0), None, None, "boom: x");
    check("2026-11-21 06:42:30.000000 E | op-mon: x", Some(0), None, Some(3), "op-mon: x");
    check("2026-11-21 06:42:30.000 [ERROR][77] felix/a.go 1: x", Some(0), None, Some(3), "felix/a.go 1: x");
    check("2026-11-21T06:42:30.000Z\tERROR\tcontroller\tx", Some(0), None, Some(3), "controller\tx");
    check("\u{1b}[31m2026-11-21T06:42:30Z ERROR x\u{1b}[0m", Some(0), None, Some(3), "x");
    check("Sat Nov 21 06:42:30 2026", Some(0), None, None, "");
    check("just words: and more", None, None, None, "just words: and more");
}

#[test]
fn a_year_that_is_not_written_is_the_latest_that_is_not_after_the_moment() {
    let at = |line: &str| parse_line(line, CLOCK).stamp_usec.unwrap() - AT;
    assert_eq!(at("Nov 21 06:42:31 n1 a[1]: x"), SEC, "a second later is this year");
    assert_eq!(at("Nov 22 06:42:29 n1 a[1]: x"), 86_399 * SEC, "zones and clocks differ by less than a day");
    assert_eq!(at("Nov 22 06:42:31 n1 a[1]: x"), (86_401 - 365 * 86_400) * SEC);
    assert_eq!(at("Dec 31 23:59:59 n1 a[1]: x"), -28_017_751 * SEC);
}

#[test]
fn a_day_that_this_year_does_not_have_is_of_the_last_year_that_had_it() {
    let got = parse_line("Feb 29 00:00:00 n1 a[1]: x", CLOCK).stamp_usec.unwrap();
    assert_eq!(got, 1_709_164_800 * SEC, "2024-02-29");
}

#[test]
fn seconds_since_boot_need_a_boot_time_or_a_line_with_both() {
    let clock = Clock { at_usec: AT, btime_usec: Some(AT - 1000 * SEC) };
    assert_eq!(parse_line("[  999.500000] x", clock).stamp_usec, Some(AT - SEC / 2));
    let got = parse_line("[  999.500000] x", CLOCK);
    assert_eq!((got.stamp_usec, got.since_boot_usec), (None, Some(999_500_000)));
    for both in [
        "[    2.000000] rtc_cmos 00:02: setting system clock to 2026-11-21T06:42:30 UTC (1795243350)",
        "[    2.000000] audit: type=1400 audit(1795243350.000:7): avc:  denied",
    ] {
        let lines = read(&format!("[    1.000000] early\n{both}\n[    3.000000] late\n"), CLOCK).0;
        assert_eq!(lines[2].0, Some(AT + SEC), "{both}");
    }
}

type Got = Vec<(Option<i64>, String, usize)>;

fn read(text: &str, clock: Clock) -> (Got, Span) {
    read_bytes(text.as_bytes(), clock, |_| Some(0))
}

fn read_bytes(bytes: &[u8], clock: Clock, find: impl FnMut(&[u8]) -> Option<usize>) -> (Got, Span) {
    let mut got = Vec::new();
    let mut reader = LogReader::new(clock);
    let span = reader
        .read(Cursor::new(bytes), find, |line| {
            got.push((line.stamp_usec, line.text.clone().into_owned(), line.number));
        })
        .unwrap();
    (got, span)
}

#[test]
fn the_stamp_at_a_lines_beginning_is_read_in_the_forms_of_programs_that_write_files() {
    let want = parse_stamp("2026-11-21T06:42:07.114982Z stderr F x", AT);
    assert!(want.is_some());
    for line in [
        "E1121 06:42:07.114982   17014 remote_image.go:250] x",
        "time=\"2026-11-21T06:42:07.114982000Z\" level=error msg=x",
    ] {
        assert_eq!(parse_stamp(line, AT), want, "{line}");
    }
    let record = "type=AVC msg=audit(1795243350.091:4411): avc:  denied  { read } for  pid=7";
    assert_eq!(parse_stamp(record, AT), Some(AT + 91_000));
    for line in ["Error 1121", "type=AVC msg=audit(x): y", "time=\"soon\"", "E"] {
        assert_eq!(parse_stamp(line, AT), None, "{line}");
    }
}

#[test]
fn a_line_without_a_stamp_belongs_to_the_line_before() {
    let text = "2026-11-21T06:42:30Z panic: boom\n\ngoroutine 1 [running]:\n\tmain.go:1\n";
    let (lines, span) = read(text, CLOCK);
    assert_eq!(lines.iter().map(|line| line.0).collect::<Vec<_>>(), [Some(AT); 3]);
    assert_eq!((span.n_lines, span.first_usec, span.last_usec), (4, Some(AT), Some(AT)));
}

#[test]
fn an_unwanted_stamp_still_dates_the_wanted_line_after_it() {
    let text = format!("2026-11-21T06:42:30Z first\n{}boom\n", "filler\n".repeat(40));
    let (lines, _) = read_bytes(text.as_bytes(), CLOCK, |bytes| memchr::memmem::find(bytes, b"boom"));
    assert_eq!(lines, [(Some(AT), "boom".to_owned(), 42)]);
}

#[test]
fn lines_of_blocks_that_nobody_wants_are_counted_and_the_span_is_known() {
    let mut text = String::new();
    for sec in 0..50_000 {
        text.push_str(&format!("{}.000000 n1 a[1]: filler filler filler\n", 1_795_243_350 - 50_000 + sec));
    }
    text.push_str("1795243350.000000 n1 a[1]: boom\n");
    let (lines, span) = read_bytes(text.as_bytes(), CLOCK, |bytes| memchr::memmem::find(bytes, b"boom"));
    assert_eq!(lines, [(Some(AT), "boom".to_owned(), 50_001)]);
    assert_eq!((span.first_usec, span.last_usec), (Some(AT - 50_000 * SEC), Some(AT)));
}

#[test]
fn each_line_with_a_hit_is_given_once_whatever_the_hits() {
    let text = "boom boom\nquiet\nboom\n\nat the end boom";
    for shift in [0, 3] {
        let find = |bytes: &[u8]| memchr::memmem::find(bytes, b"boom").map(|at| at + shift);
        let (lines, span) = read_bytes(text.as_bytes(), CLOCK, find);
        let lines: Vec<_> = lines.iter().map(|(_, text, number)| (text.as_str(), *number)).collect();
        assert_eq!(lines, [("boom boom", 1), ("boom", 3), ("at the end boom", 5)]);
        assert_eq!(span.n_lines, 5);
    }
    // An offset that lies outside is the last line's: no panic, and an end.
    assert_eq!(read_bytes(text.as_bytes(), CLOCK, |_| Some(usize::MAX)).0.len(), 1);
}

#[test]
fn a_split_cri_line_is_joined() {
    let text = "2026-11-21T06:42:30Z stderr P {\"level\":\"error\",\n2026-11-21T06:42:30Z stderr F \"msg\":\"boom\"}\n2026-11-21T06:42:30Z stderr F next\n";
    let (lines, _) = read(text, CLOCK);
    assert_eq!(lines, [(Some(AT), "boom".to_owned(), 2), (Some(AT), "next".to_owned(), 3)]);
}

#[test]
fn a_line_of_a_megabyte_is_cut_and_the_next_is_whole() {
    let text = format!("2026-11-21T06:42:30Z {}\n2026-11-21T06:42:31Z next\n", "x".repeat(1 << 20));
    let (lines, span) = read(&text, CLOCK);
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1], (Some(AT + SEC), "next".to_owned(), 2));
    assert!(lines[0].1.len() <= MAX_LINE_BYTES);
    assert_eq!((span.n_lines, span.n_cut_lines, span.n_cut_bytes), (2, 1, (1 << 20) + 21 - MAX_LINE_BYTES));
}

#[test]
fn line_ends_of_windows_and_bytes_that_are_no_text_do_no_harm() {
    let (lines, _) = read_bytes(b"2026-11-21T06:42:30Z a\r\n\xff\xfe\x00\n2026-11-21T06:42:30Z b", CLOCK, |_| Some(0));
    let texts: Vec<&str> = lines.iter().map(|line| line.1.as_str()).collect();
    assert_eq!(texts, ["a", "\u{fffd}\u{fffd}\0", "b"]);
}

#[test]
fn what_journalctl_says_itself_is_no_line() {
    let (lines, _) = read("-- Logs begin at Fri --\n-- No entries --\n-- Boot 5f --\n", CLOCK);
    assert_eq!(lines, []);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = read_bytes(&bytes, CLOCK, |_| Some(0));
    }

    #[test]
    fn no_near_miss_makes_it_panic(line in r#"[\[<{EIFNSt0-9]{1,4}[0-9TZ:.,+\- \[\]a-zA-Z="\\|]{0,60}"#) {
        let _ = parse_line(&line, CLOCK);
    }

    #[test]
    fn every_line_is_counted_once_however_the_input_comes(lens in proptest::collection::vec(0_usize..70_000, 0..8), chunk in 1_usize..9000) {
        let text: String = lens.iter().map(|len| format!("{}\n", "y".repeat(*len))).collect();
        let mut reader = LogReader::new(CLOCK);
        let mut n_lines = 0;
        let span = reader.read(io::BufReader::with_capacity(chunk, text.as_bytes()), |_| Some(0), |_| n_lines += 1).unwrap();
        prop_assert_eq!(span.n_lines, lens.len());
        prop_assert_eq!(n_lines, lens.iter().filter(|len| **len > 0).count());
    }
}
