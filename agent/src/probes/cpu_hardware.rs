//! The `cpu-hardware` probe.

use std::time::Duration;

use super::{ProbeContext, ProbeSpec};

const NAME: &str = "cpu-hardware";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "What the processor and the board offer, and what they report broken.",
    sources: "/proc/cpuinfo, /sys/devices/system/{cpu,edac,node}, /sys/kernel/iommu_groups, /sys/bus/pci",
    look_every: Duration::from_secs(300),
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
