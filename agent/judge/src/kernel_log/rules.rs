//! What the kernel's lines mean: one table, one row per form of a line.
//!
//! A pattern is anchored at the start of the line, so that text which a program wrote into the log cannot pass for the
//! kernel's. Named groups become attributes of that name (`pid`, `tid`, `comm`, `device_name`, `memcg`, `blocked_secs`,
//! `path`). `needle` is a fixed part of every line the pattern matches: lines without any needle are dropped before a
//! pattern is tried. `example` is a line the rule was written for, and a test. Lines that healthy systems print are rows too,
//! as [`Meaning::Harmless`], and stand before the rows they would match. The rows of `storage_rules` and `node_rules` follow
//! these.

use kulprit_model::{FindingCode, attribute};

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Something happened.
    Finding(FindingCode),
    /// The facts of an OOM kill that the next lines report.
    OomFacts,
    /// The task of a hung-task report, which the lines before began.
    HungTaskFacts,
    /// Looks like a fault and is none.
    Harmless,
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    pub(super) meaning: Meaning,
    /// A fixed text in every such line.
    pub(super) needle: &'static str,
    /// The form of the line, anchored.
    pub(super) pattern: &'static str,
    /// Attributes that the form alone tells.
    pub(super) tells: &'static [(&'static str, &'static str)],
    /// Which kernels write it, where from.
    pub(super) source: &'static str,
    /// Such a line.
    pub(super) example: &'static str,
}

const IO_ERROR: (&str, &str) = (attribute::IO_ERROR, attribute::IO_OTHER);
const NO_SPACE: (&str, &str) = (attribute::IO_ERROR, attribute::IO_NO_SPACE);
const SEGV: (&str, &str) = (attribute::SIGNAL, "11");
const BUS: (&str, &str) = (attribute::SIGNAL, "7");

use FindingCode::{
    BlockIoError, FilesystemError, HungTask, KvmDisabledByFirmware, MemcgOomKill, NodeOomKill, ProcessCrashed,
};
use Meaning::{Finding, Harmless, HungTaskFacts, OomFacts};

macro_rules! rows {
    ($($meaning:expr, $needle:literal, $pattern:literal, $tells:expr, $source:literal, $example:literal;)*) => {
        &[$($crate::kernel_log::rules::Rule {
            meaning: $meaning, needle: $needle, pattern: $pattern, tells: &$tells, source: $source, example: $example,
        },)*]
    };
}

pub(super) use rows;

const TABLES: [&[Rule]; 3] = [ROWS, super::storage_rules::ROWS, super::node_rules::ROWS];

/// All rows, in the order in which they are tried.
pub(super) fn all() -> impl Iterator<Item = &'static Rule> {
    TABLES.into_iter().flatten()
}

