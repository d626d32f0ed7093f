//! Who this agent is: what Hello says, read once at the start.

mod gaps;

use std::{sync::Arc, time::Duration};

use kulprit_daemon::Clock;
use kulprit_host::{HostRoot, inventory::read_inventory};
use kulprit_proto::v1;

use crate::probes::{Blocking, Late, ProbeConfig};

/// Makes Hellos that differ in the time only. Cheap to clone.
#[derive(Clone, Debug)]
pub struct HelloSource(Arc<v1::Hello>);

impl HelloSource {
    /// Keeps `hello`.
    #[must_use]
    pub fn new(hello: v1::Hello) -> Self {
        Self(Arc::new(hello))
    }

    /// The Hello of this moment.
    #[must_use]
    pub fn now(&self, clock: &Clock) -> v1::Hello {
        v1::Hello { sent: Some(clock.now().into()), ..v1::Hello::clone(&self.0) }
    }

    /// Whether a record was written by this start of the agent.
    #[must_use]
    pub fn is_own(&self, boot_id: &str, epoch: u64) -> bool {
        self.0.boot_id == boot_id && self.0.epoch == epoch
    }
}

/// Reading it takes under a millisecond; its files may lie on a disk that hangs.
const INVENTORY_WITHIN: Duration = Duration::from_secs(2);

/// What the node is; what could not be found out stays empty or 0, as the contract says.
///
/// # Errors
/// If the host's files do not answer: a sentence for `cannot_show`.
pub async fn inventory(host: &HostRoot) -> Result<v1::Inventory, String> {
    let (host, mut reading) = (host.clone(), Blocking::default());
    let read = reading.run(INVENTORY_WITHIN, move || {
        let seen = read_inventory(&host);
        v1::Inventory {
            machine_id: host.machine_id().unwrap_or_default(),
            kernel: seen.kernel_release.unwrap_or_default(),
            os: seen.os_pretty_name.unwrap_or_default(),
            n_cpus: seen.n_cpus.unwrap_or(0),
            memory_bytes: seen.memory_bytes.unwrap_or(0),
        }
    });
    read.await.map_err(|Late { for_secs }| format!("what the node is: its files have not answered for {for_secs} s"))
}

/// Reading it takes under a millisecond.
const GAPS_WITHIN: Duration = Duration::from_secs(2);

/// What this host cannot show us, one sentence for each gap.
pub async fn cannot_show(host: &HostRoot, config: &ProbeConfig) -> Vec<String> {
    let (host, config) = (host.clone(), config.clone());
    match Blocking::default().run(GAPS_WITHIN, move || gaps::cannot_show(&host, &config)).await {
        Ok(gaps) => gaps,
        Err(Late { for_secs }) => vec![format!("what this host shows: its files have not answered for {for_secs} s")],
    }
}
