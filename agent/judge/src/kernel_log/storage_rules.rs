//! Rows about storage behind a network or a controller: connections lost and back, stalls, devices gone, thin pools, remounts.
//!
//! The same form as in `rules.rs`, which tells how a row is read. `backend` and `server` say what was lost, where the line does.

use kulprit_model::{FindingCode, attribute};

use super::rules::{
    Meaning::{Finding, Harmless},
    Rule, rows,
};
use FindingCode::{
    BlockDeviceGone, BlockDeviceHeld, BlockDeviceStalled, BlockIoError, FilesystemRemountedReadOnly,
    StorageConnectionBack, StorageConnectionLost, ThinPoolFull,
};

const NFS: (&str, &str) = (attribute::BACKEND, "nfs");
const CEPH: (&str, &str) = (attribute::BACKEND, "ceph");
const ISCSI: (&str, &str) = (attribute::BACKEND, "iscsi");
const NVME: (&str, &str) = (attribute::BACKEND, "nvme");
const MULTIPATH: (&str, &str) = (attribute::BACKEND, "multipath");
const DRBD: (&str, &str) = (attribute::BACKEND, "drbd");
const FC: (&str, &str) = (attribute::BACKEND, "fc");
const IO_ERROR: (&str, &str) = (attribute::IO_ERROR, attribute::IO_OTHER);

