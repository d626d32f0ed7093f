//! `kulprit capture`: what the nodes of a VM show of it now.

use std::process::ExitCode;

use kulprit_proto::v1::{self, node_capture::Outcome};

use crate::{
    Terminal,
    commands::{Ask, incidents::captures, why::Whom},
    error::AskError,
    output, shape,
    table::one_line,
};

/// Exit status when no node showed anything.
const NOTHING_SHOWN: u8 = 3;

pub(super) async fn answer(
    ask: &Ask,
    terminal: &mut Terminal,
    name: &str,
    namespace: Option<&str>,
    node: Option<String>,
) -> Result<ExitCode, AskError> {
    let Whom::Vm(vm) = Whom::new(name, namespace) else {
        return Err(AskError::Refused { message: format!("`{name}` is no VM, and captures are of VMs") });
    };
    let mut central = ask.central().await?;
    let mut request = tonic::Request::new(v1::CaptureVmRequest { vm: vm.clone(), node: node.unwrap_or_default() });
    // So that central answers for those that have not, before this side gives up.
    request.set_timeout(ask.timeout());
    let v1::CaptureVmResponse { vm_uid, nodes } = ask.take(central.capture(request).await)?;
    let is_shown = nodes.iter().any(|node| matches!(node.outcome, Some(Outcome::Result(_))));
    let shaped = shape::Captured { vm_uid, nodes: nodes.iter().cloned().map(shape::NodeCapture::from).collect() };
    output::print(terminal, ask.format, &shaped, |terminal| page(terminal, &vm, nodes))?;
    Ok(if is_shown { ExitCode::SUCCESS } else { ExitCode::from(NOTHING_SHOWN) })
}

/// One node after the other.
fn page(terminal: &Terminal, vm: &str, nodes: Vec<v1::NodeCapture>) -> String {
    let mut text = String::new();
    for v1::NodeCapture { node, outcome } in nodes {
        match outcome {
            Some(Outcome::Result(result)) => {
                text.push_str(&captures::render_one(terminal, &format!("VM {vm} on {node}"), &result, true));
            }
            Some(Outcome::WhyNot(why)) => {
                let line = format!("Unknown: {node} has shown nothing: {}.", one_line(&why));
                text.push_str(&format!("\n{}\n", terminal.yellow(&line)));
            }
            // A newer central says something that we need not understand.
            None => {}
        }
    }
    text.trim_start_matches('\n').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_is_answered_for() {
        let section =
            |text: &str| v1::CaptureSection { name: "threads".to_owned(), text: text.to_owned(), lacks: String::new() };
        let result = v1::CaptureResult { sections: vec![section("one\ntwo")], ..Default::default() };
        let nodes = vec![
            v1::NodeCapture { node: "n1".to_owned(), outcome: Some(Outcome::Result(result)) },
            v1::NodeCapture {
                node: "n2".to_owned(),
                outcome: Some(Outcome::WhyNot("its agent does\nnot report".to_owned())),
            },
        ];
        let terminal = Terminal::capturing(Box::new(std::io::sink()), Box::new(std::io::sink()));
        let text = page(&terminal, "prod/db-0", nodes);
        assert!(text.starts_with("Capture of VM prod/db-0 on n1, ") && text.contains("\n    two\n"), "{text}");
        assert!(text.ends_with("\nUnknown: n2 has shown nothing: its agent does not report.\n"), "{text}");
    }
}
