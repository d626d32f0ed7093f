//! What to collect next: the commands that show what nobody could see, node by node.
//!
//! Where nothing explains a symptom, the best advice is what would. Each command writes the file that a recorded case has for it, so
//! that the same question can be asked again with more to look at. They are for a shell on the node, or for `kubectl debug node/…`.

use crate::{
    cleared::{self, BlindSpot},
    remedy,
    stage::Stage,
};

/// At most so many: more are not collected anyway.
const MAX_COMMANDS: usize = 16;

/// The command that shows what a probe would have seen, and the file of a case that it fills. `@` stands for the node.
const COMMANDS: &[(&str, &str, &str)] = &[
    ("kernel-log", "dmesg --time-format iso", "nodes/@/kmsg.log"),
    ("text", "journalctl -u kubelet -o short-iso-precise --since -24h", "nodes/@/journal/kubelet.log"),
    ("text", "journalctl -u containerd -u crio -o short-iso-precise --since -24h", "nodes/@/journal/runtime.log"),
    ("kubelet", "systemctl status kubelet", "nodes/@/systemctl/kubelet.txt"),
    ("kubelet-setup", "ls -l /var/lib/kubelet/device-plugins", "nodes/@/cmd/device-plugins.txt"),
    ("runtime", "crictl info", "nodes/@/cmd/crictl-info.txt"),
    ("qemu", "ps -eLo pid,tid,ppid,stat,wchan:32,comm,args", "nodes/@/ps.txt"),
    ("kvm", "ls -l /dev/kvm; lsmod | grep kvm", "nodes/@/cmd/kvm.txt"),
    ("filesystem", "df -h; df -i", "nodes/@/cmd/df.txt"),
    ("volumes", "lsblk; mount; multipath -ll", "nodes/@/cmd/storage.txt"),
    ("network", "ip -s link; ip addr; ss -tnpi", "nodes/@/cmd/network.txt"),
    ("clock", "timedatectl", "nodes/@/cmd/timedatectl.txt"),
    ("pressure", "cat /proc/pressure/cpu /proc/pressure/memory /proc/pressure/io", "nodes/@/cmd/pressure.txt"),
    ("limits", "sysctl -a; free -m", "nodes/@/cmd/limits.txt"),
];

/// What `kubectl` shows of the VM, wherever its host is.
const OF_VM: &[&str] = &[
    "kubectl get vm,vmi,vmim,pod,pvc,events -n {namespace} -o yaml > cluster/{vm}.yaml",
    "kubectl logs -n {namespace} -l vm.kubevirt.io/name={vm} --all-containers --prefix --timestamps > pods/{vm}.log",
];

/// The commands for the blind spots of a VM of the cluster; none for what agents look at. `fill` puts the VM's names in.
pub(crate) fn commands(stage: &Stage<'_>, fill: &dyn Fn(&str) -> String) -> Vec<String> {
    if stage.cluster_vm.is_none() {
        return Vec::new();
    }
    let spots = cleared::blind_spots(stage);
    let mut commands: Vec<String> = OF_VM.iter().map(|command| fill(command)).collect();
    let is_host = |spot: &&BlindSpot<'_>| !spot.node.is_empty();
    for spot in spots.iter().filter(is_host) {
        for (probe, command, file) in COMMANDS {
            let is_asked = match spot.probe {
                Some(blind) => blind == *probe,
                None => !spots.iter().any(|other| other.node == spot.node && other.probe == Some(*probe)),
            };
            let file = remedy::quote(&file.replace('@', spot.node));
            let line = format!("{command} > {file}   # on {}", remedy::quote(spot.node));
            if is_asked && commands.len() < MAX_COMMANDS && !commands.contains(&line) {
                commands.push(line);
            }
        }
    }
    commands
}
