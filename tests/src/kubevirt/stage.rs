//! A cluster with KubeVirt and a central that watches it: what the tests of the cluster's side begin with.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{KubeVirt, RegisteredNode, Vm, VmSpec};
use crate::check::report;
use crate::kubernetes::Cluster;
use crate::lab::Lab;
use crate::system::System;
use crate::system::answers::Verdict;
use crate::wait::{wait_for, wait_until};

/// Clocks of central that nobody wants to wait for.
const CLOCKS: &str = "symptoms: {stop_margin: 2s}\nincidents: {close_after: 2s, reopen_within: 1s}\n";

/// All of it; ended when dropped, central first.
#[derive(Debug)]
pub struct Stage {
    /// Central, and the agents that a test adds.
    pub system: System,
    /// KubeVirt's part.
    pub kubevirt: KubeVirt,
    /// The API server and the real controllers.
    pub cluster: Cluster,
}

impl Stage {
    /// As long ago as no start and no migration may last.
    pub const LONG_AGO: Duration = Duration::from_secs(15 * 60);
    /// Longer than a verdict takes from what is written: central's watch, its next diagnosis, and a busy machine.
    pub const EXPLAINED: Duration = Duration::from_secs(30);

    /// Longer than an agent's slowest look and the hold of any finding.
    pub const SEEN: Duration = Duration::from_secs(90);

    /// With the control plane alone, in a lab of its own.
    ///
    /// # Errors
    /// If there is no lab, or something does not come up.
    pub fn open() -> Result<Self> {
        let lab = Lab::open()?;
        let (cluster, _) = Cluster::start(&lab, &[])?;
        Self::on(&lab, cluster)
    }

    /// On a cluster that runs.
    ///
    /// # Errors
    /// If something does not come up.
    pub fn on(lab: &Lab, cluster: Cluster) -> Result<Self> {
        let kubevirt = KubeVirt::install(&cluster)?;
        let config = format!("kubernetes: {{kubeconfig: {}}}\n{CLOCKS}", cluster.admin_config().display());
        let system = System::start(lab, &config)?;
        Ok(Self { system, kubevirt, cluster })
    }

    /// A node that is only an object: no agent, no kubelet, Ready.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn register(&self, name: &str, number: u8) -> Result<RegisteredNode> {
        self.kubevirt.register(name, &format!("10.77.0.{number}"))
    }

    /// A VM whose claim does not exist, for long: the surest thing that can be said of any.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn without_claim(&self, name: &str) -> Result<Vm<'_>> {
        let vm = self.kubevirt.create(VmSpec::new("prod", name).claim("gone"), Self::LONG_AGO)?;
        vm.waits_for_claim("gone")?;
        Ok(vm)
    }

    /// 13 evacuations of a VM in half a day, each one that went well: to the first node, to the second, and again; it ends on the first.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn hops(&self, vm: &mut Vm<'_>, nodes: [&RegisteredNode; 2], by_descheduler: bool) -> Result<()> {
        for n in 0..13_u32 {
            let ago = Duration::from_secs(u64::from(13 - n) * 3_000);
            vm.ago(ago);
            let mut migration = vm.evacuate(&n.to_string(), by_descheduler, ago)?;
            migration.runs_to(vm, nodes[usize::from(n % 2 == 1)])?;
            migration.succeeds(vm)?;
        }
        vm.ago(Duration::ZERO);
        Ok(())
    }

    /// Waits until that symptom of a VM (`prod/db-0`), asked for by its name, has that first cause, and that is a verdict.
    ///
    /// # Errors
    /// After `limit`: what is said instead, and the ends of the logs.
    pub fn explained(&self, vm: &str, symptom: &str, cause: &str, limit: Duration) -> Result<Verdict> {
        let fits = || {
            // Until central has heard of it there is no such VM.
            let said = self.system.why_of(vm).unwrap_or_default();
            let is_it =
                |said: &Verdict| said.symptom == symptom && said.first_cause() == cause && said.confidence == "verdict";
            Ok(said.into_iter().next().filter(is_it))
        };
        let what = format!("{vm}: {symptom} by {cause}");
        let (verdict, took) = wait_for(&what, limit, fits).map_err(|error| {
            let page = self.system.page(&["why", vm]).unwrap_or_else(|error| format!("{error:#}"));
            error.context(format!("{page}\n{}", self.system.logs()))
        })?;
        if let Some(first) = verdict.causes.first() {
            let (sure, chain) = (first.probability * 100.0, first.chain.join(" → "));
            report(&format!("{what}: {chain}, {sure:.0} %, {} {}", first.role, first.node), took);
        }
        Ok(verdict)
    }

    /// Waits until an agent shows the VM (`prod/db-0`) running on that node.
    ///
    /// # Errors
    /// After [`Stage::SEEN`]: the ends of the logs.
    pub fn wait_for_vm(&self, name: &str, node: &str) -> Result<()> {
        let is_seen =
            || Ok(self.system.vms()?.iter().any(|vm| vm.name == name && vm.node == node && vm.state == "running"));
        let took = wait_until("the agent to see the VM", Self::SEEN, is_seen).with_context(|| self.system.logs())?;
        report(&format!("{name} is seen on {node}"), took);
        Ok(())
    }

    /// Waits until nobody is in trouble.
    ///
    /// # Errors
    /// After [`Stage::SEEN`]: what is said still, and the ends of the logs.
    pub fn wait_until_quiet(&self) -> Result<()> {
        let is_over = || Ok(self.in_trouble()?.is_empty());
        let what = || format!("{}\n{}", self.system.page(&["why"]).unwrap_or_default(), self.system.logs());
        report("and over", wait_until("nothing to be said", Self::SEEN, is_over).with_context(what)?);
        Ok(())
    }

    /// Names of the VMs that are in trouble.
    ///
    /// # Errors
    /// If central does not answer.
    pub fn in_trouble(&self) -> Result<Vec<String>> {
        let names = self.system.why()?.into_iter().map(|verdict| verdict.subject.name);
        Ok(names.filter(|name| !name.is_empty()).collect())
    }

    /// Ids of the open incidents, sorted.
    ///
    /// # Errors
    /// If central does not answer.
    pub fn open_incidents(&self) -> Result<Vec<String>> {
        let incidents = self.system.incidents()?.into_iter().filter(|incident| incident.open);
        let mut ids: Vec<String> = incidents.map(|incident| incident.id).collect();
        ids.sort();
        Ok(ids)
    }
}
