//! Whether a scenario names only what it has: a mistake is found when the file is read, not after minutes of playing.

use anyhow::{Context as _, Result, bail, ensure};

use super::file::{FoundSpec, KillSpec, MigrationEnd, NODES, Scenario, Step, UnitSpec};

impl Scenario {
    pub(super) fn check_names(&self) -> Result<()> {
        for (name, disk) in &self.disks {
            disk.on.iter().try_for_each(|node| self.check_node(node)).with_context(|| format!("disk {name}"))?;
        }
        self.runtimes.iter().try_for_each(|node| self.check_node(node)).context("runtimes")?;
        for (name, vm) in &self.vms {
            self.check_node(&vm.on).with_context(|| format!("VM {name}"))?;
            vm.disk.iter().try_for_each(|disk| self.check_disk(disk)).with_context(|| format!("VM {name}"))?;
        }
        let mut shown = self.may_show.iter();
        shown.try_for_each(|who| self.check_node(who).or_else(|_| self.check_vm(who))).context("may_show")?;
        self.steps.iter().try_for_each(|step| self.check_step(step).with_context(|| format!("step {step:?}")))
    }

    fn check_step(&self, step: &Step) -> Result<()> {
        match step {
            Step::Freeze(disk) | Step::Hang(disk) | Step::Fail { disk, .. } | Step::Fill { disk, .. } => {
                self.check_disk(disk)
            }
            Step::StopUnit(UnitSpec { node, .. })
            | Step::HangUnit(UnitSpec { node, .. })
            | Step::KillUnit(UnitSpec { node, .. })
            | Step::LoopKubelet(node)
            | Step::StarveCpu { node, .. }
            | Step::Busy { node, .. }
            | Step::LimitPids { node, .. }
            | Step::RemoveKvm(node)
            | Step::LockKvm(node)
            | Step::MissCpuFeature { node, .. }
            | Step::DropPorts { node, .. }
            | Step::SlowLink { node, .. }
            | Step::LinkDown(node)
            | Step::Silent(node)
            | Step::Fault { on: node, .. }
            | Step::Virsh { on: node, .. }
            | Step::Run { on: node, .. }
            | Step::Start { on: node, .. } => self.check_node(node),
            Step::SmallPath { from, to } => self.check_node(from).and_then(|()| self.check_node(to)),
            Step::HangQemu(vm)
            | Step::LimitCpu { vm, .. }
            | Step::Boot(vm)
            | Step::Arrived(MigrationEnd { vm, .. })
            | Step::Failed(MigrationEnd { vm, .. })
            | Step::Abort(vm) => self.check_vm(vm),
            Step::KillQemu(KillSpec { vm, node, .. }) => {
                node.iter().try_for_each(|node| self.check_node(node)).and_then(|()| self.check_vm(vm))
            }
            Step::Migrate { vm, to, .. } => self.check_node(to).and_then(|()| self.check_vm(vm)),
            Step::LimitMemory { of, .. } => self.check_node(of).or_else(|_| self.check_vm(of)),
            Step::Expect(expected) => {
                ensure!(expected.vm.is_some() || expected.node.is_some(), "names neither a VM nor a node");
                ensure!(!expected.chain.is_empty(), "names no cause");
                let at = expected.at.iter().flat_map(|at| at.split(','));
                expected.node.iter().map(String::as_str).chain(at).try_for_each(|node| self.check_node(node))?;
                expected.vm.iter().try_for_each(|vm| self.check_vm(vm))?;
                expected.also.iter().try_for_each(|who| self.check_node(who).or_else(|_| self.check_vm(who)))
            }
            Step::Found(FoundSpec { vm, node, .. }) => {
                ensure!(vm.is_some() || node.is_some(), "names neither a VM nor a node");
                node.iter().try_for_each(|node| self.check_node(node))?;
                vm.iter().try_for_each(|vm| self.check_vm(vm))
            }
            Step::KernelLog(_) | Step::Undo | Step::Ended { .. } | Step::Pause(_) | Step::Nothing(_) => Ok(()),
        }
    }

    #[expect(clippy::unused_self, reason = "as the others; a scenario may have nodes of its own one day")]
    fn check_node(&self, name: &str) -> Result<()> {
        if NODES.contains(&name) { Ok(()) } else { bail!("there is no node `{name}`") }
    }

    fn check_disk(&self, name: &str) -> Result<()> {
        if self.disks.contains_key(name) { Ok(()) } else { bail!("there is no disk `{name}`") }
    }

    fn check_vm(&self, name: &str) -> Result<()> {
        if self.vms.contains_key(name) { Ok(()) } else { bail!("there is no VM `{name}`") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_of_the_repository_can_be_played() {
        let all = Scenario::all().unwrap();
        assert!(all.iter().any(|scenario| scenario.core && scenario.is_control()));
        assert!(all.iter().any(|scenario| scenario.core && !scenario.is_control()));
    }

    #[track_caller]
    fn check_refused(text: &str, because: &str) {
        let error = format!("{:#}", Scenario::parse("x", text).unwrap_err());
        assert!(error.contains(because), "no {because:?} in: {error}");
    }

    #[test]
    fn a_step_that_does_not_exist_is_refused() {
        check_refused("{about: a, steps: [{explode: n1}]}", "explode");
    }

    #[test]
    fn a_field_that_does_not_exist_is_refused() {
        check_refused("{about: a, stepps: [], steps: []}", "stepps");
        check_refused("{about: a, steps: [{fill: {disk: d, left_kib: 1, left: 1}}]}", "left");
    }

    #[test]
    fn names_of_what_the_scenario_does_not_have_are_refused() {
        check_refused("{about: a, steps: [{freeze: data}]}", "no disk `data`");
        check_refused("{about: a, steps: [{boot: db}]}", "no VM `db`");
        check_refused("{about: a, steps: [{link_down: n9}]}", "no node `n9`");
        check_refused("{about: a, vms: {a: {runs: idle, on: n9}}, steps: []}", "no node `n9`");
    }

    #[test]
    fn an_expectation_names_who_and_why() {
        check_refused("{about: a, steps: [{found: {finding: F}}]}", "neither a VM nor a node");
        check_refused("{about: a, steps: [{expect: {finding: F, symptom: S, chain: [C]}}]}", "neither a VM nor a node");
        check_refused("{about: a, steps: [{expect: {node: n1, finding: F, symptom: S, chain: []}}]}", "no cause");
    }
}
