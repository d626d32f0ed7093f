//! Texts about the node and the control plane: kubelet, admission, eviction, scheduling, quotas, the API server, systemd.
//!
//! Sources: kubernetes v1.24 to v1.34, systemd v245 to v257.

use kulprit_model::said::{actor::*, class::*, operation::*};

use super::{ANY, Row, rows};

pub(super) const ROWS: &[Row] = rows! {
    // Scheduling.
    "unschedulable-kvm", "insufficient devices.kubevirt.io", "", SCHEDULER, SCHEDULE, INSUFFICIENT, None, "kubernetes noderesources: no node offers KVM or the network devices",
        "0/3 nodes are available: 3 Insufficient devices.kubevirt.io/kvm.";
    "unschedulable-hugepages", "insufficient hugepages", "", SCHEDULER, SCHEDULE, INSUFFICIENT, None, "kubernetes noderesources",
        "0/3 nodes are available: 3 Insufficient hugepages-1Gi.";
    "unschedulable-volume", "volume node affinity conflict", "", SCHEDULER, SCHEDULE, INSUFFICIENT, None, "kubernetes volumebinding",
        "0/3 nodes are available: 3 node(s) had volume node affinity conflict.";
    "unschedulable", "nodes are available", r"\d+/\d+ nodes are available", SCHEDULER, SCHEDULE, INSUFFICIENT, None, "kubernetes scheduler framework FitError",
        "0/3 nodes are available: 1 Insufficient memory, 2 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }.";
    "unschedulable", "no nodes available to schedule", "", SCHEDULER, SCHEDULE, INSUFFICIENT, None, "kubernetes scheduler",
        "no nodes available to schedule pods";

    // Admission on the node.
    "device-plugin-unhealthy", "no healthy devices present", "", KUBELET, ADMIT_POD, NOT_FOUND, None, "kubernetes pkg/kubelet/cm/devicemanager: kubelet or virt-handler restarted, or the device is gone",
        "Allocate failed due to no healthy devices present; cannot allocate unhealthy devices devices.kubevirt.io/kvm, which is unexpected";
    "device-plugin-unregistered", "unregistered resource", "", KUBELET, ADMIT_POD, NOT_FOUND, None, "kubernetes pkg/kubelet/cm/devicemanager",
        "Allocate failed due to cannot allocate unregistered resource devices.kubevirt.io/kvm, which is unexpected";
    "device-plugin-count", "requested number of devices unavailable", "", KUBELET, ADMIT_POD, INSUFFICIENT, None, "kubernetes pkg/kubelet/cm/devicemanager",
        "Allocate failed due to requested number of devices unavailable for nvidia.com/gpu. Requested: 1, Available: 0";
    "topology-not-aligned", "topology", r"resources cannot be allocated with topology locality|topologyaffinityerror", KUBELET, ADMIT_POD, INSUFFICIENT, None, "kubernetes pkg/kubelet/cm/topologymanager",
        "Resources cannot be allocated with Topology locality";
    "pod-resources-gone", "node didn't have enough resource", "", KUBELET, ADMIT_POD, INSUFFICIENT, None, "kubernetes pkg/kubelet/lifecycle",
        "Pod was rejected: Node didn't have enough resource: memory, requested: 1073741824, used: 9, capacity: 10";
    "cpu-manager-state", "cpu_manager_state", "", KUBELET, ADMIT_POD, INVALID, None, "kubernetes pkg/kubelet/cm/cpumanager: state file of another policy",
        "could not restore state from checkpoint: configured policy \"static\" differs from state checkpoint policy \"none\", please drain this node and delete the CPU manager checkpoint file \"/var/lib/kubelet/cpu_manager_state\"";
    "kubelet-config-invalid", "failed to load kubelet config", r"failed to (?:load|validate|run) kubelet(?: config)?", KUBELET, REPORT_STATUS, INVALID, None, "kubernetes cmd/kubelet",
        "failed to load kubelet config file, path: /var/lib/kubelet/config.yaml, error: failed to load kubelet config: no such file";
    "kubelet-exited", "failed to run kubelet", "", KUBELET, REPORT_STATUS, ANY, None, "kubernetes cmd/kubelet",
        "command failed: failed to run Kubelet: running with swap on is not supported";

    // Eviction and pressure.
    "evicted-memory", "low on resource: memory", "", KUBELET, EVICT_POD, OUT_OF_MEMORY, None, "kubernetes pkg/kubelet/eviction",
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 60Mi.";
    "evicted-disk", "low on resource: ephemeral-storage", "", KUBELET, EVICT_POD, NO_SPACE, None, "kubernetes pkg/kubelet/eviction",
        "The node was low on resource: ephemeral-storage. Threshold quantity: 10Gi, available: 1Gi.";
    "evicted-disk", "low on resource: inodes", "", KUBELET, EVICT_POD, NO_SPACE, None, "kubernetes pkg/kubelet/eviction",
        "The node was low on resource: inodes.";
    "evicted-pids", "low on resource: pids", "", KUBELET, EVICT_POD, LIMIT, None, "kubernetes pkg/kubelet/eviction",
        "The node was low on resource: pids.";
    "evicted-own-limit", "ephemeral", r"exceeds? (?:the total |its )?(?:limit|local ephemeral)|ephemeral local storage usage exceeds|usage of emptydir", KUBELET, EVICT_POD, QUOTA, None, "kubernetes pkg/kubelet/eviction: the pod's own limit",
        "Pod ephemeral local storage usage exceeds the total limit of containers 50M.";
    "evicted-own-limit", "usage of emptydir", "", KUBELET, EVICT_POD, QUOTA, None, "kubernetes pkg/kubelet/eviction",
        "Usage of EmptyDir volume \"container-disks\" exceeds the limit \"50Mi\".";
    "eviction-threshold", "attempting to reclaim", "", KUBELET, EVICT_POD, ANY, None, "kubernetes event EvictionThresholdMet",
        "Attempting to reclaim ephemeral-storage";
    "system-oom", "system oom encountered", "", KERNEL, RUN_GUEST, OUT_OF_MEMORY, None, "kubernetes pkg/kubelet/oom event SystemOOM",
        "System OOM encountered, victim process: qemu-kvm, pid: 4711";
    "disruption-budget", "disruption budget", "", API_SERVER, EVICT_POD, DENIED, None, "kubernetes eviction API: normal while a migration runs",
        "Cannot evict pod as it would violate the pod's disruption budget.";
    "drain-refused", "cannot delete pods", r"cannot delete pods (?:with local storage|not managed)", API_SERVER, EVICT_POD, DENIED, None, "kubectl drain: its flags",
        "cannot delete Pods with local storage (use --delete-emptydir-data to override): prod/virt-launcher-db-0";
    "taint-eviction", "taint manager", r"taint manager.*(?:marking|deleting)|marking for deletion pod", CONTROLLER_MANAGER, EVICT_POD, CANCELLED, None, "kubernetes tainteviction: the node is not ready",
        "taint manager: Marking for deletion Pod prod/virt-launcher-db-0";
    "image-gc-failed", "image garbage collection failed", "", KUBELET, RECLAIM, ANY, None, "kubernetes pkg/kubelet/images/image_gc_manager.go",
        "Image garbage collection failed once. Stats initialization may not have completed yet: no space left on device";
    "image-gc-failed", "failed to garbage collect required amount", "", KUBELET, RECLAIM, NO_SPACE, None, "kubernetes pkg/kubelet/images/image_gc_manager.go event FreeDiskSpaceFailed",
        "failed to garbage collect required amount of images. Attempted to free 10 bytes, but only found 0 bytes eligible to free";
    "image-fs-capacity-unknown", "invalid capacity 0 on image filesystem", "", KUBELET, RECLAIM, INVALID, None, "kubernetes event InvalidDiskCapacity: normal for a moment at kubelet's start",
        "invalid capacity 0 on image filesystem";

    // The node's heartbeat.
    "kubelet-silent", "kubelet stopped posting node status", "", KUBELET, REPORT_STATUS, TIMEOUT, None, "kubernetes node lifecycle controller",
        "Kubelet stopped posting node status.";
    "node-status-not-sent", "error updating node status", "", KUBELET, REPORT_STATUS, ANY, None, "kubernetes pkg/kubelet/kubelet_node_status.go",
        "Error updating node status, will retry: error getting node \"n1\": Get \"https://10.0.0.1:6443/api/v1/nodes/n1\": context deadline exceeded";
    "node-status-not-sent", "unable to update node status", "", KUBELET, REPORT_STATUS, ANY, None, "kubernetes pkg/kubelet/kubelet_node_status.go",
        "Unable to update node status: update node status exceeds retry count";
    "node-lease-not-sent", "lease", r"failed to (?:update|ensure|renew|get) (?:node )?lease|failed to ensure lease exists", KUBELET, REPORT_STATUS, ANY, None, "kubernetes component-helpers lease",
        "Failed to update lease: Put \"https://10.0.0.1:6443/apis/coordination.k8s.io/v1/leases/n1\": dial tcp 10.0.0.1:6443: connect: connection refused";
    "kubelet-certificate-expired", "part of the existing bootstrap client certificate", "", KUBELET, REPORT_STATUS, EXPIRED, None, "kubernetes cmd/kubelet",
        "Part of the existing bootstrap client certificate in /etc/kubernetes/kubelet.conf is expired: 2025-01-01";
    "kubelet-certificate-expired", "kubelet-client", r"kubelet-client.*(?:expired|no such file)", KUBELET, REPORT_STATUS, EXPIRED, None, "kubernetes",
        "failed to load client certificate /var/lib/kubelet/pki/kubelet-client-current.pem: certificate expired";
    "node-not-ready", "node is not ready", "", CONTROLLER_MANAGER, REPORT_STATUS, UNAVAILABLE, None, "kubernetes event NodeNotReady on a pod",
        "Node is not ready";
    "node-rebooted", "has been rebooted", r"node \S+ has been rebooted", KUBELET, REPORT_STATUS, CRASHED, None, "kubernetes event Rebooted",
        "Node n1 has been rebooted, boot id: 1c2c4c";

    // Limits of the node.
    "inotify-limit", "inotify", r"too many open files|no space left|user limit on inotify|failed to create.*inotify|inotify_(?:init|add_watch)", KERNEL, WATCH_FILES, LIMIT, None, "fs.inotify.max_user_instances, max_user_watches",
        "failed to create fsnotify watcher: inotify_init: too many open files";
    "inotify-limit", "fsnotify", r"fsnotify.*too many open files", KERNEL, WATCH_FILES, LIMIT, None, "fs.inotify.max_user_instances",
        "failed to create fsnotify watcher: too many open files";
    "files-limit", "too many open files in system", "", KERNEL, ANY, LIMIT, None, "ENFILE: fs.file-max",
        "accept4: too many open files in system";
    "fork-refused", "resource temporarily unavailable", r"fork|clone|thread|exec", KERNEL, FORK, LIMIT, None, "EAGAIN of clone(2): pids limit or ulimit",
        "fork/exec /usr/bin/runc: resource temporarily unavailable";

    // The control plane.
    "priority-class-missing", "no priorityclass with name", "", API_SERVER, CREATE_POD, INVALID, None, "kubernetes plugin/pkg/admission/priority: the pod names a class that does not exist",
        "pods \"virt-launcher-db-0-x\" is forbidden: no PriorityClass with name high was found";
    "quota-exceeded", "exceeded quota", "", API_SERVER, CREATE_POD, QUOTA, None, "kubernetes resourcequota admission",
        "pods \"virt-launcher-db-0\" is forbidden: exceeded quota: prod, requested: requests.memory=2Gi, used: requests.memory=7Gi, limited: requests.memory=8Gi";
    "limit-range", "is forbidden", r"is forbidden: (?:\[?(?:maximum|minimum) \w+ usage per|.*limit to request ratio)", API_SERVER, CREATE_POD, QUOTA, None, "kubernetes limitranger admission",
        "pods \"virt-launcher-db-0\" is forbidden: maximum memory usage per Pod is 1Gi, but limit is 2Gi";
    "pod-security-refused", "violates podsecurity", "", API_SERVER, CREATE_POD, QUOTA, None, "kubernetes podsecurity admission",
        "pods \"virt-launcher-db-0\" is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false";
    "pod-security-refused", "unable to validate against any", "", API_SERVER, CREATE_POD, QUOTA, None, "PodSecurityPolicy, OpenShift SCC",
        "pods \"virt-handler-\" is forbidden: unable to validate against any security context constraint: []";
    "vm-spec-refused", "denied the request", r"admission webhook .?virtualmachine\S*validator\.kubevirt\.io.* denied the request", API_SERVER, CALL_API, INVALID, None, "KubeVirt pkg/virt-api/webhooks/validating-webhook: its own validators of VMs and VMIs",
        "admission webhook \"virtualmachine-validator.kubevirt.io\" denied the request: spec.template.spec.domain.devices.disks[0].name must not be empty";
    "webhook-denied", "denied the request", r"admission webhook .* denied the request", API_SERVER, CALL_API, DENIED, None, "kubernetes apiserver",
        "admission webhook \"x.example\" denied the request: not allowed";
    "etcd-slow", "etcdserver", r"etcdserver: (?:request timed out|leader changed|no leader|mvcc: database space exceeded|too many requests)", API_SERVER, CALL_API, ANY, None, "etcd api/v3rpc/rpctypes",
        "etcdserver: request timed out";
    "api-server-unreachable", ":6443", r":6443\S*:? .*(?:refused|timeout|unreachable|no route|deadline|reset|eof)", API_SERVER, ANY, ANY, None, "general: client-go",
        "Get \"https://10.0.0.1:6443/api/v1/nodes\": dial tcp 10.0.0.1:6443: connect: connection refused";
    "api-server-unreachable", "connection to the server", r"(?:the )?connection to the server \S+ was refused", API_SERVER, CALL_API, REFUSED, None, "kubectl",
        "The connection to the server 10.0.0.1:6443 was refused - did you specify the right host or port?";
    "api-throttled", "client rate limiter", r"client rate limiter wait returned an error|client-side throttling", ANY, CALL_API, RATE_LIMITED, None, "client-go rest/request.go",
        "client rate limiter Wait returned an error: context deadline exceeded";
    "leader-lost", "leader", r"(?:leader ?election|leaderelection).*lost|lost lease|failed to renew lease", ANY, CALL_API, TIMEOUT, None, "client-go leaderelection",
        "leaderelection lost";

    // systemd.
    "unit-start-limit", "start request repeated too quickly", "", SYSTEMD, CREATE_CONTAINER, CRASHED, None, "systemd src/core/unit.c",
        "kubelet.service: Start request repeated too quickly.";
    "unit-failed", "main process exited", r"main process exited, code=(?:exited, status=[1-9]|killed|dumped)", SYSTEMD, ANY, CRASHED, None, "systemd src/core/service.c",
        "containerd.service: Main process exited, code=exited, status=2/INVALIDARGUMENT";
    "unit-watchdog", "watchdog timeout", "", SYSTEMD, ANY, TIMEOUT, None, "systemd src/core/service.c",
        "containerd.service: Watchdog timeout (limit 30s)!";
    "unit-killed-oom", "failed with result 'oom-kill'", "", SYSTEMD, ANY, OUT_OF_MEMORY, None, "systemd src/core/service.c",
        "containerd.service: Failed with result 'oom-kill'.";
    "unit-failed", "failed with result", "", SYSTEMD, ANY, CRASHED, None, "systemd src/core/unit.c",
        "kubelet.service: Failed with result 'exit-code'.";
};
