//! `kulprit nodes`, `kulprit node NAME` and `kulprit vms`.

use std::fmt::Write as _;

use kulprit_proto::v1;

use crate::{
    Terminal,
    commands::{Ask, findings},
    error::AskError,
    output, shape,
    table::{Cell, Table},
    when::{local_date_time, now_wall_usec, span},
};

pub(super) async fn answer_list(ask: &Ask, terminal: &mut Terminal) -> Result<(), AskError> {
    let mut central = ask.central().await?;
    let nodes = ask.take(central.list_nodes(v1::ListNodesRequest {}).await)?.nodes;
    let shaped = shape::Nodes { nodes: nodes.iter().cloned().map(shape::Node::from).collect() };
    output::print(terminal, ask.format, &shaped, |terminal| {
        if nodes.is_empty() {
            return "No agent has reported yet.\n".to_owned();
        }
        nodes_table(terminal, &nodes)
    })
}

pub(super) async fn answer_one(
    ask: &Ask,
    terminal: &mut Terminal,
    name: String,
    include_absent: bool,
) -> Result<(), AskError> {
    let mut central = ask.central().await?;
    let detail = ask.take(central.get_node(v1::GetNodeRequest { name }).await)?;
    let node = detail.node.unwrap_or_default();
    let all_findings: Vec<shape::Finding> = detail.findings.into_iter().map(shape::Finding::from).collect();
    let shaped = shape::NodeDetail {
        node: node.clone().into(),
        findings: all_findings
            .into_iter()
            .filter(|finding| include_absent || finding.status != Some("Absent"))
            .collect(),
        vms: detail.vms.iter().cloned().map(shape::Vm::from).collect(),
    };
    output::print(terminal, ask.format, &shaped, |terminal| {
        let mut text = String::new();
        let state =
            if node.is_reporting { terminal.green("reporting") } else { terminal.yellow("silent: all Unknown") };
        let _ = writeln!(text, "{}: {state}, last heard {}", terminal.bold(&node.name), last_heard(&node));
        let _ = writeln!(text, "  {}, kernel {}, agent {}", node.os, node.kernel, node.agent_version);
        let versions = [
            ("libvirt ", &node.libvirt),
            ("QEMU ", &node.qemu),
            ("", &node.runtime),
            ("", &node.processor),
            ("microcode ", &node.microcode),
        ];
        let known: Vec<String> = versions
            .iter()
            .filter(|(_, version)| !version.is_empty())
            .map(|(name, version)| format!("{name}{version}"))
            .collect();
        if !known.is_empty() {
            let _ = writeln!(text, "  {}", known.join(", "));
        }
        for sentence in &node.cannot_show {
            let _ = writeln!(text, "  {} {sentence}", terminal.yellow("Cannot show:"));
        }
        let _ = writeln!(text, "\n{}", terminal.bold("Findings"));
        if shaped.findings.is_empty() {
            let _ = writeln!(text, "  none");
        } else {
            text.push_str(&findings::table(terminal, &shaped.findings, false));
        }
        let _ = writeln!(text, "\n{}", terminal.bold("VMs"));
        if detail.vms.is_empty() {
            let _ = writeln!(text, "  none seen");
        } else {
            text.push_str(&vms_table(terminal, &detail.vms));
        }
        text
    })
}

pub(super) async fn answer_vms(ask: &Ask, terminal: &mut Terminal, node: Option<String>) -> Result<(), AskError> {
    let mut central = ask.central().await?;
    let request = v1::ListVmsRequest { node: node.unwrap_or_default() };
    let mut vms = ask.take(central.list_vms(request).await)?.vms;
    vms.retain(|vm| ask.only_namespace().is_none_or(|namespace| vm.namespace == namespace));
    let shaped = shape::Vms { vms: vms.iter().cloned().map(shape::Vm::from).collect() };
    output::print(terminal, ask.format, &shaped, |terminal| {
        if vms.is_empty() { "No VM seen.\n".to_owned() } else { vms_table(terminal, &vms) }
    })
}

fn nodes_table(terminal: &Terminal, nodes: &[v1::Node]) -> String {
    let mut table = Table::new(&["NODE", "AGENT", "LAST HEARD", "VMS", "FAULTS", "UNKNOWN", "KERNEL", "OS"]);
    for node in nodes {
        table.row([
            node.name.clone().into(),
            reporting(node),
            last_heard(node).into(),
            node.n_vms.to_string().into(),
            of_agent(node, node.n_faults, Terminal::red),
            of_agent(node, node.n_unknown, Terminal::yellow),
            node.kernel.clone().into(),
            node.os.clone().into(),
        ]);
    }
    table.render(terminal)
}

fn vms_table(terminal: &Terminal, vms: &[v1::Vm]) -> String {
    let mut table = Table::new(&["VM", "NODE", "STATE", "REASON", "SINCE", "QEMU", "SYMPTOM"]);
    for vm in vms {
        let name = if vm.namespace.is_empty() { vm.name.clone() } else { format!("{}/{}", vm.namespace, vm.name) };
        let pid = if vm.qemu_pid == 0 { "-".to_owned() } else { vm.qemu_pid.to_string() };
        let symptom: Cell =
            if vm.symptom.is_empty() { "-".into() } else { Cell::painted(vm.symptom.clone(), Terminal::red) };
        table.row([
            name.into(),
            vm.node.clone().into(),
            vm.state.clone().into(),
            vm.reason.clone().into(),
            local_date_time(vm.since_wall_usec).into(),
            pid.into(),
            symptom,
        ]);
    }
    table.render(terminal)
}

/// Whether Kubernetes has this node, and no agent of it ever reported.
pub(super) const fn has_no_agent(node: &v1::Node) -> bool {
    !node.is_reporting && node.agent_version.is_empty() && node.last_heard_wall_usec == 0
}

fn reporting(node: &v1::Node) -> Cell {
    if node.is_reporting {
        Cell::painted("reporting", Terminal::green)
    } else if has_no_agent(node) {
        Cell::painted("none", Terminal::yellow)
    } else {
        Cell::painted("silent", Terminal::yellow)
    }
}

fn last_heard(node: &v1::Node) -> String {
    match node.last_heard_wall_usec {
        0 => "never".to_owned(),
        heard => format!("{} ago", span(now_wall_usec() - heard)),
    }
}

/// How many its agent found; nobody looked where there is none.
fn of_agent(node: &v1::Node, number: u32, paint: fn(&Terminal, &str) -> String) -> Cell {
    match number {
        _ if has_no_agent(node) => "-".into(),
        0 => "0".into(),
        number => Cell::painted(number.to_string(), paint),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_an_agent_is_not_one_whose_agent_is_silent_or_found_nothing() {
        let terminal = Terminal::capturing(Box::new(std::io::sink()), Box::new(std::io::sink()));
        let node = |name: &str| v1::Node { name: name.to_owned(), n_vms: 3, ..v1::Node::default() };
        let silent = v1::Node { agent_version: "1".to_owned(), ..node("n1") };
        let text = nodes_table(&terminal, &[silent, node("n2")]);
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1], ["n1", "silent", "never", "3", "0", "0"]);
        assert_eq!(rows[2], ["n2", "none", "never", "3", "-", "-"]);
    }
}
