//! Texts of libvirt: its daemon, monitor, jobs, domains, CPU models, cgroups, migrations.
//!
//! Sources: strings of libvirt 8.0 to 11.3 (`libvirt_driver_qemu.so`), `src/libvirt-*.c`; error codes of
//! `include/libvirt/virterror.h`.

use kulprit_model::said::{actor::*, class::*, operation::*};
use kulprit_model::side::Side;

use super::{ANY, Row, rows};

const TARGET: Option<Side> = Some(Side::Target);
const SOURCE: Option<Side> = Some(Side::Source);
const PATH: Option<Side> = Some(Side::Path);

pub(super) const ROWS: &[Row] = rows! {
    // The CPU.
    "cpu-missing-features", "guest cpu doesn't match specification", "", LIBVIRT, MIGRATE_PREPARE, INCOMPATIBLE, TARGET, "libvirt src/cpu/cpu.c, src/qemu/qemu_process.c",
        "operation failed: guest CPU doesn't match specification: missing features: erms,vaes";
    "cpu-incompatible", "incompatible with host cpu", "", LIBVIRT, START_DOMAIN, INCOMPATIBLE, None, "libvirt src/cpu/cpu_x86.c",
        "unsupported configuration: the CPU is incompatible with host CPU: Host CPU does not provide required features: svm";
    "cpu-incompatible", "does not provide required features", "", LIBVIRT, START_DOMAIN, INCOMPATIBLE, None, "libvirt src/cpu/cpu_x86.c",
        "Host CPU does not provide required features: vmx, vmx-apicv-register";
    "cpu-mode-unsupported", "cpu mode", r"cpu mode '[\w-]+'.* not supported by hypervisor", LIBVIRT, START_DOMAIN, UNSUPPORTED, None, "libvirt src/qemu/qemu_process.c",
        "unsupported configuration: CPU mode 'host-model' for x86_64 kvm domain on x86_64 host is not supported by hypervisor";
    "tsc-frequency-mismatch", "tsc frequency", r"tsc frequency mismatch|requested tsc frequency|tsc frequency", LIBVIRT, MIGRATE_PREPARE, INCOMPATIBLE, None, "libvirt src/cpu/cpu.c; KubeVirt node labels tsc-frequency",
        "unsupported configuration: Requested TSC frequency 2399996000 Hz is outside tolerance range ([2099474, 2100524] Hz)";
    "virt-type-unsupported", "does not support virt type", r"does not support virt type '?kvm", LIBVIRT, ACCESS_KVM, UNSUPPORTED, None, "libvirt src/qemu/qemu_capabilities.c: KVM could not be used",
        "unsupported configuration: Emulator '/usr/libexec/qemu-kvm' does not support virt type 'kvm'";

    // Copies of disks beside a migration.
    "migration-disk-no-space", "migration of disk", r"migration of disk \S+ failed: no space left", LIBVIRT, MIGRATE, NO_SPACE, TARGET, "libvirt src/qemu/qemu_migration.c: what the copy is written to is full",
        "operation failed: migration of disk vda failed: No space left on device";

    // Jobs and the monitor.
    "state-change-lock-agent", "cannot acquire state change lock", r"held by agent=", GUEST, RUN_GUEST_AGENT, TIMEOUT, None, "libvirt src/conf/virdomainjob.c: only the guest agent hangs",
        "Timed out during operation: cannot acquire state change lock (held by agent=remoteDispatchDomainFsfreeze)";
    "state-change-lock", "cannot acquire state change lock", "", LIBVIRT, MONITOR, TIMEOUT, None, "libvirt src/conf/virdomainjob.c: not proof alone, seen on healthy systems too",
        "Timed out during operation: cannot acquire state change lock (held by monitor=remoteDispatchDomainMigratePrepare3Params)";
    "domain-job-busy", "cannot start job", r"cannot start job \(", LIBVIRT, MONITOR, BUSY, None, "libvirt src/conf/virdomainjob.c",
        "Cannot start job (modify, none, none) in API remoteDispatchDomainGetBlockInfo for domain prod_db-0; current job is (query, none, migration out)";
    "monitor-lost", "unable to read from monitor", "", QEMU, MONITOR, RESET, None, "libvirt src/qemu/qemu_monitor.c qemuMonitorIORead: QEMU ended; not proof alone",
        "Unable to read from monitor: Connection reset by peer";
    "monitor-lost", "unable to write to monitor", "", QEMU, MONITOR, RESET, None, "libvirt src/qemu/qemu_monitor.c",
        "Unable to write to monitor: Broken pipe";
    "monitor-lost", "end of file from qemu monitor", "", QEMU, MONITOR, RESET, None, "libvirt src/qemu/qemu_monitor.c",
        "internal error: End of file from qemu monitor";
    "domain-crash-assumed", "assuming the domain crashed", "", QEMU, RUN_GUEST, CRASHED, None, "libvirt src/qemu/qemu_process.c",
        "internal error: Monitor connection to 'prod_db-0' closed without SHUTDOWN event; assuming the domain crashed";
    "monitor-not-connected", "monitor path", r"monitor (?:socket|path).*did not show up|failed to connect to monitor socket", QEMU, START_DOMAIN, TIMEOUT, None, "libvirt src/qemu/qemu_monitor.c",
        "internal error: monitor socket did not show up: monitor path /var/run/libvirt/qemu/monitor.sock";
    "qemu-closed-monitor", "unexpectedly closed the monitor", "", QEMU, START_DOMAIN, ANY, None, "libvirt src/qemu/qemu_process.c qemuProcessReportLogError",
        "internal error: QEMU unexpectedly closed the monitor (vm='prod_db-0')";
    "qemu-closed-monitor", "exited while connecting to monitor", "", QEMU, START_DOMAIN, ANY, None, "libvirt src/qemu/qemu_process.c",
        "internal error: process exited while connecting to monitor: 2024-12-24T22:27:32Z qemu-system-x86_64: boom";

    // Ending a QEMU.
    "process-not-terminated", "failed to terminate process", r"failed to terminate process \d+ with sig", QEMU, DESTROY_DOMAIN, STUCK, None, "libvirt src/util/virprocess.c virProcessKillPainfullyDelay: the process is in D state",
        "Failed to terminate process 94 with SIGTERM: Device or resource busy";

    // The daemon.
    "libvirt-socket-missing", "failed to connect socket to", r"failed to connect socket to '[^']*libvirt", LIBVIRT, CONNECT_LIBVIRT, ANY, None, "libvirt src/rpc/virnetsocket.c; normal in a launcher's first second",
        "Failed to connect socket to '/var/run/libvirt/virtqemud-sock': Connection refused";
    "libvirt-daemon-crashed", "virtqemud exited, restarting", r"restarting.{0,20}(?:signal: (?:segmentation|abort|bus|illegal|floating|trace)|core dumped|exit status [1-9])", LIBVIRT, CONNECT_LIBVIRT, CRASHED, None, "KubeVirt pkg/virt-launcher/virtwrap/util/libvirt_helper.go with os/exec's ExitError: it ended by itself",
        "virtqemud exited, restarting: signal: segmentation fault (core dumped)";
    "libvirt-daemon-restarting", "virtqemud exited, restarting", "", LIBVIRT, CONNECT_LIBVIRT, CRASHED, None, "KubeVirt pkg/virt-launcher/virtwrap/util/libvirt_helper.go; also while a launcher ends",
        "virtqemud exited, restarting";
    "libvirt-daemon-restarting", "virtlogd exited, restarting", "", LIBVIRT, CONNECT_LIBVIRT, CRASHED, None, "KubeVirt pkg/virt-launcher/virtwrap/util/libvirt_helper.go",
        "virtlogd exited, restarting";
    "libvirt-connection-lost", "connection to libvirt lost", "", LIBVIRT, CONNECT_LIBVIRT, RESET, None, "KubeVirt pkg/virt-launcher/virtwrap/cli/libvirt.go; not proof alone",
        "Connection to libvirt lost.";
    "libvirt-daemon-unreachable", "failed to connect to virtqemud", "", LIBVIRT, CONNECT_LIBVIRT, ANY, None, "KubeVirt cmd/virt-launcher/virt-launcher.go createLibvirtConnection",
        "panic: failed to connect to virtqemud: timed out waiting for the condition";
    "libvirt-keepalive-lost", "keepalive timeout", "connection closed due to keepalive timeout", LIBVIRT, MIGRATE, TIMEOUT, PATH, "libvirt src/rpc/virkeepalive.c: a peer was silent for 5 s × 6",
        "internal error: connection closed due to keepalive timeout";
    "libvirt-client-closed", "client socket is closed", "", LIBVIRT, MIGRATE, RESET, None, "libvirt src/rpc/virnetclient.c: an abort, a cut path or a dead proxy",
        "internal error: client socket is closed";
    "libvirt-socket-reset", "cannot recv data", "", LIBVIRT, ANY, RESET, None, "libvirt src/rpc/virnetsocket.c; not proof alone",
        "Cannot recv data: Connection reset by peer";
    "libvirt-socket-reset", "cannot write data", "", LIBVIRT, ANY, RESET, None, "libvirt src/rpc/virnetsocket.c",
        "Cannot write data: Broken pipe";

    // Cgroups, security, files.
    "locked-memory-limit", "cannot limit locked memory", "", LIBVIRT, START_DOMAIN, LIMIT, None, "libvirt src/util/virprocess.c: it may not raise the limit itself",
        "internal error: Process exited prior to exec: libvirt: error : cannot limit locked memory of process 95 to 8589934592: Operation not permitted";
    "device-cgroup-denied", "cannot access storage file", r"cannot access storage file '[^']*'.*operation not permitted", LIBVIRT, OPEN_IMAGE, NOT_PERMITTED, None, "libvirt src/storage_file: EPERM on a device node is the device cgroup",
        "Cannot access storage file '/dev/disk-1': Operation not permitted";
    "storage-file-inaccessible", "cannot access storage file", "", LIBVIRT, OPEN_IMAGE, ANY, None, "libvirt src/storage_file/storage_source.c virStorageSourceReportBrokenChain",
        "Cannot access storage file '/var/run/kubevirt-private/vmi-disks/root/disk.img' (as uid:107, gid:107): No such file or directory";
    "storage-file-inaccessible", "cannot access backing file", "", LIBVIRT, OPEN_IMAGE, ANY, None, "libvirt src/storage_file",
        "Cannot access backing file '/var/run/kubevirt/container-disks/disk_0.img' of storage file '/var/run/kubevirt-ephemeral-disks/disk.qcow2': Permission denied";
    "device-cgroup-denied", "failed to set acl on device", "", LIBVIRT, HOTPLUG, NOT_PERMITTED, None, "libvirt src/util/vircgroupv2devices.c",
        "failed to set ACL on device 8:16: Operation not permitted";
    "selinux-label-failed", "security context", r"unable to (?:set|allocate|get) (?:socket |process )?security (?:context|label)", LIBVIRT, START_DOMAIN, ANY, None, "libvirt src/security/security_selinux.c",
        "unable to set security context 'system_u:object_r:svirt_image_t:s0:c1,c2' on '/dev/sdb': Permission denied";
    "ownership-refused", "unable to set user and group", "", LIBVIRT, SET_OWNERSHIP, ANY, None, "libvirt src/security/security_dac.c",
        "unable to set user and group to '107:107' on '/var/run/kubevirt-private/vmi-disks/root/disk.img': Operation not permitted";
    "keycreate-refused", "keycreate", "", RUNTIME, CREATE_CONTAINER, INVALID, None, "runc libcontainer: the SELinux type is unknown to the loaded policy",
        "container init caused: failed to set /proc/self/attr/keycreate on procfs: write /proc/self/attr/keycreate: invalid argument: unknown";

    // Definitions.
    "domain-exists", "already exists with uuid", r"domain '[^']*' (?:is )?already (?:exists|defined) with uuid", LIBVIRT, DEFINE_DOMAIN, EXISTS, None, "libvirt src/conf/virdomainobjlist.c",
        "operation failed: domain 'prod_db-0' already exists with uuid 1c2c3c4c-0000-4000-8000-000000000001";
    "domain-exists", "already active", r"domain (?:is )?already active|domain '[^']*' is already active", LIBVIRT, START_DOMAIN, EXISTS, None, "libvirt src/conf/virdomainobjlist.c",
        "Requested operation is not valid: domain is already active as 'prod_db-0'";
    "domain-xml-invalid", "malformed <", r"malformed <\w+>", LIBVIRT, DEFINE_DOMAIN, INVALID, None, "libvirt src/conf/domain_conf.c",
        "malformed <sysinfo> uuid element";
    "domain-xml-invalid", "xml error", "", LIBVIRT, DEFINE_DOMAIN, INVALID, None, "libvirt src/conf/domain_conf.c VIR_ERR_XML_ERROR",
        "XML error: Attempted double use of PCI Address 0000:04:00.0";
    "pci-slots-exhausted", "no more available pci", "", LIBVIRT, ANY, INVALID, None, "libvirt src/conf/domain_addr.c virDomainPCIAddressGetNextAddr",
        "internal error: No more available PCI slots";
    "domain-config-unsupported", "unsupported configuration", "", LIBVIRT, DEFINE_DOMAIN, INVALID, None, "libvirt VIR_ERR_CONFIG_UNSUPPORTED",
        "unsupported configuration: pci backend driver type 'default' is not supported";
    "domain-not-found", "domain not found", r"domain not found: no domain with matching", LIBVIRT, ANY, NOT_FOUND, None, "libvirt src/qemu/qemu_domain.c; normal after an end",
        "Domain not found: no domain with matching name 'prod_db-0'";
    "domain-not-running", "domain is not running", "", LIBVIRT, ANY, UNAVAILABLE, None, "libvirt src/qemu/qemu_driver.c; normal after an end",
        "Requested operation is not valid: domain is not running";

    // Migration.
    "migration-peer-refused", "unable to connect to server at", "", LIBVIRT, CONNECT_PEER, ANY, PATH, "libvirt src/rpc/virnetsocket.c",
        "unable to connect to server at '10.0.0.7:49152': No route to host";
    "migration-peer-refused", "connect to destination", r"(?:unable|failed|cannot) to? ?connect to destination", LIBVIRT, CONNECT_PEER, ANY, PATH, "general",
        "operation failed: unable to connect to destination host";
    "migration-peer-lost", "lost connection to destination host", "", LIBVIRT, MIGRATE, RESET, None, "libvirt src/qemu/qemu_migration.c: not proof alone",
        "operation failed: Lost connection to destination host";
    "migration-cancelled", "canceled by client", "", LIBVIRT, MIGRATE, CANCELLED, None, "libvirt src/qemu/qemu_migration.c qemuMigrationJobCheckStatus: an abort by user or time limit",
        "operation aborted: job 'migration out' canceled by client";
    "migration-cancelled", "migration successfully aborted", "", LIBVIRT, MIGRATE, CANCELLED, None, "libvirt src/qemu/qemu_migration.c qemuMigrationDstFinish",
        "migration successfully aborted";
    "migration-job-failed", "migration out", r"job '?migration out'?:? (?:unexpectedly )?failed|migration out job: unexpectedly failed", QEMU, MIGRATE, ANY, None, "libvirt src/qemu/qemu_migration.c: look at the target",
        "operation failed: job 'migration out' unexpectedly failed";
    "migration-job-failed", "migration out", r"migration out(?: job)?:? (?:is not active|failed)", QEMU, MIGRATE, ANY, None, "libvirt src/qemu/qemu_migration.c < 9",
        "operation failed: migration out job: is not active";
    "migration-target-job-failed", "migration in", r"migration in(?:' | job).*(?:failed|canceled)", QEMU, MIGRATE_PREPARE, ANY, TARGET, "libvirt src/qemu/qemu_migration.c",
        "operation failed: job 'migration in' failed: load of migration refused";
    "migration-unsafe", "unsafe migration", "", LIBVIRT, MIGRATE, UNSUPPORTED, SOURCE, "libvirt src/qemu/qemu_migration.c VIR_ERR_MIGRATE_UNSAFE",
        "Unsafe migration: Migration without shared storage is unsafe";
    "migration-not-possible", "cannot migrate domain", "", LIBVIRT, MIGRATE, UNSUPPORTED, SOURCE, "libvirt src/qemu/qemu_migration.c",
        "Requested operation is not valid: cannot migrate domain with assigned host devices";
    "migration-not-possible", "cannot migrate empty or read-only disk", "", LIBVIRT, MIGRATE, UNSUPPORTED, SOURCE, "libvirt src/qemu/qemu_migration.c qemuMigrationSrcNBDStorageCopy: asked to copy a disk that cannot be written",
        "Operation not supported: Cannot migrate empty or read-only disk vdb";
    "libvirt-parameter-unknown", "argument unsupported: parameter", "", LIBVIRT, ANY, INCOMPATIBLE, None, "libvirt src/util/virtypedparam.c virTypedParamsValidate: who calls it is of another version",
        "argument unsupported: parameter 'parallel.bandwidth' not supported";
    "nbd-export-failed", "nbd-server", r"nbd-server-(?:start|add)|nbd server", QEMU, MIGRATE_PREPARE, ANY, TARGET, "libvirt src/qemu/qemu_migration.c qemuMigrationDstStartNBDServer",
        "internal error: unable to execute QEMU command 'nbd-server-add': Cannot find device 'drive-ua-root'";
    "block-migration-failed", "blockjob", r"block ?job|drive-mirror|blockdev-mirror", QEMU, MIGRATE, ANY, None, "libvirt src/qemu/qemu_migration.c qemuMigrationSrcNBDStorageCopy",
        "operation failed: migration of disk vda failed: blockjob error: Input/output error";
    "migration-finish-failed", "migration", r"error occurred during migration finish|migration finish", LIBVIRT, MIGRATE_FINISH, ANY, None, "libvirt src/qemu/qemu_migration.c",
        "internal error: error occurred during migration finish: domain shut off";

    // The guest.
    "guest-agent-silent", "guest agent is not", r"guest agent is not (?:responding|connected|available)", GUEST, RUN_GUEST_AGENT, UNAVAILABLE, None, "libvirt src/qemu/qemu_domain.c; normal without an agent",
        "Guest agent is not responding: Guest agent not available for now";
    "device-unplug-pending", "device", r"device detach failed|device_removal_failed|unplug.*(?:rejected|failed|time(?:d )?out)|unable to detach", QEMU, HOTPLUG, ANY, None, "libvirt src/qemu/qemu_hotplug.c; QEMU DEVICE_UNPLUG_GUEST_ERROR",
        "operation failed: disk device detach failed: unplug of device was rejected by the guest";
    "domain-xml-hook-failed", "hook script execution failed", "", LAUNCHER, START_DOMAIN, ANY, None, "libvirt src/util/virhook.c; a hook sidecar",
        "Hook script execution failed: internal error: Child process (/etc/libvirt/hooks/qemu prod_db-0 start begin -) unexpected exit status 1";
};
