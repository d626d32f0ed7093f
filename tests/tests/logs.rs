//! Logs of a real node: what the unit of a kubelet writes to a real journald is said by Kulprit, once, and with its count.

use std::fs;
use std::time::Duration;

use anyhow::Result;
use kulprit_tests::Lab;
use kulprit_tests::check::{SOON, report};
use kulprit_tests::system::System;
use kulprit_tests::wait::wait_until;

/// What a kubelet writes when the runtime does not answer, and what it writes all day.
const LINES: &str = "\
I1121 06:42:06.114982   17014 kubelet.go:2453] \"SyncLoop ADD\" source=\"api\" pods=[\"prod/virt-launcher-db-0-x7k2p\"]
I1121 06:42:07.114982   17014 kubelet.go:2412] \"Skipping pod synchronization\" err=\"PLEG is not healthy: pleg was last seen active 3m3.2s ago; threshold is 3m0s\"
I1121 06:42:08.114982   17014 kubelet.go:2412] \"Skipping pod synchronization\" err=\"PLEG is not healthy: pleg was last seen active 3m3.2s ago; threshold is 3m0s\"
";

#[test]
fn a_line_of_the_kubelets_unit_is_said_by_the_agent() -> Result<()> {
    let lab = Lab::open()?;
    let node = lab.node("n1").with_kubelet().start()?;
    let mut system = System::start(&lab, "")?;
    system.watch(&node)?;
    let said = || -> Result<Vec<_>> { system.findings(&["--code", "ErrorSaid", "--node", "n1"]) };
    let before: u64 = said()?.iter().filter_map(|finding| finding.count).sum();
    // The unit is a kubelet's, the journal a journald's; the program writes what the real one does.
    let drop_in = node.root().join("run/systemd/system/kubelet.service.d");
    fs::create_dir_all(&drop_in)?;
    fs::write(node.root().join("run/said"), LINES)?;
    fs::write(drop_in.join("said.conf"), "[Service]\nExecStartPost=/bin/cat /run/said\n")?;
    node.systemctl(&["daemon-reload"])?;
    node.systemctl(&["restart", "kubelet.service"])?;
    let is_said = || Ok(said()?.iter().filter_map(|finding| finding.count).sum::<u64>() >= before + 2);
    let took = wait_until("the lines to be said", SOON, is_said)?;
    report("kubelet's line said", took);
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(said()?.iter().all(|finding| finding.subject == "node"), "{:?}", said()?);
    Ok(())
}
