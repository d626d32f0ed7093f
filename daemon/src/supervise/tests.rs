//! Tasks that end in every way there is, on paused time.

use std::{
    future,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use prometheus_client::encoding::text::encode;

use super::*;

const DEADLINE: Duration = Duration::from_secs(10);

struct Stage {
    stop: CancellationToken,
    registry: Registry,
    supervisor: Supervisor,
}

fn stage() -> Stage {
    let stop = CancellationToken::new();
    let mut registry = Registry::default();
    let supervisor = Supervisor::new(stop.clone(), &mut registry, 1);
    Stage { stop, registry, supervisor }
}

fn series(registry: &Registry, line: &str) -> bool {
    let mut text = String::new();
    encode(&mut text, registry).unwrap();
    text.lines().any(|found| found == line)
}

async fn until(stop: CancellationToken) -> TaskResult {
    stop.cancelled().await;
    Ok(())
}

#[track_caller]
fn check_early(early: &EarlyEnd, task: &str, text: &str) {
    assert_eq!(early.task, task);
    assert_eq!(Chain(early).to_string(), text);
}

#[tokio::test(start_paused = true)]
async fn a_core_task_that_fails_ends_the_others_and_is_named() {
    let Stage { stop, mut supervisor, registry } = stage();
    supervisor.core("spool", until(stop.clone()));
    supervisor.core("uplink", async { Err("no route to host".into()) });
    let early = supervisor.run(DEADLINE).await.unwrap_err();
    check_early(&early, "uplink", "core task `uplink` failed: no route to host");
    assert!(early.drain.late.is_empty() && stop.is_cancelled());
    assert!(series(&registry, "ends_total{task=\"uplink\",outcome=\"failed\"} 1"));
    assert!(series(&registry, "up{task=\"uplink\"} 0"));
}

#[tokio::test(start_paused = true)]
async fn a_core_task_that_returns_ends_the_process_too() {
    let Stage { mut supervisor, .. } = stage();
    supervisor.core("engine", async { Ok(()) });
    check_early(
        &supervisor.run(DEADLINE).await.unwrap_err(),
        "engine",
        "core task `engine` returned without being told to",
    );
}

#[tokio::test(start_paused = true)]
async fn a_core_task_that_panics_tells_its_message() {
    for (name, payload) in [("literal", "planted"), ("formatted", "planted 7")] {
        let Stage { mut supervisor, .. } = stage();
        supervisor
            .core(name, async move { if name == "literal" { panic!("planted") } else { panic!("planted {}", 7) } });
        let early = supervisor.run(DEADLINE).await.unwrap_err();
        check_early(&early, name, &format!("core task `{name}` panicked: {payload}"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_restartable_task_survives_panic_error_and_return() {
    let Stage { stop, supervisor, registry } = stage();
    let ends = Arc::new(Mutex::new(Vec::new()));
    let mut supervisor = supervisor.with_on_end({
        let ends = Arc::clone(&ends);
        move |name, end| ends.lock().unwrap().push(format!("{name} {end}"))
    });
    let n_starts = Arc::new(AtomicU32::new(0));
    supervisor.restartable("probe", {
        let (stop, n_starts) = (stop.clone(), Arc::clone(&n_starts));
        move || {
            let (stop, n) = (stop.clone(), n_starts.fetch_add(1, Ordering::SeqCst));
            assert_ne!(n, 3, "the start itself may panic");
            async move {
                match n {
                    0 => panic!("planted"),
                    1 => Err("unreadable".into()),
                    2 => Ok(()),
                    _ => {
                        stop.cancelled().await;
                        Ok(())
                    }
                }
            }
        }
    });
    let running = tokio::spawn(supervisor.run(DEADLINE));
    sleep(Duration::from_secs(60)).await;
    assert!(series(&registry, "up{task=\"probe\"} 1"));
    stop.cancel();
    let drain = running.await.unwrap().unwrap();
    assert!(drain.late.is_empty() && drain.failed.is_empty());
    let ends = ends.lock().unwrap();
    assert_eq!(
        ends[..3],
        ["probe panicked: planted", "probe failed: unreadable", "probe returned without being told to"]
    );
    assert!(ends[3].contains("the start itself may panic") && ends.len() == 4, "{ends:?}");
    for (outcome, n) in [("panicked", 2), ("failed", 1), ("returned", 1)] {
        assert!(series(&registry, &format!("ends_total{{task=\"probe\",outcome=\"{outcome}\"}} {n}")));
    }
}

/// Starts within `span` of a task that fails after running for `runs`.
async fn count_starts(runs: Duration, span: Duration) -> u32 {
    let Stage { stop, mut supervisor, .. } = stage();
    let n_starts = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&n_starts);
    supervisor.restartable("probe", move || {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            sleep(runs).await;
            Err("again".into())
        }
    });
    let running = tokio::spawn(supervisor.run(DEADLINE));
    sleep(span).await;
    stop.cancel();
    running.await.unwrap().unwrap();
    n_starts.load(Ordering::SeqCst)
}

#[tokio::test(start_paused = true)]
async fn restarts_slow_down_to_the_cap() {
    // In the long run one start per 15 s (half the cap of 30 s): 3600/15 = 240, and some quick ones at the start.
    let n_starts = count_starts(Duration::ZERO, Duration::from_secs(3_600)).await;
    assert!((190..310).contains(&n_starts), "{n_starts} starts in an hour");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_ran_well_for_a_minute_starts_again_soon() {
    // 61 s of work and at most the base delay of 0.5 s: at least 58 in an hour; with a grown back-off it would be about 47.
    let n_starts = count_starts(WELL_AFTER + Duration::from_secs(1), Duration::from_secs(3_600)).await;
    assert!(n_starts >= 58, "{n_starts} starts in an hour");
}

#[tokio::test(start_paused = true)]
async fn a_task_waiting_for_its_restart_ends_at_once() {
    let Stage { stop, supervisor, registry } = stage();
    let policy = BackoffPolicy { base: Duration::from_secs(3_600), cap: Duration::from_secs(3_600) };
    let mut supervisor = supervisor.with_backoff(policy);
    supervisor.restartable("probe", || future::ready(Err("broken".into())));
    let running = tokio::spawn(supervisor.run(DEADLINE));
    sleep(Duration::from_secs(1)).await;
    assert!(series(&registry, "up{task=\"probe\"} 0"));
    assert!(series(&registry, "ends_total{task=\"probe\",outcome=\"panicked\"} 0"), "shown before it happens");
    stop.cancel();
    assert_eq!(running.await.unwrap().unwrap().took, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn late_tasks_are_named_and_dropped() {
    struct Dropped(Arc<AtomicU32>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let Stage { stop, mut supervisor, .. } = stage();
    let n_dropped = Arc::new(AtomicU32::new(0));
    for name in ["uplink", "capture"] {
        let held = Dropped(Arc::clone(&n_dropped));
        supervisor.core(name, async move {
            let _held = held;
            future::pending().await
        });
    }
    supervisor.core("spool", {
        let stop = stop.clone();
        async move {
            stop.cancelled().await;
            sleep(DEADLINE - Duration::from_millis(1)).await;
            Ok(())
        }
    });
    stop.cancel();
    let drain = supervisor.run(DEADLINE).await.unwrap();
    assert_eq!(drain.late, ["capture", "uplink"]);
    assert_eq!(drain.took, DEADLINE);
    tokio::task::yield_now().await;
    assert_eq!(n_dropped.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn an_error_or_panic_while_draining_is_reported() {
    let Stage { stop, mut supervisor, .. } = stage();
    supervisor.core("spool", {
        let stop = stop.clone();
        async move {
            stop.cancelled().await;
            Err("failed to flush".into())
        }
    });
    supervisor.core("store", {
        let stop = stop.clone();
        async move {
            stop.cancelled().await;
            panic!("planted");
        }
    });
    stop.cancel();
    let drain = supervisor.run(DEADLINE).await.unwrap();
    let mut failed: Vec<_> = drain.failed.iter().map(|(task, error)| format!("{task} {error}")).collect();
    failed.sort();
    assert_eq!(failed, ["spool failed to flush", "store panicked: planted"]);
    assert!(drain.into_result().is_err());
}

#[tokio::test(start_paused = true)]
async fn without_tasks_it_waits_for_the_order_to_end() {
    let Stage { stop, supervisor, .. } = stage();
    let running = tokio::spawn(supervisor.run(DEADLINE));
    sleep(Duration::from_secs(1)).await;
    assert!(!running.is_finished());
    stop.cancel();
    assert!(running.await.unwrap().unwrap().late.is_empty());
}
