//! Real hosts of a stage: machines of the lab that boot fast, watched by an agent each, kept Ready by hand, and the VMs that run on them.
//!
//! No real kubelet: it takes longer, and ends launchers by its own clock. Where kubelet is what breaks, see [`Stage::on`] and
//! [`KubeVirt::adopt`](super::KubeVirt::adopt).

use std::time::Duration;

use anyhow::Result;

use super::{RegisteredNode, Stage, Vm, VmSpec};
use crate::handler::Handler;
use crate::kubernetes::Cluster;
use crate::lab::Lab;
use crate::launcher::{Launcher, LauncherBuilder};
use crate::node::Node;

/// A machine of the lab and its Node object.
#[derive(Debug)]
pub struct Host {
    /// The machine.
    pub node: Node,
    /// What Kubernetes has of it.
    pub registered: RegisteredNode,
    /// Its virt-handler, for migrations.
    pub handler: Handler,
}

impl Stage {
    /// With hosts of these names, in a lab of its own.
    ///
    /// # Errors
    /// If there is no lab, or something does not come up.
    pub fn with_hosts<const N: usize>(names: [&str; N]) -> Result<(Self, [Host; N])> {
        let lab = Lab::open()?;
        let boot = |name: &&str| lab.node(name).without_libvirt().with_kubelet().start();
        let nodes: Vec<Node> = names.iter().map(boot).collect::<Result<_>>()?;
        let (cluster, _) = Cluster::start(&lab, &[])?;
        let mut stage = Self::on(&lab, cluster)?;
        let mut hosts = Vec::new();
        for node in nodes {
            stage.system.watch(&node)?;
            let registered = stage.kubevirt.register(node.name(), node.address())?;
            let handler = Handler::start(&node)?;
            hosts.push(Host { node, registered, handler });
        }
        Ok((stage, hosts.try_into().expect("a host for each name")))
    }

    /// Runs `prod/db-0` on a host, in the launcher that `change` makes of an idle one's, and returns when its agent has seen it.
    ///
    /// # Errors
    /// If the API server refuses, or the launcher does not come up or is not seen.
    pub fn run<'a>(
        &'a self,
        node: &'a Node,
        registered: &RegisteredNode,
        grace_secs: u32,
        change: impl FnOnce(LauncherBuilder<'a>) -> LauncherBuilder<'a>,
    ) -> Result<(Vm<'a>, Launcher<'a>)> {
        self.run_as("db-0", node, registered, grace_secs, change)
    }

    /// As [`Stage::run`], `prod/<name>`.
    ///
    /// # Errors
    /// As [`Stage::run`].
    pub fn run_as<'a>(
        &'a self,
        name: &str,
        node: &'a Node,
        registered: &RegisteredNode,
        grace_secs: u32,
        change: impl FnOnce(LauncherBuilder<'a>) -> LauncherBuilder<'a>,
    ) -> Result<(Vm<'a>, Launcher<'a>)> {
        let mut vm = self.kubevirt.create(VmSpec::new("prod", name).grace_secs(grace_secs), Duration::ZERO)?;
        vm.is_taken_by(registered)?;
        let launcher = Launcher::define(node, "prod", name)?.of_pod(vm.vmi_uid(), vm.pod()?);
        let launcher = change(launcher).start()?;
        vm.is_handed_over()?;
        vm.runs()?;
        self.wait_for_vm(&format!("prod/{name}"), node.name())?;
        Ok((vm, launcher))
    }
}
