//! The stage of the scenarios: two nodes with kubelet and libvirt, watched by Kulprit, and one central that hears both.
//!
//! It is set up once and used by one scenario after the other; after one that failed, the next gets a stage of its own.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::file::NODES;
use super::words;
use crate::guest::Guest;
use crate::system::System;
use crate::wait::{Stopwatch, wait_until};
use crate::{Lab, Node};

/// Longer than Kulprit takes to see a VM that started: its QEMU is polled for.
const SEEN_LIMIT: Duration = Duration::from_secs(30);
/// How long the end of a fault may take to show; the slowest clear is 60 s after a look that may take 60 s, and an incident closes after that.
const CLEAR_LIMIT: Duration = Duration::from_secs(200);

/// After a silent node is heard again, until what it told first is right again or shown as a verdict.
const HEARD_SETTLE: Duration = Duration::from_secs(3);

/// Central's clocks for scenarios, short enough to wait for and in the same order as the defaults.
const SHORT_CLOCKS: &str = "\
symptoms: {shutdown_grace: 3s, stop_margin: 2s, kill_grace: 5s, migration_failed: 20s}
incidents: {close_after: 2s, reopen_within: 1s}
";

/// Two nodes under Kulprit's eyes.
#[derive(Debug)]
pub struct Stage {
    /// Kulprit. Dropped first: it watches the nodes.
    pub system: System,
    /// `n1` and `n2`.
    pub nodes: Vec<Node>,
}

impl Stage {
    /// Boots the nodes, and returns when each agent has looked and all is quiet.
    ///
    /// # Errors
    /// If there is no lab, or something does not come up.
    pub fn open() -> Result<Self> {
        let lab = Lab::open()?;
        let nodes = NODES.iter().map(|name| lab.node(name).with_kubelet().start()).collect::<Result<Vec<_>>>()?;
        let mut system = System::start(&lab, SHORT_CLOCKS)?;
        for node in &nodes {
            system.watch(node)?;
        }
        let stage = Self { system, nodes };
        stage.wait_until_quiet("an untouched stage to be quiet").with_context(|| stage.system.logs())?;
        Ok(stage)
    }

    /// A node by its name.
    ///
    /// # Errors
    /// If there is none.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|node| node.name() == name).with_context(|| format!("no node {name}"))
    }

    /// Waits until Kulprit shows the guest as running where it is.
    ///
    /// # Errors
    /// If it does not.
    pub fn wait_until_seen(&self, guest: &Guest<'_>) -> Result<()> {
        let is_shown = || {
            let vms = self.system.vms()?;
            let is_it = |vm: &crate::system::answers::Vm| vm.name == guest.name() && vm.node == guest.node().name();
            Ok(vms.iter().any(|vm| is_it(vm) && vm.state == "running"))
        };
        wait_until(&format!("{} to be seen running", guest.name()), SEEN_LIMIT, is_shown).map(drop)
    }

    /// Waits until nothing is in trouble, no incident is open and every node is heard. A node that is heard again tells first what was
    /// so when it was last looked at: for a moment more it must stay quiet.
    ///
    /// # Errors
    /// If something stays: what.
    pub fn wait_until_quiet(&self, what: &str) -> Result<Duration> {
        let mut left = String::new();
        let mut heard: Option<Stopwatch> = None;
        wait_until(what, CLEAR_LIMIT, || {
            let silent = self.system.nodes()?.into_iter().filter(|node| !node.reporting);
            let silent: Vec<String> = silent.map(|node| node.name).collect();
            if !silent.is_empty() {
                heard = Some(Stopwatch::start());
            }
            let shown: Vec<String> = self.system.why()?.iter().map(words::of_verdict).collect();
            let open = self.system.incidents()?.into_iter().filter(|incident| incident.open);
            let open: Vec<String> = open.map(|incident| format!("{} {}", incident.cause, incident.id)).collect();
            left = format!("verdicts {shown:?}, incidents {open:?}, silent {silent:?}");
            let is_settled = heard.as_ref().is_none_or(|heard| heard.elapsed() >= HEARD_SETTLE);
            Ok(shown.is_empty() && open.is_empty() && is_settled)
        })
        .with_context(|| format!("still there: {left}"))
    }
}