const ROWS: &[Rule] = rows! {
    // Out of memory. The facts come first, the kill after them; older kernels announce a kill that may then hit a child.
    OomFacts, "oom-kill:constraint=",
        r"^oom-kill:constraint=\w+,.*?(?:,oom_memcg=(?P<memcg>.*?))?,(?:global_oom,)?task_memcg=.*,task=.*,pid=(?P<pid>\d+),uid=\d+$", [],
        "Linux >= 5.0, mm/oom_kill.c dump_oom_summary (recorded from KubeVirt v1.8.4, kernel 6.18)",
        "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=a38f,mems_allowed=0,oom_memcg=/kubepods/burstable/pod35ec/a38f,task_memcg=/kubepods/burstable/pod35ec/a38f,task=qemu-kvm,pid=13094,uid=107";
    OomFacts, " killed as a result of limit of ",
        r"^(?:Task in )?\S* ?killed as a result of limit of (?P<memcg>\S+)", [],
        "Linux < 5.0, mm/memcontrol.c mem_cgroup_print_oom_info",
        "Task in /machine/qemu-1.scope killed as a result of limit of /machine/qemu-1.scope";
    Harmless, " or sacrifice child",
        r"^(?:Memory cgroup out|Out) of memory: Kill process \d+ ", [],
        "Linux < 5.2: announces the kill that the next line reports, perhaps of a child",
        "Memory cgroup out of memory: Kill process 4711 (qemu-kvm) score 1001 or sacrifice child";
    Finding(MemcgOomKill), "emory cgroup out of memory: Killed process ",
        r"^[Mm]emory cgroup out of memory: Killed process (?P<pid>\d+) \((?P<comm>.*)\),? ", [],
        "Linux >= 5.2, mm/oom_kill.c __oom_kill_process (recorded from KubeVirt v1.8.4, kernel 6.18)",
        "Memory cgroup out of memory: Killed process 13094 (qemu-kvm) total-vm:736744kB, anon-rss:127888kB, file-rss:0kB, shmem-rss:24528kB, UID:107 pgtables:520kB oom_score_adj:980";
    Finding(NodeOomKill), "ut of memory",
        r"^Out of memory(?: \(oom_kill_allocating_task\))?: Killed process (?P<pid>\d+) \((?P<comm>.*)\),? ", [],
        "Linux >= 5.2, mm/oom_kill.c __oom_kill_process",
        "Out of memory: Killed process 2201 (qemu-system-x86) total-vm:9437184kB, anon-rss:8388608kB, file-rss:0kB, shmem-rss:0kB, UID:107 pgtables:17000kB oom_score_adj:0";
    Finding(NodeOomKill), "Killed process ",
        r"^Killed process (?P<pid>\d+) \((?P<comm>.*)\)(?:, UID \d+)?,? total-vm:", [],
        "Linux < 5.2; becomes MemcgOomKill when the facts before it name a limit",
        "Killed process 4711 (qemu-kvm) total-vm:1234kB, anon-rss:123kB, file-rss:0kB, shmem-rss:0kB";

    // Tasks that do not move.
    Finding(HungTask), " for more than ",
        r"^INFO: task (?P<comm>.*):(?P<tid>\d+) blocked (?:in I/O wait )?for more than (?P<blocked_secs>\d+) seconds", [],
        "Linux >= 2.6.30, kernel/hung_task.c check_hung_task",
        "INFO: task worker:15030 blocked for more than 122 seconds.";
    HungTaskFacts, "state:D",
        r"^task:.* +state:D .*?\bpid: *(?P<tid>\d+)(?: +tgid: *(?P<pid>\d+))? +ppid: *\d+", [],
        "Linux >= 5.10, tgid since 6.4, kernel/sched/core.c sched_show_task",
        "task:worker          state:D stack:0     pid:15030 tgid:14261 ppid:14100  task_flags:0x404040 flags:0x00004002";

    // Processes that the processor stopped. A kill by somebody else leaves no line.
    Finding(ProcessCrashed), "]: segfault at ",
        r"^(?P<comm>.{1,16})\[(?P<tid>\d+)\]: segfault at [0-9a-f]+ ip [0-9a-f]+ sp [0-9a-f]+ error [0-9a-f]+", [SEGV],
        "x86, arch/x86/mm/fault.c show_signal_msg",
        "qemu-kvm[3888]: segfault at 10 ip 000055d0c0a8b3f2 sp 00007ffd0a7c9a30 error 4 in qemu-kvm[55d0c0600000+8a5000] likely on CPU 1 (core 0, socket 1)";
    Finding(ProcessCrashed), "traps: ",
        r"^traps: (?P<comm>.{1,16})\[(?P<tid>\d+)\] (?:general protection|trap |.*? ip:[0-9a-f])", [],
        "x86, arch/x86/kernel/traps.c do_trap and exc_general_protection",
        "traps: CPU 0/KVM[3893] general protection fault ip:55d0c0a8b3f2 sp:7f0a7c9a30 error:0 in qemu-kvm[55d0c0600000+8a5000]";
    Finding(ProcessCrashed), "]: unhandled ",
        r"^(?P<comm>.{1,16})\[(?P<tid>\d+)\]: unhandled (?:exception|level \d \S+ fault|signal|alignment fault)", [],
        "arm64, arch/arm64/kernel/traps.c arm64_show_signal",
        "qemu-kvm[3888]: unhandled exception: DABT (lower EL), ESR 0x0000000092000046, level 2 translation fault in qemu-kvm[aaaac0600000+8a5000]";
    Finding(ProcessCrashed), "potentially unexpected fatal signal",
        r"^(?:(?P<comm>.{1,16})/(?P<tid>\d+)|.{1,16}): potentially unexpected fatal signal (?P<signal>\d+)", [],
        "with print-fatal-signals, kernel/signal.c print_fatal_signal",
        "qemu-kvm/3888: potentially unexpected fatal signal 11.";
    Finding(ProcessCrashed), "due to hardware memory corruption",
        r"^(?:Memory failure|MCE): 0x[0-9a-f]+: Sending SIGBUS to (?P<comm>.*):(?P<tid>\d+) due to hardware memory corruption", [BUS],
        "mm/memory-failure.c kill_proc",
        "Memory failure: 0x1234567: Sending SIGBUS to qemu-kvm:3888 due to hardware memory corruption";

    // Disks. A floppy or an empty CD drive that the kernel asks is no fault, nor is a discard the disk does not know.
    Harmless, "/O error, dev ",
        r"^(?:blk_update_request: |print_req_error: )?I/O error, dev (?:fd|sr)\d+,", [],
        "an absent floppy or medium",
        "blk_update_request: I/O error, dev fd0, sector 0 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 0";
    Harmless, "uffer I/O error on dev",
        r"^Buffer I/O error on dev(?:ice)? (?:fd|sr)\d+,", [],
        "an absent floppy or medium",
        "Buffer I/O error on dev sr0, logical block 0, async page read";
    Harmless, " error, dev ",
        r"^(?:blk_update_request: |print_req_error: )?(?:critical target|operation not supported) error, dev \S+, sector \d+ op 0x[0-9a-f]+:\((?:DISCARD|SECURE_ERASE|WRITE_ZEROES)\)", [],
        "a disk that knows no discard",
        "blk_update_request: critical target error, dev sda, sector 2048 op 0x3:(DISCARD) flags 0x800 phys_seg 1 prio class 0";
    Finding(BlockIoError), " error, dev ",
        r"^(?:blk_update_request: |print_req_error: |end_request: )?(?:critical space allocation|critical no-space) error, dev (?P<device_name>[^\s,]+), sector ", [NO_SPACE],
        "block/blk-core.c, BLK_STS_NOSPC: a thin volume is full",
        "critical space allocation error, dev dm-3, sector 81920 op 0x1:(WRITE) flags 0x800 phys_seg 8 prio class 2";
    Finding(BlockIoError), " error, dev ",
        r"^(?:blk_update_request: |print_req_error: |end_request: )?(?:I/O|critical medium|critical target|critical nexus|recoverable transport|timeout|protection|device offline|kernel resource|no path|reservation conflict) error, dev (?P<device_name>[^\s,]+), sector ", [IO_ERROR],
        "block/blk-mq.c blk_print_req_error; older ones name the function (seen on kernel 6.18)",
        "I/O error, dev loop0, sector 6400 op 0x0:(READ) flags 0x800 phys_seg 8 prio class 2";
    Finding(BlockIoError), "uffer I/O error on dev",
        r"^Buffer I/O error on dev(?:ice)? (?P<device_name>[^\s,]+), logical block ", [IO_ERROR],
        "fs/buffer.c buffer_io_error",
        "Buffer I/O error on dev dm-0, logical block 4, lost async page write";
    Finding(BlockIoError), "rejecting I/O to offline device",
        r"^sd \d+:\d+:\d+:\d+: \[(?P<device_name>sd[a-z]+)\] rejecting I/O to offline device", [IO_ERROR],
        "drivers/scsi/scsi_lib.c, with a name where the kernel prints one",
        "sd 2:0:0:1: [sdc] rejecting I/O to offline device";

    // File systems.
    Finding(FilesystemError), "EXT",
        r"^EXT[234]-fs (?:error|panic) \(device (?P<device_name>[^\s):]+)\)", [],
        "fs/ext4/super.c __ext4_error",
        "EXT4-fs error (device loop0): ext4_find_entry:1455: inode #2: comm ls: reading directory lblock 0";
    Finding(FilesystemError), "EXT",
        r"^EXT[234]-fs warning \(device (?P<device_name>[^\s):]+)\): .*(?:I/O error|writeback error)", [IO_ERROR],
        "fs/ext4/page-io.c ext4_end_bio",
        "EXT4-fs warning (device loop0): ext4_end_bio:343: I/O error 10 writing to inode 12 starting block 33281)";
    Finding(FilesystemError), "EXT",
        r"^EXT[234]-fs \((?P<device_name>[^\s):]+)\): (?:previous I/O error to superblock|I/O error while writing superblock|failed to convert unwritten extents|Delayed block allocation failed)", [],
        "fs/ext4/super.c ext4_handle_error",
        "EXT4-fs (loop0): previous I/O error to superblock detected";
    Finding(FilesystemError), "Aborting journal on device ",
        r"^Aborting journal on device (?P<device_name>\S+?)(?:-\d+)?\.", [],
        "fs/jbd2/journal.c jbd2_journal_abort",
        "Aborting journal on device loop0-8.";
    Finding(FilesystemError), "JBD2: ",
        r"^JBD2: (?:Error -?\d+ detected when updating journal superblock for|I/O error when updating journal superblock for|Detected IO errors while flushing file data on) (?P<device_name>\S+?)(?:-\d+)?\.?$", [],
        "fs/jbd2/journal.c",
        "JBD2: I/O error when updating journal superblock for loop0-8.";
    Finding(FilesystemError), "XFS (",
        r"^XFS \((?P<device_name>[^\s)]+)\): (?:Corruption|Metadata corruption|Metadata CRC error|Internal error|log I/O error|metadata I/O error|Log I/O Error|Filesystem has been shut down|Shutting down filesystem|Please u(?:n)?mount the filesystem|xfs_do_force_shutdown|writeback error|User initiated shutdown|Block device removal)", [],
        "fs/xfs/xfs_fsops.c, xfs_error.c, xfs_buf.c",
        "XFS (dm-3): Corruption detected. Unmount and run xfs_repair";
    Finding(FilesystemError), "BTRFS",
        r"^BTRFS:? (?:error|critical|emergency|alert) \(device (?P<device_name>[^\s):]+)(?: state \S+)?\)", [],
        "fs/btrfs/messages.c",
        "BTRFS error (device sda state EA): bdev /dev/sda errs: wr 1, rd 0, flush 0, corrupt 0, gen 0";
    Finding(FilesystemError), "F2FS-fs (",
        r"^F2FS-fs \((?P<device_name>[^\s)]+)\): (?:Stopped filesystem|access invalid blkaddr|inconsistent node)", [],
        "fs/f2fs/super.c",
        "F2FS-fs (dm-4): Stopped filesystem due to reason: 3";
    Finding(FilesystemError), "rror, ",
        r"^FAT-fs \((?P<device_name>[^\s)]+)\): error, ", [],
        "fs/fat/misc.c __fat_fs_error",
        "FAT-fs (vdb1): error, fat_get_cluster: invalid cluster chain (i_pos 0)";

    // KVM. `VMX not supported by CPU` is the processor's doing, not the firmware's.
    Finding(KvmDisabledByFirmware), "isabled by ",
        r"^(?:kvm: (?:support for '\w+' )?disabled by bios|kvm_amd: SVM disabled \(by BIOS\)|(?:kvm_intel|x86/cpu): VMX (?:\(outside TXT\) )?disabled by BIOS)", [],
        "arch/x86/kvm/x86.c; arch/x86/kernel/cpu/feat_ctl.c",
        "kvm: support for 'kvm_amd' disabled by bios";
    Finding(KvmDisabledByFirmware), "(by BIOS) in MSR",
        r"^kvm_(?:intel|amd): (?:VMX not enabled|SVM disabled) \(by BIOS\) in MSR", [],
        "Linux >= 6.6, arch/x86/kvm/vmx/vmx.c, svm/svm.c",
        "kvm_intel: VMX not enabled (by BIOS) in MSR_IA32_FEAT_CTL on CPU 0";
};
