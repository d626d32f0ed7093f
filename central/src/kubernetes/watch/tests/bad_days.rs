//! All rows on an API server that refuses, fails or is slow for minutes: nothing is gone, nothing is invented, it is said once, it is left
//! alone, and afterwards everything is as before.

use super::*;
use crate::testing::Log;

const MINUTES: Duration = Duration::from_secs(300);
const LOST: &str = "WARN Kubernetes cannot be watched: what was known of it is unknown now";
const BACK: &str = "INFO Kubernetes is watched again";

/// All rows, in sync, and what was told so far forgotten.
async fn all_in_sync() -> World {
    let world = World::of(&ROWS, Server::with(&["a", "b"]));
    // Each stream ended once, and they do not end together any more.
    sleep(Duration::from_secs(90)).await;
    assert_eq!(world.n_told("end"), ROWS.len());
    world.forget();
    world
}

/// Lets it be over, and checks that each row is as before without a list.
#[track_caller]
fn check_as_before(world: &World) {
    assert_eq!(world.n_told("synced"), world.n_told("lost"), "{:?}", world.told());
    assert_eq!((world.n_told("begin"), world.n_told("delete")), (0, 0), "nothing is gone");
    assert_eq!(world.objects(), ["a", "b"]);
}

/// No row comes more often than so many times in these minutes, and the rows do not come at the same moments.
#[track_caller]
fn check_requests(world: &World, at_most: usize) {
    let times = world.server.times();
    assert_eq!(times.len(), ROWS.len());
    for (row, times) in &times {
        assert!(times.len() <= at_most, "{row}: {}", times.len());
    }
    // All of them lost their streams at one moment, and each tries once at once.
    let all: Vec<&Instant> = times.values().flat_map(|times| &times[1..]).collect();
    let moments: BTreeSet<&Instant> = all.iter().copied().collect();
    assert!(moments.len() * 10 >= all.len() * 9, "{} requests at {} moments", all.len(), moments.len());
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_fails_is_left_alone() {
    for code in [429, 500] {
        let log = Log::begin();
        let world = all_in_sync().await;
        world.server.fail(code, "not today");
        world.server.cut();
        sleep(MINUTES).await;
        assert_eq!(world.n_told("lost"), ROWS.len(), "once for each row");
        assert_eq!(log.lines(), [LOST], "once for all of them");
        check_requests(&world, 45);
        world.server.heal();
        sleep(Duration::from_secs(90)).await;
        check_as_before(&world);
        assert_eq!(log.lines(), [LOST, BACK]);
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_told_when_to_come_again_does_not_come_earlier() {
    const WANTED_SECS: u32 = 40;
    let log = Log::begin();
    let world = all_in_sync().await;
    world.server.set(|state| (state.retry_after_secs, state.is_plain) = (WANTED_SECS, true));
    world.server.fail(429, "Too many requests, please try again later.");
    world.server.cut();
    sleep(Duration::from_secs(150)).await;
    // One of them gets through: the others were not told that they may.
    world.server.set(|state| state.well = Some("/nodes"));
    sleep(Duration::from_secs(150)).await;
    let times = world.server.times();
    assert_eq!(times.len(), ROWS.len());
    for (row, times) in times.iter().filter(|(row, _)| !row.ends_with("/nodes")) {
        assert!(times.len() > 3, "{row}: {}", times.len());
        let pauses = times.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(pauses.min().unwrap() >= Duration::from_secs(WANTED_SECS.into()), "{row}");
    }
    assert!(world.told().contains(&"lost: 429: Too many requests, please try again later.".to_owned()));
    assert_eq!(log.lines(), [LOST]);
    check_requests(&world, 9);
}

#[tokio::test(start_paused = true)]
async fn while_answers_take_long_nothing_is_taken_for_seen() {
    let log = Log::begin();
    let world = all_in_sync().await;
    world.server.set(|state| state.slowness = Duration::from_secs(20));
    sleep(MINUTES).await;
    let n_lost = world.n_told("lost: no answer for 5 s");
    assert!(
        (ROWS.len() * 3..=ROWS.len() * 5).contains(&n_lost),
        "each stream that ends is waited for in the dark: {n_lost}"
    );
    assert_eq!(*world.recorder.unseen_for.lock().unwrap(), Duration::from_secs(5));
    assert_eq!(world.n_told("lost"), n_lost);
    assert_eq!(log.lines(), [LOST], "however often it comes back for a minute");
    check_requests(&world, 5);
    world.server.set(|state| state.slowness = Duration::ZERO);
    sleep(Duration::from_secs(120)).await;
    check_as_before(&world);
    assert_eq!(log.lines(), [LOST, BACK]);
    world.forget();
    sleep(MINUTES).await;
    assert_eq!(world.told(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_connection_was_seen_until_it_was_heard_last() {
    let world = World::in_sync().await;
    world.server.set(|state| state.is_dead = true);
    world.until_told("synced").await;
    world.forget();
    world.server.set(|state| state.is_dead = true);
    sleep(Duration::from_secs(15)).await;
    world.server.put("c", json!({}));
    world.until_told("apply c").await;
    let quiet = world.until_told("lost: nothing came for").await;
    let unseen_for = *world.recorder.unseen_for.lock().unwrap();
    assert!(unseen_for.abs_diff(quiet) <= Duration::from_secs(1), "{unseen_for:?}, and it was quiet for {quiet:?}");
}

#[tokio::test(start_paused = true)]
async fn while_all_is_listed_anew_nothing_is_taken_for_seen() {
    let log = Log::begin();
    let world = World::in_sync().await;
    world.server.set(|state| (state.n_per_page, state.slowness) = (1, Duration::from_secs(4)));
    world.server.put("c", json!({}));
    world.server.line(r#"{"type":"ERROR","object":{"code":410}}"#);
    world.until_told("end").await;
    let told = world.told();
    assert_eq!(told[..4], ["apply c", "begin", "apply a", "apply b"]);
    assert_eq!(told[4..], ["lost: it is being listed anew", "apply c", "end"], "after 5 s");
    assert_eq!(log.lines(), [""; 0], "which is nobody's trouble");
}

#[tokio::test(start_paused = true)]
async fn each_answer_tells_the_time_and_how_sure_it_is() {
    let server = Server::with(&["a"]);
    server.set(|state| (state.date, state.slowness) = (Some("Sun, 01 Mar 2026 10:15:00 GMT"), Duration::from_secs(3)));
    let world = World::new(server);
    world.until_told("end").await;
    let told = *world.recorder.date.lock().unwrap();
    assert_eq!(told, Some((1_772_360_100_000_000, Duration::from_secs(3))));
    *world.recorder.date.lock().unwrap() = None;
    world.server.set(|state| state.date = Some("yesterday"));
    sleep(MINUTES).await;
    assert_eq!(*world.recorder.date.lock().unwrap(), None);
}
