//! The `container-log` probe.

use std::time::Duration;

use super::{ProbeContext, ProbeSpec};

const NAME: &str = "container-log";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "What launchers, virt-handler, CSI and CNI pods of this node write.",
    sources: "/var/log/pods/**, QEMU and libvirt logs of launchers and of the host",
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
