//! `kulprit why`: the page of one VM or node, or of everything in trouble.

use std::process::ExitCode;

use jiff::tz::TimeZone;
use kulprit_proto::v1;
use tonic::Code;

use crate::{
    Terminal,
    commands::{Ask, nodes::has_no_agent},
    error::AskError,
    output, page, shape,
    when::{now_wall_usec, span},
};

/// What `case` is in the answer of a live system.
const LIVE: &str = "live";

/// So many nodes without an agent are named.
const NODES_NAMED: usize = 10;

/// Exit status when a symptom is there and nothing explains it.
pub(super) const ONLY_UNEXPLAINED: u8 = 3;

/// How KubeVirt's kinds of a VM are called on a command line.
pub(crate) const VM_KINDS: [&str; 6] = ["vm", "vms", "virtualmachine", "vmi", "vmis", "virtualmachineinstance"];

/// Whom a person asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Whom {
    Vm(String),
    Migration(String),
    Node(String),
}

impl Whom {
    /// Reads `NAME` or `KIND/NAME`, with the short names that KubeVirt gives its kinds. A name that has a namespace already keeps it, and a
    /// UID needs none.
    pub(super) fn new(text: &str, namespace: Option<&str>) -> Self {
        let (kind, name) = text.split_once('/').unwrap_or(("", text));
        let in_namespace = |name: &str| match namespace {
            Some(namespace) if !name.contains('/') && !is_uid(name) => format!("{namespace}/{name}"),
            Some(_) | None => name.to_owned(),
        };
        match kind {
            "node" | "no" => Self::Node(name.to_owned()),
            "migration" | "vmim" | "vmims" | "virtualmachineinstancemigration" => Self::Migration(in_namespace(name)),
            kind if VM_KINDS.contains(&kind) => Self::Vm(in_namespace(name)),
            _ => Self::Vm(in_namespace(text)),
        }
    }
}

/// Whether this has the form of a Kubernetes UID: 8-4-4-4-12 hexadecimal digits.
fn is_uid(name: &str) -> bool {
    let is_part =
        |(part, digits): (&str, usize)| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    name.split('-').count() == 5 && name.split('-').zip([8, 4, 4, 4, 12]).all(is_part)
}

