//! Rows about the node itself: hardware memory, faults of the kernel, boots, limits, links, denials, KVM.
//!
//! The same form as in `rules.rs`, which tells how a row is read. Sources are named with the kernels that print the line.

use kulprit_model::{FindingCode, attribute};

use super::rules::{
    Meaning::{Finding, Harmless},
    Rule, rows,
};
use FindingCode::{
    ForkRejected, HardwareMemoryError, KernelLimitHit, KernelOops, KernelStalled, KvmGuestFault, KvmNotSupported,
    NetworkLinkDown, NodeBooted, SecurityDenied,
};

const CONNTRACK: (&str, &str) = (attribute::WHAT, "conntrack");
const FILES: (&str, &str) = (attribute::WHAT, "files");
const NEIGHBOURS: (&str, &str) = (attribute::WHAT, "neighbours");
const INOTIFY: (&str, &str) = (attribute::WHAT, "inotify");
const AIO: (&str, &str) = (attribute::WHAT, "aio");
const SELINUX: (&str, &str) = (attribute::WHAT, "selinux");
const APPARMOR: (&str, &str) = (attribute::WHAT, "apparmor");
const SECCOMP: (&str, &str) = (attribute::WHAT, "seccomp");

pub(super) const ROWS: &[Rule] = rows! {
    // Memory that is broken. What the hardware corrected is no fault.
    Harmless, "[Hardware Error]",
        r"^(?:mce: )?(?:\[Hardware Error\]|\{\d+\}\[Hardware Error\]): .*(?:Machine check events logged|event severity: (?:corrected|recoverable|info)|[Cc]orrected error|It has been corrected)", [],
        "arch/x86/kernel/cpu/mce/core.c; drivers/acpi/apei/ghes.c",
        "mce: [Hardware Error]: Machine check events logged";
    Finding(HardwareMemoryError), "[Hardware Error]",
        r"^(?:mce: )?(?:\[Hardware Error\]|\{\d+\}\[Hardware Error\]): .*(?:event severity: fatal|Uncorrected|[Uu]ncorrectable|Fatal machine check|Machine check: |Processor context corrupt|Deferred error)", [],
        "arch/x86/kernel/cpu/mce/core.c; drivers/acpi/apei/ghes.c",
        "{1}[Hardware Error]: event severity: fatal";
    Finding(HardwareMemoryError), "Machine Check Exception",
        r"^(?:mce: )?\[Hardware Error\]: CPU \d+: Machine Check Exception: ", [],
        "arch/x86/kernel/cpu/mce/core.c print_mce",
        "mce: [Hardware Error]: CPU 2: Machine Check Exception: 5 Bank 9: be00000000010092";
    Finding(HardwareMemoryError), "ncorrected hardware memory error",
        r"^mce: Uncorrected hardware memory error in user-access at [0-9a-f]+", [],
        "arch/x86/kernel/cpu/mce/core.c",
        "mce: Uncorrected hardware memory error in user-access at 1f2b3c4000";
    Finding(HardwareMemoryError), " UE ",
        r"^EDAC (?:[\w-]+ )?MC\d+: \d+ UE ", [],
        "drivers/edac/edac_mc.c edac_ue_error; CE is corrected",
        "EDAC MC0: 1 UE memory read error on CPU_SrcID#0_Ha#0_Chan#1_DIMM#0";
    Harmless, "Memory failure: ",
        r"^Memory failure: 0x[0-9a-f]+: (?:recovery action for .*: (?:Recovered|Delayed)|already hardware poisoned|Unpoisoned)", [],
        "mm/memory-failure.c: nothing was lost",
        "Memory failure: 0x1234: recovery action for free buddy page: Recovered";
    Finding(HardwareMemoryError), "Memory failure: ",
        r"^Memory failure: 0x[0-9a-f]+: (?:recovery action for .*: (?:Failed|Ignored)|.*(?:Killing|forcibly killing) )", [],
        "mm/memory-failure.c action_result",
        "Memory failure: 0x1234567: recovery action for huge page: Failed";

    // The kernel's own faults.
    Finding(KernelOops), "BUG: ",
        r"^BUG: (?:unable to handle|kernel NULL pointer|Bad page|scheduling while atomic|sleeping function|stack guard page|workqueue lockup|KASAN|Dentry)", [],
        "arch/x86/mm/fault.c; mm/page_alloc.c",
        "BUG: unable to handle page fault for address: ffffb1c2c0000000";
    Finding(KernelOops), "kernel BUG at ",
        r"^kernel BUG at \S+:\d+!", [],
        "lib/bug.c",
        "kernel BUG at mm/slub.c:4050!";
    Finding(KernelOops), "Oops: ",
        r"^(?:Internal error: )?Oops: ", [],
        "arch/*/kernel/dumpstack.c, arch/arm64/kernel/traps.c",
        "Oops: 0002 [#1] PREEMPT SMP NOPTI";
    Finding(KernelOops), "general protection fault",
        r"^general protection fault(?:, probably for non-canonical address|: )", [],
        "arch/x86/kernel/traps.c, in kernel mode",
        "general protection fault, probably for non-canonical address 0xdead000000000122: 0000 [#1] SMP";
    Finding(KernelOops), "Kernel panic - not syncing",
        r"^Kernel panic - not syncing", [],
        "kernel/panic.c",
        "Kernel panic - not syncing: Fatal exception";
    Finding(KernelOops), "Unable to handle kernel ",
        r"^Unable to handle kernel (?:NULL pointer|paging request|access|read|write|execute)", [],
        "arch/arm64/mm/fault.c",
        "Unable to handle kernel NULL pointer dereference at virtual address 0000000000000010";
    Finding(KernelStalled), "soft lockup",
        r"^(?:(?:NMI )?watchdog: )?BUG: soft lockup - CPU#\d+ stuck for \d+s! \[(?P<comm>.*):(?P<tid>\d+)\]", [],
        "kernel/watchdog.c; with `NMI` until v4.12",
        "watchdog: BUG: soft lockup - CPU#3 stuck for 23s! [CPU 0/KVM:3893]";
    Finding(KernelStalled), "hard LOCKUP",
        r"^(?:NMI )?(?:watchdog: )?(?:Watchdog detected )?(?:BUG: )?hard LOCKUP on cpu \d+|^NMI watchdog: Watchdog detected hard LOCKUP|^watchdog: Watchdog detected hard LOCKUP", [],
        "kernel/watchdog_perf.c",
        "NMI watchdog: Watchdog detected hard LOCKUP on cpu 4";
    Finding(KernelStalled), "detected stall",
        r"^(?:rcu: )?INFO: rcu_\w+ (?:self-)?detected (?:expedited )?stalls?", [],
        "kernel/rcu/tree_stall.h",
        "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:";
    Finding(NodeBooted), "Linux version ",
        r"^Linux version \d+\.\d+", [],
        "init/version.c linux_banner: the first line of each boot",
        "Linux version 6.1.0-18-amd64 (build@host) (gcc-12) #1 SMP PREEMPT_DYNAMIC Debian 6.1.76-1 (2024-02-01)";

    // Limits.
    Finding(ForkRejected), "fork rejected by pids controller",
        r"^cgroup: fork rejected by pids controller in (?P<memcg>\S+)", [],
        "kernel/cgroup/pids.c; `memcg` is the cgroup whose limit it is",
        "cgroup: fork rejected by pids controller in /kubepods/burstable/pod1c2c/3d4e";
    Finding(KernelLimitHit), "table full, dropping packet",
        r"^(?:net_ratelimit: .*)?(?:nf_conntrack|ip_conntrack): (?:nf_conntrack: )?table full, dropping packet", [CONNTRACK],
        "net/netfilter/nf_conntrack_core.c",
        "nf_conntrack: nf_conntrack: table full, dropping packet";
    Finding(KernelLimitHit), "file-max limit",
        r"^VFS: file-max limit \d+ reached", [FILES],
        "fs/file_table.c",
        "VFS: file-max limit 9223372 reached";
    Finding(KernelLimitHit), "table overflow",
        r"^(?:neighbour: )?(?:arp_cache|ndisc_cache): neighbou?r table overflow!?|^[Nn]eighbou?r table overflow", [NEIGHBOURS],
        "net/core/neighbour.c",
        "neighbour: arp_cache: neighbor table overflow!";
    Finding(KernelLimitHit), "inotify",
        r"^.{0,40}inotify.*(?:limit|max_user)", [INOTIFY],
        "general: distributions' patches",
        "inotify: max_user_instances limit reached for uid 0";
    Finding(KernelLimitHit), "aio-max-nr",
        r"^.{0,40}aio-max-nr", [AIO],
        "general: distributions' patches",
        "aio: aio-max-nr reached";

    // Network cards. A pod's veth goes with its pod.
    Harmless, "ink is ",
        r"^(?:\S+ )*(?:veth|cali|lxc|tap|vnet|tunl|cni|docker|br-|virbr|flannel|cilium|nodelocaldns|kube-ipvs|dummy|k6t-)\S*:? .*[Ll]ink is (?:[Dd]own|[Uu]p)", [],
        "virtual links",
        "IPv6: veth1a2b3c4d: link is down";
    Finding(NetworkLinkDown), "ink is ",
        r"^(?:[\w.-]+ [0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.\d:? )?(?:[\w.-]+: ){0,2}?\(?(?P<device_name>[\w.@-]{2,15}?)(?: \(\w+\))?:? (?:NIC )?[Ll]ink is [Dd]own", [],
        "drivers/net/ethernet: e1000 and igb (which name themselves before the link), e1000e, ixgbe, i40e, ice, tg3, r8169, mlx",
        "ixgbe 0000:3b:00.0 ens5f0: NIC Link is Down";
    Finding(NetworkLinkDown), "Link down",
        r"^mlx5_core [0-9a-f:.]+ (?P<device_name>[\w.-]+): Link down", [],
        "drivers/net/ethernet/mellanox/mlx5/core/en_main.c",
        "mlx5_core 0000:3b:00.0 ens5f0np0: Link down";
    Finding(NetworkLinkDown), "link status definitely down",
        r"^(?:bonding: )?\w+: \(slave (?P<device_name>[\w.-]+)\): link status definitely down", [],
        "drivers/net/bonding/bond_main.c",
        "bond0: (slave ens5f0): link status definitely down, disabling slave";
    Finding(NetworkLinkDown), "link status definitely down",
        r"^(?:bonding: )?\w+: link status definitely down for interface (?P<device_name>[\w.-]+),", [],
        "drivers/net/bonding/bond_main.c, Linux < 5.9",
        "bond0: link status definitely down for interface eth1, disabling it";
    Finding(NetworkLinkDown), "transmit queue",
        r"^NETDEV WATCHDOG: (?:CPU: \d+: )?(?P<device_name>[\w.-]+) \(\w+\): transmit queue \d+ timed out", [],
        "net/sched/sch_generic.c dev_watchdog",
        "NETDEV WATCHDOG: eth0 (e1000e): transmit queue 0 timed out";
    Finding(NetworkLinkDown), "Detected Hardware Unit Hang",
        r"^e1000e? [0-9a-f:.]+ (?P<device_name>[\w.-]+): Detected Hardware Unit Hang", [],
        "drivers/net/ethernet/intel/e1000e/netdev.c",
        "e1000e 0000:00:19.0 eth0: Detected Hardware Unit Hang:";

    // Denials, where they were enforced.
    Harmless, "permissive=1",
        r"^(?:audit: )?(?:type=\w+ )?.*avc:  denied .* permissive=1", [],
        "SELinux in permissive mode",
        "audit: type=1400 audit(1735079251.599:81009): avc:  denied  { read } for  pid=7 comm=\"qemu-kvm\" permissive=1";
    Finding(SecurityDenied), "avc:  denied ",
        r#"^(?:audit: )?(?:type=(?:1400|AVC) )?(?:msg=)?audit\([\d.:]+\): avc:  denied  \{ [^}]*\} for  pid=(?P<pid>\d+) comm="?(?P<comm>[^"]*)"?(?: (?:path|name)="?(?P<object>[^" ]*)"?)?"#, [SELINUX],
        "security/selinux/avc.c slow_avc_audit",
        "audit: type=1400 audit(1735079251.599:81009): avc:  denied  { open } for  pid=4711 comm=\"qemu-kvm\" path=\"/dev/sdb\" dev=\"devtmpfs\" ino=3 scontext=system_u:system_r:container_t:s0:c1,c2 tcontext=system_u:object_r:fixed_disk_device_t:s0 tclass=blk_file permissive=0";
    Finding(SecurityDenied), "apparmor=\"DENIED\"",
        r#"^(?:audit: )?(?:type=(?:1400|AVC) )?(?:msg=)?audit\([\d.:]+\): apparmor="DENIED" operation="[^"]*"(?: info="[^"]*")?(?: error=-?\d+)?(?: class="[^"]*")?(?: namespace="[^"]*")? profile="[^"]*"(?: name="(?P<object>[^"]*)")? pid=(?P<pid>\d+) comm="(?P<comm>[^"]*)""#, [APPARMOR],
        "security/apparmor/audit.c; security/lsm_audit.c",
        "audit: type=1400 audit(1763712000.123:456): apparmor=\"DENIED\" operation=\"open\" class=\"file\" profile=\"cri-containerd.apparmor.d\" name=\"/dev/vfio/45\" pid=4711 comm=\"qemu-system-x86\" requested_mask=\"r\" denied_mask=\"r\" fsuid=107 ouid=0";
    Finding(SecurityDenied), "type=SECCOMP",
        r#"^type=SECCOMP msg=audit\([\d.:]+\): .*\bpid=(?P<pid>\d+) comm="(?P<comm>[^"]*)"(?: exe="(?P<object>[^"]*)")? sig=(?:31|9) "#, [SECCOMP],
        "kernel/auditsc.c audit_seccomp, as auditd keeps it",
        "type=SECCOMP msg=audit(1763712000.123:456): auid=4294967295 uid=107 gid=107 ses=4294967295 pid=4711 comm=\"qemu-kvm\" exe=\"/usr/libexec/qemu-kvm\" sig=31 arch=c000003e syscall=435 compat=0 ip=0x7f code=0x80000000";
    Finding(SecurityDenied), "type=1326",
        r#"^audit: type=1326 audit\([\d.:]+\): .*\bpid=(?P<pid>\d+) comm="(?P<comm>[^"]*)"(?: exe="(?P<object>[^"]*)")? sig=(?:31|9) "#, [SECCOMP],
        "kernel/auditsc.c audit_seccomp: the call ended the process; with sig=0 it was only logged",
        "audit: type=1326 audit(1763712000.123:456): auid=4294967295 uid=107 gid=107 ses=4294967295 pid=4711 comm=\"qemu-kvm\" exe=\"/usr/libexec/qemu-kvm\" sig=31 arch=c000003e syscall=435 compat=0 ip=0x7f code=0x80000000";

    // KVM.
    Finding(KvmGuestFault), "VM-entry fail",
        r"^(?:kvm|kvm_intel)(?: \[(?P<pid>\d+)\])?: .*(?:VM-entry failed|VM-[Ee]ntry failure)", [],
        "arch/x86/kvm/vmx/vmx.c",
        "kvm [4711]: vcpu0 VM-entry failed: 0x80000021";
    Finding(KvmGuestFault), "exit_reason",
        r"^(?:kvm|kvm_intel)(?: \[(?P<pid>\d+)\])?: .*unexpected exit(?:_| )reason", [],
        "arch/x86/kvm/vmx/vmx.c",
        "kvm [4711]: vcpu0, guest rIP: 0xfff unexpected exit_reason 0x80000021";
    Finding(KvmGuestFault), "KVM: ",
        r"^KVM: (?:entry failed|internal error)", [],
        "general",
        "KVM: entry failed, hardware error 0x80000021";
    Finding(KvmGuestFault), "*** Guest State ***",
        r"^(?:kvm_intel: |kvm \[\d+\]: )?(?:VMCS \S+, last attempted VM-entry|\*\*\* Guest State \*\*\*)", [],
        "arch/x86/kvm/vmx/vmx.c dump_vmcs",
        "kvm_intel: *** Guest State ***";
    Finding(KvmGuestFault), "vmwrite fail",
        r"^(?:kvm: |kvm_intel: )?vm(?:write|read|clear|ptrld) fail(?:ed|ure)?: ", [],
        "arch/x86/kvm/vmx/vmx.c vmx_insn_failed",
        "kvm: vmwrite failed: field=6c0a val=0 err=12";
    Finding(KvmNotSupported), "ot supported by CPU",
        r"^(?:kvm_intel: VMX|kvm_amd: SVM|kvm: .*) not supported by CPU", [],
        "arch/x86/kvm/vmx/vmx.c, svm/svm.c",
        "kvm_intel: VMX not supported by CPU 0";
    Finding(KvmNotSupported), "no hardware support",
        r"^kvm: no hardware support(?: for '\w+')?", [],
        "arch/x86/kvm/x86.c",
        "kvm: no hardware support for 'kvm_intel'";
    Finding(KvmNotSupported), "not available",
        r"^kvm(?: \[\d+\])?: (?:HYP mode not available|Hyp mode not available|VHE mode not available)", [],
        "arch/arm64/kvm/arm.c",
        "kvm [1]: HYP mode not available";
};
