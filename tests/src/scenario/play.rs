//! Plays one scenario: does its steps, one after the other, and waits for what must be said.

use std::collections::BTreeMap;
use std::str::FromStr as _;
use std::time::Duration;
use std::{fs, thread};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;

use super::file::{DiskSpec, Expected, FoundSpec, KillSpec, MigrationEnd, Scenario, Step, UnitSpec, VmSpec};
use super::met::{check_nobody_else, is_found, is_met, is_shown, is_subject, may_show, name_of};
use super::stage::Stage;
use super::table::{Played, Row, Spent};
use super::watch::Watch;
use super::words;
use crate::disk::FileDisk;
use crate::fault::limit::{BusyLoops, CpuLimit, CpuStarved, MemoryLimit, PidsLimit};
use crate::fault::network::{LinkDown, PortsDropped, SlowLink, SmallPath};
use crate::fault::{CpuFeatureMissing, Hung, KubeletLoops, KvmMissing, KvmMode, Scripted, UnitStopped};
use crate::guest::{self, Guest};
use crate::kubernetes::ensure_runtime;
use crate::migration::{Ended, How, Migration};
use crate::node::Running;
use crate::system::answers::{Incident, Verdict};
use crate::wait::{pause, wait_for, wait_until};
use crate::{Node, process};

/// How long what a scenario has started may go on after it is waited for: a failing `virsh destroy` takes 40 s.
const END_LIMIT: Duration = Duration::from_secs(90);
/// How long a migration may take until it sends.
const SENDING_LIMIT: Duration = Duration::from_secs(60);
/// Longer than a node takes to be called silent: 20 s without a word.
const SILENT_LIMIT: Duration = Duration::from_secs(60);
/// How long the end of a fault may take to show: the slowest look is 60 s and the slowest hold 60 s, and what restarted before is counted as well.
const CLEAR_LIMIT: Duration = Duration::from_secs(200);

/// Plays a scenario on a stage, which is quiet again afterwards unless the scenario failed. `is_told`: its timeline is printed as it
/// happens.
#[must_use]
pub fn play(stage: &Stage, scenario: &Scenario, is_told: bool) -> Played {
    let watch = Watch::new(&stage.system, is_told);
    let (mut rows, mut spent) = (Vec::new(), Spent::default());
    let result = thread::scope(|scope| {
        scope.spawn(|| watch.run());
        let result = play_watched(stage, scenario, &watch, &mut rows, &mut spent);
        watch.end();
        result
    });
    let error = result.err().map(|error| format!("{error:#}\n{}", stage.system.logs()));
    Played::new(scenario, rows, spent, watch.elapsed(), watch.entries(), error)
}

fn play_watched<'stage>(
    stage: &'stage Stage,
    scenario: &Scenario,
    watch: &Watch<'stage>,
    rows: &mut Vec<Row>,
    spent: &mut Spent,
) -> Result<()> {
    watch.wait_until_begun()?;
    scenario.runtimes.iter().try_for_each(|node| ensure_runtime(stage.node(node)?))?;
    let mut disks = BTreeMap::new();
    for (name, disk) in &scenario.disks {
        disks.insert(name.as_str(), make_disk(stage, name, disk)?);
    }
    let guests = start_guests(stage, &disks, scenario)?;
    watch.tell("the VMs run".to_owned());
    spent.set_up = watch.elapsed();
    let undone_at = {
        let mut player = Player {
            stage,
            scenario,
            watch,
            disks: &disks,
            guests: &guests,
            faults: Vec::new(),
            migrations: BTreeMap::new(),
            started: BTreeMap::new(),
            acted_at: watch.elapsed(),
            undone_at: None,
        };
        for step in &scenario.steps {
            let began = watch.elapsed();
            let taken = player.take(step, rows).with_context(|| words::of_step(step));
            taken.inspect_err(|error| watch.tell(format!("FAILED: {error:#}")))?;
            *spent.on(step) += watch.elapsed().saturating_sub(began);
        }
        let undone_at = player.undone_at.unwrap_or_else(|| watch.elapsed());
        player.undo();
        undone_at
    };
    let undone = watch.elapsed();
    let calm = wait_for("everybody to be well again", CLEAR_LIMIT, || watch.calm_since());
    let (calm_since, _) = calm.with_context(|| {
        let shown = watch.verdicts().unwrap_or_default();
        format!("still: {:?}", shown.iter().map(words::of_verdict).collect::<Vec<_>>())
    })?;
    if let Some(row) = rows.last_mut() {
        row.cleared_after = Some(calm_since.saturating_sub(undone_at));
    }
    stage.wait_until_quiet("everything to be quiet again")?;
    watch.tell("all is quiet".to_owned());
    spent.clearing = watch.elapsed().saturating_sub(undone);
    end_guests(guests)?;
    stage.wait_until_quiet("the end of the VMs to be no fault")?;
    check_nobody_else(scenario, watch)?;
    if scenario.is_control() {
        rows.push(Row::control(scenario));
    }
    Ok(())
}

