//! What a thread in D state waits for, from the kernel functions on its stack.
//!
//! One table, read from the top: the first row with a function on the stack decides, wherever on the stack it is. So memory
//! stands before storage (a swap-in waits in block functions too), storage over a network before local storage (NFS waits in
//! page functions too), and file systems before the block layer. Without a stack (it needs CAP_SYS_ADMIN) the wchan is the
//! only frame. Names are of Linux 5.4 to 6.18; a name that ends in `*` is a prefix.

use kulprit_model::attribute::{WAIT_LOCAL_STORAGE, WAIT_MEMORY, WAIT_NETWORK_STORAGE, WAIT_OTHER};

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// One of the `WAIT_*` values.
    pub kind: &'static str,
    /// Which storage, where the functions tell.
    pub storage: Option<Storage>,
}

/// A kind of storage as kernel functions show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// A file system; the types a mount of it may have in mountinfo, each a prefix.
    FileSystem(&'static [&'static str]),
    /// Some file system: it is frozen, or the functions are common to all.
    AnyFileSystem,
    /// A block device by itself; a file system may lie on it.
    Block,
}

struct Row {
    functions: &'static [&'static str],
    /// One of these must be on the stack as well; empty: nothing else.
    and: &'static [&'static str],
    kind: &'static str,
    storage: Option<Storage>,
}

use Storage::{AnyFileSystem, Block, FileSystem};

const WRITES: &[&str] = &[
    "vfs_write*",
    "ksys_write",
    "ksys_pwrite64",
    "do_pwritev",
    "do_writev",
    "vfs_iter_write",
    "vfs_iocb_iter_write",
    "do_iter_write",
    "aio_write*",
    "io_write",
    "io_submit_one",
    "vfs_fallocate",
    "do_splice*",
    "iter_file_splice_write",
    "mnt_want_write*",
    "do_ftruncate",
    "do_sys_ftruncate",
    "filp_open",
    "do_filp_open",
    "do_page_mkwrite",
    "ext4_page_mkwrite",
    "sb_start_*",
    "__sb_start_write",
];

/// Where writers wait for a frozen file system (`sb_start_write` takes the percpu rwsem that `freeze_super` holds).
const FREEZE_WAITS: &[&str; 3] = &["percpu_rwsem_wait", "__percpu_down_read", "percpu_down_read*"];

macro_rules! rows {
    ($($functions:expr, $and:expr, $kind:expr, $storage:expr;)*) => {
        &[$(Row { functions: &$functions, and: $and, kind: $kind, storage: $storage },)*]
    };
}

