//! Who this agent is: what Hello says, read once at the start.

mod gaps;

use std::{sync::Arc, time::Duration};

use kulprit_daemon::Clock;
use kulprit_host::hardware::{read_libvirt_version, read_processor, read_qemu_version};
use kulprit_host::{HostRoot, inventory::read_inventory};
use kulprit_proto::v1;

use crate::probes::{Blocking, Late, ProbeConfig, runtime_version};

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

/// Reading it takes a few milliseconds; its files may lie on a disk that hangs.
const INVENTORY_WITHIN: Duration = Duration::from_secs(2);

/// What the node is, but for its [`runtime`]; what could not be found out stays empty or 0, as the contract says.
///
/// # Errors
/// If the host's files do not answer: a sentence for `cannot_show`.
pub async fn inventory(host: &HostRoot) -> Result<v1::Inventory, String> {
    let (host, mut reading) = (host.clone(), Blocking::default());
    let read = reading.run(INVENTORY_WITHIN, move || {
        let seen = read_inventory(&host);
        let processor = read_processor(&host).unwrap_or_default();
        v1::Inventory {
            machine_id: host.machine_id().unwrap_or_default(),
            kernel: seen.kernel_release.unwrap_or_default(),
            os: seen.os_pretty_name.unwrap_or_default(),
            n_cpus: seen.n_cpus.unwrap_or(0),
            memory_bytes: seen.memory_bytes.unwrap_or(0),
            libvirt: read_libvirt_version(&host).unwrap_or_default(),
            qemu: read_qemu_version(&host).unwrap_or_default(),
            runtime: String::new(),
            processor: processor.model.unwrap_or_default(),
            microcode: processor.microcode.unwrap_or_default(),
        }
    });
    read.await.map_err(|Late { for_secs }| format!("what the node is: its files have not answered for {for_secs} s"))
}

/// A runtime that works answers in milliseconds; one that does not is the `runtime` probe's to tell.
const RUNTIME_WITHIN: Duration = Duration::from_secs(1);

/// Name and version of the container runtime, `containerd 2.4.2`; empty where there is none.
///
/// # Errors
/// If there is one and it does not tell: a sentence for `cannot_show`.
pub async fn runtime(host: &HostRoot, config: &ProbeConfig) -> Result<String, String> {
    let asked = tokio::time::timeout(RUNTIME_WITHIN, runtime_version(host, &config.runtime_sockets)).await;
    let late = || Err(format!("no answer within {} s", RUNTIME_WITHIN.as_secs()));
    match asked.unwrap_or_else(|_| late()) {
        Ok(version) => Ok(version.unwrap_or_default()),
        Err(because) => Err(format!("the container runtime's version: {because}")),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_node_says_its_versions_and_what_is_not_there_is_empty() {
        let empty = tempfile::tempdir().unwrap();
        let host = HostRoot::new(empty.path());
        let seen = inventory(&host).await.unwrap();
        assert_eq!([seen.libvirt, seen.qemu, seen.processor, seen.microcode], [""; 4]);
        assert_eq!(runtime(&host, &ProbeConfig::default()).await, Ok(String::new()));
        let files = [
            ("proc/cpuinfo", "model name\t: AMD EPYC\nmicrocode\t: 0x1\n"),
            ("var/cache/libvirt/qemu/capabilities/a.xml", "<qemuCaps>\n  <version>10000002</version>\n"),
        ];
        for (path, text) in files {
            let path = empty.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let seen = inventory(&host).await.unwrap();
        assert_eq!([seen.qemu, seen.processor, seen.microcode], ["10.0.2", "AMD EPYC", "0x1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_runtime_that_hangs_or_breaks_costs_its_version_and_a_second() {
        let folder = tempfile::tempdir().unwrap();
        let config = ProbeConfig { runtime_sockets: vec!["/hangs.sock".into()], ..ProbeConfig::default() };
        let listener = tokio::net::UnixListener::bind(folder.path().join("hangs.sock")).unwrap();
        let began = tokio::time::Instant::now();
        let why = runtime(&HostRoot::new(folder.path()), &config).await.unwrap_err();
        assert!(why.contains("no answer within 1 s"), "{why}");
        assert!(began.elapsed() < Duration::from_secs(2));
        drop(listener);
        let why = runtime(&HostRoot::new(folder.path()), &config).await.unwrap_err();
        assert!(why.contains("hangs.sock"), "{why}");
    }
}
