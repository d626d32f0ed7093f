//! The core of the scenarios, played on two lab nodes: the right cause first, of the right VM and node, nobody else blamed, and gone by itself
//! when undone; in controls nothing. `make lab` plays them all.

use kulprit_tests::scenario::{self, Scenario};

#[test]
fn every_core_scenario_ends_as_its_file_says() {
    let mut scenarios = Scenario::all().unwrap();
    scenarios.retain(|scenario| scenario.core);
    let played =
        scenario::play_all(&scenarios, false, |one| println!("lab: {}: {:.0} s", one.name, one.took.as_secs_f64()));
    println!("{}", scenario::table(&played));
    let failed: Vec<String> = played
        .iter()
        .filter_map(|one| Some(format!("{}: {}\n{}", one.name, one.error.as_ref()?, one.timeline())))
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
