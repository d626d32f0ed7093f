//! `kulprit status`: what this host's agent sees, without central.

use std::{fmt::Write as _, path::PathBuf};

use kulprit_proto::v1;

use crate::{
    Terminal,
    commands::{Ask, findings},
    connect::connect_to_agent,
    error::AskError,
    output, shape,
    table::{Cell, Table},
};

pub(super) async fn answer(ask: &Ask, terminal: &mut Terminal, socket: Option<PathBuf>) -> Result<(), AskError> {
    let (mut agent, path) = connect_to_agent(socket, ask.timeout()).await?;
    let whom = path.display().to_string();
    let status = ask.take_from(&whom, agent.get_status(v1::GetStatusRequest {}).await)?;
    let shaped = shape::AgentStatus::from(status);
    output::print(terminal, ask.format, &shaped, |terminal| page(terminal, &shaped))
}

fn page(terminal: &Terminal, status: &shape::AgentStatus) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}: agent {}, epoch {}", terminal.bold(&status.node), status.agent_version, status.epoch);
    let central = &status.central;
    let connection = if central.connected {
        terminal.green("connected")
    } else {
        terminal.yellow(&format!("not connected: {}", central.error))
    };
    let _ = writeln!(
        text,
        "  central {}: {connection}; {} records wait, {} lost",
        central.address, central.spooled, central.lost
    );
    for sentence in &status.cannot_show {
        let _ = writeln!(text, "  {} {sentence}", terminal.yellow("Cannot show:"));
    }
    let mut probes = Table::new(&["PROBE", "OUTCOME", "TOOK", "WHY"]);
    for probe in &status.probes {
        let outcome = match probe.outcome.as_str() {
            "ok" => Cell::painted("ok", Terminal::green),
            other => Cell::painted(other, Terminal::yellow),
        };
        probes.row([
            probe.name.clone().into(),
            outcome,
            format!("{:.1} ms", std::time::Duration::from_micros(probe.duration_usec).as_secs_f64() * 1_000.0).into(),
            probe.blind_because.clone().into(),
        ]);
    }
    let _ = write!(text, "\n{}", probes.render(terminal));
    let shown: Vec<&shape::Finding> =
        status.findings.iter().filter(|finding| finding.status != Some("Absent")).collect();
    let _ = writeln!(text, "\n{}", terminal.bold("Findings"));
    if shown.is_empty() {
        let _ = writeln!(text, "  none");
    } else {
        text.push_str(&findings::table(terminal, shown, false));
    }
    let _ = writeln!(text, "\n{} domains known to libvirt", status.domains.len());
    text
}
