//! What could come next on the command line: words of the command itself, and the names that central knows.
//!
//! One engine (clap's) for two askers. The script of `kulprit completions bash` calls `kulprit` again with the words typed so far. kubectl
//! starts `kubectl_complete-kulprit`, or `kulprit __complete` by a script of that name, with the words after `kubectl kulprit`, and reads a
//! candidate a line and at last a directive, as cobra's programs print them. Names are asked of the central that the words on the line lead
//! to, for [`WITHIN`] at most; what goes wrong is not said, because a person is in the middle of a word.
//!
//! Source: <https://kubernetes.io/docs/tasks/extend-kubectl/kubectl-plugins/#using-the-command-line-runtime-package> and cobra's
//! `completions.go` (`ShellCompDirective`).

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    path::Path,
    sync::Arc,
    time::Duration,
};

use clap::{ArgMatches, Command, CommandFactory as _, FromArgMatches as _};
use clap_complete::{
    ArgValueCompleter, CompletionCandidate, Shell,
    env::{CompleteEnv, Shells},
};
use kulprit_proto::v1;

use crate::{
    arguments::{Arguments, Format},
    called::Called,
    commands::{Ask, why},
    error::AskError,
    route::Place,
};

/// How long a person waits for a Tab at most.
const WITHIN: Duration = Duration::from_secs(2);
/// What a shell's script sets to the shell's name when it asks.
const VARIABLE: &str = "COMPLETE";
/// First word of a command line that asks in cobra's way.
pub(crate) const COBRA: &str = "__complete";
/// cobra's directive: no file names besides.
const NO_FILES: &str = ":4";

/// What an argument names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    /// A VM, or a node as `node/NAME`.
    Whom,
    Node,
    Namespace,
    Incident,
    Cause,
}

/// Arguments of subcommands whose values are names; `--node` is one everywhere.
const NAMED: &[(&str, &str, Named)] = &[
    ("why", "name", Named::Whom),
    ("can-migrate", "name", Named::Whom),
    ("can-migrate", "to", Named::Node),
    ("capture", "vm", Named::Whom),
    ("record", "subject", Named::Whom),
    ("node", "name", Named::Node),
    ("incidents", "id", Named::Incident),
    ("causes", "id", Named::Cause),
];

/// The script that makes a shell complete `kulprit`.
pub(crate) fn script(shell: Shell) -> Vec<u8> {
    let mut text = Vec::new();
    let (shells, name) = (Shells::builtins(), shell.to_string());
    let written = shells
        .completer(&name)
        .map(|shell| shell.write_registration(VARIABLE, "kulprit", "kulprit", "kulprit", &mut text));
    written.expect("the engine has the shells of its own list").expect("memory can be written");
    text
}

/// Answers a shell's script; `false` if none asks, as on every usual run. Prints by itself.
pub(crate) fn answer_shell(called: Called, words: &[OsString]) -> bool {
    let line: Vec<OsString> = words.iter().skip_while(|word| *word != "--").skip(1).cloned().collect();
    let folder = std::env::current_dir().ok();
    let env = CompleteEnv::with_factory(|| command(called, &line)).var(VARIABLE);
    // A script of another version may ask what is not understood.
    env.try_complete(words, folder.as_deref()).unwrap_or(true)
}

/// The answer in cobra's words to the words after the command's name, of which the last one is being typed.
pub(crate) fn for_cobra(called: Called, words: &[OsString]) -> String {
    let mut line = vec![OsString::from("kulprit")];
    line.extend_from_slice(words);
    if words.is_empty() {
        line.push(OsString::new());
    }
    let folder = std::env::current_dir().ok();
    in_cobras_words(&complete(command(called, &line), line, folder.as_deref()))
}

fn complete(mut command: Command, line: Vec<OsString>, folder: Option<&Path>) -> Vec<CompletionCandidate> {
    let last = line.len().saturating_sub(1);
    let is_flag = line.last().is_some_and(|word| word.to_string_lossy().starts_with('-'));
    let mut candidates = clap_complete::engine::complete(&mut command, line, last, folder).unwrap_or_default();
    // Flags are shown to who begins one, as kubectl does.
    candidates.retain(|candidate| {
        !candidate.is_hide_set() && (is_flag || !candidate.get_value().to_string_lossy().starts_with('-'))
    });
    candidates
}

fn in_cobras_words(candidates: &[CompletionCandidate]) -> String {
    let mut text = String::new();
    for candidate in candidates {
        text.push_str(&candidate.get_value().to_string_lossy());
        let help = candidate.get_help().map(ToString::to_string).unwrap_or_default();
        if let Some(first) = help.lines().next().filter(|line| !line.is_empty()) {
            text.push('\t');
            text.push_str(first);
        }
        text.push('\n');
    }
    text + NO_FILES + "\n"
}

