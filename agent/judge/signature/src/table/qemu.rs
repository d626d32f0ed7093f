//! Texts of QEMU and its helpers: start, KVM, memory, devices, images, the incoming state, I/O.
//!
//! They come by way of libvirt (`… unexpectedly closed the monitor: <tail of QEMU's log>`) or from the log that the launcher's
//! monitor prints. Sources: strings of QEMU 6.2 to 10.0, swtpm 0.8, passt, virtiofsd.

use kulprit_model::said::{actor::*, class::*, operation::*};
use kulprit_model::side::Side;

use super::{ANY, Row, rows};

const TARGET: Option<Side> = Some(Side::Target);
const SOURCE: Option<Side> = Some(Side::Source);

pub(super) const ROWS: &[Row] = rows! {
    // A device plugged into a running QEMU; before the reasons why.
    "device-hotplug-failed", "device_add", r"execute qemu command '(?:device_add|device_del|blockdev-add|blockdev-del|object-add|netdev_add|chardev-add)'", QEMU, HOTPLUG, ANY, None, "libvirt src/qemu/qemu_monitor_json.c",
        "internal error: unable to execute QEMU command 'device_add': Bus 'pci.5' does not support hotplugging";
    "device-hotplug-failed", "'blockdev-", r"execute qemu command '(?:blockdev-add|blockdev-del)'", QEMU, HOTPLUG, ANY, None, "libvirt src/qemu/qemu_monitor_json.c",
        "internal error: unable to execute QEMU command 'blockdev-add': Could not open '/var/run/kubevirt/hotplug-disks/data': Operation not permitted";
    // Images.
    "image-lock-held", "another process using the image", "", QEMU, LOCK_IMAGE, HELD, None, "QEMU block/file-posix.c raw_handle_perm_lock",
        "qemu-kvm: -device virtio-blk-pci: Failed to get \"write\" lock\nIs another process using the image [/var/run/kubevirt-private/vmi-disks/root/disk.img]?";
    "image-lock-held", "\"write\" lock", r#"failed to (?:get|acquire)(?: shared)? "write" lock"#, QEMU, LOCK_IMAGE, HELD, None, "QEMU block/file-posix.c",
        "internal error: unable to execute QEMU command 'cont': Failed to get \"write\" lock";
    "image-lock-held", "\"consistent read\" lock", "", QEMU, LOCK_IMAGE, HELD, None, "QEMU block/file-posix.c",
        "Failed to get shared \"consistent read\" lock";
    "image-lock-unsupported", "lock byte", r"failed to (?:un)?lock byte \d+", QEMU, LOCK_IMAGE, ANY, None, "QEMU block/file-posix.c raw_apply_lock_bytes",
        "qemu-kvm: -blockdev {...}: Failed to lock byte 100: No locks available";
    "image-format-wrong", "not in qcow2 format", r"image is not in \w+ format", QEMU, OPEN_IMAGE, CORRUPT, None, "QEMU block/qcow2.c",
        "qemu-kvm: -blockdev {...}: Image is not in qcow2 format";
    "image-corrupt", "image is corrupt", "", QEMU, OPEN_IMAGE, CORRUPT, None, "QEMU block/qcow2.c",
        "qcow2: Image is corrupt: L2 table offset 0x2a2a2a00 unaligned; further non-fatal corruption events will be suppressed";
    "image-corrupt", "marking image as corrupt", "", QEMU, READ_WRITE, CORRUPT, None, "QEMU block/qcow2.c qcow2_signal_corruption",
        "qcow2: Marking image as corrupt: Overlaps with active L2 table";
    "image-open-failed", "could not open", r"could not open '[^']*'", QEMU, OPEN_IMAGE, ANY, None, "QEMU block/file-posix.c raw_open_common",
        "qemu-kvm: -blockdev {...}: Could not open '/var/run/kubevirt-private/vmi-disks/root/disk.img': Permission denied";
    "image-alignment-unknown", "could not find working o_direct alignment", "", QEMU, OPEN_IMAGE, IO_ERROR, None, "QEMU block/file-posix.c raw_probe_alignment",
        "qemu-kvm: Could not find working O_DIRECT alignment";
    "qemu-block-io-error", "block_io_error", "", QEMU, READ_WRITE, ANY, None, "QEMU qapi/block-core.json BLOCK_IO_ERROR",
        "event BLOCK_IO_ERROR device drive-ua-root operation write action stop reason No space left on device";
    "aio-limit", "aio context", r"failed to (?:create|initialize|setup) (?:linux )?aio context", QEMU, OPEN_IMAGE, LIMIT, None, "QEMU block/linux-aio.c laio_init",
        "qemu-kvm: -blockdev {...}: Unable to use native AIO: failed to create linux AIO context: Resource temporarily unavailable";

    // KVM.
    "kvm-access", "could not access kvm kernel module", "", QEMU, ACCESS_KVM, ANY, None, "QEMU accel/kvm/kvm-all.c kvm_init",
        "Could not access KVM kernel module: Permission denied";
    "kvm-init-failed", "failed to initialize kvm", "", QEMU, ACCESS_KVM, ANY, None, "QEMU accel/accel-system.c",
        "qemu-kvm: failed to initialize kvm: Device or resource busy";
    "kvm-create-vm-failed", "kvm_create_vm", r"ioctl\(KVM_CREATE_VM\) failed", QEMU, ACCESS_KVM, ANY, None, "QEMU accel/kvm/kvm-all.c",
        "ioctl(KVM_CREATE_VM) failed: 16 Device or resource busy";
    "kvm-open-failed", "/dev/kvm", r"(?:unable to|could not|can't|cannot|failed to) (?:open|access) /dev/kvm", QEMU, ACCESS_KVM, ANY, None, "libvirt src/qemu/qemu_capabilities.c; general",
        "Unable to open /dev/kvm: Permission denied";
    "kvm-invalid-accelerator", "invalid accelerator kvm", "", QEMU, ACCESS_KVM, UNSUPPORTED, None, "QEMU accel/accel-system.c",
        "qemu-kvm: -accel kvm: invalid accelerator kvm";
    "kvm-internal-error", "kvm internal error", r"kvm internal error\. suberror: \d+", QEMU, RUN_GUEST, CRASHED, None, "QEMU accel/kvm/kvm-all.c kvm_handle_internal_error",
        "KVM internal error. Suberror: 1";
    "kvm-entry-failed", "entry failed, hardware error", "", QEMU, RUN_GUEST, CRASHED, None, "QEMU target/i386/kvm/kvm.c",
        "KVM: entry failed, hardware error 0x80000021";
    "kvm-run-failed", "kvm run failed", "", QEMU, RUN_GUEST, CRASHED, None, "QEMU accel/kvm/kvm-all.c kvm_cpu_exec",
        "error: kvm run failed Bad address";
    "kvm-registers-refused", "failed to set", r"kvm: failed to set (?:special registers|xcrs?|msr|.* registers)|failed to set msr 0x|kvm_(?:put|buf_set)_msrs", QEMU, ANY, INCOMPATIBLE, None, "QEMU target/i386/kvm/kvm.c kvm_arch_put_registers: at the start as well as with an incoming state",
        "qemu-kvm: error: failed to set MSR 0x48e to 0xfff9fffe04006172";
    "kvm-registers-refused", "failed to put registers", "", QEMU, ANY, INCOMPATIBLE, None, "QEMU accel/kvm/kvm-all.c, >= 9.2",
        "qemu-kvm: Failed to put registers after init: Invalid argument";
    "cpu-model-unavailable", "host doesn't support requested features", "", QEMU, START_DOMAIN, INCOMPATIBLE, None, "QEMU target/i386/cpu.c: cpu enforce",
        "qemu-kvm: Host doesn't support requested features";
    "cpu-feature-dropped", "host doesn't support requested feature:", "", QEMU, START_DOMAIN, INCOMPATIBLE, None, "QEMU target/i386/cpu.c: a warning, it runs on without",
        "qemu-kvm: warning: host doesn't support requested feature: CPUID.07H:EBX.invpcid [bit 10]";

    // Memory and limits at start.
    "hugepages-missing", "unable to map backing store for guest ram", "", QEMU, START_DOMAIN, OUT_OF_MEMORY, None, "QEMU util/mmap-alloc.c, system/physmem.c file_ram_alloc",
        "qemu-kvm: unable to map backing store for guest RAM: Cannot allocate memory";
    "hugepages-missing", "os_mem_prealloc", "insufficient free host memory pages", QEMU, START_DOMAIN, OUT_OF_MEMORY, None, "QEMU util/oslib-posix.c < 7.0",
        "qemu-kvm: os_mem_prealloc: Insufficient free host memory pages available to allocate guest RAM";
    "hugepages-missing", "preallocating memory failed", "", QEMU, START_DOMAIN, OUT_OF_MEMORY, None, "QEMU util/oslib-posix.c qemu_prealloc_mem",
        "qemu-kvm: preallocating memory failed: Bad address";
    "hugepages-missing", "hugetlbfs", r"hugetlbfs.*(?:not enough|cannot allocate|not mounted|unable)|(?:unable|failed).*hugetlbfs", ANY, START_DOMAIN, ANY, None, "libvirt src/qemu/qemu_conf.c; QEMU",
        "internal error: Unable to find any usable hugetlbfs mount for 1048576 KiB";
    "guest-memory-not-allocated", "cannot set up guest memory", "", QEMU, START_DOMAIN, OUT_OF_MEMORY, None, "QEMU system/physmem.c ram_block_add",
        "qemu-kvm: cannot set up guest memory 'pc.ram': Cannot allocate memory";
    "guest-address-space-too-small", "total space for memory devices", "", QEMU, START_DOMAIN, INVALID, None, "QEMU hw/mem/memory-device.c: the guest's address space, not the node's memory",
        "qemu-kvm: -device {...}: not enough space, currently 0x0 in use of total space for memory devices 0x165a100000";
    "locked-memory-limit", "failed to set up", r"vfio_dma_map|vfio_container_dma_map", QEMU, ALLOCATE_DEVICE, LIMIT, None, "QEMU hw/vfio",
        "vfio_dma_map(0x55d0, 0x0, 0x80000000, 0x7f00) = -12 (Cannot allocate memory): failed to set up DMA";
    "locked-memory-limit", "vfio_dma_map", r"vfio(?:_container)?_dma_map", QEMU, ALLOCATE_DEVICE, ANY, None, "QEMU hw/vfio/common.c",
        "qemu-kvm: -device vfio-pci,host=0000:3b:00.0: vfio_dma_map(0x5581, 0x0, 0xa0000, 0x7f2b) = -12 (Cannot allocate memory)";
    "locked-memory-limit", "locking memory failed", "", QEMU, START_DOMAIN, LIMIT, None, "QEMU system/vl.c os_mlock",
        "qemu-kvm: locking memory failed";
    "thread-not-created", "qemu_thread_create", "", QEMU, FORK, LIMIT, None, "QEMU util/qemu-thread-posix.c",
        "qemu: qemu_thread_create: Resource temporarily unavailable";

    // Devices.
    "vfio-group-busy", "failed to open /dev/vfio", r"failed to open /dev/vfio/\S+", QEMU, ALLOCATE_DEVICE, ANY, None, "QEMU hw/vfio/container.c vfio_group_get",
        "qemu-kvm: -device vfio-pci,host=0000:3b:00.0: vfio 0000:3b:00.0: failed to open /dev/vfio/45: Device or resource busy";
    "vfio-group-not-viable", "is not viable", "group \\d+ is not viable", QEMU, ALLOCATE_DEVICE, BUSY, None, "QEMU hw/vfio/container.c",
        "vfio 0000:3b:00.0: group 45 is not viable. Please ensure all devices within the iommu_group are bound to their vfio bus driver.";
    "vfio-iommu-missing", "failed to set iommu", "", QEMU, ALLOCATE_DEVICE, ANY, None, "QEMU hw/vfio/container.c",
        "vfio 0000:3b:00.0: failed to set iommu for container: Operation not permitted";
    "vfio-no-iommu-group", "no iommu_group found", "", QEMU, ALLOCATE_DEVICE, UNSUPPORTED, None, "QEMU hw/vfio/pci.c",
        "vfio 0000:3b:00.0: no iommu_group found: No such file or directory";
    "vfio-device-error", "vfio", r"vfio(?:-pci)? [0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.\d: (?:error|failed)", QEMU, ALLOCATE_DEVICE, ANY, None, "QEMU hw/vfio/pci.c",
        "qemu-kvm: -device {...}: vfio 0000:3b:00.0: error getting device from group 45: Invalid argument";
    "vhost-open-failed", "vhost-net", r"(?:could not|unable to|failed to) open.{0,20}vhost-net|vhost-net requested but could not be initialized", QEMU, ALLOCATE_DEVICE, ANY, None, "QEMU net/tap.c; libvirt qemu_interface.c",
        "Unable to open vhost-net device /dev/vhost-net: Permission denied";
    "tun-open-failed", "/dev/net/tun", r"(?:unable to|could not|failed to) (?:open|create|configure).{0,30}(?:/dev/net/tun|tap)", ANY, ALLOCATE_DEVICE, ANY, None, "libvirt src/util/virnetdevtap.c",
        "Unable to open /dev/net/tun, is tun module loaded?: Operation not permitted";
    "swtpm-failed", "swtpm", r"could not start 'swtpm'|swtpm.*(?:exit ?status|failed|error|died|terminated)|failed.*swtpm", QEMU, START_DOMAIN, ANY, None, "libvirt src/qemu/qemu_tpm.c",
        "internal error: Could not start 'swtpm'. exitstatus: 126, error: libvirt: error : cannot execute binary /usr/bin/swtpm: Permission denied";
    "swtpm-failed", "tpm-emulator", "tpm-emulator: tpm result", QEMU, START_DOMAIN, OTHER, None, "QEMU backends/tpm/tpm_emulator.c",
        "qemu-kvm: tpm-emulator: TPM result for CMD_INIT: 0x101 operation failed";
    "virtiofsd-failed", "virtiofsd", r"virtiofsd.*(?:died|failed|error|exit|refused|closed)|(?:failed|unable|error).*virtiofsd", QEMU, START_DOMAIN, ANY, None, "libvirt src/qemu/qemu_virtiofs.c",
        "internal error: virtiofsd died unexpectedly";
    "passt-failed", "passt", r"(?:could not start|failed to start|unable to start) '?passt|passt.*(?:exit ?status|exited|failed|died)", QEMU, START_DOMAIN, ANY, None, "libvirt src/qemu/qemu_passt.c",
        "internal error: Could not start 'passt': Failed to bind any port for address ::";
    "vhost-user-lost", "vhost_user", r"vhost_user_(?:read|write|set|get)\w*|vhost-user.*(?:disconnect|fail)", QEMU, RUN_GUEST, ANY, None, "QEMU hw/virtio/vhost-user.c",
        "qemu-kvm: Failed to write msg. Wrote -1 instead of 20. vhost_user_write: Broken pipe";
    "device-unknown", "is not a valid device model name", "", QEMU, START_DOMAIN, INVALID, None, "QEMU system/qdev-monitor.c",
        "qemu-kvm: -device foo: 'foo' is not a valid device model name";
    "machine-type-unknown", "unsupported machine type", "", QEMU, START_DOMAIN, INCOMPATIBLE, None, "QEMU system/vl.c select_machine",
        "qemu-kvm: unsupported machine type: \"pc-q35-rhel9.6.0\"";
    "qemu-firmware-missing", "ovmf", r"(?:could not|failed to|unable to|cannot).{0,60}ovmf|ovmf.{0,80}no such file", ANY, START_DOMAIN, ANY, None, "libvirt src/qemu/qemu_firmware.c",
        "operation failed: Unable to find 'efi' firmware that is compatible with the current configuration: OVMF missing, could not load OVMF_CODE.fd";

    // The incoming state of a migration: the target's QEMU speaks.
    "load-state-features", "allowed features", r"features 0x[0-9a-f]+ unsupported\. allowed features: 0x", QEMU, LOAD_STATE, INCOMPATIBLE, TARGET, "QEMU hw/virtio/virtio.c virtio_load",
        "qemu-kvm: Features 0x1300a7bfe7 unsupported. Allowed features: 0x10179bfffef";
    "load-state-device", "error while loading state for instance", "", QEMU, LOAD_STATE, INCOMPATIBLE, TARGET, "QEMU migration/savevm.c vmstate_load",
        "qemu-kvm: error while loading state for instance 0x0 of device '0000:00:02.0:00.0/virtio-net'";
    "load-state-device", "error while loading state section", "", QEMU, LOAD_STATE, INCOMPATIBLE, TARGET, "QEMU migration/savevm.c",
        "qemu-kvm: error while loading state section id 3(ram)";
    "load-state-device", "failed to load ", r"failed to load (?:virtio|[\w-]+:[\w-]+|[\w-]+/)", QEMU, LOAD_STATE, INCOMPATIBLE, TARGET, "QEMU migration/vmstate.c",
        "qemu-kvm: Failed to load virtio-net:virtio";
    "load-state-ramblock", "ramblock", r"unknown ramblock|ramblock.*(?:mismatch|not found|does not|length)|(?:size|length) mismatch.*in != ", QEMU, LOAD_STATE, INCOMPATIBLE, TARGET, "QEMU migration/ram.c",
        "qemu-kvm: Unknown ramblock \"0000:00:01.0/vga.vram\", cannot accept migration";
    "load-state-ramblock", "length mismatch", r"length mismatch: .* in != ", QEMU, LOAD_STATE, INCOMPATIBLE, TARGET, "QEMU migration/ram.c",
        "qemu-kvm: Size mismatch: length mismatch: pc.rom: 0x20000 in != 0x40000";
    // A negative number is the stream's own error, which broke off: nothing was read that could not fit.
    "load-state-stream-broken", "failed", r"(?:read section footer failed|failed to read instance/version id|failed to read section id): -\d", QEMU, LOAD_STATE, RESET, TARGET, "QEMU migration/savevm.c check_section_footer, qemu_loadvm_section_start_full, qemu_loadvm_section_part_end",
        "qemu-system-x86_64: check_section_footer: Read section footer failed: -5";
    "load-state-section", "savevm section", r"unknown savevm section|missing section footer", QEMU, LOAD_STATE, INCOMPATIBLE, TARGET, "QEMU migration/savevm.c",
        "qemu-kvm: Unknown savevm section or instance 'vmgenid' 0. Make sure that your current VM setup matches your saved VM setup";
    "load-state-section", "section footer", "", QEMU, LOAD_STATE, INCOMPATIBLE, TARGET, "QEMU migration/savevm.c check_section_footer",
        "qemu-kvm: Missing section footer for 0000:00:01.2/piix3";
    "load-state-stream-broken", "load of migration failed", r"load of migration failed: (?:input/output error|connection|broken pipe|channel|end of file)", QEMU, LOAD_STATE, RESET, TARGET, "QEMU migration/migration.c process_incoming_migration_co: the stream ended, not a disk",
        "qemu-kvm: load of migration failed: Input/output error";
    "load-state-failed", "load of migration failed", "", QEMU, LOAD_STATE, INCOMPATIBLE, TARGET, "QEMU migration/migration.c",
        "qemu-kvm: load of migration failed: Invalid argument";
    "load-state-stream-broken", "not a migration stream", "", QEMU, LOAD_STATE, INCOMPATIBLE, TARGET, "QEMU migration/savevm.c",
        "qemu-kvm: Not a migration stream";
    "postcopy-unsupported", "postcopy is not supported", "", QEMU, MIGRATE, UNSUPPORTED, TARGET, "QEMU migration/migration.c",
        "internal error: unable to execute QEMU command 'migrate-set-capabilities': Postcopy is not supported: Userfaultfd not available";
    "userfaultfd-forbidden", "userfaultfd", r"userfault|userfaultfd", QEMU, MIGRATE, NOT_PERMITTED, TARGET, "QEMU migration/postcopy-ram.c",
        "qemu-kvm: postcopy_ram_supported_by_host: userfaultfd not available: Operation not permitted";
    "postcopy-paused", "detected io failure for postcopy", "", QEMU, MIGRATE, RESET, None, "QEMU migration/migration.c postcopy_pause",
        "qemu-kvm: Detected IO failure for postcopy. Migration paused.";
    "migration-socket-broken", "unable to write to socket", "", QEMU, MIGRATE, RESET, SOURCE, "QEMU io/channel-socket.c",
        "qemu-kvm: Unable to write to socket: Connection reset by peer";
    "migration-blocked-device", "non-migratable device", "", QEMU, MIGRATE, UNSUPPORTED, SOURCE, "QEMU migration/migration.c migrate_add_blocker",
        "internal error: unable to execute QEMU command 'migrate': State blocked by non-migratable device '0000:00:03.0/vfio', it is not migratable";
    "multifd-failed", "multifd", r"multifd.*(?:fail|error|unable|terminated|cannot)|(?:failed|unable|error).*multifd", QEMU, MIGRATE, ANY, None, "QEMU migration/multifd.c",
        "qemu-kvm: multifd_send_sync_main: multifd_send_pages fail";

    // What ends QEMU.
    "guest-panicked", "guest panicked", "", GUEST, RUN_GUEST, CRASHED, None, "QEMU qapi GUEST_PANICKED; libvirt; KubeVirt event GuestPanicked",
        "Guest panicked: type=unspecified";
    "guest-panicked", "panicked", r#"detail="?panicked|crashed\(\d\): ?panicked|crashed \(panicked\)"#, GUEST, RUN_GUEST, CRASHED, None, "libvirt VIR_DOMAIN_EVENT_CRASHED_PANICKED as KubeVirt's launcher and virsh print it",
        "DomainLifecycle event Domain event=\"crashed\" detail=\"panicked\" with event id 8 reason 0 received";
    "guest-panicked", "kernel panic - not syncing", "", GUEST, RUN_GUEST, CRASHED, None, "Linux kernel/panic.c on a guest's console; the host's own is in the kernel log",
        "[    2.117002] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)";
    "guest-boot-failed", "bootable", r"no bootable (?:device|option)|not a bootable disk", GUEST, RUN_GUEST, NOT_FOUND, None, "SeaBIOS src/boot.c, EDK2 BdsDxe on a guest's console",
        "BdsDxe: No bootable option or device was found.";
    "qemu-terminated-by-signal", "terminating on signal", r"terminating on signal \d+", QEMU, RUN_GUEST, KILLED, None, "QEMU system/runstate.c qemu_kill_report; SIGTERM of a normal stop too",
        "qemu-kvm: terminating on signal 15 from pid 1 (/usr/bin/virt-launcher-monitor)";
    "qemu-assertion", "assertion", r"assertion [`'\w].*failed|assertion failed", QEMU, RUN_GUEST, CRASHED, None, "general: assert(3), g_assert",
        "qemu-kvm: ../block/io.c:1234: bdrv_co_pwritev: Assertion `offset >= 0' failed.";
};
