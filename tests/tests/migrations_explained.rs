//! What Kulprit says of real migrations between two lab nodes, by the agents of both and one standalone central.
//!
//! Asked of the VM alone: what else a busy machine does to its nodes (pressure) is no matter here; the scenarios look at that.

use std::time::Duration;

use anyhow::Result;
use kulprit_tests::check::{SOON, report};
use kulprit_tests::disk::FileDisk;
use kulprit_tests::fault::network::{MIGRATION_PORTS, PortsDropped};
use kulprit_tests::guest::Program;
use kulprit_tests::migration::{How, Migration};
use kulprit_tests::system::System;
use kulprit_tests::system::answers::Verdict;
use kulprit_tests::wait::{Stopwatch, pause, wait_for};
use kulprit_tests::{Guest, Lab, Node};

/// A failed migration is a symptom for so long here, as nobody waits for longer.
const CONFIG: &str = "symptoms: {migration_failed: 20s}\nincidents: {close_after: 2s, reopen_within: 1s}\n";
/// Dirties more than is sent at [`TOO_SLOW`].
const BUSY: Program = Program::Eater { mib: 128, delay: 100 };
const TOO_SLOW: How = How { mib_per_sec: Some(24), copies_storage: false };
/// The slowest thing that is waited for: a copy that has not begun counts after 20 s.
const EXPLAINED: Duration = Duration::from_secs(60);

struct Stage {
    system: System,
    nodes: [Node; 2],
}

impl Stage {
    fn open() -> Result<Self> {
        let lab = Lab::open()?;
        let nodes = [lab.node("n1").start()?, lab.node("n2").start()?];
        let mut system = System::start(&lab, CONFIG)?;
        for node in &nodes {
            system.watch(node)?;
        }
        Ok(Self { system, nodes })
    }

    /// What is said of `db-0`, on whichever node.
    fn why(&self) -> Result<Option<Verdict>> {
        Ok(self.system.why()?.into_iter().find(|verdict| verdict.subject.name == "db-0"))
    }

    fn wait_for(&self, symptom: &str, cause: &str, role: &str, limit: Duration) -> Result<Verdict> {
        let since = Stopwatch::start();
        let wanted = || {
            let said = self.why()?;
            let first = said.as_ref().and_then(|verdict| verdict.causes.first());
            let fits = said.as_ref().is_some_and(|verdict| verdict.symptom == symptom)
                && first.is_some_and(|first| first.id == cause && first.role == role);
            Ok(said.filter(|_| fits))
        };
        let (verdict, _) = wait_for(&format!("{symptom} by {cause}"), limit, wanted).map_err(|error| {
            let page = self.system.page(&["why", "db-0"]).unwrap_or_else(|error| format!("{error:#}"));
            error.context(format!("{page}\n{}", self.system.logs()))
        })?;
        report(&format!("{symptom} by {cause}"), since.elapsed());
        Ok(verdict)
    }
}

#[test]
fn a_guest_that_never_converges_is_named_as_soon_as_two_rounds_are_over() -> Result<()> {
    let stage = Stage::open()?;
    let [n1, n2] = &stage.nodes;
    let disk = FileDisk::create_shared(&[n1, n2], "shared", 64)?;
    let guest = Guest::define(n1, "db-0", BUSY).disk_on(&disk).start()?;
    guest.wait_until_up()?;
    let migration = Migration::start(&guest, n2, TOO_SLOW)?;
    let verdict = stage.wait_for("StuckMigrating", "MigrationNotConverging", "source", EXPLAINED)?;
    assert_eq!(verdict.subject.node, "n1");
    migration.abort()?;
    let failed = stage.wait_for("MigrationFailed", "MigrationNotConverging", "source", SOON)?;
    assert_eq!(failed.subject.node, "n1");
    // Also once libvirt's word of who ended it has come: who gives up what never ends is no cause beside it.
    let whole = || Ok(stage.why()?.filter(|verdict| verdict.causes[0].chain.len() > 1));
    let (whole, _) = wait_for("libvirt's word of the cancelling client", SOON, whole)?;
    assert_eq!(whole.causes[0].chain, ["MigrationNotConverging", "MigrationAborted"]);
    Ok(())
}

#[test]
fn dropped_ports_are_the_path_and_their_end_is_quiet() -> Result<()> {
    let stage = Stage::open()?;
    let [n1, n2] = &stage.nodes;
    let disk = FileDisk::create_shared(&[n1, n2], "shared", 64)?;
    let guest = Guest::define(n1, "db-0", Program::Idle).disk_on(&disk).start()?;
    guest.wait_until_up()?;
    let dropped = PortsDropped::new(n2, MIGRATION_PORTS)?;
    let mut migration = Migration::start(&guest, n2, How::default())?;
    stage.wait_for("StuckMigrating", "MigrationPathUnreachable", "path", EXPLAINED)?;
    drop(dropped);
    migration.wait_until_arrived(Duration::from_secs(90))?;
    wait_for("nothing to be said of a VM that has arrived", SOON, || Ok(stage.why()?.is_none().then_some(())))?;
    Ok(())
}

#[test]
fn a_slow_migration_that_comes_on_is_nobodys_trouble() -> Result<()> {
    let stage = Stage::open()?;
    let [n1, n2] = &stage.nodes;
    let disk = FileDisk::create_shared(&[n1, n2], "shared", 64)?;
    // At a rate of its own: how fast a loop runs differs between machines.
    let slow = Program::Dirtier { mib: 256, mib_per_sec: 4 };
    let guest = Guest::define(n1, "db-0", slow).disk_on(&disk).start()?;
    guest.wait_until_up()?;
    // Until it has touched all of its memory: what it has not is not sent.
    pause(Duration::from_secs(35));
    let mut migration = Migration::start(&guest, n2, How { mib_per_sec: Some(8), copies_storage: false })?;
    let since = Stopwatch::start();
    while migration.ended()?.is_none() {
        assert!(since.elapsed() < Duration::from_secs(150), "{}", migration.job()?);
        if let Some(verdict) = stage.why()? {
            panic!("{} is said of it after {:?}: {}", verdict.symptom, since.elapsed(), migration.job()?);
        }
        pause(Duration::from_millis(500));
    }
    report("arrived", migration.wait_until_arrived(SOON)?);
    pause(Duration::from_secs(5));
    assert!(stage.why()?.is_none(), "nothing is said of it afterwards");
    Ok(())
}
