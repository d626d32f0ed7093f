//! The `clock` probe.

use std::time::Duration;

use super::{ProbeContext, ProbeSpec};

const NAME: &str = "clock";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "Whether the node's clock is synchronised.",
    sources: "adjtimex(2)",
    look_every: Duration::from_secs(60),
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
