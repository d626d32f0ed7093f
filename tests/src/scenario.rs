//! One fault from its beginning to its end, as Kulprit tells it: what must be found, what must be said, and that it goes by itself.
//!
//! Every scenario prints the seconds from the fault to the finding and to the verdict, from the undoing until nothing is shown any more,
//! and every other answer that was given on the way.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::check::{SOON, report};
use crate::guest::{Guest, Program};
use crate::system::System;
use crate::system::answers::{Finding, Subject, Verdict};
use crate::wait::{Stopwatch, wait_for, wait_until};
use crate::{Lab, Node};

/// How long a fault may take to be found and explained: the longest hold is 10 s, the slowest look 60 s (KVM, without an event).
const EXPLAIN_LIMIT: Duration = Duration::from_secs(75);
/// How long the end of a fault may take to show; the slowest clear is 30 s, and an incident closes after that.
const CLEAR_LIMIT: Duration = Duration::from_secs(100);

/// Central's clocks for scenarios, short enough to wait for and in the same order as the defaults.
const SHORT_CLOCKS: &str = "\
symptoms: {shutdown_grace: 3s, stop_margin: 2s, kill_grace: 5s}
incidents: {close_after: 2s, reopen_within: 1s}
";

/// A node with kubelet and libvirt, watched by Kulprit; shared by the scenarios of a test binary, which take turns on it.
#[derive(Debug)]
pub struct Stage {
    /// Kulprit. Dropped first: it watches the node.
    pub system: System,
    /// The node.
    pub node: Node,
    /// Whose turn it is; inside, whether a scenario failed or panicked here.
    turn: Mutex<bool>,
}

static STAGE: Mutex<Weak<Stage>> = Mutex::new(Weak::new());

impl Stage {
    /// Plays a scenario on the stage that the others of this process use; the first one sets it up, the last one takes it down. A
    /// scenario must leave nothing behind; after one that failed the next gets a stage of its own.
    ///
    /// # Errors
    /// Those of the scenario, with the last lines of the logs, and if there is no lab.
    pub fn play(scenario: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        loop {
            let stage = Self::shared()?;
            let mut is_spoiled = stage.turn.lock().unwrap_or_else(PoisonError::into_inner);
            if *is_spoiled {
                continue;
            }
            *is_spoiled = true;
            scenario(&stage).with_context(|| stage.system.logs())?;
            stage.wait_until_quiet("everything to be quiet again")?;
            *is_spoiled = false;
            return Ok(());
        }
    }

    fn shared() -> Result<Arc<Self>> {
        let mut shared = STAGE.lock().unwrap_or_else(PoisonError::into_inner);
        let usable = shared.upgrade().filter(|stage| !stage.turn.try_lock().is_ok_and(|is_spoiled| *is_spoiled));
        if let Some(stage) = usable {
            return Ok(stage);
        }
        let stage = Arc::new(Self::open()?);
        *shared = Arc::downgrade(&stage);
        Ok(stage)
    }

    fn open() -> Result<Self> {
        let lab = Lab::open()?;
        let node = lab.node("n1").with_kubelet().start()?;
        let mut system = System::start(&lab, SHORT_CLOCKS)?;
        system.watch(&node)?;
        Ok(Self { system, node, turn: Mutex::new(false) })
    }

