//! Records of `/dev/kmsg`, and the rules that read them: anyone who is root writes lines, and guests make the kernel write some.
#![no_main]

use std::cell::RefCell;

use kulprit_host::kmsg::parse_kmsg_record;
use kulprit_judge::kernel_log::{KernelLog, TaskOwner};
use kulprit_model::Moment;
use libfuzzer_sys::fuzz_target;

/// Between two lines, microseconds.
const LINE_USEC: i64 = 300_000;

thread_local! {
    // Compiling the rules costs more than a thousand lines, so they are used again, hours later on their clock: what they
    // remember of one input is over before the next.
    static RULES: RefCell<(KernelLog, i64)> = RefCell::new((KernelLog::new(), 0));
}

fuzz_target!(|data: &[u8]| {
    // As the log gives it: a record of several lines.
    if let Ok(record) = parse_kmsg_record(data) {
        assert!(record.level <= 7);
        record.fields().for_each(drop);
    }
    // As the rules get it: one line after the other.
    RULES.with_borrow_mut(|(rules, start_usec)| {
        *start_usec += 10_000 * 1_000_000;
        read(rules, *start_usec, data);
    });
});

fn read(rules: &mut KernelLog, start_usec: i64, data: &[u8]) {
    let owner = |pid: u32, _: Moment| {
        pid.is_multiple_of(2).then(|| TaskOwner { pid, start_ticks: 1, vm_uid: Some("vm".to_owned()) })
    };
    let mut found = Vec::new();
    let mut at = Moment { wall_usec: start_usec, boottime_usec: start_usec };
    let text = String::from_utf8_lossy(data);
    for line in text.lines() {
        rules.read_line(at, line, &owner, &mut found);
        at = Moment { wall_usec: at.wall_usec + LINE_USEC, boottime_usec: at.boottime_usec + LINE_USEC };
        let _ = rules.is_mid_report(at);
    }
    rules.flush(&mut found);
    assert!(found.len() <= text.lines().count(), "a line tells of one thing at most");
    for verdict in found {
        // Every verdict fits the catalogue: what is said of a VM is not said of a disk.
        let spec = verdict.code.spec();
        assert!(spec.subject.allows(&verdict.subject), "{} of {}", verdict.code, verdict.subject);
    }
}
