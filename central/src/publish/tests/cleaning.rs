//! What central left in a cluster goes, and nothing else does.

use kulprit_daemon::exit::ExitReason;

use super::*;
use crate::{cleanup::Cleanup, config::CleanupFlags};

async fn cleaned(world: &World, flags: CleanupFlags) -> (Vec<String>, Result<(), (u8, String)>) {
    let (writes, namespace) = (Writes::new(world.server.client()), "kulprit".to_owned());
    let cleanup = Cleanup { writes, namespace, flags, clock: world.clock.clock() };
    let mut out = Vec::new();
    let done = cleanup.run(&mut out).await.map_err(|error| {
        let ExitReason { code, line } = ExitReason::of(error.as_ref());
        (code, line)
    });
    (String::from_utf8(out).unwrap().lines().map(ToOwned::to_owned).collect(), done)
}

fn dry() -> CleanupFlags {
    CleanupFlags { dry_run: true, ..CleanupFlags::default() }
}

/// With conditions on two nodes, a taint on one, and a central that has ended.
async fn left_behind() -> World {
    let mut world = World::written(4, settings()).await;
    world.judge(&[("n0", Status::Present)]);
    world.pass(70).await;
    assert_eq!((world.conditions("n0").len(), world.taints("n0").len()), (8, 2));
    world.end("a").await;
    world
}

#[tokio::test(start_paused = true)]
async fn everything_of_ours_goes_and_a_second_time_nothing_is_left_to_do() {
    let world = left_behind().await;
    world.server.set(|state| {
        state.own.insert("secrets/tls".to_owned(), true);
        state.own.insert("configmaps/given".to_owned(), false);
    });
    let before = world.server.set(|state| state.nodes.clone());
    let named = CleanupFlags {
        secret: vec!["tls".to_owned(), "gone".to_owned()],
        config_map: vec!["given".to_owned()],
        ..CleanupFlags::default()
    };
    world.server.forget();
    let (would, done) = cleaned(&world, CleanupFlags { dry_run: true, ..named.clone() }).await;
    assert_eq!(done, Ok(()));
    for verb in ["PATCH", "DELETE", "PUT", "POST"] {
        assert_eq!(world.server.count(&format!("{verb} ")), 0, "{verb} in a dry run");
    }
    let (lines, done) = cleaned(&world, named.clone()).await;
    assert_eq!(done, Ok(()));
    let as_done = |line: &String| line.replace("would remove", "removed");
    assert_eq!(would.iter().map(as_done).collect::<Vec<_>>(), lines);
    assert_eq!(lines.len(), 4 + 1 + 1 + 1 + 1, "{lines:#?}");
    assert!(lines[0].starts_with("removed conditions of node n0: kulprit.io/"), "{lines:#?}");
    assert!(lines.contains(&format!("removed taints of node n0: {KVM_TAINT}")), "{lines:#?}");
    assert!(lines.contains(&"left ConfigMap kulprit/given: another has made it".to_owned()), "{lines:#?}");
    assert_eq!(lines.last().unwrap(), "removed Lease kulprit/kulprit-central");
    for (name, node) in world.server.set(|state| state.nodes.clone()) {
        assert_eq!((world.conditions(&name).len(), world.taints(&name)), (0, vec!["example.com/x".to_owned()]));
        assert_eq!(node["metadata"]["labels"], before[&name]["metadata"]["labels"]);
    }
    assert_eq!(world.server.set(|state| state.own.clone()), [("configmaps/given".to_owned(), false)].into());
    let (lines, done) = cleaned(&world, CleanupFlags::default()).await;
    assert_eq!((lines, done), (vec!["nothing of central is there".to_owned()], Ok(())));
}

#[tokio::test(start_paused = true)]
async fn while_a_central_writes_it_refuses_unless_it_is_forced() {
    let mut world = World::written(1, settings()).await;
    let (lines, done) = cleaned(&world, CleanupFlags::default()).await;
    let (code, line) = done.unwrap_err();
    assert_eq!((lines, code), (vec![], 2));
    assert!(line.contains("a holds the Lease of kulprit") && line.contains("--force"), "{line}");
    assert_eq!(world.conditions("n0").len(), 8);
    assert_eq!(cleaned(&world, dry()).await.1, Ok(()), "to ask what there is harms nobody");
    let (_, done) = cleaned(&world, CleanupFlags { force: true, ..CleanupFlags::default() }).await;
    assert_eq!((done, world.conditions("n0").len()), (Ok(()), 0));
    // One that was killed is waited for until its Lease has lapsed.
    world.pass(5).await;
    let (_, tasks) = world.centrals.remove("a").unwrap();
    tasks.iter().for_each(JoinHandle::abort);
    let began = tokio::time::Instant::now();
    assert_eq!(cleaned(&world, CleanupFlags::default()).await.1, Ok(()));
    assert!((15..20).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_removed_is_named_and_the_rest_goes() {
    let world = left_behind().await;
    world.server.spoil("nodes/n1/status", Some(403));
    world.server.spoil("DELETE", Some(500));
    let (lines, done) = cleaned(&world, CleanupFlags::default()).await;
    let (code, line) = done.unwrap_err();
    assert_eq!(code, 1);
    assert!(line.starts_with("2 could not be removed: conditions of node n1: ") && line.contains("; Lease "), "{line}");
    assert_eq!((lines.len(), world.conditions("n1").len(), world.conditions("n2").len()), (4, 8, 0));
    world.server.heal();
    assert_eq!(cleaned(&world, CleanupFlags::default()).await.1, Ok(()));
    assert_eq!(world.conditions("n1").len(), 0);
}
