//! Texts about images, containers and sandboxes: containerd, CRI-O, Docker, runc and crun, as kubelet passes them on.
//!
//! Sources: containerd v1.6 to v2.1, cri-o v1.26 to v1.33, containers/image, distribution, runc v1.1, kubernetes pkg/kubelet.

use kulprit_model::said::{actor::*, class::*, operation::*};

use super::{ANY, Row, rows};

pub(super) const ROWS: &[Row] = rows! {
    // The image does not exist, or not for us.
    "image-not-found", "manifest unknown", "", RUNTIME, PULL, NOT_FOUND, None, "distribution registry/api/errcode: the same on every node",
        "failed to resolve reference \"quay.io/a/b:c\": unexpected status: manifest unknown";
    "image-not-found", "manifest for", r"manifest for \S+ not found", RUNTIME, PULL, NOT_FOUND, None, "Docker",
        "manifest for docker.io/a/b:c not found: manifest unknown to it";
    "image-not-found", "failed to resolve reference", r"failed to resolve reference .*: not found", RUNTIME, PULL, NOT_FOUND, None, "containerd remotes/docker/resolver.go",
        "failed to resolve reference \"quay.io/a/b:c\": quay.io/a/b:c: not found";
    "image-not-found", "name unknown", "", RUNTIME, PULL, NOT_FOUND, None, "distribution registry/api/errcode",
        "unexpected status code 404 Not Found - Server message: name unknown: repository not found";
    "image-pull-denied", "pull access denied", "", RUNTIME, PULL, UNAUTHORIZED, None, "containerd, Docker: wrong name or no credentials",
        "pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed";
    "image-pull-denied", "authentication required", "", RUNTIME, PULL, UNAUTHORIZED, None, "distribution",
        "unauthorized: authentication required";
    "image-pull-denied", "requested access to the resource is denied", "", RUNTIME, PULL, UNAUTHORIZED, None, "distribution, containers/image",
        "reading manifest latest in docker.io/a/b: requested access to the resource is denied";
    "image-rate-limited", "toomanyrequests", "", RUNTIME, PULL, RATE_LIMITED, None, "Docker Hub",
        "429 Too Many Requests - Server message: toomanyrequests: You have reached your pull rate limit";
    "image-rate-limited", "429 too many requests", "", RUNTIME, PULL, RATE_LIMITED, None, "general: registries",
        "unexpected status code [manifests latest]: 429 Too Many Requests";
    "image-rate-limited", "pull qps exceeded", "", KUBELET, PULL, RATE_LIMITED, None, "kubernetes pkg/kubelet/images: kubelet's own limit",
        "Error: pull QPS exceeded";
    "image-name-invalid", "invalidimagename", "", KUBELET, PULL, INVALID, None, "kubernetes pkg/kubelet/images",
        "Failed to apply default image tag: InvalidImageName";
    "image-name-invalid", "invalid reference format", "", KUBELET, PULL, INVALID, None, "distribution reference",
        "couldn't parse image name \"A b\": invalid reference format";
    "image-never-pulled", "not present with pull policy of never", "", KUBELET, PULL, NOT_FOUND, None, "kubernetes pkg/kubelet/images",
        "Container image \"quay.io/a/b:c\" is not present with pull policy of Never";
    "image-platform-missing", "no match for platform", "", RUNTIME, PULL, INCOMPATIBLE, None, "containerd images/image.go",
        "failed to pull and unpack image \"quay.io/a/b:c\": no match for platform in manifest: not found";
    "registry-plain-http", "http response to https client", "", RUNTIME, PULL, UNTRUSTED, None, "Go net/http",
        "http: server gave HTTP response to HTTPS client";
    "registry-server-error", "unexpected status", r"unexpected status.{0,60}\b50\d\b", RUNTIME, PULL, UNAVAILABLE, None, "containerd remotes/docker; containers/image",
        "unexpected status from HEAD request to https://r.example/v2/a: 503 Service Unavailable";
    "registry-proxy", "proxyconnect", "", RUNTIME, PULL, ANY, None, "Go net/http: the proxy of the node",
        "Get \"https://r.example/v2/\": proxyconnect tcp: dial tcp 10.0.0.9:3128: connect: connection refused";
    "image-pull-stalled", "no progress", r"(?:pull|image).*no progress|cancel pulling image because of no progress", RUNTIME, PULL, TIMEOUT, None, "containerd image_pull_progress_timeout",
        "cancel pulling image quay.io/a/b:c because of no progress in 5m0s";

    // The local store.
    "image-digest-missing", "content digest", r"content digest \S+: not found", RUNTIME, UNPACK, CORRUPT, None, "containerd content store: metadata without its blob",
        "failed to get reader from content store: content digest sha256:1c2c: not found";
    "image-digest-missing", "failed to get reader from content store", "", RUNTIME, UNPACK, CORRUPT, None, "containerd pkg/unpack: metadata without its blob",
        "failed to get reader from content store: blob sha256:1c2c expected at /var/lib/containerd/blobs/sha256/1c2c: blob not found: not found";
    "image-layer-damaged", "unexpected commit digest", "", RUNTIME, UNPACK, CORRUPT, None, "containerd content/local/writer.go",
        "failed commit on ref \"layer-sha256:1c\": unexpected commit digest sha256:2d, expected sha256:1c: failed precondition";
    "image-layer-damaged", "unexpected content size", "", RUNTIME, UNPACK, CORRUPT, None, "containerd content/helpers.go; containers/image",
        "failed size validation: 10 != 20: unexpected content size: failed precondition";
    "image-layer-damaged", "failed size validation", "", RUNTIME, UNPACK, CORRUPT, None, "containerd content/helpers.go",
        "failed commit on ref \"layer-sha256:1c\": failed size validation: 10 != 20: failed precondition";
    "image-layer-damaged", "layer not known", "", RUNTIME, UNPACK, CORRUPT, None, "containers/storage errors.go (CRI-O after a crash)",
        "error locating item named \"manifest\" for image with ID \"1c\": layer not known";
    "image-layer-damaged", "image not known", "", RUNTIME, UNPACK, CORRUPT, None, "containers/storage errors.go",
        "reading image \"1c2c\": locating image with ID \"1c2c\": image not known";
    "image-extract-failed", "failed to extract layer", "", RUNTIME, UNPACK, ANY, None, "containerd pkg/unpack",
        "failed to pull and unpack image \"quay.io/a/b:c\": failed to extract layer sha256:1c: mount callback failed: boom";
    "image-binary-damaged", "exec format error", "", RUNTIME, CREATE_CONTAINER, CORRUPT, None, "ENOEXEC: empty or damaged file, or another architecture",
        "exec /usr/bin/virt-launcher-monitor: exec format error";
    "snapshot-missing", "snapshot", r"(?:parent )?snapshot \S+ (?:does not exist|not found)|missing parent .* bucket", RUNTIME, UNPACK, CORRUPT, None, "containerd snapshots/storage",
        "failed to create containerd container: failed to create snapshot: parent snapshot sha256:1c does not exist: not found";
    "snapshot-missing", "snapshotter", r"snapshotter\.v1\.\S+/snapshots/\d+(?:/\w+)?: no such file", RUNTIME, UNPACK, CORRUPT, None, "containerd plugins/snapshots: metadata without its directory",
        "failed to prepare extraction snapshot \"extract-1 sha256:1c\": failed to stat parent: stat /var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/7/fs: no such file or directory";

    // Containers.
    "container-name-reserved", "failed to reserve container name", "", RUNTIME, CREATE_CONTAINER, EXISTS, None, "containerd internal/cri/store: an earlier create still hangs",
        "failed to reserve container name compute_virt-launcher_0: name is reserved for 1c2c";
    "container-name-reserved", "failed to reserve ctr name", "", RUNTIME, CREATE_CONTAINER, EXISTS, None, "containerd",
        "failed to reserve ctr name: already reserved";
    "container-name-reserved", "error reserving ctr name", "", RUNTIME, CREATE_CONTAINER, EXISTS, None, "cri-o: an earlier create still hangs",
        "error reserving ctr name k8s_compute_virt-launcher_prod for id 1c2c: name is reserved";
    "container-name-reserved", "context deadline exceeded: error reserving", "", RUNTIME, CREATE_CONTAINER, EXISTS, None, "cri-o",
        "Kubelet may be retrying requests that are timing out in CRI-O due to system load: context deadline exceeded: error reserving ctr name";
    "runtime-overloaded", "due to system load", "", RUNTIME, CREATE_CONTAINER, TIMEOUT, None, "cri-o server/container_create.go",
        "Kubelet may be retrying requests that are timing out in CRI-O due to system load. Currently at stage container volume configuration";
    "container-id-in-use", "with id exists", "", RUNTIME, CREATE_CONTAINER, EXISTS, None, "runc libcontainer",
        "container with id exists: 1c2c";
    "container-memory-too-low", "memory limit too low", r"container init was oom-killed|memory limit too low", RUNTIME, CREATE_CONTAINER, OUT_OF_MEMORY, None, "runc, cri-o",
        "container init was OOM-killed (memory limit too low?)";
    "container-memory-too-low", "oom-killed", "container init.*oom-killed", RUNTIME, CREATE_CONTAINER, OUT_OF_MEMORY, None, "runc process_linux.go",
        "process_linux.go:545: container init was OOM-killed";
    "device-cgroup-denied", "setting cgroup config", r#"setting cgroup config.*(?:/devices\.(?:allow|deny)|failed to write \\?"\\?"?[abc] [\d*]+:[\d*]+ )"#, RUNTIME, ALLOCATE_DEVICE, NOT_PERMITTED, None, "runc libcontainer/cgroups/fs/devices.go: the parent's device cgroup no longer allows it",
        "error setting cgroup config for procHooks process: failed to write \"c 10:200 rwm\": write /sys/fs/cgroup/devices/kubepods/pod1c/devices.allow: operation not permitted";
    "container-cgroup-failed", "unable to apply cgroup configuration", "", RUNTIME, CREATE_CONTAINER, ANY, None, "runc libcontainer/process_linux.go",
        "unable to apply cgroup configuration: failed to write 94: write /sys/fs/cgroup/cgroup.procs: invalid argument";
    "container-cgroup-failed", "unable to start unit", "", SYSTEMD, CREATE_CONTAINER, ANY, None, "runc systemd cgroup driver",
        "unable to start unit \"cri-containerd-1c.scope\" (properties [...]): Connection timed out";
    "cgroup-limit", "/sys/fs/cgroup/", r"mkdir /sys/fs/cgroup/\S+: (?:no space left|cannot allocate memory)", KERNEL, CREATE_CONTAINER, LIMIT, None, "kernel/cgroup/cgroup.c, mm/memcontrol.c: ids of cgroups are used up; cgroupfs is no disk",
        "unable to ensure pod container exists: failed to create container for [kubepods pod1c]: mkdir /sys/fs/cgroup/memory/kubepods/pod1c: no space left on device";
    "container-pids-limit", "failed to create new os thread", "", RUNTIME, FORK, LIMIT, None, "Go runtime: pids cgroup or ulimit",
        "runtime: failed to create new OS thread (have 9 already; errno=11)";
    "container-create-refused", "oci runtime", r"oci runtime (?:create failed|error)|runc create failed", RUNTIME, CREATE_CONTAINER, ANY, None, "runc, crun",
        "failed to create containerd task: OCI runtime create failed: container_linux.go:380: starting container process caused: boom";
    "container-shim-failed", "failed to create shim", "", RUNTIME, CREATE_CONTAINER, ANY, None, "containerd runtime/v2",
        "failed to create shim task: context deadline exceeded";
    "container-config-missing", "createcontainerconfigerror", "", KUBELET, CREATE_CONTAINER, NOT_FOUND, None, "kubernetes: a secret or config map is missing",
        "Error: CreateContainerConfigError";
    "container-crash-loop", "back-off restarting failed", "", RUNTIME, CREATE_CONTAINER, CRASHED, None, "kubernetes event BackOff: its log tells why",
        "Back-off restarting failed container compute in pod virt-launcher-db-0-x";
    "container-probe-failed", "probe failed", r"(?:liveness|readiness|startup) probe (?:failed|errored)", ANY, CREATE_CONTAINER, UNAVAILABLE, None, "kubernetes event Unhealthy",
        "Readiness probe failed: HTTP probe failed with statuscode: 503";
    "container-hook-failed", "prestop", r"prestop ?hook|failedprestophook", KUBELET, KILL_CONTAINER, ANY, None, "kubernetes event FailedPreStopHook",
        "Exec lifecycle hook ([sh]) for Container failed - error: PreStopHook failed";

    // Sandboxes; kills.
    "sandbox-name-reserved", "failed to reserve sandbox name", "", RUNTIME, CREATE_SANDBOX, EXISTS, None, "containerd internal/cri: an earlier create still hangs",
        "failed to reserve sandbox name \"virt-launcher_prod\": name is reserved for \"1c2c\"";
    "sandbox-name-reserved", "error reserving pod name", "", RUNTIME, CREATE_SANDBOX, EXISTS, None, "cri-o",
        "error reserving pod name k8s_virt-launcher for id 1c: name is reserved";
    "sandbox-image-failed", "failed to get sandbox image", "", RUNTIME, CREATE_SANDBOX, ANY, None, "containerd: the pause image cannot be pulled",
        "failed to get sandbox image \"registry.k8s.io/pause:3.9\": failed to pull image: i/o timeout";
    "container-kill-failed", "killcontainer", r#"failed to "?killcontainer"?"#, RUNTIME, KILL_CONTAINER, ANY, None, "kubernetes pkg/kubelet: the runtime cannot end it",
        "error killing pod: failed to \"KillContainer\" for \"compute\" with KillContainerError: \"rpc error: code = DeadlineExceeded desc = context deadline exceeded\"";
    "container-unkillable", "is not stopped", r"failed to kill container.*(?:deadline|not stopped)|container .* is not stopped|an error occurs during waiting for container", RUNTIME, KILL_CONTAINER, STUCK, None, "containerd internal/cri/server/container_stop.go: a process in D state",
        "failed to kill container \"1c2c\": container is not stopped";
    "container-unkillable", "during waiting for container", "", RUNTIME, KILL_CONTAINER, STUCK, None, "containerd internal/cri/server/container_stop.go",
        "failed to kill container \"1c2c\": an error occurs during waiting for container \"1c2c\" to be killed: wait container \"1c2c\": context deadline exceeded";
    "container-unkillable", "did not receive an exit event", "", RUNTIME, KILL_CONTAINER, STUCK, None, "Docker: a process in D state",
        "tried to kill container, but did not receive an exit event";
    "sandbox-kill-failed", "killpodsandbox", r#"failed to "?killpodsandbox"?"#, ANY, KILL_CONTAINER, ANY, None, "kubernetes pkg/kubelet",
        "error killing pod: failed to \"KillPodSandbox\" for \"1c2c\" with KillPodSandboxError: \"rpc error: code = Unknown desc = boom\"";
    "pod-still-has-processes", "has still", r"cgroup.*device or resource busy", RUNTIME, KILL_CONTAINER, BUSY, None, "runc: processes left",
        "unable to remove cgroup, it has still tasks: rmdir /sys/fs/cgroup/pod1c: cgroup: device or resource busy";

    // The runtime itself.
    "runtime-socket-dead", "containerd.sock", r"(?:containerd|cri-dockerd)\.sock.*(?:refused|no such file|deadline|timeout)", RUNTIME, LIST_PODS, REFUSED, None, "gRPC dial",
        "connection error: desc = \"transport: Error while dialing: dial unix /run/containerd/containerd.sock: connect: connection refused\"";
    "runtime-socket-dead", "crio.sock", r"crio\.sock.*(?:refused|no such file|deadline|timeout)", RUNTIME, LIST_PODS, REFUSED, None, "gRPC dial; cAdvisor's absent socket of another runtime is noise",
        "rpc error: code = Unavailable desc = connection error: dial unix /var/run/crio/crio.sock: connect: connection refused";
    "runtime-call-timeout", "from runtime service failed", r"from runtime service failed.*deadline", RUNTIME, LIST_PODS, TIMEOUT, None, "kubernetes pkg/kubelet/cri/remote",
        "ListPodSandbox with filter from runtime service failed: rpc error: code = DeadlineExceeded desc = context deadline exceeded";
    "runtime-call-failed", "from runtime service failed", "", RUNTIME, LIST_PODS, ANY, None, "kubernetes pkg/kubelet/cri/remote",
        "RunPodSandbox from runtime service failed: rpc error: code = Unknown desc = boom";
    "runtime-down", "container runtime is down", "", RUNTIME, LIST_PODS, UNAVAILABLE, None, "kubernetes pkg/kubelet/runtime.go",
        "container runtime is down";
    "pleg-unhealthy", "pleg is not healthy", "", RUNTIME, LIST_PODS, TIMEOUT, None, "kubernetes pkg/kubelet/pleg: the runtime is slow or a container hangs",
        "PLEG is not healthy: pleg was last seen active 3m12s ago; threshold is 3m0s";
    "image-pull-backoff", "back-off pulling image", "", ANY, PULL, ANY, None, "kubernetes event BackOff: the first error tells why",
        "Back-off pulling image \"quay.io/a/b:c\"";
};
