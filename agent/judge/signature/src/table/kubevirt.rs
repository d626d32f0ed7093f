//! Texts of KubeVirt: launcher, handler, controllers, CDI; the reasons and failure messages of its objects.
//!
//! Sources: kubevirt/kubevirt v1.0 to main of 2026-08, kubevirt/containerized-data-importer v1.60.

use kulprit_model::said::{actor::*, class::*, operation::*};
use kulprit_model::side::Side;

use super::{ANY, Row, rows};

const TARGET: Option<Side> = Some(Side::Target);
const SOURCE: Option<Side> = Some(Side::Source);
const PATH: Option<Side> = Some(Side::Path);

pub(super) const ROWS: &[Row] = rows! {
    // Bookkeeping of virt-handler.
    "handler-record-lost", "record wasn't found", r"(?:artifacts|disks?|mount|target) record wasn't found", HANDLER, SYNC_VMI, NOT_FOUND, None, "KubeVirt pkg/virt-handler/container-disk/mount.go: it cleans up what it never mounted",
        "error unmounting kernel artifacts: kernel artifacts record wasn't found";
    // The migration, as the launcher and the controllers tell it.
    "migration-completion-timeout", "live migration is not completed after", "", LAUNCHER, MIGRATE, TIMEOUT, SOURCE, "KubeVirt live-migration-source.go: completionTimeoutPerGiB",
        "Live migration is not completed after 150 seconds and has been aborted";
    "migration-completion-timeout", "aborting migration: not completed", "", LAUNCHER, MIGRATE, TIMEOUT, SOURCE, "KubeVirt live-migration-source.go",
        "Aborting migration: not completed after 300 seconds";
    "migration-completion-timeout", "due to completion timeout", "", LAUNCHER, MIGRATE, TIMEOUT, SOURCE, "KubeVirt stall detector",
        "aborting migration due to completion timeout: elapsedSec=310 acceptableCompletionSec=300";
    "migration-downtime-too-long", "exceeds max allowed downtime", "", LAUNCHER, MIGRATE, STUCK, SOURCE, "KubeVirt stall detector: the guest dirties too fast",
        "aborting migration: estimated downtime 9000ms exceeds max allowed downtime 900ms by a factor of more than 2x";
    "migration-no-progress", "live migration stuck for", "", LAUNCHER, MIGRATE, STUCK, SOURCE, "KubeVirt live-migration-source.go: progressTimeout; network or QEMU's connection",
        "live migration stuck for 150 seconds";
    "migration-no-progress", "aborting migration: stuck", "", LAUNCHER, MIGRATE, STUCK, SOURCE, "KubeVirt live-migration-source.go",
        "Aborting migration: stuck for 150 seconds";
    "migration-aborted", "live migration has been aborted", "", LAUNCHER, MIGRATE, CANCELLED, None, "KubeVirt setMigrationResult: the cause stands in the launcher's log only",
        "Live migration has been aborted";
    "migration-aborted", "due to being canceled", "", CONTROLLER, MIGRATE, CANCELLED, None, "KubeVirt migration.go",
        "Migration failed due to being canceled";
    "migration-aborted", "aborting migration", r"is aborting migration", HANDLER, MIGRATE, CANCELLED, None, "KubeVirt event Migrating",
        "VirtualMachineInstance is aborting migration.";
    "migration-abort-hung", "migration abort timed out", "", LIBVIRT, MONITOR, TIMEOUT, SOURCE, "KubeVirt live-migration-source.go asyncMigrationAbort",
        "migration abort timed out waiting for libvirt";
    "migration-other-running", "another migration job", r"another migration job is (?:in progress|running)|taken over by another migration", CONTROLLER, MIGRATE, BUSY, None, "KubeVirt migration.go",
        "VMI is not eligible for migration because another migration job is in progress.";
    "migration-target-pod-unschedulable", "unschedulable target pod", "", SCHEDULER, SCHEDULE, INSUFFICIENT, TARGET, "KubeVirt migration.go, main of 2026: 300 s",
        "unschedulable target pod \"virt-launcher-db-0-x\" was deleted due to timeout period expiration";
    "migration-target-pod-gone", "target pod", r"target (?:attachment )?pod (?:shutdown|is down|was removed)|target pod .*(?:deleted|terminated)", CONTROLLER, MIGRATE_PREPARE, UNAVAILABLE, TARGET, "KubeVirt migration.go",
        "Migration failed because target pod shutdown during migration";
    "migration-target-pod-timeout", "timeout period exceeded", r"pending pod .*timeout period exceeded", CONTROLLER, MIGRATE_PREPARE, TIMEOUT, TARGET, "KubeVirt migration.go: 900 s",
        "pending pod prod/virt-launcher-db-0-x timeout period exceeded";
    "migration-target-pod-unschedulable", "timeout period exceeded", "unschedulable pod", SCHEDULER, SCHEDULE, INSUFFICIENT, TARGET, "KubeVirt migration.go: 300 s",
        "unschedulable pod prod/virt-launcher-db-0-x timeout period exceeded";
    "migration-target-pod-unschedulable", "currently unschedulable", "", SCHEDULER, SCHEDULE, INSUFFICIENT, TARGET, "KubeVirt migration.go event migrationTargetPodUnschedulable",
        "Migration target pod for VMI [prod/db-0] is currently unschedulable.";
    "migration-vmi-gone", "vmi shutdown during migration", "", CONTROLLER, MIGRATE, CANCELLED, None, "KubeVirt migration.go",
        "Migration failed vmi shutdown during migration.";
    "migration-vmi-gone", "because vmi does not exist", "", CONTROLLER, MIGRATE, CANCELLED, None, "KubeVirt migration.go",
        "Migration failed because vmi does not exist.";
    "migration-source-failed", "source node reported migration failed", "", CONTROLLER, MIGRATE, OTHER, SOURCE, "KubeVirt migration.go",
        "source node reported migration failed";
    "migration-backoff", "backoff migrating", "", CONTROLLER, MIGRATE, RATE_LIMITED, None, "KubeVirt event MigrationBackoff: earlier ones failed",
        "backoff migrating vmi prod/db-0";
    "migration-state-cleared", "state was cleared during", "", CONTROLLER, MIGRATE, OTHER, None, "KubeVirt migration.go",
        "VMI's migration state was cleared during the active migration.";
    "migration-no-node-for-cpu", "no node is suitable to run the required", "", SCHEDULER, SCHEDULE, INCOMPATIBLE, TARGET, "KubeVirt event NoSuitableNodesForHostModelMigration",
        "Migration cannot proceed since no node is suitable to run the required CPU model / required features: map[...]";
    "migration-domain-not-seen", "never observed on the target", "", LAUNCHER, MIGRATE_FINISH, TIMEOUT, TARGET, "KubeVirt event Migrated",
        "The VirtualMachineInstance's domain was never observed on the target after the migration completed within the timeout period.";
    "migration-unknown-host", "migrated to unknown host", "", HANDLER, MIGRATE_FINISH, NOT_FOUND, TARGET, "KubeVirt migration-source.go",
        "The VirtualMachineInstance migrated to unknown host.";
    "migration-volume-too-small", "volume is smaller than the source", "", LAUNCHER, MIGRATE, INVALID, TARGET, "KubeVirt live-migration-source.go",
        "Volume migration cannot be performed because the destination volume is smaller than the source volume: 10 < 20";
    "migration-target-sync-failed", "syncmigrationtarget", "", LAUNCHER, MIGRATE_PREPARE, ANY, TARGET, "KubeVirt migration-target.go, cmd-client",
        "syncing migration target failed: unknown error encountered sending command SyncMigrationTarget: rpc error: code = Unavailable desc = error reading from server: EOF";
    "migration-not-migratable", "not migratable", "", CONTROLLER, MIGRATE, UNSUPPORTED, None, "KubeVirt LiveMigratable, evacuation",
        "VirtualMachineInstance db-0 is not migratable";
    "migration-not-migratable", "not live-migratable", "", CONTROLLER, EVICT_POD, UNSUPPORTED, None, "KubeVirt pod-eviction-admitter.go, evacuation.go, workload-updater.go",
        "admission webhook \"virt-launcher-eviction-interceptor.kubevirt.io\" denied the request: VMI \"db-0\" is configured with an eviction strategy but is not live-migratable";
    "migration-not-migratable", "cannot migrate vmi", "", CONTROLLER, MIGRATE, UNSUPPORTED, None, "KubeVirt LiveMigratable",
        "cannot migrate VMI: PVC data is not shared, live migration requires that all PVCs must be shared (using ReadWriteMany access mode)";
    "migration-failed", "migratetouri", "", LIBVIRT, MIGRATE, ANY, None, "KubeVirt live-migration-source.go: the inner text tells",
        "error encountered during MigrateToURI3 libvirt api call: virError(Code=38, Domain=7, Message='boom')";

    // Migration proxies.
    "migration-proxy-outbound", "outbound leg of proxy", "", HANDLER, CONNECT_PEER, ANY, PATH, "KubeVirt migration-proxy.go",
        "unable to create outbound leg of proxy to host 10.0.0.7:40123: dial tcp 10.0.0.7:40123: i/o timeout";
    "migration-proxy-broken", "migration-proxy", r"migration-proxy\.go.*(?:error|fail|refused|timeout|tls)", HANDLER, CONNECT_PEER, ANY, PATH, "KubeVirt migration-proxy.go",
        "migration-proxy.go:345 error encountered copying data to outbound connection: connection reset by peer";
    "migration-proxy-broken", "outbound connection", r"(?:out|in)bound connection", HANDLER, CONNECT_PEER, ANY, PATH, "KubeVirt migration-proxy.go handleConnection",
        "error encountered copying data to outbound connection: write: broken pipe";

    // Launcher and its sockets.
    "launcher-run-failed", "failed to run virt-launcher", "", LAUNCHER, CREATE_CONTAINER, ANY, None, "KubeVirt cmd/virt-launcher-monitor",
        "failed to run virt-launcher: fork/exec /usr/bin/virt-launcher: errno 0";
    "launcher-capabilities-missing", "errno 0", r"fork/exec [^:]*: errno 0", RUNTIME, CREATE_CONTAINER, NOT_PERMITTED, None, "Go on a runtime that drops file capabilities",
        "panic: fork/exec /usr/sbin/virtqemud: errno 0";
    "domain-not-defined-in-time", "waiting for domain to be defined", "", LAUNCHER, START_DOMAIN, TIMEOUT, None, "KubeVirt cmd/virt-launcher: --qemu-timeout",
        "panic: timed out waiting for domain to be defined";
    "launcher-early-exit", "received early exit signal", "", LAUNCHER, START_DOMAIN, CANCELLED, None, "KubeVirt cmd/virt-launcher",
        "received early exit signal";
    "launcher-dirty-exit", "dirty virt-launcher shutdown", "", LAUNCHER, RUN_GUEST, CRASHED, None, "KubeVirt cmd/virt-launcher-monitor",
        "dirty virt-launcher shutdown: exit-code 2";
    "launcher-zombie", "is a zombie, sending sigchld", "", QEMU, DESTROY_DOMAIN, STUCK, None, "KubeVirt pkg/virt-launcher/monitor.go",
        "Process qemu-kvm and pid 94 is a zombie, sending SIGCHLD to pid 1 to reap process";
    "launcher-grace-period-over", "grace period expired", "", GUEST, SHUTDOWN_DOMAIN, TIMEOUT, None, "KubeVirt pkg/virt-launcher/monitor.go; virt-handler vm.go",
        "Grace Period expired, shutting down.";
    "launcher-qemu-not-stopped", "unable to stop qemu with libvirt", "", LIBVIRT, DESTROY_DOMAIN, STUCK, None, "KubeVirt pkg/virt-launcher/monitor.go",
        "Unable to stop qemu with libvirt, falling back to SIGTERM";
    "launcher-socket-unresponsive", "unresponsive virt-launcher command socket", "", LAUNCHER, CONNECT_LAUNCHER, TIMEOUT, None, "KubeVirt domain-watcher.go: no dial for 30 s",
        "detected unresponsive virt-launcher command socket (//pods/1c2c/sockets/launcher-sock) for domain";
    "launcher-mark-failed", "unable to mark vmi as unresponsive", "", HANDLER, CONNECT_LAUNCHER, NOT_FOUND, None, "KubeVirt cache.go: the pod's folder is gone",
        "Unable to mark vmi as unresponsive socket //pods/1c2c/sockets/launcher-sock: no such file or directory";
    "launcher-socket-refused", "launcher-sock", r"dial unix \S*launcher-sock.*connection refused", LAUNCHER, CONNECT_LAUNCHER, REFUSED, None, "KubeVirt cmd-client: the launcher is gone; normal at its end",
        "transport: Error while dialing: dial unix /pods/1c2c/volumes/kubernetes.io~empty-dir/sockets/launcher-sock: connect: connection refused";
    "launcher-socket-timeout", "cmd client socket", "", LAUNCHER, CONNECT_LAUNCHER, ANY, None, "KubeVirt cmd-client",
        "failed to connect to cmd client socket: context deadline exceeded";
    "launcher-socket-timeout", "dial cmd socket", "", LAUNCHER, CONNECT_LAUNCHER, ANY, None, "KubeVirt cmd-client",
        "failed to dial cmd socket: //pods/1c2c/sockets/launcher-sock: context deadline exceeded";
    "launcher-command-timeout", "sending command", r"sending command (?:syncvmi|ping|getdomain\w*|killvmi|kill|migrate|freezevmi|unfreezevmi|pausevmi|guestping|getguestinfo|deletevmi|delete\w*): rpc error: code = deadlineexceeded", LAUNCHER, ANY, TIMEOUT, None, "KubeVirt cmd-client: launcher or libvirt does not answer in 5 to 20 s",
        "unknown error encountered sending command SyncVMI: rpc error: code = DeadlineExceeded desc = context deadline exceeded";
    "launcher-shutdown-cancelled", "sending command shutdown", "rst_stream", LAUNCHER, SHUTDOWN_DOMAIN, TIMEOUT, None, "KubeVirt cmd-client; grpc-go internal/transport: the launcher's server lives, its handler waits beyond the deadline",
        "unknown error encountered sending command Shutdown: rpc error: code = DeadlineExceeded desc = stream terminated by RST_STREAM with error code: CANCEL";
    "launcher-shutdown-timeout", "sending command shutdown", r"deadlineexceeded", LAUNCHER, SHUTDOWN_DOMAIN, TIMEOUT, None, "KubeVirt cmd-client: launcher or libvirt does not answer",
        "unknown error encountered sending command Shutdown: rpc error: code = DeadlineExceeded desc = context deadline exceeded";
    "launcher-command-lost", "sending command", r"sending command \w+: rpc error: code = unavailable", LAUNCHER, CONNECT_LAUNCHER, RESET, None, "KubeVirt cmd-client: the launcher ended",
        "unknown error encountered sending command Ping: rpc error: code = Unavailable desc = error reading from server: EOF";
    "launcher-not-found", "failed to detect isolation", "", HANDLER, CONNECT_LAUNCHER, ANY, None, "KubeVirt pkg/virt-handler/isolation",
        "failed to detect isolation for launcher pod: dial unix //pods/1c2c/sockets/launcher-sock: connect: no such file or directory";
    "guest-memory-unlock-failed", "memlock", r"memlock rlimit|rlimit_memlock|adjust.*memlock", HANDLER, START_DOMAIN, LIMIT, None, "KubeVirt pkg/virt-handler/isolation AdjustQemuProcessMemoryLimits",
        "Unable to adjust qemu process memlock rlimit: operation not permitted";
    "ghost-record-conflict", "ghost record", r"ghost record when entry already exists|stale domain from ghost", HANDLER, SYNC_VMI, EXISTS, None, "KubeVirt pkg/virt-handler/cache/cache.go",
        "can not add ghost record when entry already exists with differing UID";
    "domain-notify-failed", "domain notify", r"domain notify server exited|failed to .*domain notify|notify.*(?:failed|unable)", HANDLER, CONNECT_LAUNCHER, ANY, None, "KubeVirt event NotifyServerFailure",
        "Domain notify server exited unexpectedly: accept unix: too many open files";

    // Preparing the VM on the node.
    "host-disk-ownership", "preparing host-disks failed", "", HANDLER, SET_OWNERSHIP, ANY, None, "KubeVirt pkg/host-disk/host-disk.go",
        "preparing host-disks failed: chown /proc/13297/root/var/run/kubevirt-private/vmi-disks/pvcdisk/disk.img: operation not permitted";
    "host-disk-ownership", "set ownership", r"couldn't set ownership|set ownership (?:on|of)", HANDLER, SET_OWNERSHIP, ANY, None, "KubeVirt pkg/host-disk/host-disk.go",
        "Couldn't set Ownership on /proc/13297/root/disk.img: operation not permitted";
    "host-disk-too-small", "not enough space left on", r"unable to create .*disk\.img, not enough space", HANDLER, OPEN_IMAGE, NO_SPACE, None, "KubeVirt pkg/host-disk/host-disk.go",
        "unable to create /var/run/kubevirt-private/vmi-disks/data/disk.img, not enough space left on the volume, demanded size 100 B is bigger than available space 10 B";
    "vmi-network-failed", "failed to configure vmi network", "", HANDLER, SETUP_NETWORK, ANY, None, "KubeVirt pkg/virt-handler/vm.go",
        "failed to configure vmi network: setup failed, err: failed plugging phase1 at nic 'eth0': operation not supported";
    "vmi-network-failed", "plugging phase", r"failed plugging phase\d", HANDLER, SETUP_NETWORK, ANY, None, "KubeVirt pkg/network/setup",
        "failed plugging phase2 at nic 'default': could not find pod link";
    "vmi-network-failed", "crashed due to a network error", "", HANDLER, SETUP_NETWORK, OTHER, None, "KubeVirt pkg/virt-handler/vm.go",
        "virt-launcher crashed due to a network error. Updating VMI prod/db-0 status to Failed";
    "container-disk-failed", "container disk", r"(?:failed|unable|error).{0,60}container ?disk|container ?disk.{0,60}(?:failed|unable|error|invalid|not found)", HANDLER, START_DOMAIN, ANY, None, "KubeVirt pkg/virt-handler/container-disk",
        "failed to mount container disk root: no such file or directory";
    "container-disk-failed", "containerdisk", r"(?:failed|unable|error).{0,60}containerdisk", HANDLER, START_DOMAIN, ANY, None, "KubeVirt pkg/virt-handler/container-disk",
        "failed to find a sourceFile in containerDisk root: Failed to check /disk for disks: no such file or directory";
    "hotplug-mount-failed", "hotplug", r"hotplug[^\]]{0,80}(?:failed|error|unable|not found|denied)|(?:failed|unable|error)[^\[]{0,80}hotplug", HANDLER, HOTPLUG, ANY, None, "KubeVirt pkg/virt-handler/hotplug-disk",
        "failed to mount hotplug volume data: permission denied";
    "host-device-missing", "hostdevice", r"host ?devices? .*(?:not|missing|available|failed)", LAUNCHER, ALLOCATE_DEVICE, UNAVAILABLE, None, "KubeVirt pkg/virt-launcher/virtwrap/device/hostdevice",
        "failed to create PCI HostDevices: hostdevice requests not fulfilled: the number of hostdevices does not match, missing address pool for gpu1";
    "device-plugin-gone", "monitored device", r"monitored device .* (?:disappeared|is not present|doesn't exist)", HANDLER, REGISTER_PLUGIN, NOT_FOUND, None, "KubeVirt pkg/virt-handler/device-manager/generic_device.go",
        "monitored device kvm disappeared";
    "device-plugin-failed", "device plugin", r"device plugin.{0,60}(?:failed|error|unable)|(?:failed|error|unable).{0,60}device plugin", ANY, REGISTER_PLUGIN, ANY, None, "KubeVirt pkg/virt-handler/device-manager; kubelet",
        "Error starting kvm device plugin: timeout waiting for device plugin registration";
    "vmi-crashed", "virtualmachineinstance crashed", "", QEMU, RUN_GUEST, CRASHED, None, "KubeVirt event Stopped; also when host components end it",
        "The VirtualMachineInstance crashed.";

    // I/O pauses.
    "paused-no-space", "paused due to not enough space", "", QEMU, READ_WRITE, NO_SPACE, None, "KubeVirt notify-client event IOerror",
        "VM Paused due to not enough space on volume: root";
    "paused-io-error", "paused due to io error", "", QEMU, READ_WRITE, IO_ERROR, None, "KubeVirt notify-client event IOerror",
        "VM Paused due to IO error at the volume: root";
    "paused-io-error", "low-level io error", "", QEMU, READ_WRITE, IO_ERROR, None, "KubeVirt condition PausedIOError",
        "VMI was paused, low-level IO error detected";

    // Controllers.
    "webhook-unreachable", "failed calling webhook", "", API_SERVER, CALL_API, ANY, None, "kubernetes apiserver admission/plugin/webhook",
        "Internal error occurred: failed calling webhook \"virt-api.kubevirt.io\": failed to call webhook: Post \"https://virt-api.kubevirt.svc:443/x\": no endpoints available for service \"virt-api\"";
    "node-virt-handler-silent", "virt-handler", r"virt-handler (?:on node \S+ )?is not (?:responsive|present)", HANDLER, REPORT_STATUS, TIMEOUT, None, "KubeVirt pkg/virt-controller/watch/node: no heartbeat in 5 min",
        "virt-handler on node n1 is not responsive, marking VMI as failed";
    "volume-claim-missing", "missing pvc", "", CONTROLLER, PROVISION, NOT_FOUND, None, "KubeVirt pkg/virt-controller/watch FailedPvcNotFound",
        "failed to render launch manifest: didn't find PVC: missing PVC db-0";
    "volume-claim-missing", "didn't find pvc", "", CONTROLLER, PROVISION, NOT_FOUND, None, "KubeVirt pkg/virt-controller/services",
        "failed to render launch manifest: didn't find PVC db-0-root";
    "volume-claim-missing", "persistentvolumeclaim", r#"persistentvolumeclaims? "?[^"]*"? not found|(?:pvc|persistentvolumeclaim) \S+ (?:does not exist|not found)"#, CONTROLLER, PROVISION, NOT_FOUND, None, "kube-scheduler, KubeVirt FailedPvcNotFound",
        "persistentvolumeclaim \"db-0-root\" not found";
    "launch-manifest-failed", "failed to render launch manifest", "", CONTROLLER, CREATE_POD, ANY, None, "KubeVirt pkg/virt-controller/services/template.go",
        "failed to render launch manifest: invalid configuration";

    // CDI.
    "import-no-space", "virtual image size", r"virtual image size \d+ is larger than", CDI, IMPORT, NO_SPACE, None, "CDI pkg/image/validate.go",
        "Unable to process data: Virtual image size 21474836480 is larger than the reported available storage 10737418240. A larger PVC is required.";
    "import-failed", "unable to process data", "", CDI, IMPORT, ANY, None, "CDI cmd/cdi-importer",
        "Unable to process data: unexpected EOF";
    "import-failed", "unable to connect to", r"unable to connect to http data source|unable to connect to (?:imageio|vddk|s3|gcs)", CDI, IMPORT, ANY, None, "CDI pkg/importer",
        "Unable to connect to http data source: expected status code 200, got 404. Status: 404 Not Found";
    "import-pvc-spec-incomplete", "pvc spec is missing", r"pvc spec is missing|no default storage ?class|no storageclass", CDI, PROVISION, INVALID, None, "CDI pkg/controller/datavolume ErrClaimNotValid",
        "PVC spec is missing accessMode and no storageClass to choose profile";
    "clone-source-in-use", "using persistentvolumeclaim", r"^pod \S+ using persistentvolumeclaim", CDI, IMPORT, BUSY, None, "CDI pkg/controller/common: the clone waits for whoever has its source",
        "pod prod/virt-launcher-db-0-x using PersistentVolumeClaim golden";
    "import-pod-failed", "importer is not running", "", CDI, IMPORT, ANY, None, "CDI pkg/controller",
        "DataVolume db-0 importer is not running due to an error: boom";
};
