//! Files of a captured host tree: pressure, memory, limits, launchers, networks, kubelet and hardware.
#![no_main]

use kulprit_host::captured::parse_fd_listing;
use kulprit_host::cgroup::parse_cpu_stat;
use kulprit_host::cpu::{parse_loadavg_tasks, parse_proc_stat};
use kulprit_host::hardware::parse_vfio_ids;
use kulprit_host::kubelet_files::{
    parse_certificate_validity, parse_kubeconfig_certificate, parse_kubelet_arg, parse_kubelet_args,
    parse_kubelet_config, parse_manager_state,
};
use kulprit_host::launcher::{parse_ghost_record, parse_launcher_args};
use kulprit_host::limits::{parse_file_nr, parse_process_limits};
use kulprit_host::memory::{parse_meminfo, parse_process_memory};
use kulprit_host::network::parse_tcp_table;
use kulprit_host::pressure::parse_pressure;
use kulprit_host::process::parse_cmdline;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let _ = parse_pressure(&text);
    let _ = parse_proc_stat(&text);
    let _ = parse_loadavg_tasks(&text);
    let _ = parse_meminfo(&text);
    let _ = parse_process_memory(&text);
    let _ = parse_process_limits(&text);
    let _ = parse_file_nr(&text);
    let _ = parse_cpu_stat(&text);
    let _ = parse_tcp_table(&text);
    let _ = parse_tcp_table(&format!("  sl  local_address rem_address   st\n{text}"));
    let _ = parse_ghost_record(&text);
    let _ = parse_manager_state(&text);
    let _ = parse_kubeconfig_certificate(&text);
    let _ = parse_certificate_validity(&format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n"));
    let _ = parse_kubelet_config(&text);
    let _ = parse_kubelet_arg(&text);
    assert!(parse_vfio_ids(&text).iter().all(|id| id.len() == 9));
    for row in parse_fd_listing(&text) {
        assert!(row.target.len() <= text.len());
    }
    let args = parse_cmdline(data);
    let _ = parse_kubelet_args(&args);
    if let Some(launcher) = parse_launcher_args(&args) {
        assert!(!launcher.vmi_uid.is_empty());
    }
});
