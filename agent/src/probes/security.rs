//! The `security` probe.

use std::time::Duration;

use super::{ProbeContext, ProbeSpec};

const NAME: &str = "security";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "Whether SELinux, AppArmor, seccomp or a device cgroup stand between a VM and what it needs.",
    sources: "/sys/fs/selinux, /sys/kernel/security/apparmor, /proc/PID/{attr/current,status}, device cgroups",
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
