//! The `kvm` probe: looks at `/dev/kvm` when inotify says that it changed, and tries it every minute.
//!
//! Opening a device can wait in a driver, so a look runs on a blocking thread with a deadline; while one is late, the probe is
//! blind and starts no second.

use std::time::Duration;

use kulprit_host::HostRoot;
use kulprit_host::kvm::{
    KvmWatch, NodeKind, is_kvm_registered, read_cpu_virtualization, read_kvm_calls, read_kvm_modules, read_kvm_node,
};
use kulprit_judge::kvm::{KvmLook, judge};
use kulprit_model::Moment;
use tracing::debug;

use super::blocking::Late;
use super::counters::count;
use super::{ProbeContext, ProbeSpec, chain};

const NAME: &str = "kvm";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "Whether virtual machines can use KVM on this node.",
    sources: "/dev/kvm (inotify; open, KVM_GET_API_VERSION, KVM_CREATE_VM every 60 s), /sys/module/kvm*, /proc/misc, /proc/cpuinfo",
    needs: "/dev/kvm openable (a device allowed to the container, or privileged)",
    lost_without: "whether KVM can create a machine; that the node is there and its mode are seen without",
    look_every: Duration::from_secs(60),
    spawn: |context| Box::pin(run(context)),
};
/// Creating a VM takes about 0.1 ms.
const DEADLINE: Duration = Duration::from_secs(5);
/// Events of one change come in bursts (create, attributes, attributes); one look after the burst answers them all.
const SETTLE: Duration = Duration::from_millis(20);

async fn run(context: ProbeContext) {
    let mut blocking = context.blocking();
    let mut watch = None;
    loop {
        if watch.is_none() && !context.once {
            watch = KvmWatch::open(&context.host)
                .inspect_err(
                    |error| debug!(probe = NAME, error = %chain(error), "the device is not watched, only polled"),
                )
                .ok();
        }
        let draft = context.begin(NAME);
        let host = context.host.clone();
        let at = context.clock.now();
        let look = match blocking.run(DEADLINE, move || read(&host, at)).await {
            Ok((look, n_errors)) => {
                count(&context.counters.errors, n_errors);
                draft.verdicts(judge(&look))
            }
            Err(Late { for_secs }) => draft.blind(format!("opening /dev/kvm has not returned for {for_secs} s")),
        };
        if !context.send(look.end(&context.clock)).await || context.once {
            return;
        }
        tokio::select! {
            biased;
            () = context.stop.cancelled() => return,
            () = changed(&mut watch) => tokio::time::sleep(SETTLE).await,
            () = context.beat.wait(context.config.kvm_every.get()) => {}
        }
    }
}

/// Returns when the device changed; a watch that ended is dropped, to be opened anew by the next look.
async fn changed(watch: &mut Option<KvmWatch>) {
    let Some(open) = watch else { return std::future::pending().await };
    match open.next().await {
        Ok(kulprit_host::kvm::KvmChange::Unknown) | Err(_) => *watch = None,
        Ok(_) => {}
    }
}

/// Reads everything; counts what could not be read.
fn read(host: &HostRoot, at: Moment) -> (KvmLook, u64) {
    let mut n_errors = 0;
    let mut failed = |error: kulprit_host::ReadError| {
        n_errors += 1;
        chain(&error)
    };
    let node = read_kvm_node(host).map_err(&mut failed);
    let is_device = matches!(node, Ok(Some(node)) if matches!(node.kind, NodeKind::CharacterDevice(_)));
    let look = KvmLook {
        at,
        node,
        calls: is_device.then(|| read_kvm_calls(host)),
        modules: read_kvm_modules(host).map_err(&mut failed),
        is_registered: is_kvm_registered(host).map_err(&mut failed),
        cpu: read_cpu_virtualization(host).map_err(&mut failed),
    };
    (look, n_errors)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use kulprit_model::{FindingCode, Status};

    use super::*;
    use crate::probes::testing::{Probe, status_of};

    #[tokio::test]
    async fn this_machines_device_is_judged_as_it_is() {
        let look = Probe::once(&SPEC, HostRoot::new("/")).await;
        let exists = std::fs::exists("/dev/kvm").unwrap();
        let want = if exists { Status::Absent } else { Status::Present };
        assert_eq!(status_of(&look, FindingCode::KvmDeviceMissing), Some(want));
        assert_eq!(look.blind_because, None);
    }

    #[tokio::test]
    async fn an_empty_root_has_no_device_and_says_what_could_not_be_read() {
        let empty = tempfile::tempdir().unwrap();
        let look = Probe::once(&SPEC, HostRoot::new(empty.path())).await;
        assert_eq!(status_of(&look, FindingCode::KvmDeviceMissing), Some(Status::Present));
        assert_eq!(status_of(&look, FindingCode::KvmDeviceInaccessible), Some(Status::Absent));
        assert_eq!(status_of(&look, FindingCode::KvmUnusable), Some(Status::Unknown));
        assert_eq!(status_of(&look, FindingCode::KvmNestedDisabled), Some(Status::Unknown));
    }

    #[tokio::test]
    async fn a_node_that_comes_and_goes_is_seen_at_once() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("dev")).unwrap();
        let mut probe = Probe::start(&SPEC, HostRoot::new(root.path()));
        assert_eq!(status_of(&probe.look().await, FindingCode::KvmDeviceMissing), Some(Status::Present));
        let path = root.path().join("dev/kvm");
        std::fs::write(&path, "").unwrap();
        let look = probe.look_until(|look| format!("{look:?}").contains("a regular file")).await;
        assert_eq!(status_of(&look, FindingCode::KvmDeviceMissing), Some(Status::Present), "a file is no device");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        probe.look().await;
        std::fs::remove_file(&path).unwrap();
        probe.look_until(|look| format!("{look:?}").contains("does not exist")).await;
        probe.stop().await;
    }
}
