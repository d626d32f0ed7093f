//! `kulprit findings`: what the agents found, now or in a span of history.

use std::collections::BTreeSet;

use kulprit_proto::v1;

use crate::{
    Terminal,
    commands::Ask,
    error::AskError,
    output, shape,
    table::{Cell, Table, one_line},
    when::{local_date_time, now_wall_usec, parse_span},
};

/// No more than this are fetched; a longer history wants a narrower question.
const MAX_FINDINGS: usize = 20_000;

pub(super) async fn answer(
    ask: &Ask,
    terminal: &mut Terminal,
    node: Option<String>,
    code: Option<String>,
    include_absent: bool,
    since: Option<String>,
) -> Result<(), AskError> {
    let now = now_wall_usec();
    let (from_wall_usec, to_wall_usec) = match &since {
        Some(text) => (now.saturating_sub(parse_span(text)?), now),
        None => (0, 0),
    };
    let mut request = v1::ListFindingsRequest {
        node: node.unwrap_or_default(),
        code: code.unwrap_or_default(),
        subject: String::new(),
        include_absent,
        from_wall_usec,
        to_wall_usec,
        page_size: 1_000,
        page_token: String::new(),
    };
    let mut central = ask.central().await?;
    let vms = match ask.only_namespace() {
        Some(namespace) => {
            let vms = ask.take(central.list_vms(v1::ListVmsRequest::default()).await)?.vms;
            Some(VmsOf::new(namespace, &vms))
        }
        None => None,
    };
    let mut shaped = shape::Findings { findings: Vec::new() };
    loop {
        let page = ask.take(central.list_findings(request.clone()).await)?;
        let findings = page.findings.into_iter().map(shape::Finding::from);
        shaped.findings.extend(findings.filter(|finding| vms.as_ref().is_none_or(|vms| vms.has(finding))));
        if page.next_page_token.is_empty() || shaped.findings.len() >= MAX_FINDINGS {
            break;
        }
        request.page_token = page.next_page_token;
    }
    output::print(terminal, ask.format, &shaped, |terminal| {
        if shaped.findings.is_empty() {
            return none_of(ask.only_namespace());
        }
        table(terminal, &shaped.findings, true)
    })
}

/// The VMs of a namespace.
struct VmsOf {
    /// How findings call one whose name is known.
    prefix: String,
    /// Keys of those that central lists.
    subjects: BTreeSet<String>,
}

impl VmsOf {
    fn new(namespace: &str, vms: &[v1::Vm]) -> Self {
        let of = vms.iter().filter(|vm| vm.namespace == namespace);
        Self { prefix: format!("{namespace}/"), subjects: of.map(|vm| format!("vm/{}", vm.uid)).collect() }
    }

    /// Whether it is about one of them.
    fn has(&self, finding: &shape::Finding) -> bool {
        self.subjects.contains(&finding.subject) || finding.vm.starts_with(&self.prefix)
    }
}

fn none_of(namespace: Option<&str>) -> String {
    match namespace {
        Some(namespace) => {
            format!("Nothing found of VMs in namespace {}; what is found of nodes is in none.\n", one_line(namespace))
        }
        None => "Nothing found.\n".to_owned(),
    }
}

/// The findings as a table; with a column for the node if several may be in it.
pub(super) fn table<'a>(
    terminal: &Terminal,
    findings: impl IntoIterator<Item = &'a shape::Finding>,
    has_node: bool,
) -> String {
    let mut header = vec!["FINDING", "STATUS", "SUBJECT", "SINCE", "WHAT WAS SEEN"];
    if has_node {
        header.insert(0, "NODE");
    }
    let mut table = Table::new(&header);
    for finding in findings {
        let subject = if finding.vm.is_empty() { finding.subject.clone() } else { format!("vm {}", finding.vm) };
        let seen = match (&finding.unknown_because, finding.evidence.last()) {
            (Some(reason), _) => reason.clone(),
            (None, Some(evidence)) => evidence.text.clone(),
            (None, None) => String::new(),
        };
        let mut row: Vec<Cell> = vec![
            finding.code.clone().into(),
            status(finding),
            subject.into(),
            local_date_time(finding.at_wall_usec).into(),
            seen.into(),
        ];
        if has_node {
            row.insert(0, finding.node.clone().into());
        }
        table.row(row);
    }
    table.render(terminal)
}

fn status(finding: &shape::Finding) -> Cell {
    let is_fault = finding.severity != "notice";
    match finding.status {
        Some("Present") if is_fault => Cell::painted("Present", Terminal::red),
        Some("Unknown") => Cell::painted("Unknown", Terminal::yellow),
        Some(status) => status.into(),
        None => {
            let text = format!("{}×", finding.count.unwrap_or(1));
            if is_fault { Cell::painted(text, Terminal::red) } else { text.into() }
        }
    }
}