/// The command with a completer on each argument that is a name; they see the whole line.
fn command(called: Called, line: &[OsString]) -> Command {
    let line: Arc<[OsString]> = line.into();
    let completer = |named: Named| {
        let line = line.clone();
        ArgValueCompleter::new(move |current: &OsStr| candidates(named, called, &line, current))
    };
    let mut command = Arguments::command().mut_arg("namespace", |arg| arg.add(completer(Named::Namespace)));
    let has_node = |command: &&Command| command.get_arguments().any(|arg| arg.get_long() == Some("node"));
    let with_node: Vec<String> =
        command.get_subcommands().filter(has_node).map(|command| command.get_name().to_owned()).collect();
    for name in with_node {
        command =
            command.mut_subcommand(name, |command| command.mut_arg("node", |arg| arg.add(completer(Named::Node))));
    }
    for (name, arg, named) in NAMED {
        command = command.mut_subcommand(name, |command| command.mut_arg(arg, |arg| arg.add(completer(*named))));
    }
    command
}

fn candidates(named: Named, called: Called, line: &[OsString], current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return Vec::new() };
    let names = match named {
        Named::Cause => kulprit_diagnosis::CAUSES.iter().map(|cause| cause.id.to_owned()).collect(),
        Named::Whom | Named::Node | Named::Namespace | Named::Incident => {
            let ask = Ask::new(place(line), called, Format::Human, WITHIN.as_secs());
            ask_for(WITHIN, names(named, &ask, current)).unwrap_or_default()
        }
    };
    names
        .into_iter()
        .filter(|name| is_a_word(name) && name.starts_with(current))
        .map(CompletionCandidate::new)
        .collect()
}

/// Whether a name can stand on a command line as it is; of a libvirt without KubeVirt it may hold anything.
fn is_a_word(name: &str) -> bool {
    name.chars().all(|letter| letter.is_alphanumeric() || "-_./".contains(letter))
}

/// What the line says so far of where central is; the rest of it may be anything.
fn place(line: &[OsString]) -> Place {
    let matches: Option<ArgMatches> = Arguments::command().ignore_errors(true).try_get_matches_from(line).ok();
    matches.and_then(|matches| Place::from_arg_matches(&matches).ok()).unwrap_or_default()
}

/// What it answers in time; `None` if it fails or lasts.
fn ask_for<T>(limit: Duration, asking: impl Future<Output = Result<T, AskError>>) -> Option<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let answer = runtime.block_on(async { tokio::time::timeout(limit, asking).await });
    // A program that makes credentials may still run.
    runtime.shutdown_background();
    answer.ok()?.ok()
}

async fn names(named: Named, ask: &Ask, current: &str) -> Result<BTreeSet<String>, AskError> {
    let mut central = ask.central().await?;
    let mut names = BTreeSet::new();
    match named {
        Named::Node => {
            let nodes = ask.take(central.list_nodes(v1::ListNodesRequest {}).await)?.nodes;
            names.extend(nodes.into_iter().map(|node| node.name));
        }
        Named::Incident => {
            let request = v1::ListIncidentsRequest { include_closed: true, ..v1::ListIncidentsRequest::default() };
            let incidents = ask.take(central.list_incidents(request).await)?.incidents;
            names.extend(incidents.into_iter().map(|incident| incident.id));
        }
        Named::Namespace => {
            let vms = ask.take(central.list_vms(v1::ListVmsRequest::default()).await)?.vms;
            names.extend(vms.into_iter().map(|vm| vm.namespace).filter(|namespace| !namespace.is_empty()));
        }
        Named::Whom => {
            let namespace = ask.namespace().await?;
            let vms = ask.take(central.list_vms(v1::ListVmsRequest::default()).await)?.vms;
            // One that is on no node is in trouble, or not asked for.
            let verdicts = ask.take(central.list_verdicts(v1::ListVerdictsRequest::default()).await)?.verdicts;
            let subjects = verdicts.into_iter().filter_map(|verdict| verdict.subject);
            let of_subjects = subjects.map(|subject| (subject.namespace, subject.name));
            let vms: BTreeSet<(String, String)> =
                vms.into_iter().map(|vm| (vm.namespace, vm.name)).chain(of_subjects).collect();
            names.extend(of_vms(vms, namespace.as_deref(), current));
            // Many, and seldom meant: for who begins to type one.
            if !current.is_empty() && (current.starts_with("node/") || "node/".starts_with(current)) {
                let nodes = ask.take(central.list_nodes(v1::ListNodesRequest {}).await)?.nodes;
                names.extend(nodes.into_iter().map(|node| format!("node/{}", node.name)));
            }
        }
        Named::Cause => {}
    }
    Ok(names)
}

/// How VMs are named on this line: with the kind that was typed, and with their namespace where they would not be looked for without.
fn of_vms(
    vms: impl IntoIterator<Item = (String, String)>,
    namespace: Option<&str>,
    current: &str,
) -> impl Iterator<Item = String> {
    let kind = current.split_once('/').map(|(kind, _)| kind).filter(|kind| why::VM_KINDS.contains(kind));
    let prefix = kind.map(|kind| format!("{kind}/")).unwrap_or_default();
    let namespace = namespace.map(str::to_owned);
    vms.into_iter().filter(|(_, name)| !name.is_empty()).map(move |(of, name)| match &namespace {
        Some(namespace) if *namespace == of => format!("{prefix}{name}"),
        _ if of.is_empty() => format!("{prefix}{name}"),
        Some(_) | None => format!("{prefix}{of}/{name}"),
    })
}

#[cfg(test)]
mod tests;
