//! `kulprit incidents`: one line per incident, one incident with its timeline, or a line for each change.

pub(super) mod captures;
mod watch;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use kulprit_proto::v1;

use crate::{
    Terminal,
    arguments::WhichIncidents,
    commands::Ask,
    error::AskError,
    output, page, shape,
    table::{Cell, Table, one_line},
    when::{local_date_time, now_wall_usec, span},
};

pub(super) use watch::watch;

/// So many nodes of one incident are named in a list.
const NODES_NAMED: usize = 2;
/// No more than this are fetched; of more a person wants a narrower question.
const MAX_INCIDENTS: usize = 10_000;

pub(super) async fn answer_one(
    ask: &Ask,
    terminal: &mut Terminal,
    with_captures: bool,
    id: String,
) -> Result<(), AskError> {
    let mut central = ask.central().await?;
    let incident = ask.take(central.get_incident(v1::GetIncidentRequest { id }).await)?;
    let shaped = shape::Incident::from(incident.clone());
    output::print(terminal, ask.format, &shaped, |terminal| {
        one(terminal, &incident) + &captures::render(terminal, &incident, with_captures)
    })
}

pub(super) async fn answer_list(
    ask: &Ask,
    terminal: &mut Terminal,
    include_closed: bool,
    which: WhichIncidents,
) -> Result<(), AskError> {
    let mut central = ask.central().await?;
    let namespace = ask.only_namespace().map(ToOwned::to_owned);
    let none = none_of(namespace.as_ref(), &which, include_closed);
    let WhichIncidents { node, cause } = which;
    let mut request = v1::ListIncidentsRequest {
        include_closed,
        limit: 1_000,
        namespace: namespace.unwrap_or_default(),
        node: node.unwrap_or_default(),
        cause: cause.unwrap_or_default(),
        page_token: String::new(),
    };
    let mut incidents = Vec::new();
    loop {
        let page = ask.take(central.list_incidents(request.clone()).await)?;
        incidents.extend(page.incidents);
        if page.next_page_token.is_empty() || incidents.len() >= MAX_INCIDENTS {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let shaped = shape::Incidents { incidents: incidents.iter().cloned().map(shape::Incident::from).collect() };
    output::print(
        terminal,
        ask.format,
        &shaped,
        |terminal| {
            if incidents.is_empty() { none } else { list(terminal, &incidents) }
        },
    )
}

/// That there is none, with what was asked for: a name may be misspelt.
fn none_of(namespace: Option<&String>, which: &WhichIncidents, include_closed: bool) -> String {
    let WhichIncidents { node, cause } = which;
    let given = [("in namespace", namespace), ("of node", node.as_ref()), ("of cause", cause.as_ref())];
    let given = given.into_iter().filter_map(|(word, text)| Some(format!(" {word} {}", one_line(text?))));
    let given: String = given.collect();
    if include_closed { format!("No incident{given} yet.\n") } else { format!("No open incident{given}.\n") }
}

fn list(terminal: &Terminal, incidents: &[v1::Incident]) -> String {
    let now = now_wall_usec();
    let mut table = Table::new(&["ID", "STATE", "CAUSE", "NODE", "OPENED", "LASTS", "TOUCHES"]);
    for incident in incidents {
        let (state, end): (Cell, i64) = if incident.is_open {
            (Cell::painted("open", Terminal::red), now)
        } else {
            ("closed".into(), incident.closed_wall_usec)
        };
        let touched = touched_by(incident.members.iter());
        table.row([
            incident.id.clone().into(),
            state,
            incident.cause.clone().into(),
            nodes_of(incident).into(),
            local_date_time(incident.opened_wall_usec).into(),
            span(end - incident.opened_wall_usec).into(),
            touched.join(", ").into(),
        ]);
    }
    table.render(terminal)
}

/// The node of an incident, or of one that nodes share those that it touches: by name while a line has room for them.
fn nodes_of(incident: &v1::Incident) -> String {
    if !incident.node.is_empty() || !incident.place.starts_with("shared/") {
        return incident.node.clone();
    }
    let of_members = incident.members.iter().filter_map(|member| member.subject.as_ref());
    let nodes: BTreeSet<&str> =
        of_members.map(|subject| subject.node.as_str()).filter(|node| !node.is_empty()).collect();
    if nodes.len() > NODES_NAMED {
        format!("{} nodes", nodes.len())
    } else {
        nodes.into_iter().collect::<Vec<_>>().join(",")
    }
}

/// Whom members are, each once.
fn touched_by<'a>(members: impl Iterator<Item = &'a v1::IncidentMember>) -> Vec<String> {
    let mut touched: Vec<String> = Vec::new();
    for subject in members.filter_map(|member| member.subject.as_ref()) {
        let words = page::wire_subject_words(subject);
        if !touched.contains(&words) {
            touched.push(words);
        }
    }
    touched
}

fn one(terminal: &Terminal, incident: &v1::Incident) -> String {
    let mut text = String::new();
    let state = if incident.is_open { terminal.red("open") } else { "closed".to_owned() };
    let _ = writeln!(text, "{} {}: {state}", terminal.bold(&incident.cause), incident.id);
    let _ = writeln!(text, "  Chain:   {}", incident.chain.join(" → "));
    let nodes = nodes_of(incident);
    if !nodes.is_empty() {
        let _ = writeln!(text, "  Node:    {nodes}");
    }
    // The node as a whole is said already.
    if !incident.place.is_empty() && incident.place != format!("node/{}", incident.node) {
        let _ = writeln!(text, "  Place:   {}", incident.place);
    }
    let _ = writeln!(text, "  Opened:  {}", local_date_time(incident.opened_wall_usec));
    if !incident.is_open {
        let _ = writeln!(text, "  Closed:  {}", local_date_time(incident.closed_wall_usec));
    }
    if !incident.merged_into.is_empty() {
        let _ = writeln!(text, "  Merged into {}", incident.merged_into);
    }
    for member in &incident.members {
        let whom = member.subject.as_ref().map(page::wire_subject_words).unwrap_or_default();
        let until = if member.until_wall_usec == 0 {
            "still".to_owned()
        } else {
            format!("until {}", local_date_time(member.until_wall_usec))
        };
        let _ = writeln!(
            text,
            "  Touches: {whom}: {} since {}, {until}",
            member.symptom,
            local_date_time(member.since_wall_usec)
        );
    }
    let _ = writeln!(text, "\n{}", terminal.bold("Timeline"));
    for entry in &incident.timeline {
        let _ = writeln!(text, "  {}  {}", local_date_time(entry.at_wall_usec), one_line(&entry.text));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incident_that_nodes_share_names_them_or_how_many() {
        let nodes = |place: &str, node: &str, of_members: &[&str]| {
            let member = |node: &&str| v1::IncidentMember {
                subject: Some(v1::VerdictSubject { node: (*node).to_owned(), ..v1::VerdictSubject::default() }),
                ..v1::IncidentMember::default()
            };
            nodes_of(&v1::Incident {
                node: node.to_owned(),
                place: place.to_owned(),
                members: of_members.iter().map(member).collect(),
                ..v1::Incident::default()
            })
        };
        assert_eq!(nodes("shared/nfs/10.0.0.5", "", &["n2", "n1", "n2", ""]), "n1,n2");
        assert_eq!(nodes("shared/nfs/10.0.0.5", "", &["n1", "n2", "n3"]), "3 nodes");
        assert_eq!(nodes("shared/nfs/10.0.0.5", "", &[]), "");
        assert_eq!(nodes("node/n1", "n1", &["n1"]), "n1");
        assert_eq!(nodes("cluster/vm/u", "", &["n1"]), "", "no host is blamed");
    }
}
