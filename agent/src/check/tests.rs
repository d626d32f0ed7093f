//! `check` over probes of our own.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use kulprit_daemon::CancellationToken;
use kulprit_host::HostRoot;
use kulprit_judge::{OccurrenceVerdict, StateVerdict, Verdict};
use kulprit_model::Attributes;
use tokio::sync::watch;

use super::*;
use crate::probes::{ProbeConfig, ProbeCounters, VmIndex};

type Boxed = Pin<Box<dyn Future<Output = ()> + Send>>;

fn context(out: mpsc::Sender<Look>) -> ProbeContext {
    ProbeContext {
        host: HostRoot::new("/nonexistent"),
        config: Arc::new(ProbeConfig::default()),
        clock: Clock::kernel(),
        out,
        stop: CancellationToken::new(),
        suspects: watch::channel(Arc::default()).1,
        vms: Arc::new(VmIndex::new()),
        launchers: Arc::default(),
        pulls: Arc::default(),
        beat: crate::probes::Beat::new(0, Instant::now()),
        lane: crate::probes::Lane::default(),
        recorder: Arc::default(),
        sacrifice: Arc::default(),
        counters: Arc::new(ProbeCounters::default()),
        start_at: None,
        once: true,
    }
}

async fn send(context: ProbeContext, probe: &'static str, blind_because: Option<&str>, verdicts: Vec<Verdict>) {
    let at = context.clock.now();
    let blind_because = blind_because.map(str::to_owned);
    let look = Look { probe, at, took_usec: 1, blind_because, verdicts, sightings: Vec::new(), position: None };
    context.out.send(look).await.unwrap();
}

fn state(code: FindingCode, subject: Subject, is_present: bool) -> Verdict {
    Verdict::State(StateVerdict::seen(code, subject, is_present))
}

fn well(context: ProbeContext) -> Boxed {
    Box::pin(send(context, "kvm", None, vec![state(FindingCode::KvmDeviceMissing, Subject::Node, false)]))
}

fn faulty(context: ProbeContext) -> Boxed {
    Box::pin(send(context, "kvm", None, vec![state(FindingCode::KvmDeviceMissing, Subject::Node, true)]))
}

fn blind(context: ProbeContext) -> Boxed {
    Box::pin(send(context, "kubelet", Some("no system bus"), vec![]))
}

fn noticing(context: ProbeContext) -> Boxed {
    Box::pin(send(context, "kubelet", None, vec![state(FindingCode::KubeletNotInstalled, Subject::Node, true)]))
}

fn panicking(_: ProbeContext) -> Boxed {
    Box::pin(async { panic!("planted") })
}

fn hanging(_: ProbeContext) -> Boxed {
    Box::pin(std::future::pending())
}

static N_DEFUNCT_LOOKS: AtomicU32 = AtomicU32::new(0);

/// There at every look; held for half a minute.
fn lasting(context: ProbeContext) -> Boxed {
    N_DEFUNCT_LOOKS.fetch_add(1, Ordering::Relaxed);
    Box::pin(send(context, "launcher", None, vec![state(FindingCode::LauncherDefunct, Subject::vm("v"), true)]))
}

/// Held for ten minutes.
fn orphaned(context: ProbeContext) -> Boxed {
    let verdicts = vec![state(FindingCode::OrphanedPodVolumes, Subject::Node, true)];
    Box::pin(send(context, "kubelet-setup", None, verdicts))
}

static N_FAULTY_LOOKS: AtomicU32 = AtomicU32::new(0);

/// A fault and a state that is held at the first look, then nothing any more.
fn faulty_then_hanging(context: ProbeContext) -> Boxed {
    if N_FAULTY_LOOKS.fetch_add(1, Ordering::Relaxed) > 0 {
        return hanging(context);
    }
    let unit = || Subject::unit("kubelet.service");
    let fault = state(FindingCode::KubeletInactive, unit(), true);
    let held = state(FindingCode::KubeletHealthzFailing, unit(), true);
    Box::pin(send(context, "kubelet", None, vec![fault, held]))
}

static N_BLOCKED_LOOKS: AtomicU32 = AtomicU32::new(0);

/// In state D at the first look only.
fn passing(context: ProbeContext) -> Boxed {
    let is_first = N_BLOCKED_LOOKS.fetch_add(1, Ordering::Relaxed) == 0;
    Box::pin(send(context, "qemu", None, vec![state(FindingCode::QemuThreadBlocked, Subject::vm("v"), is_first)]))
}

fn logging(context: ProbeContext) -> Boxed {
    let now = context.clock.now();
    let oom = |at| {
        Verdict::Occurrence(OccurrenceVerdict {
            code: FindingCode::MemcgOomKill,
            subject: Subject::vm("v"),
            at,
            count: 2,
            attributes: Attributes::new().with("pid", 42),
            evidence: vec![kulprit_model::Evidence::new("kmsg", at, "Killed process 42")],
        })
    };
    Box::pin(send(context, "kernel-log", None, vec![oom(now.offset_usec(-3_000_000_000)), oom(now)]))
}

macro_rules! probe {
    ($name:literal, $spawn:ident) => {
        ProbeSpec {
            name: $name,
            meaning: "",
            sources: "",
            needs: "",
            lost_without: "",
            look_every: Duration::from_secs(60),
            spawn: $spawn,
        }
    };
}

