//! `/proc/PID/cgroup`, the pod in a cgroup's path, and the files of a memory cgroup.
#![no_main]

use kulprit_host::cgroup::{
    parse_devices_list, parse_memory_events, parse_memory_limit, parse_memory_oom_control, parse_pod_cgroup,
    parse_proc_cgroup, pod_of, v1_path, v2_path,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let (rows, errors) = parse_proc_cgroup(&text);
    assert!(rows.len() + errors.len() <= text.lines().count(), "a line is a row, an error, or nothing");
    pod_of(&rows);
    v2_path(&rows);
    v1_path(&rows, "memory");
    parse_pod_cgroup(&text);
    parse_memory_events(&text);
    parse_memory_oom_control(&text);
    parse_memory_limit(&text);
    assert!(parse_devices_list(&text).len() <= text.lines().count());
});