fn make_disk(stage: &Stage, name: &str, disk: &DiskSpec) -> Result<FileDisk> {
    let nodes = disk.on.iter().map(|node| stage.node(node)).collect::<Result<Vec<_>>>()?;
    if disk.served {
        FileDisk::create_served(&nodes, name, disk.mib)
    } else {
        FileDisk::create_shared(&nodes, name, disk.mib)
    }
}

/// Starts them all at once, and returns when Kulprit has seen each.
fn start_guests<'stage, 'a>(
    stage: &'stage Stage,
    disks: &BTreeMap<&str, FileDisk>,
    scenario: &'a Scenario,
) -> Result<BTreeMap<&'a str, Guest<'stage>>> {
    let guests = thread::scope(|scope| {
        let starting: Vec<_> = scenario
            .vms
            .iter()
            .map(|(name, vm)| (name.as_str(), scope.spawn(move || start_guest(stage, disks, name, vm))))
            .collect();
        let started = |(name, guest): (&'a str, thread::ScopedJoinHandle<'_, Result<Guest<'stage>>>)| {
            Ok((name, guest.join().expect("the start of a guest does not panic")?))
        };
        starting.into_iter().map(started).collect::<Result<BTreeMap<_, _>>>()
    })?;
    for guest in guests.values() {
        stage.wait_until_seen(guest)?;
    }
    Ok(guests)
}

fn start_guest<'stage>(
    stage: &'stage Stage,
    disks: &BTreeMap<&str, FileDisk>,
    name: &str,
    vm: &VmSpec,
) -> Result<Guest<'stage>> {
    let mut guest = Guest::define(stage.node(&vm.on)?, name, vm.runs);
    if let Some(disk) = vm.disk.as_ref().and_then(|disk| disks.get(disk.as_str())) {
        guest = guest.disk_on(disk);
    }
    if let Some(mib) = vm.disk_mib {
        guest = guest.disk_mib(mib);
    }
    if vm.allocated {
        guest = guest.allocated();
    }
    if vm.checked_cpu {
        guest = guest.with_checked_cpu();
    }
    guest.start()
}

/// Ends guests as their owner would, so that their end is no fault either.
fn end_guests(guests: BTreeMap<&str, Guest<'_>>) -> Result<()> {
    let end = |guest: Guest<'_>| guest.qemu_pid().map_or(Ok(()), |_| guest.virsh("destroy").map(drop));
    thread::scope(|scope| {
        let ending: Vec<_> = guests.into_values().map(|guest| scope.spawn(move || end(guest))).collect();
        ending.into_iter().try_for_each(|guest| guest.join().expect("the end of a guest does not panic"))
    })
}

/// Something that ends when it is dropped.
trait Undo {}
impl<T> Undo for T {}

struct Player<'a, 'stage> {
    stage: &'stage Stage,
    scenario: &'a Scenario,
    watch: &'a Watch<'stage>,
    disks: &'a BTreeMap<&'a str, FileDisk>,
    guests: &'a BTreeMap<&'a str, Guest<'stage>>,
    faults: Vec<Box<dyn Undo + 'a>>,
    migrations: BTreeMap<&'a str, Migration<'a, 'stage>>,
    started: BTreeMap<&'a str, Running>,
    /// When the last step began that changed something: the figures count from there.
    acted_at: Duration,
    /// When the first step began after the last verdict that was waited for.
    undone_at: Option<Duration>,
}