const ROWS: &[Row] = rows! {
    ["do_swap_page", "swap_read_folio*", "swap_readpage*", "shrink_node*", "shrink_lruvec*", "shrink_folio_list", "shrink_page_list",
        "try_to_free_pages", "try_to_free_mem_cgroup_pages", "reclaim_throttle", "mem_cgroup_oom_synchronize",
        "mem_cgroup_handle_over_high", "__mem_cgroup_handle_over_high", "__alloc_pages_direct_compact", "congestion_wait"],
        &[], WAIT_MEMORY, None;
    ["nfs_*", "nfs3_*", "nfs4_*", "nfs41_*", "_nfs4*", "rpc_*", "__rpc_*", "call_sync"], &[], WAIT_NETWORK_STORAGE, Some(FileSystem(&["nfs"]));
    ["ceph_*", "__ceph_*"], &[], WAIT_NETWORK_STORAGE, Some(FileSystem(&["ceph"]));
    ["cifs_*", "smb2_*", "SMB2_*", "compound_send_recv"], &[], WAIT_NETWORK_STORAGE, Some(FileSystem(&["cifs", "smb"]));
    ["fuse_*", "__fuse_*", "request_wait_answer", "virtio_fs_*"], &[], WAIT_NETWORK_STORAGE, Some(FileSystem(&["fuse", "virtiofs"]));
    ["gfs2_*", "__gfs2_*", "dlm_*"], &[], WAIT_NETWORK_STORAGE, Some(FileSystem(&["gfs2"]));
    ["ocfs2_*", "__ocfs2_*", "o2*"], &[], WAIT_NETWORK_STORAGE, Some(FileSystem(&["ocfs2"]));
    ["rbd_*", "drbd_*", "__drbd_*", "_drbd_*", "nbd_*", "iscsi_*", "__iscsi_*", "nvme_tcp_*", "nvme_rdma_*"], &[], WAIT_NETWORK_STORAGE, Some(Block);
    ["ext4_*", "__ext4_*", "jbd2_*", "__jbd2_*", "start_this_handle", "wait_transaction_locked"], &[],
        WAIT_LOCAL_STORAGE, Some(FileSystem(&["ext4", "ext3", "ext2"]));
    ["xfs_*", "__xfs_*", "xlog_*"], &[], WAIT_LOCAL_STORAGE, Some(FileSystem(&["xfs"]));
    ["btrfs_*", "__btrfs_*"], &[], WAIT_LOCAL_STORAGE, Some(FileSystem(&["btrfs"]));
    ["f2fs_*", "__f2fs_*"], &[], WAIT_LOCAL_STORAGE, Some(FileSystem(&["f2fs"]));
    ["zfs_*", "zil_*", "dmu_*", "txg_wait_*", "zio_wait"], &[], WAIT_LOCAL_STORAGE, Some(FileSystem(&["zfs"]));
    ["ovl_*"], &[], WAIT_LOCAL_STORAGE, Some(FileSystem(&["overlay"]));
    *FREEZE_WAITS, WRITES, WAIT_LOCAL_STORAGE, Some(AnyFileSystem);
    ["__sb_start_write", "sb_start_*"], &[], WAIT_LOCAL_STORAGE, Some(AnyFileSystem);
    ["blkdev_*", "__blkdev_*", "submit_bio_wait", "blk_*", "__blk_*", "dm_*", "__dm_*", "md_*", "raid*_make_request", "scsi_*", "nvme_*", "sg_io", "virtblk_*"], &[],
        WAIT_LOCAL_STORAGE, Some(Block);
    ["iomap_*", "__iomap_*", "dio_*", "__blockdev_direct_IO", "generic_file_*", "file_write_and_wait*", "__filemap_fdatawait_range",
        "filemap_*", "__filemap_*", "vfs_fsync*", "do_fsync", "sync_file_range", "balance_dirty_pages*", "inode_dio_wait",
        "folio_wait_*", "wait_on_page_*", "__folio_lock*", "__lock_page*", "wait_on_buffer", "__wait_on_buffer", "inode_wait_for_writeback"], &[],
        WAIT_LOCAL_STORAGE, Some(AnyFileSystem);
    ["io_schedule", "io_schedule_timeout", "blkcg_*", "rq_qos_wait", "wbt_wait"], &[], WAIT_LOCAL_STORAGE, Some(Block);
};

/// Classifies a wait; `frames` innermost first, may be empty.
#[must_use]
pub fn classify(wchan: Option<&str>, frames: &[String]) -> Wait {
    let is_there = |patterns: &[&str]| is_on_stack(patterns, wchan, frames);
    ROWS.iter()
        .find(|row| is_there(row.functions) && (row.and.is_empty() || is_there(row.and)))
        .map_or(Wait { kind: WAIT_OTHER, storage: None }, |row| Wait { kind: row.kind, storage: row.storage })
}

fn is_on_stack(patterns: &[&str], wchan: Option<&str>, frames: &[String]) -> bool {
    frames.iter().map(String::as_str).chain(wchan).any(|name| patterns.iter().any(|pattern| matches(pattern, name)))
}

/// Compilers append `.isra.0`, `.constprop.0`, `.part.0` or `.cold` to functions they changed.
fn matches(pattern: &str, name: &str) -> bool {
    let name = name.split('.').next().unwrap_or(name);
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    }
}

/// Whether the thread is a writer that waits for a frozen file system (`fsfreeze`, a snapshot or backup).
#[must_use]
pub fn is_frozen(wchan: Option<&str>, frames: &[String]) -> bool {
    is_on_stack(FREEZE_WAITS, wchan, frames) && is_on_stack(WRITES, wchan, frames)
}

