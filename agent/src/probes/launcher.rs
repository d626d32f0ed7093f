//! The `launcher` probe.

use std::time::Duration;

use super::{ProbeContext, ProbeSpec};

const NAME: &str = "launcher";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "Whether each virt-launcher of the node runs and answers, and has what its VM needs.",
    sources: "/proc of launchers, their cgroups and command sockets",
    look_every: Duration::from_secs(5),
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