impl<'a, 'stage> Player<'a, 'stage> {
    fn take(&mut self, step: &'a Step, rows: &mut Vec<Row>) -> Result<()> {
        let is_wait = matches!(
            step,
            Step::Expect(_)
                | Step::Found(_)
                | Step::Silent(_)
                | Step::Nothing(_)
                | Step::Pause(_)
                | Step::Arrived(_)
                | Step::Failed(_)
                | Step::Ended { .. }
        );
        if matches!(step, Step::Expect(_)) {
            self.undone_at = None;
        }
        if !is_wait {
            self.acted_at = self.watch.elapsed();
            self.undone_at.get_or_insert(self.acted_at);
        }
        self.watch.tell(words::of_step(step));
        match step {
            Step::Expect(expected) => rows.push(self.wait_for_verdict(expected)?),
            Step::Found(wanted) => self.wait_for_finding(wanted)?,
            Step::Silent(node) => {
                wait_until(&format!("{node} to be silent"), SILENT_LIMIT, || self.stage.system.is_silent(node))?;
            }
            Step::Nothing(secs) => self.nothing(*secs)?,
            Step::Pause(secs) => pause(Duration::from_secs(*secs)),
            Step::Undo => self.undo(),
            Step::Virsh { on, words, fails } => self.run(on, &format!("virsh --quiet {words}"), *fails)?,
            Step::Run { on, line, fails } => self.run(on, line, *fails)?,
            Step::Start { on, line, named } => {
                let running = self.node(on)?.spawn(&["bash", "-c", line])?;
                self.started.insert(named, running);
            }
            Step::Ended { named, fails } => self.ended(named, *fails)?,
            Step::Boot(vm) => {
                self.guest(vm)?.start()?;
            }
            Step::KillQemu(kill) => self.kill(kill)?,
            Step::KillUnit(UnitSpec { node, unit }) => {
                let pid = self.node(node)?.main_pid(unit)?.with_context(|| format!("{unit} does not run"))?;
                process::signal(pid, Signal::SIGKILL)?;
            }
            Step::KernelLog(line) => {
                let line = self.with_pids(line);
                fs::write("/dev/kmsg", format!("<3>{line}\n")).context("failed to write to `/dev/kmsg`")?;
            }
            Step::Migrate { .. } | Step::Arrived(_) | Step::Failed(_) | Step::Abort(_) => self.migrate(step)?,
            _ => {
                let fault = self.begin(step)?;
                self.faults.push(fault);
            }
        }
        Ok(())
    }

    /// Begins a fault; it ends when the guard is dropped.
    fn begin(&self, step: &'a Step) -> Result<Box<dyn Undo + 'a>> {
        Ok(match step {
            Step::Freeze(disk) => Box::new(self.disk(disk)?.freeze()?),
            Step::Hang(disk) => Box::new(self.disk(disk)?.hang()?),
            Step::Fault { on, begins, ends } => Box::new(Scripted::new(self.node(on)?, begins, ends)?),
            Step::Fail { disk, requests } => Box::new(self.disk(disk)?.fail(*requests)?),
            Step::Fill { disk, left_kib } => Box::new(self.disk(disk)?.fill(*left_kib)?),
            Step::StopUnit(UnitSpec { node, unit }) => Box::new(UnitStopped::new(self.node(node)?, unit)?),
            Step::HangUnit(UnitSpec { node, unit }) => Box::new(Hung::unit(self.node(node)?, unit)?),
            Step::LoopKubelet(node) => Box::new(KubeletLoops::new(self.node(node)?)?),
            Step::HangQemu(vm) => Box::new(Hung::qemu(self.guest(vm)?)?),
            Step::LimitMemory { of, spare_mib } => match self.node(of) {
                Ok(node) => Box::new(MemoryLimit::of_node(node, *spare_mib)?),
                Err(_) => Box::new(MemoryLimit::new(self.guest(of)?, *spare_mib)?),
            },
            Step::LimitCpu { vm, percent } => Box::new(CpuLimit::of_guest(self.guest(vm)?, *percent)?),
            Step::StarveCpu { node, percent, loops } => Box::new(CpuStarved::new(self.node(node)?, *percent, *loops)?),
            Step::Busy { node, loops } => Box::new(BusyLoops::new(self.node(node)?, *loops)?),
            Step::LimitPids { node, spare } => Box::new(PidsLimit::of_node(self.node(node)?, *spare)?),
            Step::RemoveKvm(node) => Box::new(KvmMissing::new(self.node(node)?)?),
            Step::LockKvm(node) => Box::new(KvmMode::new(self.node(node)?, 0o000)?),
            Step::MissCpuFeature { node, feature } => Box::new(CpuFeatureMissing::new(self.node(node)?, feature)?),
            Step::DropPorts { node, ports } => Box::new(PortsDropped::new(self.node(node)?, ports)?),
            Step::SlowLink { node, mbit } => Box::new(SlowLink::new(self.node(node)?, *mbit)?),
            Step::SmallPath { from, to } => Box::new(SmallPath::new(self.node(from)?, self.node(to)?)?),
            Step::LinkDown(node) => Box::new(LinkDown::new(self.node(node)?)?),
            other => bail!("{other:?} is no fault"),
        })
    }

    fn undo(&mut self) {
        while let Some(fault) = self.faults.pop() {
            drop(fault);
        }
    }

    fn node(&self, name: &str) -> Result<&'stage Node> {
        self.stage.node(name)
    }