/// Whether the thread waits for its own process to write a core dump: that ends by itself, and a kill ends it too.
#[must_use]
pub fn is_core_dump(wchan: Option<&str>, frames: &[String]) -> bool {
    is_on_stack(&["coredump_task_exit", "coredump_wait"], wchan, frames)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(stack: &str, kind: &str, storage: Option<Storage>) {
        let frames: Vec<String> = stack.split_whitespace().map(str::to_owned).collect();
        assert_eq!(
            classify(frames.first().map(String::as_str), &frames),
            Wait { kind: classify(None, &frames).kind, storage }
        );
        assert_eq!(classify(None, &frames).kind, kind, "{stack}");
    }

    #[test]
    fn a_frozen_file_system_is_local_storage_with_and_without_its_functions() {
        check(
            "percpu_rwsem_wait __percpu_down_read vfs_write __x64_sys_pwrite64 do_syscall_64 entry_SYSCALL_64_after_hwframe",
            WAIT_LOCAL_STORAGE,
            Some(AnyFileSystem),
        );
        check(
            "percpu_rwsem_wait __percpu_down_read ext4_dio_write_iter vfs_writev do_pwritev do_syscall_64",
            WAIT_LOCAL_STORAGE,
            Some(FileSystem(&["ext4", "ext3", "ext2"])),
        );
        check("percpu_rwsem_wait __percpu_down_read cgroup_attach_permissions", WAIT_OTHER, None);
        let frames = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(is_frozen(None, &frames("percpu_rwsem_wait __percpu_down_read vfs_write")));
        assert!(!is_frozen(None, &frames("percpu_rwsem_wait __percpu_down_read cgroup_attach_permissions")));
        assert!(!is_frozen(Some("percpu_rwsem_wait"), &[]), "without a stack nobody knows whose lock it is");
    }

    #[test]
    fn a_stalled_disk_is_local_storage() {
        check(
            "io_schedule folio_wait_bit_common folio_wait_writeback __filemap_fdatawait_range file_write_and_wait_range ext4_sync_file do_fsync",
            WAIT_LOCAL_STORAGE,
            Some(FileSystem(&["ext4", "ext3", "ext2"])),
        );
        check("io_schedule blk_mq_get_tag __blk_mq_alloc_requests blk_mq_submit_bio", WAIT_LOCAL_STORAGE, Some(Block));
        check("submit_bio_wait blkdev_issue_flush blkdev_fsync", WAIT_LOCAL_STORAGE, Some(Block));
        check("io_schedule", WAIT_LOCAL_STORAGE, Some(Block));
        check("jbd2_log_wait_commit", WAIT_LOCAL_STORAGE, Some(FileSystem(&["ext4", "ext3", "ext2"])));
        check("xlog_wait_on_iclog xfs_file_fsync", WAIT_LOCAL_STORAGE, Some(FileSystem(&["xfs"])));
    }

    #[test]
    fn network_storage_wins_over_the_page_functions_it_waits_in() {
        check(
            "rpc_wait_bit_killable __rpc_wait_for_completion_task nfs4_proc_commit io_schedule",
            WAIT_NETWORK_STORAGE,
            Some(FileSystem(&["nfs"])),
        );
        check(
            "io_schedule folio_wait_bit_common nfs_wb_folio filemap_write_and_wait_range",
            WAIT_NETWORK_STORAGE,
            Some(FileSystem(&["nfs"])),
        );
        check(
            "request_wait_answer fuse_simple_request fuse_direct_io",
            WAIT_NETWORK_STORAGE,
            Some(FileSystem(&["fuse", "virtiofs"])),
        );
        check("__drbd_make_request.isra.0 drbd_submit_bio submit_bio_wait", WAIT_NETWORK_STORAGE, Some(Block));
    }

    #[test]
    fn memory_wins_over_the_block_functions_it_waits_in() {
        check("io_schedule folio_wait_bit_common do_swap_page handle_mm_fault", WAIT_MEMORY, None);
        check("shrink_lruvec shrink_node try_to_free_pages", WAIT_MEMORY, None);
    }

    #[test]
    fn what_no_row_knows_is_other() {
        check("", WAIT_OTHER, None);
        check("kvm_vcpu_block kvm_vcpu_halt", WAIT_OTHER, None);
        check("nfsd_dispatch", WAIT_OTHER, None);
        check("vfio_pin_pages_remote", WAIT_OTHER, None);
    }

    #[test]
    fn a_core_dump_is_recognised() {
        assert!(is_core_dump(Some("coredump_task_exit"), &[]));
        assert!(!is_core_dump(Some("io_schedule"), &["do_coredump".to_owned()]));
    }

    proptest! {
        #[test]
        fn no_name_makes_it_panic(wchan in ".{0,20}", frames in proptest::collection::vec(".{0,20}", 0..5)) {
            let wait = classify(Some(&wchan), &frames);
            prop_assert!(wait.storage.is_none() || wait.kind != WAIT_OTHER);
        }
    }
}
