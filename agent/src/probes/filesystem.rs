//! The `filesystem` probe.

use std::time::Duration;

use super::{ProbeContext, ProbeSpec};

const NAME: &str = "filesystem";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "Whether a file system that the node or a VM needs is full or read-only.",
    sources: "/proc/1/mountinfo, statfs in a child process",
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
