//! The words by which a text that no row knows is still read: literals that name a class, an operation, an actor, a backend.
//!
//! Each word has a tier: the words of the highest tier that a text has decide, and of those the last one, because errors are
//! nested from the outside in. Tier 3: an errno or a phrase that means one thing. Tier 2: a word that often means it. Tier 1:
//! a hint (a gRPC code, "missing"). Tier 0: only says that something failed. All literals match without regard to ASCII case;
//! words of letters only match whole words where `WHOLE` says so.
//! Sources: errno(3) of glibc and musl, gRPC status codes, Go's net and x509 packages, the containers' and KubeVirt's texts.

use kulprit_model::said::{actor, class, operation};

/// What a word tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tells {
    Class(&'static str),
    Operation(&'static str),
    Actor(&'static str),
    Backend(&'static str),
    /// That something failed, and no more.
    Failure,
}

/// One word.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word {
    pub(crate) tells: Tells,
    pub(crate) tier: u8,
    /// Whether no letter or digit may stand on either side of it.
    pub(crate) is_whole: bool,
    pub(crate) literal: &'static str,
}

const fn word(tells: Tells, tier: u8, is_whole: bool, literal: &'static str) -> Word {
    Word { tells, tier, is_whole, literal }
}

macro_rules! words {
    ($($kind:ident $value:expr, $tier:literal: $($literal:literal)*;)*) => {
        &[$($(word(Tells::$kind($value), $tier, false, $literal),)*)*]
    };
}

/// The same, whole words only.
macro_rules! whole_words {
    ($($kind:ident $value:expr, $tier:literal: $($literal:literal)*;)*) => {
        &[$($(word(Tells::$kind($value), $tier, true, $literal),)*)*]
    };
}

/// Classes. A longer phrase that ends where a shorter one does wins over it.
pub(crate) const CLASSES: &[Word] = words! {
    Class class::TIMEOUT, 3: "timed out" "deadline exceeded" "deadlineexceeded" "i/o timeout" "timeout expired" "timeout exceeded"
        "handshake timeout" "timeout awaiting" "timeout waiting" "timeout while"
        "gateway timeout" "timeoutexpired" "timeout period exceeded" "exceeded progress deadline" "no response from"
        "not responding" "did not respond" "didn't respond" "no answer from" "does not answer" "context deadline" "exceeded its deadline"
        "client.timeout exceeded" "etimedout" "took too long" "not completed after" "did not complete within" "within the timeout";
    Class class::TIMEOUT, 2: "connection timeout" "request timeout" "response timeout" "operation timeout" "timed-out" "timeout:" "timeout;" "timeout," "waiting too long" "max retries" "retry limit" "retries exceeded"
        "exhausted retries" "unresponsive" "not answer";
    Class class::REFUSED, 3: "connection refused" "econnrefused" "actively refused" "nobody listens" "connect: refused";
    Class class::UNREACHABLE, 3: "no route to host" "network is unreachable" "host is unreachable" "ehostunreach" "enetunreach"
        "host is down" "network unreachable" "destination unreachable" "no path to" "network is down" "enetdown" "ehostdown";
    Class class::UNREACHABLE, 2: "unreachable" "unroutable" "cannot reach" "can't reach" "unable to reach" "not reachable";
    Class class::RESET, 3: "connection reset" "broken pipe" "unexpected eof" "error reading from server: eof" "connection closed" "econnreset"
        "epipe" "transport is closing" "transport: closed" "end of file from" "end of file while" "server closed" "closed the connection"
        "lost connection" "connection lost" "socket is closed" "client connection is closing" "connection aborted" "econnaborted"
        "stream terminated" "rst_stream" "software caused connection abort" "closed network connection" "channel closed" "ttrpc: closed"
        "remote end hung up" "connection broken" "connection dropped" "connection was closed" "keepalive timeout" "session lost" "channel error"
        "connection to monitor" "connection terminated" "conn error" "goaway";
    Class class::RESET, 2: ": eof" "disconnected" "connection failure" "connection failed" "connection error";
    Class class::NAME, 3: "no such host" "server misbehaving" "name or service not known" "name resolution" "could not resolve host"
        "unknown host" "nodename nor servname" "cannot resolve" "could not be resolved" "nxdomain" "servfail" "failed to resolve host"
        "failed to resolve name" "failed to resolve hostname" "unable to resolve" "unable to resolve host";
    Class class::DENIED, 3: "permission denied" "access denied" "eacces" "avc: denied" "avc:  denied" "access is denied"
        "apparmor=\"denied\"" "not authorized to" "denied by selinux";
    Class class::DENIED, 2: "denied" "forbidden" "not allowed";
    Class class::NOT_PERMITTED, 3: "operation not permitted" "eperm" "not permitted";
    Class class::UNAUTHORIZED, 3: "unauthorized" "authentication required" "authentication failed" "invalid credentials"
        "incorrect username or password" "no basic auth credentials" "pull access denied" "requested access to the resource is denied"
        "unauthenticated" "insufficient_scope" "authorization failed" "bad credentials" "not logged in" "403 forbidden"
        "failed to fetch oauth token" "failed to fetch anonymous token" "failed to authorize" "login failure" "chap authentication";
    Class class::UNAUTHORIZED, 2: "authorization token";
    Class class::RATE_LIMITED, 3: "too many requests" "toomanyrequests" "ratelimit" "throttlingexception" "requestlimitexceeded"
        "pull qps exceeded";
    Class class::RATE_LIMITED, 2: "rate limit" "throttled" "request rate";
    Class class::NOT_FOUND, 3: "no such file or directory" "no such device or address" "enoent" "not found" "notfound" "does not exist"
        "doesn't exist" "manifest unknown" "no such image" "no such container" "no such object" "no such volume" "no such pool" "no such process"
        "name unknown" "no longer exists" "did not find" "could not find" "couldn't find" "cannot find" "can't find" "unable to find" "unable to locate"
        "no matching" "unknown manifest" "not in the list of registered" "no such network" "no such session" "no domain with"
        "no command socket" "not exist anymore" "not present with pull policy" "nosuchkey" "nosuchbucket" "not-found" "no healthy devices"
        "repository does not exist" "layer not known" "image not known" "unknown blob" "blob unknown" "missing claim" "enxio";
    Class class::NOT_FOUND, 2: "no such" "disappeared" "is missing" "was not registered" "vanished" "has been deleted" "was deleted" "not known"
        "no file" "nonexistent" "non-existent" "no device found" "no devices found" "failed to resolve";
    Class class::NOT_FOUND, 1: "missing" "unknown";
    Class class::EXISTS, 3: "already exists" "alreadyexists" "file exists" "eexist" "is reserved for" "already defined" "duplicate" "already taken"
        "address already in use" "eaddrinuse" "name is in use" "already allocated" "is already used by" "already been assigned" "name conflict";
    Class class::BUSY, 3: "resource busy" "ebusy" "device is busy" "target is busy" "still in use" "still being used" "device busy" "mount point busy"
        "text file busy" "already mounted" "is in use" "are in use" "in use by" "currently in use" "is busy" "apparently in use" "already bound to"
        "is already opened" "already in progress" "operation already exists" "operation is pending" "is being used" "already pending";
    Class class::BUSY, 2: "in use" "busy" "pending operation" "another operation";
    Class class::HELD, 3: "multi-attach" "exclusively attached" "already used by pod" "used by pod(s)" "another process using" "write\" lock" "held by"
        "still attached" "attached to another" "attached to a different" "already attached to" "attached elsewhere"
        "lock is held" "already locked" "resource temporarily locked" "lock held" "not in primary role" "another client"
        "reservation conflict" "already primary" "already mounted by another" "someone else" "locked_by" "sharing violation" "could not lock"
        "failed to lock" "cannot lock" "owned by another" "acquired by" "multiple primaries" "already published" "published to another"
        "blocklisted" "blacklisted" "refused by peer" "state change was refused" "held open" "leased to";
    Class class::HELD, 2: "watchers" "has watcher" "on another node" "on a different node" "locked by" "is locked";
    Class class::NO_SPACE, 3: "no space left" "enospc" "disk quota exceeded" "edquot" "not enough space" "disk is full" "file system is full"
        "filesystem is full" "out of space" "out of disk space" "insufficient storage" "insufficient free space" "insufficient disk" "no free space"
        "nospace" "device is full" "pool is full" "not enough disk" "storage is full" "no available disk" "insufficient space" "not enough free"
        "not enough capacity" "lacks capacity" "out of inodes" "no free inodes" "low on space" "nearfull" "backfillfull" "pool full"
        "space exhausted" "out-of-data-space" "quota exceeded for volume" "no enough space" "exceeds available" "larger than available"
        "volume full" "cluster is full" "disk pressure" "not enough storage" "resourceexhausted: no space";
    Class class::NO_SPACE, 2: "ephemeral-storage" "free disk space" "diskpressure" "low space";
    Class class::QUOTA, 3: "exceeded quota" "violates podsecurity" "forbidden: maximum" "forbidden: minimum"
        "unable to validate against any" "must specify limits" "must specify requests" "maximum memory usage per" "maximum cpu usage per"
        "quota exceeded" "quota has been" "insufficient quota" "quotaexceeded" "denied the request: quota" "usage limit exceeded";
    Class class::QUOTA, 2: "resourcequota" "limitrange";
    Class class::INSUFFICIENT, 3: "insufficient " "nodes are available" "didn't match" "untolerated taint" "no nodes available" "no suitable node"
        "node is suitable" "outofcpu" "outofmemory" "outofpods" "outofephemeral" "outofdevices" "too many pods" "node(s) had"
        "topology affinity" "no node fits" "exceed max volume count" "max volume count" "nodes match" "node(s) exceed" "no free nodes";
    Class class::INSUFFICIENT, 2: "node affinity" "unschedulable";
    Class class::IO_ERROR, 3: "input/output error" "i/o error" "io error" "remote i/o" "medium error" "read error" "write error" "eio)" "eremoteio"
        "bad sector" "lost async page write" "critical medium" "unrecovered" "io failure" "ioerror" "i/o failure" "io_error";
    Class class::STALE, 3: "stale file handle" "stale nfs file handle" "estale" "transport endpoint is not connected" "enotconn"
        "socket is not connected" "stale mount" "corrupted mount" "device not configured" "endpoint shutdown" "eshutdown" "dead mount"
        "no longer connected" "key has expired or revoked";
    Class class::STALE, 2: "stale";
    Class class::READ_ONLY, 3: "read-only file system" "erofs" "readonly filesystem" "read-only filesystem" "remounting filesystem read-only"
        "is read-only" "write protected" "write-protected" "is write protect" "block node is read-only" "readonly file system";
    Class class::OUT_OF_MEMORY, 3: "cannot allocate memory" "enomem" "out of memory" "oomkilled" "oom-killed" "memory cgroup out" "allocation failed"
        "failed to allocate memory" "unable to allocate memory" "cannot allocate" "can't allocate memory" "oom killer" "oom-kill" "not enough memory"
        "insufficient memory for" "std::bad_alloc" "memory exhausted" "low on resource: memory" "unable to allocate" "could not allocate";
    Class class::OUT_OF_MEMORY, 2: "memorypressure";
    Class class::LIMIT, 3: "too many open files" "emfile" "enfile" "resource temporarily unavailable" "eagain" "limit exceeded"
        "too many links" "no space left on device (inotify" "user limit on inotify" "no more processes" "cannot create thread" "too many processes"
        "table full" "limit is reached"
        "fork rejected" "reached the limit" "exceeds the limit" "failed to create new os thread" "pthread_create" "argument list too long"
        "user namespaces: no space" "exceeds limit" "too many levels" "too many watches";
    Class class::LIMIT, 2: "limit reached" "memlock" "locked memory" "rlimit" "maximum number of" "pids limit" "max_user_instances" "max_user_watches" "aio-max-nr" "io_setup" "maxpods" "thread limit" "limit of inotify";
    Class class::CORRUPT, 3: "structure needs cleaning" "euclean" "exec format error" "enoexec" "digest mismatch"
        "unexpected digest" "bad digest" "failed to extract" "invalid tar" "unexpected commit digest" "fsck found errors" "unexpected inconsistency"
        "bad magic" "wrong fs type" "gzip: invalid" "invalid header" "ebadmsg" "bad message" "failed integrity" "verification failed for"
        "content digest" "unpigz" "zstd: invalid" "input does not match format" "bad crc" "crc error" "unknown filesystem"
        "unexpected content size" "failed size validation" "failed commit on ref" "filesystem errors" "cannot be repaired" "ebadf";
    Class class::CORRUPT, 2: "checksum" "superblock" "corrupt" "archive/tar" "inconsistent";
    Class class::INCOMPATIBLE, 3: "incompatible" "missing features" "version mismatch" "not compatible" "doesn't match specification" "features 0x"
        "differs from" "does not provide required" "cpu doesn't match"
        "does not match the" "unsupported version" "version skew" "unknown migration" "section footer" "unknown savevm section"
        "unknown ramblock" "length mismatch" "error while loading state" "load of migration failed" "required cpu model"
        "incorrect version" "is too old" "is too new" "mismatched";
    Class class::INCOMPATIBLE, 2: "machine type" "host-model" "protocol version" "mismatch" "newer version" "older version" "minimum version";
    Class class::INVALID, 3: "invalid argument" "einval" "invalid value" "malformed" "unsupported configuration" "xml error" "invalid configuration"
        "could not parse" "failed to parse" "cannot parse" "parse error" "is not valid" "validation failed" "failed to validate" "bad request"
        "invalid reference format" "invalidimagename" "invalid image" "unknown parameter" "unknown field" "unrecognized" "not a valid"
        "is invalid" "unmarshal" "syntax error" "unknown option" "bad option" "bad parameter" "exceeds maximum"
        "out of range" "numerical result out of range" "cannot unmarshal" "wrong parameter" "bad configuration"
        "errclaimnotvalid" "spec is missing" "is not a block device" "is not a directory" "not a directory" "enotdir" "is a directory"
        "file name too long" "enametoolong" "address family" "bad file descriptor";
    Class class::INVALID, 2: "invalid" "must be of" "is required" "yaml:" "not configured";
    Class class::UNSUPPORTED, 3: "operation not supported" "not supported" "eopnotsupp" "enotsup" "no such device" "enodev" "unsupported" "not implemented"
        "unimplemented" "function not implemented" "enosys" "inappropriate ioctl" "enotty" "protocol not supported" "unknown command" "hasn't enabled"
        "does not support" "doesn't support" "no support for" "not migratable" "cannot migrate" "non-migratable" "not live migratable" "not available on this"
        "device not found: kvm" "no hardware" "disabled by bios";
    Class class::UNSUPPORTED, 2: "not enabled" "is not enabled";
    Class class::EXPIRED, 3: "certificate has expired" "has expired" "not yet valid" "is expired" "expiredtoken";
    Class class::EXPIRED, 2: "expired";
    Class class::UNTRUSTED, 3: "unknown authority" "certificate signed by" "self-signed" "self signed" "certificate is valid for" "certificate is not valid"
        "unknown certificate" "bad certificate" "certificate verify failed" "tls: failed to verify" "x509: cannot validate" "not trusted" "untrusted"
        "http response to https client" "unknown ca" "certificate relies on legacy" "doesn't contain any ip sans" "remote error: tls" "certificate required"
        "first record does not look like a tls";
    Class class::UNAVAILABLE, 3: "not ready" "notready" "is unhealthy" "not healthy" "unhealthy" "not registered" "is not running" "not initialized"
        "uninitialized" "not yet ready" "service unavailable" "502 bad gateway" "is down" "no endpoints available" "not available"
        "kubelet stopped posting" "is not connected" "not connected" "currently unavailable" "temporarily unavailable" "isn't running"
        "failed to start" "no active" "failed over" "is offline" "crashloopbackoff" "no leader" "leader changed"
        "faulted" "is not active" "not operational" "disappeared from" "is detached" "no healthy"
        "not in state" "is in a failed state" "has failed" "no brokers" "insufficient replicas" "no up-to-date";
    Class class::UNAVAILABLE, 2: "quorum" "inactive" "offline" "degraded" "shutting down" "not started" "not attached" "not mapped";
    Class class::UNAVAILABLE, 2: "unavailable" "waiting for";
    Class class::CRASHED, 3: "panic:" "segfault" "segmentation fault" "core dumped" "sigsegv" "sigabrt" "sigbus" "unexpectedly closed"
        "aborted (core" "unexpectedly failed" "crashed" "exited unexpectedly" "terminated unexpectedly" "signal 11" "signal 6" "fatal error"
        "exit code 139" "exit code 134" "nil pointer" "runtime error" "stack smashing" "guest panicked" "exited, restarting" "unexpected exit"
        "internal error. suberror" "hardware error 0x" "kvm run failed" "dirty virt-launcher shutdown" "exited with error" "went away";
    Class class::CRASHED, 2: "assertion" "died";
    Class class::CRASHED, 2: "aborted" "panicked" "crash";
    Class class::CRASHED, 1: "exit status" "exit code" "exited" "terminated" "non-zero exit";
    Class class::KILLED, 3: "signal: killed" "exit code 137" "signal 9" "was killed" "got killed" "killed by" "terminated by signal 9"
        "terminating on signal" "exit status 137" "killed process" "signal: terminated" "exit code: 137" "exitcode:137" "exit code 143";
    Class class::KILLED, 2: "sigterm" "sigkill";
    Class class::CANCELLED, 3: "canceled by client" "cancelled by client" "context canceled" "context cancelled" "operation aborted" "was canceled"
        "was cancelled" "being canceled" "being cancelled" "code = canceled" "code = cancelled" "has been aborted" "ecanceled" "operation canceled"
        "operation was aborted" "been cancelled" "been canceled" "migration aborted" "aborting migration" "was aborted";
    Class class::CANCELLED, 2: "by user" "user requested" "cancellation";
    Class class::STUCK, 3: "not converging" "no progress" "without progress" "is hung" "has hung" "hung task" "deadlock" "livelock" "blocked for more"
        "not making progress" "lockup" "still terminating" "cannot acquire state change lock" "failed to terminate process" "unkillable"
        "process did not exit" "did not exit" "failed to exit" "could not kill" "failed to kill" "wedged";
    Class class::STUCK, 2: "stalled" "stuck" "hangs" "is blocked";
    Class class::OTHER, 0: "code = internal" "code = unknown" "internal error" "500 internal";
    Class class::TIMEOUT, 1: "code = deadlineexceeded";
    Class class::NOT_FOUND, 1: "code = notfound";
    Class class::EXISTS, 1: "code = alreadyexists";
    Class class::BUSY, 1: "code = aborted" "conflict";
    Class class::UNAVAILABLE, 1: "code = unavailable" "failedprecondition" "not yet";
    Class class::DENIED, 1: "code = permissiondenied";
    Class class::UNAUTHORIZED, 1: "code = unauthenticated";
    Class class::NO_SPACE, 1: "resourceexhausted";
    Class class::INVALID, 1: "code = invalidargument" "code = outofrange" "unexpected value";
    Class class::UNSUPPORTED, 1: "code = unimplemented";
    Class class::CORRUPT, 1: "code = dataloss";
};

/// Classes whose word is so short that it stands in others.
pub(crate) const WHOLE_CLASSES: &[Word] = whole_words! {
    Class class::TIMEOUT, 2: "timeout" "timeouts";
    Class class::RESET, 2: "eof" "hangup" "reset";
    Class class::OUT_OF_MEMORY, 3: "oom";
    Class class::IO_ERROR, 3: "eio";
    Class class::KILLED, 3: "killed";
    Class class::KILLED, 2: "evicted";
    Class class::NO_SPACE, 2: "full";
    Class class::HELD, 2: "lock" "locked";
    Class class::INVALID, 2: "bad";
    Class class::STUCK, 2: "hung";
    Class class::CANCELLED, 2: "canceled" "cancelled";
    Class class::UNAUTHORIZED, 2: "401";
    Class class::NOT_FOUND, 2: "404";
    Class class::RATE_LIMITED, 2: "429";
    Class class::UNAVAILABLE, 2: "503";
    Class class::UNAVAILABLE, 2: "down" "lost";
    Class class::BUSY, 1: "409";
};

/// Operations. Tier 1: the transport under another operation.
pub(crate) const OPERATIONS: &[Word] = words! {
    Operation operation::MOUNT, 3: "mountvolume." "mount.nfs" "mount.ceph" "mount.cifs" "mount failed" "mounting command" "mount: " "failed to mount"
        "mounting volume" "mount volume" "mount volumes" "nodestagevolume" "nodepublishvolume" "format and mount" "fsck" "mkfs" "can't read superblock"
        "failed to format" "globalmount" "mounting arguments" "failedmount" "stagevolume" "publishvolume" "error mounting" "couldn't mount" "could not mount"
        "unmounted volumes" "mount_rbd" "configmap" "nodeexpandvolume" "bind mount" "resize2fs" "cryptsetup" "luks" "mount point";
    Operation operation::MAP, 3: "mapvolume." "setupdevice" "mapblockvolume" "rbd map" "rbd: map" "failed to map" "mappoddevice" "mapping failed" "iscsiadm"
        "losetup" "loop device" "map volume" "failedmapvolume" "nvme connect" "login to" "rbd: sysfs write failed" "symlink for block";
    Operation operation::UNMOUNT, 3: "unmountvolume." "unmapvolume." "unmountdevice" "unmapdevice" "nodeunpublishvolume" "nodeunstagevolume" "umount:" "unmount"
        "failed to unmap" "rbd unmap" "orphaned pod" "unstagevolume" "unpublishvolume" "umount failed" "cleanupmountpoint" "luksclose" "teardowndevice" "volume paths are still present";
    Operation operation::ATTACH, 3: "attachvolume." "controllerpublishvolume" "multi-attach" "failed to attach" "volumeattachment" "waitforattach" "unable to attach"
        "attach volume" "attaching volume" "attachdisk" "failedattachvolume" "auto-attach" "volume attach" "attacher.attach" "auto-promote";
    Operation operation::DETACH, 3: "detachvolume." "controllerunpublishvolume" "failed to detach" "detach volume" "detaching volume" "detacher.";
    Operation operation::SET_OWNERSHIP, 3: "chown" "chmod" "set ownership" "setownership" "setvolumeownership" "applyfsgroup" "fsgroup" "change owner" "setfilecon"
        "setxattr" "unable to set user and group" "security context on" "lchown" "couldn't set ownership" "relabel";
    Operation operation::OPEN_IMAGE, 3: "could not open '" "could not open \"" "cannot access storage file" "cannot access backing file" "failed to open disk" "image is not in"
        "could not open backing file" "blockdev-add" "-blockdev" "failed to open file" "cannot open file" "open disk image" "qemu-img info" "could not read image" "could not open image";
    Operation operation::LOCK_IMAGE, 3: "write\" lock" "using the image" "consistent read\" lock" "failed to get shared" "image lock" "failed to lock byte" "lock on the image" "lease for disk";
    Operation operation::READ_WRITE, 3: "io error at the volume" "i/o error on" "i/o error in" "paused due to io error" "not enough space on volume" "block i/o error" "lost async page write" "rejecting i/o"
        "readat" "writeat" "replica r/w" "failed to write to disk" "failed to read from disk" "backend read" "backend write" "read/write";
    Operation operation::PROVISION, 3: "provision" "createvolume" "deletevolume" "unable to schedule replica" "replica scheduling" "waitforfirstconsumer" "persistentvolumeclaim" "unbound immediate"
        "bind volumes" "volume binding" "not bound" "unbound" "expandvolume" "resize volume" "expand volume" "storageclass" "snapshot" "available disk for replica" "resizing pvc" "failedbinding" "volume group" "lvcreate" "zfs create" "create replica" "rebuild replica";
    Operation operation::IMPORT, 3: "importer" "datavolume" "uploadserver" "upload server" "unable to process data" "clone" "data-processor" "unable to convert" "qemu-img convert" "virtual image size" "scratch space" "nbdkit";
    Operation operation::PULL, 3: "pull image" "pulling image" "pullimage" "errimagepull" "imagepullbackoff" "failed to pull" "imageservice" "manifests" "registry" "failed to resolve reference" "failed to copy: httpreaderseeker"
        "errimageneverpull" "invalidimagename" "pull policy" "pulling from host" "image pull" "resolve image" "pull and unpack" "oauth token" "anonymous token" "initializing source docker" "imageinspecterror" "writing blob" "reading blob" "copying system image" "pulling layer" "fetch failed";
    Operation operation::UNPACK, 3: "failed to extract" "extract layer" "applylayer" "apply layer" "unpack" "unpigz" "content digest" "content store" "layer not known" "overlayfs" "snapshotter" "snapshot sha256" "image store" "failed to prepare extraction" "storing blob" "committing the finished image" "local cache" "rootfs" "image content";
    Operation operation::UNPACK, 2: "failed to unpack image";
    Operation operation::CREATE_SANDBOX, 3: "pod sandbox" "run sandbox" "runpodsandbox" "createpodsandbox" "sandbox container" "sandbox image" "sandboxchanged" "start sandbox" "create sandbox" "podsandbox" "sandbox task" "sandbox name";
    Operation operation::SETUP_NETWORK, 3: "network for sandbox" "plugin type=" "failed (add)" "failed (delete)" "cni" "network plugin" "network sandbox" "ipam" "delegate" "failed to set up pod" "vmi network" "vm network" "network interface" "phase1" "phase2" "podinterface"
        "networkpluginnotready" "network is not ready" "network not ready" "networkready" "ip address" "no available ip" "bridge" "veth" "nftables" "iptables" "nfrule" "tap device" "network namespace" "netns" "dhcp" "ovs-vsctl" "sriov" "dummy interface" "network attachment";
    Operation operation::CREATE_CONTAINER, 3: "startcontainer" "createcontainer" "container process" "oci runtime" "runc create" "runc run" "failed to create containerd task" "failed to create shim" "container create failed" "start container" "create container" "runcontainererror"
        "createcontainererror" "createcontainerconfigerror" "container name" "starting container" "containerd task" "container init" "failed to run virt-launcher" "back-off restarting" "prestart hook" "poststart" "entrypoint" "crun" "conmon" "container died" "ctr name" "pivot_root" "containercannotrun" "reserve ctr" "runc init" "shim task" "startup probe" "readiness probe";
    Operation operation::KILL_CONTAINER, 3: "killcontainer" "killpodsandbox" "kill container" "killing pod" "stopcontainer" "stoppodsandbox" "failedkillpod" "stop container" "removecontainer" "removepodsandbox" "kill pod" "stopping container" "remove container" "failed to kill" "deletecontainer" "killing container" "exceededgraceperiod" "failedprestophook" "stop sandbox" "remove sandbox" "tear down sandbox" "stop pod" "failed to stop" "destroy network" "delete task" "shim reaper";
    Operation operation::LIST_PODS, 3: "pleg" "listcontainers" "listpodsandbox" "podsandboxstatus" "containerstatus" "runtime is down" "runtimestatus" "status from runtime" "runtime service failed" "runtime status check" "relist" "skipping pod synchronization" "version from runtime" "remote runtime";
    Operation operation::ADMIT_POD, 3: "admission denied" "unexpectedadmissionerror" "cannot allocate unhealthy devices" "allocate failed" "topologyaffinityerror" "node didn't have enough" "preempt" "outofcpu" "outofmemory" "outofpods" "nodeaffinity" "failedtoadmit" "predicate" "smtalignmenterror" "admit" "podosselector" "nodeports";
    Operation operation::EVICT_POD, 3: "evict" "low on resource" "reclaim memory" "reclaim ephemeral" "disruption budget" "taintmanager" "drain" "preempted" "diskpressure" "memorypressure" "pidpressure" "threshold quantity" "usage of emptydir" "exceeds the total limit" "exceeded its local ephemeral";
    Operation operation::SCHEDULE, 3: "failedscheduling" "nodes are available" "unschedulable" "node is suitable" "suitable node" "untolerated taint" "no nodes available" "preemption:" "binding rejected" "scheduling";
    Operation operation::CREATE_POD, 3: "error creating: pods" "error creating pod" "failed to create pod for" "failedcreate" "exceeded quota" "violates podsecurity" "create pod" "failed to render launch manifest" "cannot create resource" "pod template" "creating: pods" "is forbidden: unable to validate" "limitrange" "failed to create virtual machine pod" "migration target pod for";
    Operation operation::SCHEDULE, 2: "schedule";
    Operation operation::REGISTER_PLUGIN, 3: "device plugin" "registered csi drivers" "deviceplugin" "plugin_watcher" "registerplugin" "registration" "newcsidriverclient" "node-driver-registrar" "csinode" "kubelet.sock" "register with kubelet" "plugin socket" "does not contain driver" "plugin registration" "failed to register" "pluginhandler";
    Operation operation::ALLOCATE_DEVICE, 3: "vfio" "iommu" "failed to allocate device" "hostdev" "host device" "mdev" "vgpu" "sr-iov" "virtual function" "permitted device" "unhealthy devices" "nvidia" "pci device" "assign device" "usb device" "unable to open /dev/net/tun" "/dev/net/tun" "vhost-net" "gpu device" "device allocation";
    Operation operation::REPORT_STATUS, 3: "node status" "update lease" "node lease" "ensure lease" "heartbeat" "posting node status" "node controller" "nodestatus" "register node" "kube-node-lease" "node is not ready" "nodenotready" "update node" "marking node";
    Operation operation::RECLAIM, 3: "garbage collect" "image gc" "image garbage" "containergcfailed" "imagegcfailed" "freediskspace" "gc failed" "to free" "remove image" "attempting to reclaim" "failed to garbage" "delete image";
    Operation operation::CONNECT_LIBVIRT, 3: "connect to virtqemud" "connecting to libvirt" "connection to libvirt" "virtqemud-sock" "libvirt-sock" "connect to libvirt" "libvirt daemon" "failed to connect socket to '" "failed to connect to the hypervisor" "virtqemud exited" "virtlogd" "libvirtd" "virtqemud";
    Operation operation::CONNECT_LAUNCHER, 3: "launcher-sock" "cmd client" "command socket" "launcher client" "cmd socket" "command ping" "launcher connection" "cmd server" "unresponsive virt-launcher" "domain-notify" "notify server" "isolation for launcher" "virt-launcher client";
    Operation operation::SYNC_VMI, 3: "command syncvmi" "syncvmi" "synchronizing with the domain" "synchronizing the virtualmachineinstance" "syncfailed" "sync vmi" "failed to sync" "unable to mark vmi";
    Operation operation::SYNC_VMI, 2: "re-enqueuing virtualmachineinstance" "updating the virtualmachineinstance status" "virtualmachineinstance";
    Operation operation::DEFINE_DOMAIN, 3: "unsupported configuration" "xml error" "<sysinfo>" "define domain" "domain xml" "domain to be defined" "defining the domain" "virdomaindefine" "conversion failed" "failed to build domain" "domain definition" "domain spec" "already exists with uuid" "convert vmi" "domaindefparse" "machine type";
    Operation operation::START_DOMAIN, 3: "start virtualmachineinstance" "starting the virtualmachineinstance failed" "unexpectedly closed the monitor" "exited while connecting" "start domain" "could not start" "failed to start domain" "cannot set up guest memory" "guest ram" "guest memory" "-device " "qemu-kvm: -" "swtpm" "firmware" "ovmf" "failed to initialize" "failed to find rom" "memory backend" "preparing host-disks" "prealloc" "creating container-disks" "pre start setup" "bios image";
    Operation operation::ACCESS_KVM, 3: "/dev/kvm" "kvm kernel module" "initialize kvm" "virt type 'kvm'" "kvm_create_vm" "kvm acceleration" "ioctl(kvm_create" "monitored device kvm" "kvm device plugin" "devices.kubevirt.io/kvm" "disabled by bios" "accel=kvm" "invalid accelerator" "kvm-all" "hardware virtualization";
    Operation operation::RUN_GUEST, 3: "kvm internal error" "kvm run failed" "entry failed" "emulation failure" "guest panicked" "vcpu" "suberror" "kvm_run" "triple fault" "guest crashed" "virtualmachineinstance crashed" "watchdog" "hardware error 0x" "guest ram at 0x" "set special registers" "failed to put registers";
    Operation operation::MONITOR, 3: "state change lock" "read from monitor" "write to monitor" "from qemu monitor" "monitor connection" "execute qemu command" "qemu monitor" "getjobinfo" "domain stats" "job info" "qmp" "monitor command" "cannot start job" "from monitor" "query-" "remotedispatch" "block info" "domain job" "scrape";
    Operation operation::SHUTDOWN_DOMAIN, 3: "command shutdown" "graceful shutdown" "shutdown domain" "grace period expired" "signaled graceful" "shut down the" "shutdownflags" "command softreboot";
    Operation operation::DESTROY_DOMAIN, 3: "terminate process" "command kill" "stop qemu" "destroyflags" "destroy domain" "command delete" "deleting domain" "killvmi" "kill vmi" "is a zombie" "killing domain" "virtprocesskill" "undefine" "failed to destroy";
    Operation operation::HOTPLUG, 3: "hotplug" "hot-plug" "hotunplug" "hot-unplug" "device_add" "device_del" "attach device" "detach device" "attachdevice" "detachdevice" "addvolume" "removevolume" "unplug" "device-add" "netdev_add" "netdev-add" "chardev-add" "object-add" "setvcpus" "virtio-mem" "attachment pod" "hp-volume" "device-removal" "updatedevice" "set memory";
    Operation operation::MIGRATE_PREPARE, 3: "syncmigrationtarget" "syncing migration target" "migration target" "preparingtarget" "prepare migration" "preparing the target" "migrateprepare" "migration proxy listener" "finalizevirtualmachinemigration" "qemumigrationdst" "target pod";
    Operation operation::MIGRATE, 3: "migratetouri" "live migration" "command migrate" "migration out" "migration job" "migrate failed" "virtualmachineinstance migration" "unsafe migration" "cannot migrate" "migrate domain" "migration stuck" "pre-copy" "precopy" "post-copy" "postcopy" "migrated" "qemumigrationsrc" "migration failed" "migrating domain" "userfaultfd" "migrateperform" "cancelmigration" "migration abort" "blockmigration" "block migration" "drive-mirror" "blockcopy" "migration uid" "storage migration" "volume migration" "multifd";
    Operation operation::MIGRATE, 2: "migration" "migrate" "migrating";
    Operation operation::LOAD_STATE, 3: "load of migration" "loading state" "qemu_loadvm" "load vmstate" "failed to load virtio" "failed to load " "section footer" "savevm section" "ramblock" "allowed features" "get_pci_config" "post_load" "vmstate" "savevm" "migration stream" "loadvm" "received state";
    Operation operation::MIGRATE_FINISH, 3: "never observed on the target" "migratefinish" "migration finish" "finalize migration" "post-migration" "switchover" "migrateconfirm" "migration completed within" "unknown host" "finish migration" "qemumigrationdstfinish" "handover";
    Operation operation::CONNECT_PEER, 3: "migrationproxy" "migration proxy" "outbound leg" "unable to connect to server at" "connect to peer" "migration listener" "proxy to host" "proxy unix socket" "lost connection to destination" "destination host" "connect to target node" "connect to remote libvirt" "migration connection" "inbound connection" "unable to write to socket" "unable to connect to destination";
    Operation operation::FORK, 3: "fork/exec" "new os thread" "pthread_create" "cannot fork" "fork:" "vfork" "clone(" "fork failed" "unable to fork" "create thread" "start new thread" "fork rejected";
    Operation operation::WATCH_FILES, 3: "inotify" "fsnotify" "file watcher" "watcher limit" "max_user_instances" "max_user_watches" "start watching" "create watcher";
    Operation operation::RUN_GUEST_AGENT, 3: "guest agent" "guest-agent" "qemu agent" "guest-exec" "guest-ping" "agent command" "guest-fsfreeze" "agent is not" "held by agent" "agent unresponsive" "agent sync" "agentconnected";
    Operation operation::HANDSHAKE, 1: "tls handshake" "x509" "tls:" "certificate" "handshake" "client certificates" "tls.crt" "gnutls" "ssl";
    Operation operation::RESOLVE_NAME, 1: "lookup " "no such host" "resolve host" "name resolution" "resolv.conf" "dns" "nameserver" "coredns" "name or service";
    Operation operation::CALL_API, 1: "the server rejected" "is forbidden: user" "the object has been modified" "apiserver" "api server" "etcdserver" "webhook" "connection to the server" "failed to list" "failed to watch" "leader election" "leaderelection" "reflector" "patching of" "failed to update status" "kubernetes.default" ":6443" "api/v1" "apis/" "get node info" "client rate limiter" "failed to patch" "informer" "updating api version" "status update" "admission" "lease lock";
};

/// Actors. A path or an image's name does not count.
pub(crate) const ACTORS: &[Word] = words! {
    Actor actor::KUBELET, 2: "kubelet" "pleg is not" "error syncing pod" "pod_workers" "plugin_watcher" "eviction manager" "evictionmanager" "container manager" "status_manager" "unmounted volumes=" "nestedpendingoperations" "allocate failed due" "pod admission denied" "topology manager" "cpu manager";
    Actor actor::RUNTIME, 2: "containerd" "cri-o" "crio" "runc" "crun" "oci runtime" "response from daemon" "docker" "containerd-shim" "conmon" "failed to reserve container name" "failed to reserve sandbox" "pull and unpack image" "failed to extract layer" "shim" "runtime is down" "container_linux.go" "ttrpc" "container runtime" "libpod" "netavark" "overlayfs snapshot" "pause image";
    Actor actor::CNI, 3: "plugin type=" "cni plugin" "calico" "cilium" "multus" "ovn-k8s" "kube-ovn" "flannel" "weave-net" "antrea" "whereabouts" "kube-router" "aws-cni" "azure-vnet" "/var/lib/cni" "networkpluginnotready" "cni request" "cni config" "host-local" "ovs-vsctl" "ovnkube" "cni0" "kindnet" "sriov-cni" "ovs-cni" "multus-shim" "loopback plugin";
    Actor actor::CSI, 3: "kubernetes.io/csi" "csi driver" "csi.sock" "csi-" "ceph" "rbd" "longhorn" "linstor" "drbd" "trident" "portworx" "openebs" "mayastor" "vsphere" "nfs-subdir" "topolvm" "lvm-csi" "iscsiadm" "nodestagevolume" "nodepublishvolume" "nodeunstagevolume" "nodeunpublishvolume" "controllerpublishvolume" "controllerunpublishvolume" "mount.nfs" "iscsi" "multipath" "mounting command" "driver name" "nvmeof" "nvme connect" "gluster" "purestorage" "dell csi" "hpe" "engine image" "csi.k8s.io" "democratic-csi" "synology" "replica" "csidrivers" "hostpath-provisioner" "volume group" "piraeus" "storage backend" "zfs" "umount:" "mount.ceph" "mount.cifs" "resize2fs";
    Actor actor::SCHEDULER, 3: "nodes are available" "no nodes available to schedule" "default-scheduler" "kube-scheduler" "binding rejected" "preemption:";
    Actor actor::ATTACHER, 2: "attachvolume." "multi-attach error" "detachvolume." "attachdetach" "attach_detach_controller" "volumeattachment";
    Actor actor::CONTROLLER_MANAGER, 2: "daemonset-controller" "daemonset controller" "taint-eviction" "persistentvolume-controller" "pv_controller" "node-lifecycle" "node_lifecycle" "kube-controller-manager" "replicaset-controller" "namespace-controller";
    Actor actor::API_SERVER, 3: "is forbidden:" "admission webhook" "failed calling webhook" "etcdserver" "the object has been modified" "exceeded quota" "violates podsecurity" "the server rejected" "kube-apiserver" "apiserver" "the server could not find" "the server is currently unable" "the server was unable" "client rate limiter" "the connection to the server" "cannot create resource";
    Actor actor::LIBVIRT, 2: "virerror(" "libvirterror(" "virtqemud" "libvirtd" "libvirt" "unsupported configuration:" "state change lock" "requested operation is not valid" "domain not found:" "virnet" "qemumonitor" "guest cpu doesn't match" "xml error" "unable to read from monitor" "end of file from qemu monitor" "monitor connection to" "cannot access storage file" "failed to terminate process" "virtlogd" "operation failed:";
    Actor actor::LIBVIRT, 1: "internal error: ";
    Actor actor::QEMU, 3: "qemu-kvm:" "qemu-system" "unexpectedly closed the monitor" "exited while connecting to monitor" "execute qemu command" "swtpm" "passt" "virtiofsd" "could not access kvm" "load of migration failed" "kvm internal error" "kvm run failed" "guest ram" "guest memory" "failed to get \"write\" lock" "failed to get shared \"write\" lock" "using the image" "qemu_" "allowed features: 0x" "qemu-img" "tpm-emulator" "qemu:" "nbdkit";
    Actor actor::LAUNCHER, 3: "virt-launcher-monitor" "failed to run virt-launcher" "dirty virt-launcher shutdown" "virt-launcher command socket" "domain to be defined" "launcher-sock" "received early exit signal" "virt-launcher crashed" "serial console term file";
    Actor actor::LAUNCHER, 2: "command syncvmi" "sending command" "command syncmigrationtarget" "cmd client" "command migrate failed" "command socket";
    Actor actor::HANDLER, 2: "virt-handler" "migration-proxy" "migrationproxy" "migration proxy" "outbound leg" "preparing host-disks" "configure vmi network" "device plugin" "kvm device plugin" "detect isolation" "ghost record" "node-labeller" "syncing migration target" "generic_device.go" "container-disk-mount" "containerdisk" "proxy unix socket" "couldn't set ownership" "monitored device" "domain notify server";
    Actor actor::CONTROLLER, 2: "virt-controller" "virt-api" "virt-operator" "migration target pod for vmi" "error creating pod" "backoff migrating" "pending pod" "unschedulable pod" "source node reported" "virtualmachineinstancemigration";
    Actor actor::CDI, 3: "importer" "datavolume" "uploadserver" "unable to process data" "data-processor" "upload server" "errclaimnotvalid" "clone-source" "scratch space";
    Actor actor::KERNEL, 2: "blocked for more than" "kernel:" "no space left on device (inotify" "nf_conntrack" "memory cgroup out" "oom-kill" "avc:" "apparmor=" "fork rejected by" "kernel module";
    Actor actor::SYSTEMD, 2: "systemd" "dbus" "org.freedesktop" "main process exited" "start request repeated" "start-limit-hit" "control group" "unit entered failed state" "iscsid" "multipathd" "rpcbind" "rpc-statd" "rpc.statd" "iscsistart";
    Actor actor::GUEST, 3: "guest agent" "guest-agent" "qemu agent" "guest panicked" "held by agent" "guestpanicked" "guest-exec" "guest kernel";
};

/// Storage backends.
pub(crate) const BACKENDS: &[Word] = words! {
    Backend "nfs", 2: "mount.nfs" "nfs server" "nfs:" "nfs4" "nfs." "nfsvers" "rpc.statd" "rpc-statd" "nfs-subdir" "showmount" "stale nfs" "nfs mount" " nfs ";
    Backend "ceph", 2: "ceph" "rbd " "rbd:" "rbd image" "/dev/rbd" "cephfs" "rook" "csi-vol-" "libceph" "rados";
    Backend "iscsi", 2: "iscsi" "iqn." "open-iscsi" "3260";
    Backend "nvme", 2: "nvme-of" "nvmeof" "nvme connect" "nqn." "nvme-tcp" "nvme_tcp" "nvme discover" "mayastor";
    Backend "drbd", 2: "drbd" "linstor" "piraeus";
    Backend "multipath", 2: "multipath" "mpath" "multipathd";
    Backend "longhorn", 2: "longhorn" "instance-manager" "engine image";
    Backend "fc", 2: "fibre channel" "fc_remote_port" "lpfc" "qla2xxx" "fc-host";
    Backend "local", 2: "topolvm" "hostpath-provisioner" "local-path" "lvmplugin" "lvcreate" "local volume" "zfs-localpv" "local.csi";
};

/// Words that only say that something failed: tier 1 says it by itself, tier 0 in a line of level error.
pub(crate) const FAILURES: &[Word] = &[
    word(Tells::Failure, 1, false, "failed"),
    word(Tells::Failure, 1, false, "fail to"),
    word(Tells::Failure, 1, false, "cannot"),
    word(Tells::Failure, 1, false, "can't"),
    word(Tells::Failure, 1, false, "could not"),
    word(Tells::Failure, 1, false, "couldn't"),
    word(Tells::Failure, 1, false, "unable to"),
    word(Tells::Failure, 1, false, "error:"),
    word(Tells::Failure, 1, false, "errno"),
    word(Tells::Failure, 1, false, "fatal"),
    word(Tells::Failure, 1, false, "panic"),
    word(Tells::Failure, 0, false, "failure"),
    word(Tells::Failure, 0, false, "error"),
    word(Tells::Failure, 0, false, "abort"),
    word(Tells::Failure, 0, false, "rejected"),
    word(Tells::Failure, 0, false, "refused"),
    word(Tells::Failure, 0, false, "exceeded"),
    word(Tells::Failure, 0, false, "impossible"),
    word(Tells::Failure, 0, false, "did not"),
    word(Tells::Failure, 0, false, "unexpected"),
];

/// What looks like a failure and tells of none: a word that overlaps one of these does not count.
#[rustfmt::skip]
pub(crate) const NOTHINGS: &[&str] = &[
    "no error", "error=<nil>", "error: <nil>", "error:<nil>", "err=<nil>", "err: <nil>", "err:<nil>", "error=\"\"", "err=\"\"", "error\":\"\"",
    "error\":null", "error=null", "err=null", "(no error)", "without error", "no failures", "no failure", "failed=0", "failed: 0", "failed:0",
    "if it fails", "on failure", "error rate", "ignore-errors", "error=nil", "err=nil", "errors=0", "errors: 0", "errors:0", "errors\":0",
    "error_count=0", "errorcount:0", "error:0", "error=0", "errno=0 ", "reason: ok", "without failure", "error budget", "error handler",
    "error-handler", "onerror", "rerror", "werror", "error policy", "on_error", "timeout=0", "not failed", "failover", "fail-open", "error_policy",
    "failure-domain", "failurepolicy", "failure threshold", "failurethreshold", "failswapon", "fail_swap", "reset to default", "failure domain",
    "[hotplug-disks", " hotplug-disks", "exit code 0", "exit status 0", "exit code: 0", "status=0/success", "exited with 0", "errors 0,",
];

/// The same, where no letter or digit may stand on either side.
pub(crate) const WHOLE_NOTHINGS: &[&str] = &["0 errors", "0 failed", "0 failures", "failed 0"];
