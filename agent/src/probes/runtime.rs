//! The `runtime` probe.

use std::time::Duration;

use super::{ProbeContext, ProbeSpec};

const NAME: &str = "runtime";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "Whether the container runtime runs, answers and is ready.",
    sources: "CRI v1 over its socket: Version, Status, ImageFsInfo, ListPodSandbox, ListContainers; its systemd unit; shims in /proc",
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