pub(super) async fn answer(
    ask: &Ask,
    terminal: &mut Terminal,
    whom: Option<Whom>,
    node: Option<String>,
) -> Result<ExitCode, AskError> {
    let mut central = ask.central().await?;
    let only_on = node.unwrap_or_default();
    let mut unseen = Vec::new();
    let verdicts = match whom {
        Some(Whom::Node(node)) => ask.take(central.explain_node(v1::ExplainNodeRequest { node }).await)?.verdicts,
        Some(Whom::Migration(migration)) => {
            ask.take(central.explain_migration(v1::ExplainMigrationRequest { migration }).await)?.verdicts
        }
        Some(Whom::Vm(vm)) => {
            ask.take(central.explain_vm(v1::ExplainVmRequest { vm, node: only_on.clone() }).await)?.verdicts
        }
        None => {
            let request = v1::ListVerdictsRequest { node: only_on.clone() };
            let mut answer = ask.take(central.list_verdicts(request).await)?;
            answer.verdicts.retain(|verdict| is_of(ask.only_namespace(), verdict));
            unseen = answer.unseen;
            answer.verdicts
        }
    };
    let is_unexplained = !verdicts.is_empty() && verdicts.iter().all(has_unexplained_symptom);
    if verdicts.is_empty() {
        let nodes = match central.list_nodes(v1::ListNodesRequest {}).await {
            // The answer stands without them.
            Err(status) if status.code() == Code::PermissionDenied => None,
            answer => Some(ask.take(answer)?.nodes),
        };
        let nodes = nodes.map(|mut nodes| {
            nodes.retain(|node| only_on.is_empty() || node.name == only_on);
            nodes
        });
        let empty = shape::Diagnosis { case: LIVE.to_owned(), verdicts: Vec::new(), problems: Vec::new() };
        output::print(terminal, ask.format, &empty, |terminal| {
            nothing_wrong(terminal, ask.only_namespace(), nodes.as_deref(), &unseen)
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    let verdicts: Vec<shape::Verdict> = verdicts.into_iter().map(shape::Verdict::from).collect();
    let shaped = shape::Diagnosis { case: LIVE.to_owned(), verdicts, problems: Vec::new() };
    output::print(terminal, ask.format, &shaped, |terminal| {
        page::verdicts(terminal, &shaped.verdicts, &TimeZone::system())
    })?;
    Ok(if is_unexplained { ExitCode::from(ONLY_UNEXPLAINED) } else { ExitCode::SUCCESS })
}

fn has_unexplained_symptom(verdict: &v1::Verdict) -> bool {
    verdict.symptom != "Unspecified" && verdict.confidence() == v1::Confidence::Unexplained
}

/// Whether it is about a VM of the namespace, or about a node, which may concern any.
fn is_of(namespace: Option<&str>, verdict: &v1::Verdict) -> bool {
    let Some((namespace, subject)) = namespace.zip(verdict.subject.as_ref()) else { return true };
    subject.namespace == namespace || subject.name.is_empty()
}

/// "Nothing is stuck" is only worth something with what was looked at, and what could not be. `nodes` is `None` for who may not get them.
fn nothing_wrong(
    terminal: &Terminal,
    namespace: Option<&str>,
    nodes: Option<&[v1::Node]>,
    unseen: &[String],
) -> String {
    let of = namespace.map(|namespace| format!(" of namespace {namespace}")).unwrap_or_default();
    let mut text = match nodes {
        Some(nodes) => of_nodes(terminal, &of, nodes),
        None => {
            let claim = terminal.green(&format!("No VM{of} that you may get shows a symptom"));
            let unknown = terminal.yellow("Unknown: which nodes report is not shown to you, who may not get nodes.");
            format!("{claim}.\n{unknown}\n")
        }
    };
    for sentence in unseen {
        text.push_str(&terminal.yellow(&format!("Unknown: {sentence}.")));
        text.push('\n');
    }
    text
}

/// What the nodes' agents have looked at, and what nobody has.
fn of_nodes(terminal: &Terminal, of_namespace: &str, nodes: &[v1::Node]) -> String {
    let mut text = String::new();
    let mut line = |words: String| {
        text.push_str(&words);
        text.push('\n');
    };
    let reporting: Vec<&v1::Node> = nodes.iter().filter(|node| node.is_reporting).collect();
    let (without, silent): (Vec<&v1::Node>, Vec<&v1::Node>) =
        nodes.iter().filter(|node| !node.is_reporting).partition(|node| has_no_agent(node));
    if without.len() == nodes.len() {
        let nobody = "No agent has reported yet, so nothing is known of any host";
        line(format!("{nobody}. Start one with `kulprit-agent run` on each node."));
    }
    if !reporting.is_empty() {
        let claim = terminal.green(&format!("No VM{of_namespace} and no node shows a symptom"));
        let n_vms: u32 = reporting.iter().map(|node| node.n_vms).sum();
        let (vms, n_nodes) = (if n_vms == 1 { "VM" } else { "VMs" }, reporting.len());
        let node = if n_nodes == 1 { "node" } else { "nodes" };
        line(format!("{claim}: {n_vms} {vms} on {n_nodes} {node} watched."));
    }
    for node in silent {
        let heard = match node.last_heard_wall_usec {
            0 => "never heard".to_owned(),
            heard => format!("last heard {} ago", span(now_wall_usec() - heard)),
        };
        let words =
            format!("Unknown: the agent of {} is silent ({heard}); whatever happens there is not seen.", node.name);
        line(terminal.yellow(&words));
    }
    if !without.is_empty() {
        let named: Vec<&str> = without.iter().take(NODES_NAMED).map(|node| node.name.as_str()).collect();
        let more = match without.len() - named.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let words = format!(
            "Unknown: no agent of {}{more} has ever reported; whatever happens there is not seen.",
            named.join(", ")
        );
        line(terminal.yellow(&words));
    }
    for node in reporting.into_iter().filter(|node| node.n_unknown > 0) {
        let states = if node.n_unknown == 1 { "state of {} is" } else { "states of {} are" }.replace("{}", &node.name);
        let words = format!("{} {states} Unknown: `kulprit node {}` says why.", node.n_unknown, node.name);
        line(terminal.yellow(&words));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, namespace: Option<&str>, want: Whom) {
        assert_eq!(Whom::new(text, namespace), want, "{text}");
    }

    #[track_caller]
    fn check_nothing_wrong(nodes: Option<&[v1::Node]>, unseen: &[&str], want: &[&str]) {
        let unseen: Vec<String> = unseen.iter().map(|sentence| (*sentence).to_owned()).collect();
        let terminal = Terminal::capturing(Box::new(std::io::sink()), Box::new(std::io::sink()));
        let text = nothing_wrong(&terminal, Some("prod"), nodes, &unseen);
        assert_eq!(text.lines().collect::<Vec<_>>(), want);
    }

    #[test]
    fn nothing_wrong_comes_with_what_could_not_be_seen_whoever_asks() {
        let (unseen, said) = (["pods are not listed"], "Unknown: pods are not listed.");
        let nobody = "No agent has reported yet, so nothing is known of any host. Start one with `kulprit-agent run` on each node.";
        check_nothing_wrong(Some(&[]), &unseen, &[nobody, said]);
        let node = |name: &str| v1::Node { name: name.to_owned(), n_vms: 2, ..v1::Node::default() };
        let bare = "Unknown: no agent of n2 has ever reported; whatever happens there is not seen.";
        check_nothing_wrong(Some(&[node("n2")]), &unseen, &[nobody, bare, said]);
        let reporting = v1::Node { is_reporting: true, ..node("n1") };
        let silent = v1::Node { agent_version: "1".to_owned(), ..node("n3") };
        let claim = "No VM of namespace prod and no node shows a symptom: 2 VMs on 1 node watched.";
        let away = "Unknown: the agent of n3 is silent (never heard); whatever happens there is not seen.";
        check_nothing_wrong(Some(&[reporting, node("n2"), silent]), &unseen, &[claim, away, bare, said]);
        let many: Vec<v1::Node> = (0..12).map(|n| node(&format!("m{n}"))).collect();
        let named = "Unknown: no agent of m0, m1, m2, m3, m4, m5, m6, m7, m8, m9 and 2 more has ever reported; whatever happens there is not seen.";
        check_nothing_wrong(Some(&many), &[], &[nobody, named]);
        let claim = "No VM of namespace prod that you may get shows a symptom.";
        let hidden = "Unknown: which nodes report is not shown to you, who may not get nodes.";
        check_nothing_wrong(None, &unseen, &[claim, hidden, said]);
    }

    #[test]
    fn a_name_is_a_vms_unless_it_says_otherwise() {
        let vm = |name: &str| Whom::Vm(name.to_owned());
        check("db-0", None, vm("db-0"));
        check("db-0", Some("prod"), vm("prod/db-0"));
        check("prod/db-0", None, vm("prod/db-0"));
        check("prod/db-0", Some("test"), vm("prod/db-0"));
        check("vm/db-0", Some("prod"), vm("prod/db-0"));
        check("vmi/prod/db-0", None, vm("prod/db-0"));
        check("migration/db-0-up", Some("prod"), Whom::Migration("prod/db-0-up".to_owned()));
        check("vmim/prod/db-0-up", None, Whom::Migration("prod/db-0-up".to_owned()));
        let uid = "6f1c9c1e-0b5e-4d3f-9a53-2f8f5c2b7a10";
        check(uid, Some("prod"), vm(uid));
        check(&format!("vm/{uid}"), Some("prod"), vm(uid));
        check("a-b-c-d-e", Some("prod"), vm("prod/a-b-c-d-e"));
        check("node/n1", Some("prod"), Whom::Node("n1".to_owned()));
    }
}
