//! The `journal` probe.

use std::time::Duration;

use super::{ProbeContext, ProbeSpec};

const NAME: &str = "journal";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "What the units that VMs depend on write to the journal.",
    sources: "systemd journal files of /run/log/journal and /var/log/journal",
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