    /// A healthy guest `well` beside the sick one, which Kulprit has seen.
    ///
    /// # Errors
    /// If it does not come up, or is not seen.
    pub fn bystander(&self) -> Result<Guest<'_>> {
        self.seen(Guest::define(&self.node, "well", Program::Polite).start()?)
    }

    /// Waits until Kulprit shows the guest as running.
    ///
    /// # Errors
    /// If it does not.
    pub fn seen<'stage>(&self, guest: Guest<'stage>) -> Result<Guest<'stage>> {
        let is_shown = || Ok(self.system.vms()?.iter().any(|vm| vm.name == guest.name() && vm.state == "running"));
        wait_until(&format!("{} to be seen running", guest.name()), SOON, is_shown)?;
        Ok(guest)
    }

    /// Waits until nothing is in trouble and no incident is open.
    ///
    /// # Errors
    /// If something stays: what.
    pub fn wait_until_quiet(&self, what: &str) -> Result<Duration> {
        let mut left = String::new();
        wait_until(what, CLEAR_LIMIT, || {
            let shown: Vec<String> = self.system.why()?.iter().map(describe).collect();
            let open = self.system.incidents()?.into_iter().filter(|incident| incident.open);
            let open: Vec<String> = open.map(|incident| format!("{} {}", incident.cause, incident.id)).collect();
            left = format!("verdicts {shown:?}, incidents {open:?}");
            Ok(shown.is_empty() && open.is_empty())
        })
        .with_context(|| format!("still there: {left}"))
    }

    /// Ends a guest as its owner would, so that its end is no fault either.
    ///
    /// # Errors
    /// If libvirt refuses.
    pub fn end(&self, guest: Guest<'_>) -> Result<()> {
        if guest.qemu_pid().is_some() {
            guest.virsh("destroy")?;
        }
        drop(guest);
        Ok(())
    }
}

/// Causes for which no node is to blame.
const NOT_THE_HOST: [&str; 1] = ["GuestIgnoresShutdown"];

/// The node itself, where the name of a VM could stand.
pub const NODE: &str = "";

/// What Kulprit must say of a fault.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The fault, for the figures.
    pub fault: &'a str,
    /// Who is sick: a VM by its name, or the node.
    pub vm: Option<&'a str>,
    /// Finding that shows it first.
    pub finding: &'a str,
    /// What is explained.
    pub symptom: &'a str,
    /// From the root cause on.
    pub chain: &'a [&'a str],
    /// Who besides the sick one has the same root cause: VMs, or [`NODE`]. Anybody else must not be shown at all.
    pub also: &'a [&'a str],
}

