//! The `kubelet-setup` probe.

use std::time::Duration;

use super::{ProbeContext, ProbeSpec};

const NAME: &str = "kubelet-setup";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "Whether the kubelet is set up as KubeVirt needs it.",
    sources: "its command line and files below /var/lib/kubelet: certificates, device-plugin sockets, CPU and memory manager state, pods",
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
