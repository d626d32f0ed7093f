//! What commands print, as people paste it: cut, mixed, in another language.
#![no_main]

use kulprit_host::command::{
    self, block, files, filter, job, network, open_files, ps, reach, runtime, system, units, virsh,
};
use libfuzzer_sys::fuzz_target;

const AT: i64 = 1_795_243_350_000_000;

fuzz_target!(|data: &[u8]| {
    let text = &*String::from_utf8_lossy(data);
    let sections = command::parse_transcript(text);
    assert!(
        sections.iter().map(|section| section.body.len()).sum::<usize>() <= text.len(),
        "no line is of two commands"
    );
    let _ = (command::parse_failure(text), command::parse_size(text, 1024));
    let _ = (
        units::parse_units("a.service", text, AT),
        ps::parse_ps(text),
        files::parse_df(text),
        files::parse_mounts(text),
        open_files::parse_open_files(text),
        open_files::parse_device_number(text),
    );
    let _ = (virsh::parse_domstate(text), virsh::parse_domcontrol(text), virsh::parse_dominfo(text));
    let _ = (virsh::parse_domain_list(text), virsh::parse_domblkerror(text), virsh::parse_domain_xml(text));
    let _ = (job::parse_domjobinfo(text), job::parse_migration_info(text), job::parse_job_series(text, AT));
    let _ = (network::parse_links(text), network::parse_pings(text), network::parse_ss(text));
    let _ = (filter::parse_filter_rules(text), block::parse_lsblk(text), block::parse_multipath(text));
    let _ = (block::parse_drbd_status(text), block::parse_thin_pools(text), block::parse_rbd_watchers(text));
    let _ = (runtime::parse_crictl_table(text), runtime::parse_crictl_info(text), runtime::parse_ctr_tasks(text));
    let _ = (
        system::parse_sysctl(text),
        system::parse_lsmod(text),
        system::parse_lspci(text),
        system::parse_clock_state(text),
    );
    let _ = (system::parse_certificate_dates(text), system::parse_host_checks(text), system::parse_device_nodes(text));
    let _ = (reach::parse_mount_failures(text), reach::parse_port_check(text), reach::parse_rpc_check(text));
    let _ = (reach::parse_ceph_answer(text), reach::parse_iscsi_sessions(text), reach::parse_iscsi_errors(text));
    let _ = (system::parse_device_plugins(text), system::parse_nested(text), system::parse_selinux_mode(text));
    let _ = (system::parse_free(text), system::parse_load(text), system::parse_healthz(text));
});