impl Expected<'_> {
    /// Waits for the finding and the verdict, and checks them: the right cause first, at the right place, with its chain and an open
    /// incident, and nobody else blamed meanwhile. `since` was started with the fault.
    ///
    /// # Errors
    /// What was shown instead.
    pub fn wait_for_verdict(&self, stage: &Stage, since: Stopwatch) -> Result<Verdict> {
        let system = &stage.system;
        let is_it = |finding: &Finding| {
            let is_of_another = !finding.vm.is_empty() && self.vm != Some(&finding.vm);
            finding.code == self.finding && finding.node == stage.node.name() && !is_of_another && finding.holds()
        };
        let mut found_after = None;
        let mut shown = Vec::new();
        let seen = wait_for(self.fault, EXPLAIN_LIMIT, || {
            if found_after.is_none() && system.findings(&[])?.iter().any(is_it) {
                found_after = Some(since.elapsed());
            }
            let verdicts = system.why()?;
            self.check_nobody_else(stage, &verdicts)?;
            let own = verdicts.into_iter().find(|verdict| verdict.subject == self.subject(stage));
            let answer = own.as_ref().map_or_else(|| "nothing".to_owned(), describe);
            if shown.last() != Some(&answer) {
                shown.push(answer);
            }
            Ok(own.filter(|verdict| found_after.is_some() && self.is_met(verdict)))
        });
        let all = || format!("{}: answers in order: {shown:#?}; {}: {found_after:?}", self.fault, self.finding);
        let (verdict, _) = seen.with_context(all)?;
        report(&format!("{}: verdict {}", self.fault, describe(&verdict)), since.elapsed());
        report(&format!("{}: finding {}", self.fault, self.finding), found_after.unwrap_or_default());
        report_answers(self.fault, &shown);
        self.check_incident(stage, &verdict)?;
        Ok(verdict)
    }

    /// Whether the right cause is still first, and nobody else blamed.
    ///
    /// # Errors
    /// If central does not answer, or somebody else is blamed.
    pub fn is_still_so(&self, stage: &Stage) -> Result<bool> {
        let verdicts = stage.system.why()?;
        self.check_nobody_else(stage, &verdicts)?;
        Ok(verdicts.iter().any(|verdict| verdict.subject == self.subject(stage) && self.is_met(verdict)))
    }

    /// Waits until the VM or node is well in Kulprit's eyes and the incident has closed. `since` was started with the undoing.
    ///
    /// # Errors
    /// What is still shown.
    pub fn wait_until_clear(&self, stage: &Stage, since: Stopwatch) -> Result<()> {
        let (system, subject) = (&stage.system, self.subject(stage));
        let gone = wait_until("the symptom to go", CLEAR_LIMIT, || {
            Ok(!system.why()?.iter().any(|verdict| verdict.subject == subject))
        });
        gone.with_context(|| format!("{}: still: {:?}", self.fault, system.why()))?;
        report(&format!("{}: clear", self.fault), since.elapsed());
        stage.wait_until_quiet("the incident to close").with_context(|| self.fault.to_owned())?;
        report(&format!("{}: incident closed", self.fault), since.elapsed());
        Ok(())
    }

    fn subject(&self, stage: &Stage) -> Subject {
        Subject { name: self.vm.unwrap_or_default().to_owned(), node: stage.node.name().to_owned() }
    }

    fn root(&self) -> &str {
        self.chain.first().copied().unwrap_or_default()
    }

    fn is_met(&self, verdict: &Verdict) -> bool {
        verdict.symptom == self.symptom
            && verdict.confidence == "verdict"
            && verdict.first_cause() == self.root()
            && verdict.causes.first().is_some_and(|cause| cause.chain == self.chain)
            && !verdict.incident.is_empty()
    }

    fn check_incident(&self, stage: &Stage, verdict: &Verdict) -> Result<()> {
        let node = stage.node.name();
        let blamed = if NOT_THE_HOST.contains(&self.root()) { "" } else { node };
        ensure!(verdict.causes.first().is_some_and(|cause| cause.node == blamed), "not on `{blamed}`: {verdict:#?}");
        let incidents = stage.system.incidents()?;
        let incident = incidents.iter().find(|incident| incident.id == verdict.incident);
        let incident = incident.with_context(|| format!("no incident {}: {incidents:#?}", verdict.incident))?;
        let is_member = incident.members.iter().any(|member| member.subject == verdict.subject);
        let is_right = incident.open && incident.cause == self.root() && incident.node == node && is_member;
        ensure!(is_right, "the wrong incident: {incident:#?}");
        Ok(())
    }

    fn check_nobody_else(&self, stage: &Stage, verdicts: &[Verdict]) -> Result<()> {
        for verdict in verdicts {
            let is_own = verdict.subject == self.subject(stage);
            let is_allowed = self.also.contains(&verdict.subject.name.as_str()) && verdict.first_cause() == self.root();
            ensure!(is_own || is_allowed, "{}: somebody else is blamed: {}", self.fault, describe(verdict));
        }
        Ok(())
    }
}

/// One line for the figures and failures.
fn describe(verdict: &Verdict) -> String {
    let whom = if verdict.subject.name.is_empty() { &verdict.subject.node } else { &verdict.subject.name };
    let first = verdict.causes.first();
    let chain = first.map(|cause| cause.chain.join(" → ")).unwrap_or_default();
    let probability = first.map_or(0.0, |cause| cause.probability);
    format!("{whom}: {} by {chain} ({} {probability:.2})", verdict.symptom, verdict.confidence)
}

#[expect(clippy::print_stdout, reason = "figures of a test run")]
fn report_answers(fault: &str, shown: &[String]) {
    println!("lab: {fault}: answers: {}", shown.join("; then "));
}