pub(super) const ROWS: &[Rule] = rows! {
    // NFS.
    Finding(StorageConnectionLost), "nfs: server ",
        r"^(?:lockd|nfs): server (?P<server>\S+) not responding(?:, (?:still trying|timed out))?", [NFS],
        "fs/nfs, net/sunrpc/clnt.c call_timeout",
        "nfs: server 10.0.0.5 not responding, still trying";
    Finding(StorageConnectionBack), "nfs: server ",
        r"^(?:lockd|nfs): server (?P<server>\S+) OK", [NFS],
        "net/sunrpc/clnt.c",
        "nfs: server 10.0.0.5 OK";
    Finding(StorageConnectionLost), "NFS: ",
        r"^NFS: (?:state manager: .*failed on NFSv4 server (?P<server>\S+)|.*(?:lease|session).*(?:lost|expired))", [NFS],
        "fs/nfs/nfs4state.c",
        "NFS: state manager: check lease failed on NFSv4 server 10.0.0.5 with error 13";
    Finding(StorageConnectionLost), "CIFS: VFS: ",
        r"^CIFS: VFS: (?:\\\\(?P<server>[^\\\s]+)\S* )?.*(?:has not responded|Server \S+ has not responded|reconnect)", [(attribute::BACKEND, "cifs")],
        "fs/smb/client/connect.c",
        "CIFS: VFS: \\\\10.0.0.6 has not responded in 180 seconds. Reconnecting...";

    // Ceph: monitors, OSDs, MDS, krbd.
    Finding(StorageConnectionLost), "libceph: ",
        r"^libceph: (?:mon|osd|mds)\d+ (?:\(\d\))?(?P<server>[0-9\[][0-9a-f.:\[\]]*:\d+) (?:session lost|connect error|socket closed|socket error|down|missing|timed out)", [CEPH],
        "net/ceph/messenger.c, mon_client.c, osdmap.c",
        "libceph: mon0 (1)10.0.0.8:6789 session lost, hunting for new mon";
    Finding(StorageConnectionLost), "libceph: ",
        r"^libceph: (?:osd\d+ down|mon\d+ .*(?:no response|timeout))", [CEPH],
        "net/ceph/osdmap.c",
        "libceph: osd3 down";
    Finding(StorageConnectionBack), "libceph: ",
        r"^libceph: (?:osd\d+ up|mon\d+ \S+ session established)", [CEPH],
        "net/ceph/osdmap.c, mon_client.c",
        "libceph: mon1 (1)10.0.0.9:6789 session established";
    Finding(StorageConnectionBack), "ceph: ",
        r"^ceph: (?:\[[^\]]*\]: ?)?mds\d+ (?:recovery completed|reconnect success)", [CEPH],
        "fs/ceph/mds_client.c",
        "ceph: mds0 reconnect success";
    Finding(StorageConnectionLost), "ceph: ",
        r"^ceph: (?:\[[^\]]*\]: ?)?mds\d+ (?:caps stale|hung|reconnect (?:start|denied)|rejected session|session (?:lost|blocklisted|blacklisted))", [CEPH],
        "fs/ceph/mds_client.c",
        "ceph: mds0 caps stale";
    Finding(StorageConnectionLost), "rbd: ",
        r"^rbd: (?P<device_name>rbd\d+): .*(?:blocklisted|blacklisted|encountered watch error|failed to (?:unwatch|watch|acquire)|lock (?:lost|broken))", [CEPH],
        "drivers/block/rbd.c: another node took the image over",
        "rbd: rbd3: encountered watch error: -107";
    Finding(StorageConnectionLost), "rbd: ",
        r"^rbd: (?P<device_name>rbd\d+):? .*result -(?:108|110|107)", [CEPH],
        "drivers/block/rbd.c: -108 is a blocklisted client",
        "rbd: rbd3: write at objno 12 0~4096 result -108";
    Finding(BlockIoError), "rbd: ",
        r"^rbd: (?P<device_name>rbd\d+):? .*result -\d+", [CEPH, IO_ERROR],
        "drivers/block/rbd.c",
        "rbd: rbd3: write at objno 12 0~4096 result -5";

    // iSCSI, Fibre Channel.
    Harmless, "[Hardware Error]",
        r"^sd [\d:]+: \[sd[a-z]+\] .*Sense Key : Hardware Error", [],
        "sense data of a virtual iSCSI target",
        "sd 3:0:0:1: [sdb] tag#7 Sense Key : Hardware Error [current] [Hardware Error]";
    Finding(StorageConnectionLost), "detected conn error",
        r"^\s*connection(?P<server>\d+:\d+): detected conn error \(\d+\)", [ISCSI],
        "drivers/scsi/scsi_transport_iscsi.c; 1020 to 1022; `server` is session:connection",
        " connection1:0: detected conn error (1022)";
    Finding(StorageConnectionLost), "ping timeout of",
        r"^\s*connection(?P<server>\d+:\d+): ping timeout of \d+ secs expired", [ISCSI],
        "drivers/scsi/libiscsi.c",
        " connection1:0: ping timeout of 5 secs expired, recv timeout 5, last rx 4295, last ping 4296, now 4297";
    Finding(StorageConnectionLost), "session recovery timed out",
        r"^\s*session(?P<server>\d+): session recovery timed out after \d+ secs", [ISCSI],
        "drivers/scsi/scsi_transport_iscsi.c: its devices go offline now",
        " session3: session recovery timed out after 120 secs";
    Finding(StorageConnectionLost), "blocked FC remote port",
        r"^\s*rport-(?P<server>[\d:-]+): blocked FC remote port time out", [FC],
        "drivers/scsi/scsi_transport_fc.c",
        " rport-2:0-3: blocked FC remote port time out: removing rport";
    Finding(StorageConnectionLost), "LOOP DOWN",
        r"^qla2xxx \[[0-9a-f:.]+\]-\S+: LOOP DOWN detected", [FC],
        "drivers/scsi/qla2xxx",
        "qla2xxx [0000:3b:00.0]-500b:2: LOOP DOWN detected (2 3 0 0).";
    Finding(StorageConnectionLost), "Link Down Event",
        r"^lpfc [0-9a-f:.]+: .*Link Down Event", [FC],
        "drivers/scsi/lpfc",
        "lpfc 0000:3b:00.0: 0:1305 Link Down Event x2 received Data: x2 x20 x110 x0 x0";

    // NVMe over fabrics, and the local ones.
    Finding(StorageConnectionLost), "starting error recovery",
        r"^nvme (?P<device_name>nvme\d+): (?:starting error recovery|keep-alive failed|failed nvme_keep_alive_end_io)", [NVME],
        "drivers/nvme/host/tcp.c, rdma.c, core.c",
        "nvme nvme2: starting error recovery";
    Finding(StorageConnectionLost), "nvme",
        r"^nvme (?P<device_name>nvme\d+): (?:keep-alive failed|failed nvme_keep_alive_end_io|failed to connect socket|Reconnecting in \d+ seconds|Failed reconnect attempt|Connect rejected|rdma connection establishment failed)", [NVME],
        "drivers/nvme/host/fabrics.c, tcp.c, rdma.c",
        "nvme nvme2: Reconnecting in 10 seconds...";
    Finding(BlockDeviceGone), "nvme",
        r"^nvme (?P<device_name>nvme\d+): (?:Removing controller|Removing ctrl: NQN|controller is down; will reset.*0xffffffff|Device not ready; aborting reset|Disabling device after reset failure|ANA log page.*lost)", [],
        "drivers/nvme/host/pci.c, fabrics.c",
        "nvme nvme0: Device not ready; aborting reset, CSTS=0x1";
    Finding(StorageConnectionBack), "nvme",
        r"^nvme (?P<device_name>nvme\d+): (?:Successfully reconnected|reconnected)", [NVME],
        "drivers/nvme/host/tcp.c, rdma.c",
        "nvme nvme2: Successfully reconnected (1 attempt)";
    Finding(BlockDeviceStalled), "nvme",
        r"^nvme (?P<device_name>nvme\d+): (?:I/O (?:tag )?\d+ .*(?:timeout|QID)|Abort status|controller is down; will reset|I/O \d+ QID \d+ timeout)", [],
        "drivers/nvme/host/pci.c nvme_timeout",
        "nvme nvme0: I/O 12 QID 3 timeout, aborting";

    // Multipath.
    Finding(StorageConnectionLost), "Failing path",
        r"^device-mapper: multipath: (?:\d+:\d+: )?Failing path (?P<server>[\w:.-]+?)\.?$", [MULTIPATH],
        "drivers/md/dm-mpath.c fail_path; `server` is the path",
        "device-mapper: multipath: 253:4: Failing path 8:32.";
    Finding(StorageConnectionLost), "remaining active paths: 0",
        r"^(?:multipathd?: )?(?P<server>[\w.-]+): remaining active paths: 0", [MULTIPATH],
        "multipathd where it writes to the kernel log",
        "mpatha: remaining active paths: 0";
    Finding(StorageConnectionBack), "Reinstating path",
        r"^device-mapper: multipath: (?:\d+:\d+: )?Reinstating path (?P<server>[\w:.-]+?)\.?$", [MULTIPATH],
        "drivers/md/dm-mpath.c reinstate_path",
        "device-mapper: multipath: 253:4: Reinstating path 8:32.";

    // DRBD. A peer that disconnects on purpose is told as Disconnecting.
    Finding(StorageConnectionLost), "quorum( yes -> no )",
        r"^drbd (?P<server>(?P<volume>[\w.-]+))(?:/\d+)? ?(?P<device_name>drbd\d+)?: .*quorum\( yes -> no \)", [DRBD],
        "DRBD 9 drbd_state.c; `server` is the resource",
        "drbd pvc-1c2c/0 drbd1001: quorum( yes -> no )";
    Finding(StorageConnectionBack), "quorum( no -> yes )",
        r"^drbd (?P<server>(?P<volume>[\w.-]+))(?:/\d+)? ?(?P<device_name>drbd\d+)?: .*quorum\( no -> yes \)", [DRBD],
        "DRBD 9 drbd_state.c",
        "drbd pvc-1c2c/0 drbd1001: quorum( no -> yes )";
    Finding(StorageConnectionLost), "susp-io( no ->",
        r"^drbd (?P<server>(?P<volume>[\w.-]+))(?:/\d+)? ?(?P<device_name>drbd\d+)?: .*susp-io\( no -> ", [DRBD],
        "DRBD 9 drbd_state.c",
        "drbd pvc-1c2c: susp-io( no -> quorum )";
    Finding(StorageConnectionLost), "drbd ",
        r"^drbd (?P<server>(?P<volume>[\w.-]+))(?:/\d+)?(?: [\w.-]+)?: (?:.*conn\( Connected -> (?:NetworkFailure|Timeout|BrokenPipe|ProtocolError|Unconnected|TearDown) \)|PingAck did not arrive in time|sock was shut down by peer|Two-phase commit \d+ timeout|Aborting cluster-wide state change|ASSERTION .*FAILED)", [DRBD],
        "DRBD 9 drbd_receiver.c, drbd_state.c",
        "drbd pvc-1c2c: Aborting cluster-wide state change 2361362133 (0ms) rv = -21";
    Finding(StorageConnectionBack), "drbd ",
        r"^drbd (?P<server>(?P<volume>[\w.-]+))(?: [\w.-]+)?: .*conn\( Connecting -> Connected \)", [DRBD],
        "DRBD 9 drbd_state.c",
        "drbd pvc-1c2c n2: conn( Connecting -> Connected ) peer( Unknown -> Secondary )";
    Finding(BlockDeviceHeld), "Auto-promote failed",
        r"^drbd (?P<volume>[\w.-]+)(?:/\d+)? ?(?P<device_name>drbd\d+)?: Auto-promote failed: (?:State change was refused by peer node|Multiple primaries not allowed)", [DRBD],
        "DRBD 9 drbd_main.c: the device is open on another node",
        "drbd pvc-1c2c: Auto-promote failed: State change was refused by peer node (-10)";
    Finding(StorageConnectionLost), "Auto-promote failed",
        r"^drbd (?P<server>(?P<volume>[\w.-]+))(?:/\d+)? ?(?P<device_name>drbd\d+)?: Auto-promote failed: .*(?:quorum|UpToDate)", [DRBD],
        "DRBD 9 drbd_main.c: no quorum, or no data that is up to date",
        "drbd pvc-1c2c: Auto-promote failed: No quorum (-31)";
    Finding(BlockDeviceHeld), "Rejected WRITE request",
        r"^drbd (?P<volume>[\w.-]+)(?:/\d+)? ?(?P<device_name>drbd\d+)?: Rejected WRITE request, not in Primary role", [DRBD],
        "DRBD 9 drbd_req.c: this node is not the primary",
        "drbd pvc-1c2c/0 drbd1001: Rejected WRITE request, not in Primary role. open_cnt:1";
    Finding(BlockDeviceHeld), "reservation conflict",
        r"^sd (?P<device_name>[\d:]+): (?:\[sd[a-z]+\] )?.*reservation conflict", [],
        "drivers/scsi/scsi_error.c: another initiator reserved the unit",
        "sd 3:0:0:1: reservation conflict";
    Finding(StorageConnectionLost), ": Receive control failed",
        r"^block (?P<device_name>nbd\d+): (?:Receive control failed|Dead connection|Connection timed out|shutting down sockets)", [(attribute::BACKEND, "nbd")],
        "drivers/block/nbd.c",
        "block nbd13: Receive control failed (result -32)";

    // Disks and controllers that do not answer.
    Finding(BlockDeviceStalled), "exception Emask",
        r"^(?P<device_name>ata\d+(?:\.\d+)?): (?:exception Emask|.*frozen)", [],
        "drivers/ata/libata-eh.c",
        "ata3.00: exception Emask 0x0 SAct 0x0 SErr 0x0 action 0x6 frozen";
    Finding(BlockDeviceStalled), "ata",
        r"^(?P<device_name>ata\d+(?:\.\d+)?): (?:hard resetting link|softreset failed|COMRESET failed|qc timeout|limiting SATA link speed)", [],
        "drivers/ata/libata-eh.c, libata-core.c",
        "ata3: COMRESET failed (errno=-16)";
    Finding(BlockDeviceStalled), "OCR is requested",
        r"^sd [\d:]+: \[(?P<device_name>sd[a-z]+)\] (?:tag#\d+ )?.*OCR is requested", [],
        "drivers/scsi/megaraid/megaraid_sas_base.c: the controller is reset",
        "sd 0:2:1:0: [sdb] tag#103 OCR is requested due to IO timeout!!";
    Finding(BlockDeviceStalled), "abort",
        r"^sd [\d:]+: \[(?P<device_name>sd[a-z]+)\] .*(?:attempting task abort|task abort: (?:FAILED|SUCCESS)|abort(?:ed|ing)? command|timing out command)", [],
        "drivers/scsi: mpt3sas, megaraid_sas",
        "sd 6:0:3:0: [sdd] tag#42 attempting task abort! scmd(0x000000001c2c)";
    Finding(BlockDeviceStalled), "mpt",
        r"^(?P<device_name>mpt[23]sas_cm\d+): (?:sending (?:diag|message unit) reset|_base_fault_reset_work|fault_state|mpt3sas_ctl_\w+: timeout|issue_host_reset|log_info\(0x3112)", [],
        "drivers/scsi/mpt3sas",
        "mpt3sas_cm0: sending diag reset !!";
    Finding(BlockDeviceStalled), "megaraid_sas",
        r"^megaraid_sas (?P<device_name>[0-9a-f:.]+): .*(?:resetting (?:fusion adapter|adapter)|FW in FAULT state|[Ii]ocmd timeout|waiting for .* commands to complete|Adapter .*reset)", [],
        "drivers/scsi/megaraid/megaraid_sas_fusion.c",
        "megaraid_sas 0000:03:00.0: resetting fusion adapter scsi0.";
    Finding(BlockDeviceStalled), "hpsa ",
        r"^hpsa (?P<device_name>[0-9a-f:.]+): .*(?:resetting|reset|controller lockup|offline|abort)", [],
        "drivers/scsi/hpsa.c, smartpqi",
        "hpsa 0000:02:00.0: scsi 1:1:0:1: resetting logical Direct-Access HP LOGICAL VOLUME RAID-1";
    Finding(BlockDeviceStalled), "smartpqi ",
        r"^smartpqi (?P<device_name>[0-9a-f:.]+): .*(?:resetting|controller (?:lockup|offline))", [],
        "drivers/scsi/smartpqi",
        "smartpqi 0000:02:00.0: controller offline";
    Finding(BlockDeviceStalled), "I/O timed out",
        r"^(?:zvol: )?(?P<device_name>zd\d+): .*I/O timed out", [],
        "OpenZFS",
        "zvol: zd16: I/O timed out, pool tank";
    Finding(BlockDeviceStalled), "uncorrectable I/O failure and has been suspended",
        r"^WARNING: Pool '(?P<device_name>[\w.-]+)' has encountered an uncorrectable I/O failure and has been suspended", [],
        "OpenZFS zio.c zio_suspend",
        "WARNING: Pool 'tank' has encountered an uncorrectable I/O failure and has been suspended.";
    Finding(BlockDeviceStalled), "virtio_blk",
        r"^virtio_blk \S+: \[(?P<device_name>vd[a-z]+)\] .*(?:timeout|timed out)", [],
        "general: a node that is itself a VM",
        "virtio_blk virtio2: [vda] request timed out";

    // Devices that are gone.
    Finding(BlockDeviceGone), "ynchroniz",
        r"^sd [\d:]+: \[(?P<device_name>sd[a-z]+)\] Synchronize Cache\(10\) failed", [],
        "drivers/scsi/sd.c: the device went before its cache",
        "sd 2:0:0:1: [sdc] Synchronize Cache(10) failed: Result: hostbyte=DID_NO_CONNECT driverbyte=DRIVER_OK";
    Finding(BlockDeviceGone), "Device offlined",
        r"^s[dr] (?P<device_name>[\d:]+): (?:\[sd[a-z]+\] )?Device offlined - not ready after error recovery", [],
        "drivers/scsi/scsi_error.c",
        "sd 2:0:0:1: Device offlined - not ready after error recovery";
    Finding(BlockDeviceGone), "rejecting I/O to dead device",
        r"^sd (?P<device_name>[\d:]+): (?:\[sd[a-z]+\] )?rejecting I/O to dead device", [],
        "drivers/scsi/scsi_lib.c",
        "sd 2:0:0:1: rejecting I/O to dead device";
    Finding(BlockDeviceGone), "rejecting I/O to offline device",
        r"^sd (?P<device_name>[\d:]+): rejecting I/O to offline device", [],
        "drivers/scsi/scsi_lib.c, without a name",
        "sd 2:0:0:1: rejecting I/O to offline device";
    Finding(BlockDeviceGone), "disable device",
        r"^(?P<device_name>ata\d+(?:\.\d+)?): disable device", [],
        "drivers/ata/libata-eh.c",
        "ata3.00: disable device";
    Finding(BlockDeviceGone), "pciehp: Slot",
        r"^pcieport (?P<device_name>[0-9a-f:.]+): pciehp: Slot\(\S+\): (?:Link Down|Card not present)", [],
        "drivers/pci/hotplug/pciehp_ctrl.c",
        "pcieport 0000:00:1c.0: pciehp: Slot(3): Link Down";

    // Room, and remounts.
    Finding(ThinPoolFull), "device-mapper: thin: ",
        r"^device-mapper: thin: (?P<device_name>\d+:\d+): (?:switching pool to out-of-data-space|reached low water mark for (?:data|metadata) device|no free (?:data|metadata) space|.*failed: error = -28|switching pool to read-only|metadata operation .* failed|growing the metadata)", [],
        "drivers/md/dm-thin.c",
        "device-mapper: thin: 253:2: switching pool to out-of-data-space (queue IO) mode";
    Finding(FilesystemRemountedReadOnly), "emounting filesystem read-only",
        r"^EXT[234]-fs (?:error )?\((?:device )?(?P<device_name>[^\s):]+)\): (?:.*: )?Remounting filesystem read-only", [],
        "fs/ext4/super.c ext4_handle_error",
        "EXT4-fs (loop0): Remounting filesystem read-only";
    Finding(FilesystemRemountedReadOnly), "forced readonly",
        r"^BTRFS(?: info|: error|: warning)? \(device (?P<device_name>[^\s):]+)(?: state \S+)?\)(?: in \S+)?: forced readonly", [],
        "fs/btrfs/super.c",
        "BTRFS info (device sda state E): forced readonly";
    Finding(FilesystemRemountedReadOnly), "ilesystem has been set read-only",
        r"^FAT-fs \((?P<device_name>[^\s)]+)\): Filesystem has been set read-only", [],
        "fs/fat/misc.c",
        "FAT-fs (vdb1): Filesystem has been set read-only";
};
