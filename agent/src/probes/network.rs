//! The `network` probe.

use std::time::Duration;

use super::{ProbeContext, ProbeSpec};

const NAME: &str = "network";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "Whether links, routes, name service and the paths of migrations work.",
    sources: "/sys/class/net, /proc/net, /proc/PID/net/tcp; DNS, TCP and TLS to a registry on suspicion",
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
