//! The `migration` probe.

use std::time::Duration;

use super::{ProbeContext, ProbeSpec};

const NAME: &str = "migration";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "How each running migration comes on, and which side limits it.",
    sources: "libvirt: virDomainGetJobStats, job and migration events; /proc/PID/net/tcp of its sockets",
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
