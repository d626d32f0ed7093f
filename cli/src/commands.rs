//! Answers each question: ask, shape, print. One file per question that needs more than that.

mod agent_status;
mod causes;
mod diagnose;
mod eval;
mod explain;
mod findings;
mod incidents;
mod nodes;
mod why;

use std::{process::ExitCode, time::Duration};

use clap::CommandFactory as _;
use kulprit_proto::v1::query_client::QueryClient;
use tonic::transport::Channel;

use crate::{
    Terminal,
    arguments::{Arguments, Format, Question},
    connect::connect_to_central,
    error::AskError,
};

/// Answers the question on the terminal.
pub(crate) async fn answer(arguments: Arguments, terminal: &mut Terminal) -> Result<ExitCode, AskError> {
    let Arguments { central, output, timeout, question } = arguments;
    let ask = Ask { central, format: output, timeout_secs: timeout };
    match question {
        Question::Why { name, namespace, node } => {
            let whom = name.map(|name| why::Whom::new(&name, namespace.as_deref()));
            return why::answer(&ask, terminal, whom, node).await;
        }
        Question::Diagnose { case, vm, migration, at, explain } => {
            return diagnose::answer(ask.format, terminal, &diagnose::Asked { case, vm, migration, at, explain });
        }
        Question::Eval { folder, all } => return eval::answer(ask.format, terminal, &folder, all),
        Question::Incidents { all, captures, id } => incidents::answer(&ask, terminal, all, captures, id).await?,
        Question::Nodes => nodes::answer_list(&ask, terminal).await?,
        Question::Node { name, all } => nodes::answer_one(&ask, terminal, name, all).await?,
        Question::Vms { node } => nodes::answer_vms(&ask, terminal, node).await?,
        Question::Findings { node, code, all, since } => {
            findings::answer(&ask, terminal, node, code, all, since).await?;
        }
        Question::Status { socket } => agent_status::answer(&ask, terminal, socket).await?,
        Question::Causes { id } => causes::answer(ask.format, terminal, id.as_deref())?,
        Question::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "kulprit", &mut text);
            terminal.print(&String::from_utf8_lossy(&text));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// How a question is asked.
struct Ask {
    central: String,
    format: Format,
    timeout_secs: u64,
}

impl Ask {
    fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_secs)
    }

    async fn central(&self) -> Result<QueryClient<Channel>, AskError> {
        connect_to_central(&self.central, self.timeout()).await
    }

    /// The value of an answer, or what its status means.
    fn take<T>(&self, answer: Result<tonic::Response<T>, tonic::Status>) -> Result<T, AskError> {
        self.take_from(&self.central, answer)
    }

    fn take_from<T>(&self, whom: &str, answer: Result<tonic::Response<T>, tonic::Status>) -> Result<T, AskError> {
        match answer {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(AskError::from_status(whom, self.timeout_secs, &status)),
        }
    }
}