static WELL: &[ProbeSpec] = &[probe!("kvm", well), probe!("kubelet", noticing)];
static FAULTY_AND_BLIND: &[ProbeSpec] = &[probe!("kvm", faulty), probe!("kubelet", blind)];
static WELL_AND_BLIND: &[ProbeSpec] = &[probe!("kvm", well), probe!("kubelet", blind)];
static PANICKING: &[ProbeSpec] = &[probe!("kvm", panicking)];
static HANGING: &[ProbeSpec] = &[probe!("kvm", hanging), probe!("kubelet", noticing)];
static HANGING_ALONE: &[ProbeSpec] = &[probe!("kvm", hanging)];
static FAULTY_THEN_HANGING: &[ProbeSpec] = &[probe!("kubelet", faulty_then_hanging)];
static PASSING: &[ProbeSpec] = &[probe!("qemu", passing)];
static LASTING: &[ProbeSpec] = &[probe!("launcher", lasting)];
static ORPHANED: &[ProbeSpec] = &[probe!("kubelet-setup", orphaned)];
static LOGGING: &[ProbeSpec] = &[probe!("kernel-log", logging)];

async fn run(specs: &'static [ProbeSpec]) -> (Vec<Checked>, u8) {
    run_within(specs, None).await
}

async fn run_within(specs: &'static [ProbeSpec], within: Option<Duration>) -> (Vec<Checked>, u8) {
    let checked = check(specs, context, &Clock::kernel(), within).await;
    let code = exit_code(&checked);
    (checked, code)
}

#[tokio::test]
async fn notices_are_shown_and_healthy() {
    let (checked, code) = run(WELL).await;
    assert_eq!(code, 0);
    assert_eq!(checked[1].findings[0].code(), FindingCode::KubeletNotInstalled);
}

#[tokio::test]
async fn a_fault_wins_over_blindness_and_blindness_over_health() {
    assert_eq!(run(FAULTY_AND_BLIND).await.1, 1);
    let (checked, code) = run(WELL_AND_BLIND).await;
    assert_eq!(code, 2);
    assert_eq!((checked[0].outcome, checked[1].outcome), (Outcome::Ok, Outcome::Blind));
}

#[tokio::test]
async fn a_panicking_probe_is_blind_and_the_others_are_not() {
    let (checked, code) = run(PANICKING).await;
    assert_eq!((checked[0].outcome, code), (Outcome::Blind, 2));
    assert!(human(&checked).contains("panicked"), "{}", human(&checked));
}

#[tokio::test(start_paused = true)]
async fn a_hanging_probe_is_blind_after_its_time() {
    let (checked, code) = run(HANGING).await;
    assert_eq!((checked[0].outcome, checked[1].outcome, code), (Outcome::Blind, Outcome::Ok, 2));
    assert!(human(&checked).contains("no answer within 15 s"));
}

#[tokio::test]
async fn what_is_only_passing_is_looked_at_again_and_is_no_finding() {
    let (checked, code) = run(PASSING).await;
    assert_eq!((checked[0].findings.len(), code), (0, 0));
    assert!(N_BLOCKED_LOOKS.load(Ordering::Relaxed) >= 2);
}

/// Only the time of waiting is paused: by the kernel's clock the hold has hardly begun when it is over.
#[tokio::test(start_paused = true)]
async fn a_hold_is_waited_for_and_what_is_still_held_is_unknown() {
    let (checked, code) = run(LASTING).await;
    assert!(N_DEFUNCT_LOOKS.load(Ordering::Relaxed) > 30, "a look a second for as long as the catalogue says");
    assert_eq!((checked[0].outcome, code), (Outcome::Partial, 2));
    let said = npd_line(&checked);
    assert!(said.starts_with("LauncherDefunct: ") && said.contains("30 s"), "{said}");
}

/// node-problem-detector kills a plugin after 5 s and takes it for Unknown without a word of it.
#[tokio::test(start_paused = true)]
async fn who_has_less_time_is_answered_in_it_with_what_is_known_by_then() {
    for (specs, code, said) in [
        (LASTING, 2, "LauncherDefunct: it is there, but was not seen for the 30 s after which it counts"),
        (HANGING_ALONE, 2, "KvmDeviceMissing: no answer within 4 s"),
        (FAULTY_THEN_HANGING, 1, "KubeletInactive"),
    ] {
        let began = Instant::now();
        let (checked, seen) = run_within(specs, Some(Duration::from_secs(4))).await;
        assert!(began.elapsed() <= Duration::from_secs(4), "{said}: {:?}", began.elapsed());
        let line = npd_line(&checked);
        assert!(seen == code && line.starts_with(said), "{seen} {line}");
    }
    assert_eq!(N_FAULTY_LOOKS.load(Ordering::Relaxed), 2, "it was looked at again");
}

#[tokio::test]
async fn minutes_of_a_notice_are_not_waited_for() {
    let (checked, code) = run(ORPHANED).await;
    assert_eq!((checked[0].outcome, code), (Outcome::Partial, 2));
}

#[tokio::test]
async fn occurrences_count_for_a_quarter_of_an_hour() {
    let (checked, code) = run(LOGGING).await;
    assert_eq!((checked[0].findings.len(), code), (1, 1));
}

#[tokio::test]
async fn json_has_exactly_the_promised_shape() {
    let (checked, _) = run(LOGGING).await;
    let value: serde_json::Value = serde_json::from_str(&json(&checked)).unwrap();
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&value), ["probes"]);
    assert_eq!(keys(&value["probes"][0]), ["duration_ms", "findings", "name", "outcome"]);
    let finding = &value["probes"][0]["findings"][0];
    assert_eq!((finding["code"].as_str(), finding["count"].as_u64()), (Some("MemcgOomKill"), Some(2)));
    assert_eq!(finding["attributes"]["pid"], "42");
    assert_eq!(finding["evidence"][0]["text"], "Killed process 42");
}
