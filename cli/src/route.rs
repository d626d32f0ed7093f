//! Which way leads to central, and in which namespace a short name is looked for: the options that every question has.
//!
//! One rule. `--central` or `KULPRIT_CENTRAL`: that address. Else, as `kubectl kulprit`, or with any of `--kubeconfig`, `--context` and
//! `--central-namespace`: through Kubernetes (`kubernetes.rs`). Else [`DEFAULT_CENTRAL`].

use std::path::PathBuf;

use clap::Args;

use crate::{called::Called, credentials::CredentialFiles};

/// Where central listens unless told otherwise.
pub(crate) const DEFAULT_CENTRAL: &str = "http://127.0.0.1:7443";

/// What a person says of the way to central.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Where to ask")]
pub(crate) struct Place {
    /// Address of central; without one: through Kubernetes for `kubectl kulprit`, else http://127.0.0.1:7443. https wants --ca.
    #[arg(long, global = true, env = "KULPRIT_CENTRAL", value_name = "URL")]
    pub(crate) central: Option<String>,

    /// Reach central through Kubernetes, with this kubeconfig instead of kubectl's ($KUBECONFIG, ~/.kube/config).
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// Reach central through Kubernetes, with this context of the kubeconfig instead of its current one.
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,

    /// Reach central through Kubernetes, in this namespace; without it: kulprit, else wherever it is found.
    #[arg(long, global = true, value_name = "NAMESPACE")]
    pub(crate) central_namespace: Option<String>,

    /// Namespace of a VM or migration that is named without one, and of the VMs in lists.
    ///
    /// Through Kubernetes a short name is looked for in the context's namespace unless -n or -A is given; lists have all namespaces
    /// unless -n is given, so that no trouble is left out.
    #[arg(short, long, global = true, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,

    /// All namespaces: a short name is looked for in each.
    #[arg(short = 'A', long, global = true)]
    pub(crate) all_namespaces: bool,

    // Last: its heading would stand over what follows.
    #[command(flatten)]
    pub(crate) credentials: CredentialFiles,
}

/// A way to central.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `http://HOST:PORT` or `https://HOST:PORT`.
    Address(String),
    /// A stream to one of its pods, forwarded by the API server.
    Kubernetes(ThroughKubernetes),
}

/// What is said of the way through Kubernetes; `None`: as kubectl would have it, and central's usual namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ThroughKubernetes {
    pub(crate) kubeconfig: Option<PathBuf>,
    pub(crate) context: Option<String>,
    pub(crate) central_namespace: Option<String>,
}

impl Place {
    /// The rule of this file.
    pub(crate) fn route(&self, called: Called) -> Route {
        let through = ThroughKubernetes {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
            central_namespace: self.central_namespace.clone(),
        };
        match (self.central.as_deref().filter(|address| !address.is_empty()), called) {
            (Some(address), _) => Route::Address(address.to_owned()),
            (None, Called::Plugin | Called::Completion) => Route::Kubernetes(through),
            (None, Called::Kulprit) if through != ThroughKubernetes::default() => Route::Kubernetes(through),
            (None, Called::Kulprit) => Route::Address(DEFAULT_CENTRAL.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        place: Place,
    }

    /// `want`: an address, or the options of the way through Kubernetes.
    #[track_caller]
    fn check(called: Called, words: &str, want: Result<&str, [Option<&str>; 3]>) {
        let line = format!("kulprit {words}");
        let mut place = Line::parse_from(line.split_whitespace()).place;
        if !words.contains("--central ") {
            // What the environment of this test says of it is no part of the rule.
            place.central = None;
        }
        let want = match want {
            Ok(address) => Route::Address(address.to_owned()),
            Err([kubeconfig, context, namespace]) => Route::Kubernetes(ThroughKubernetes {
                kubeconfig: kubeconfig.map(PathBuf::from),
                context: context.map(str::to_owned),
                central_namespace: namespace.map(str::to_owned),
            }),
        };
        assert_eq!(place.route(called), want, "{called:?} {words}");
    }

    #[test]
    fn an_address_wins_then_kubernetes_where_it_is_asked_for_then_loopback() {
        use Called::{Completion, Kulprit, Plugin};
        check(Kulprit, "", Ok(DEFAULT_CENTRAL));
        check(Kulprit, "-n prod", Ok(DEFAULT_CENTRAL));
        check(Kulprit, "--central http://c:1", Ok("http://c:1"));
        check(Kulprit, "--central http://c:1 --context lab", Ok("http://c:1"));
        check(Kulprit, "--context lab", Err([None, Some("lab"), None]));
        check(Kulprit, "--kubeconfig f", Err([Some("f"), None, None]));
        check(Kulprit, "--central-namespace ops", Err([None, None, Some("ops")]));
        check(Plugin, "", Err([None; 3]));
        check(Plugin, "--context lab --kubeconfig f", Err([Some("f"), Some("lab"), None]));
        check(Plugin, "--central http://c:1", Ok("http://c:1"));
        check(Completion, "-A", Err([None; 3]));
    }

    #[test]
    fn an_empty_address_is_none() {
        let place = Place { central: Some(String::new()), ..Place::default() };
        assert_eq!(place.route(Called::Kulprit), Route::Address(DEFAULT_CENTRAL.to_owned()));
    }
}