    fn disk(&self, name: &str) -> Result<&'a FileDisk> {
        self.disks.get(name).with_context(|| format!("no disk {name}"))
    }

    fn guest(&self, name: &str) -> Result<&'a Guest<'stage>> {
        self.guests.get(name).with_context(|| format!("no VM {name}"))
    }

    fn run(&self, on: &str, line: &str, fails: bool) -> Result<()> {
        match self.node(on)?.run(&["bash", "-ec", line]) {
            Ok(said) => {
                self.watch.tell(format!("  {}", said.trim()));
                ensure!(!fails, "did not fail: {said}");
            }
            Err(error) if fails => self.watch.tell(format!("  {error:#}")),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn ended(&mut self, named: &str, fails: bool) -> Result<()> {
        let mut running = self.started.remove(named).with_context(|| format!("nothing named {named} was started"))?;
        let (status, _) = wait_for(named, END_LIMIT, || Ok(running.child().try_wait()?))?;
        ensure!(status.success() != fails, "{named}: {status}");
        Ok(())
    }

    fn kill(&self, kill: &KillSpec) -> Result<()> {
        let guest = self.guest(&kill.vm)?;
        let node = kill.node.as_deref().map_or_else(|| Ok(guest.node()), |node| self.node(node))?;
        let pid = guest::qemu_pid(node, guest.name()).with_context(|| format!("{} has no QEMU there", kill.vm))?;
        process::signal(pid, Signal::from_str(&kill.signal)?)
    }

    fn migrate(&mut self, step: &'a Step) -> Result<()> {
        match step {
            Step::Migrate { vm, to, mib_per_sec, copies_storage, until_sending } => {
                let how = How { mib_per_sec: *mib_per_sec, copies_storage: *copies_storage };
                let mut migration = Migration::start(self.guest(vm)?, self.node(to)?, how)?;
                if *until_sending {
                    migration.wait_until_sending(SENDING_LIMIT)?;
                }
                self.migrations.insert(vm, migration);
            }
            Step::Arrived(MigrationEnd { vm, within, at_least, saying: _ }) => {
                let took = self.migration(vm)?.wait_until_arrived(Duration::from_secs(*within))?;
                self.watch.tell(format!("  arrived after {:.1} s", took.as_secs_f64()));
                ensure!(took.as_secs() >= *at_least, "it took no more than {took:?}");
                self.migrations.remove(vm.as_str());
            }
            Step::Failed(MigrationEnd { vm, within, saying, at_least: _ }) => {
                match self.migration(vm)?.wait(Duration::from_secs(*within))? {
                    Ended::Arrived(took) => bail!("{vm} arrived after {took:?}"),
                    Ended::Failed(why) => {
                        self.watch.tell(format!("  {why}"));
                        ensure!(why.contains(saying), "does not say {saying:?}: {why}");
                    }
                }
                self.migrations.remove(vm.as_str());
            }
            Step::Abort(vm) => self.migration(vm)?.abort()?,
            other => bail!("{other:?} is of no migration"),
        }
        Ok(())
    }

    fn migration(&mut self, vm: &str) -> Result<&mut Migration<'a, 'stage>> {
        self.migrations.get_mut(vm).with_context(|| format!("{vm} does not migrate"))
    }

    fn nothing(&self, secs: u64) -> Result<()> {
        let until = self.watch.elapsed() + Duration::from_secs(secs);
        while self.watch.elapsed() < until {
            let mut shown = self.watch.verdicts()?;
            shown.retain(|verdict| !may_show(self.scenario, verdict));
            ensure!(shown.is_empty(), "raised: {:?}", shown.iter().map(words::of_verdict).collect::<Vec<_>>());
            pause(Duration::from_millis(100));
        }
        Ok(())
    }

    /// `{name}` of a VM becomes the pid of its QEMU.
    fn with_pids(&self, line: &str) -> String {
        self.guests.values().fold(line.to_owned(), |line, guest| match guest.qemu_pid() {
            Some(pid) => line.replace(&format!("{{{}}}", guest.name()), &pid.to_string()),
            None => line,
        })
    }

    fn wait_for_finding(&self, wanted: &FoundSpec) -> Result<()> {
        let since = self.acted_at;
        let limit = Duration::from_secs(wanted.within);
        let (at, _) = wait_for("the finding", limit, || self.watch.found(since, |finding| is_shown(wanted, finding)))?;
        self.watch.tell(format!("  found after {:.1} s", at.saturating_sub(since).as_secs_f64()));
        Ok(())
    }

    /// Waits for the finding and the verdict: the right cause first, at the right place, with its chain and an open incident, and nobody
    /// else blamed meanwhile.
    fn wait_for_verdict(&self, expected: &Expected) -> Result<Row> {
        let since = self.acted_at;
        let left = (since + expected.limit()).saturating_sub(self.watch.elapsed());
        let mut found = None;
        let mut last = None;
        let seen = wait_for("the verdict", left, || {
            check_nobody_else(self.scenario, self.watch)?;
            found = self.watch.found(since, |finding| is_found(expected, finding))?;
            let own = self.watch.verdicts()?.into_iter().find(|verdict| is_subject(expected, verdict));
            last.clone_from(&own);
            Ok(own.filter(|verdict| found.is_some() && is_met(expected, verdict)))
        });
        let (verdict, _) = seen.with_context(|| {
            let last = last.as_ref().map_or_else(|| "nothing".to_owned(), words::of_verdict);
            format!("said last: {last}; {}: {found:?}", expected.finding)
        })?;
        self.wait_for_incident(expected, &verdict)?;
        let first = verdict.causes.first().context("it is met")?;
        if let Some(safe) = expected.safe_to_force_delete {
            ensure!(first.safe_to_force_delete == safe, "safe to force-delete: {}", first.safe_to_force_delete);
        }
        let after = |at: Duration| at.saturating_sub(since);
        Ok(Row {
            who: name_of(&verdict).to_owned(),
            verdict: format!("{}: {}", verdict.symptom, first.chain.join(" → ")),
            probability: Some(first.probability),
            found_after: found.map(after),
            explained_after: Some(after(self.watch.elapsed())),
            cleared_after: None,
        })
    }

    /// An answer is made when it is asked for; its incident is changed by the engine's next pass.
    fn wait_for_incident(&self, expected: &Expected, verdict: &Verdict) -> Result<()> {
        let mut last = Vec::new();
        let seen = wait_for("its incident", Duration::from_secs(10), || {
            last = self.stage.system.incidents()?;
            let is_there = |node: &str| {
                node.is_empty() || expected.at.as_ref().is_none_or(|at| at.split(',').any(|own| own == node))
            };
            let is_right = |incident: &Incident| {
                incident.id == verdict.incident
                    && incident.open
                    && incident.cause == expected.root()
                    && incident.members.iter().any(|member| member.subject == verdict.subject)
                    && is_there(&incident.node)
            };
            Ok(last.iter().any(is_right).then_some(()))
        });
        seen.with_context(|| format!("{} is not as wanted: {last:#?}", verdict.incident))?;
        Ok(())
    }
}
