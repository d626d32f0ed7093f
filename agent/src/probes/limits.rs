//! The `limits` probe.

use std::time::Duration;

use super::{ProbeContext, ProbeSpec};

const NAME: &str = "limits";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "Whether a limit of the node or of a VM is nearly used up.",
    sources: "pid_max, file-nr, inotify, aio-nr, conntrack, hugepages; pids cgroups; /proc/PID/limits",
    look_every: Duration::from_secs(30),
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
