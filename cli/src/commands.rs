//! Answers each question: ask, shape, print. One file per question that needs more than that.

mod agent_status;
mod can_migrate;
mod capture;
mod causes;
mod diagnose;
mod eval;
mod explain;
mod findings;
mod incidents;
mod nodes;
mod record;
mod support_bundle;
pub(crate) mod why;

use std::{process::ExitCode, sync::OnceLock, time::Duration};

use crate::{
    Terminal,
    arguments::{Arguments, Format, Question},
    called::Called,
    completion,
    connect::connect_to_central,
    credentials::{Central, CredentialFiles},
    error::AskError,
    kubernetes,
    route::{Place, Route},
};

/// Answers the question on the terminal.
pub(crate) async fn answer(
    arguments: Arguments,
    called: Called,
    terminal: &mut Terminal,
) -> Result<ExitCode, AskError> {
    let Arguments { place, output, timeout, question } = arguments;
    let ask = Ask::new(place, called, output, timeout);
    match question {
        Question::Why { name, node } => {
            let Some(name) = name else { return why::answer(&ask, terminal, None, node).await };
            let whom = why::Whom::new(&name, ask.namespace().await?.as_deref());
            let is_guessed = ask.guesses_namespace() && whom != why::Whom::new(&name, None);
            let answer = why::answer(&ask, terminal, Some(whom), node).await;
            return answer.map_err(|error| if is_guessed { error.with_way_elsewhere() } else { error });
        }
        Question::CanMigrate { name, to } => {
            let namespace = ask.namespace().await?;
            return can_migrate::answer(&ask, terminal, &name, namespace.as_deref(), to).await;
        }
        Question::Diagnose { case, vm, migration, at, explain } => {
            return diagnose::answer(ask.format, terminal, &diagnose::Asked { case, vm, migration, at, explain });
        }
        Question::Record { subject, out, from, to } => {
            let whom = why::Whom::new(&subject, ask.namespace().await?.as_deref());
            record::answer(&ask, terminal, whom, &out, &record::Times { from, to }).await?;
        }
        Question::SupportBundle { out } => return support_bundle::answer(&ask, terminal, &out).await,
        Question::Eval { folder, all } => return eval::answer(ask.format, terminal, &folder, all),
        Question::Incidents { id: Some(id), captures, .. } => {
            incidents::answer_one(&ask, terminal, captures, id).await?;
        }
        Question::Incidents { id: None, all, which, watch: true, .. } => {
            incidents::watch(&ask, terminal, all, which).await?;
        }
        Question::Incidents { id: None, all, which, .. } => incidents::answer_list(&ask, terminal, all, which).await?,
        Question::Capture { vm, node } => {
            let namespace = ask.namespace().await?;
            return capture::answer(&ask, terminal, &vm, namespace.as_deref(), node).await;
        }
        Question::Nodes => nodes::answer_list(&ask, terminal).await?,
        Question::Node { name, all } => nodes::answer_one(&ask, terminal, name, all).await?,
        Question::Vms { node } => nodes::answer_vms(&ask, terminal, node).await?,
        Question::Findings { node, code, all, since } => {
            findings::answer(&ask, terminal, node, code, all, since).await?;
        }
        Question::Status { socket } => agent_status::answer(&ask, terminal, socket).await?,
        Question::Causes { id } => causes::answer(ask.format, terminal, id.as_deref())?,
        Question::Completions { shell } => terminal.print(&String::from_utf8_lossy(&completion::script(shell))),
    }
    Ok(ExitCode::SUCCESS)
}

/// How a question is asked.
pub(crate) struct Ask {
    route: Route,
    /// Given with `-n`, and not taken back by `-A`.
    named_namespace: Option<String>,
    all_namespaces: bool,
    credentials: CredentialFiles,
    format: Format,
    timeout_secs: u64,
    /// Why central is shown no token, where one was looked for.
    why_no_token: OnceLock<String>,
}

impl Ask {
    pub(crate) fn new(place: Place, called: Called, format: Format, timeout_secs: u64) -> Self {
        let route = place.route(called);
        let Place { namespace, all_namespaces, credentials, .. } = place;
        let named_namespace = namespace.filter(|_| !all_namespaces);
        let why_no_token = OnceLock::new();
        Self { route, named_namespace, all_namespaces, credentials, format, timeout_secs, why_no_token }
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_secs)
    }

    pub(crate) async fn central(&self) -> Result<Central, AskError> {
        match &self.route {
            Route::Address(address) => connect_to_central(address, &self.credentials, self.timeout()).await,
            Route::Kubernetes(through) => {
                let (central, why_no_token) = kubernetes::connect(through, &self.credentials, self.timeout()).await?;
                if let Some(why) = why_no_token {
                    self.why_no_token.get_or_init(|| why);
                }
                Ok(central)
            }
        }
    }

    /// Where what is named without a namespace is looked for: that of `-n`, else through Kubernetes the context's. `None`: in all.
    pub(crate) async fn namespace(&self) -> Result<Option<String>, AskError> {
        match &self.route {
            Route::Kubernetes(through) if self.guesses_namespace() => {
                Ok(Some(kubernetes::default_namespace(through).await?))
            }
            Route::Kubernetes(_) | Route::Address(_) => Ok(self.named_namespace.clone()),
        }
    }

    /// Whether the namespace is the context's, and not what the person said.
    fn guesses_namespace(&self) -> bool {
        matches!(self.route, Route::Kubernetes(_)) && self.named_namespace.is_none() && !self.all_namespaces
    }

    /// The namespace to which a list is cut: only what `-n` names, because a list without it has all trouble.
    fn only_namespace(&self) -> Option<&str> {
        self.named_namespace.as_deref()
    }

    /// The value of an answer, or what its status means.
    pub(crate) fn take<T>(&self, answer: Result<tonic::Response<T>, tonic::Status>) -> Result<T, AskError> {
        self.take_from(self.whom(), answer)
    }

    /// Who is asked, as errors name him.
    fn whom(&self) -> &str {
        match &self.route {
            Route::Address(address) => address,
            Route::Kubernetes(_) => "central",
        }
    }

    fn take_from<T>(&self, whom: &str, answer: Result<tonic::Response<T>, tonic::Status>) -> Result<T, AskError> {
        match answer {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(self.failure(whom, &status)),
        }
    }

    /// What it means that an answer broke off.
    fn failed(&self, status: &tonic::Status) -> AskError {
        self.failure(self.whom(), status)
    }

    fn failure(&self, whom: &str, status: &tonic::Status) -> AskError {
        match (AskError::from_status(whom, self.timeout_secs, status), self.why_no_token.get()) {
            (AskError::Refused { message }, Some(why)) if status.code() == tonic::Code::Unauthenticated => {
                AskError::Refused { message: format!("{message}; {why}") }
            }
            (error, _) => error,
        }
    }
}
