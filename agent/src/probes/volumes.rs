//! The `volumes` probe.

use std::time::Duration;

use super::{ProbeContext, ProbeSpec};

const NAME: &str = "volumes";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "Whether the mounts and block devices under VMs answer and are those that QEMU opened.",
    sources: "mountinfo, mountstats, /sys/block, /sys/class/{iscsi_session,nvme-subsystem}, /proc/PID/fd of QEMU, multipath and DRBD states",
    look_every: Duration::from_secs(10),
    spawn: |context| Box::pin(run(context)),
};

async fn run(context: ProbeContext) {
    loop {
        let look = context.begin(NAME).end(&context.clock);
        if !context.send(look).await || context.once {
            return;
        }
        tokio::select! {
            biased;
            () = context.stop.cancelled() => return,
            () = context.beat.wait(SPEC.look_every) => {}
        }
    }
}
