//! The `pressure` probe.

use std::time::Duration;

use super::{ProbeContext, ProbeSpec};

const NAME: &str = "pressure";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "Whether tasks of the node or of a VM wait for CPU, memory or I/O.",
    sources: "PSI (/proc/pressure or a cgroup), /proc/stat, /proc/meminfo, cpu.stat and memory events of launchers",
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
