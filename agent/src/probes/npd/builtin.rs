//! What node-problem-detector's own helper programs do, done here: `health-checker` and `log-counter`.
//!
//! Recognised by the name of the program and its flags, as real configurations write them; nothing is executed, and nothing is
//! repaired. What such a command line asks for and we do not do is Unknown, with the reason.
//! Source: kubernetes/node-problem-detector `cmd/healthchecker/options`, `cmd/logcounter/options`, `pkg/healthchecker`.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, time::Duration};

use kulprit_host::{
    http,
    journal::{JournalReader, JournalStart},
    kmsg::{KmsgItem, KmsgStart},
};
use regex::bytes::{Regex, RegexBuilder};
use tokio::time::timeout;

use super::{
    plugin::{Outcome, Verdict},
    rules::{CustomRule, duration},
};
use crate::probes::{ProbeContext, blocking::Blocking, chain, kernel_log::open_log, runtime::client};

/// kube-proxy's `--healthz-bind-address`, its own default.
const KUBE_PROXY: ([u8; 4], u16) = ([127, 0, 0, 1], 10256);
/// Entries of a journal read at a time.
const ENTRIES: usize = 4_096;

/// A helper's command line.
#[derive(Debug, PartialEq)]
pub(super) enum Builtin {
    Health {
        component: String,
        socket: Option<String>,
    },
    Count(Count),
    /// A helper, asked for something that we do not do.
    Unknown(String),
}

/// How many lines of a log match.
#[derive(Debug)]
pub(super) struct Count {
    /// `kernel`, or a syslog identifier.
    source: String,
    lookback: Duration,
    at_least: u64,
    pattern: Regex,
    revert: Option<Regex>,
}

impl PartialEq for Count {
    fn eq(&self, other: &Self) -> bool {
        (&self.source, self.lookback, self.at_least, self.pattern.as_str())
            == (&other.source, other.lookback, other.at_least, other.pattern.as_str())
    }
}

/// The helper that a rule calls; `None` for any other program.
pub(super) fn of_rule(rule: &CustomRule) -> Option<Builtin> {
    let name = Path::new(&rule.path).file_name()?.to_str()?;
    let flags = flags_of(&rule.args);
    let flag = |name: &str| flags.get(name).map(String::as_str).filter(|value| !value.is_empty());
    match name {
        "health-checker" => Some(Builtin::Health {
            component: flag("component").unwrap_or("kubelet").to_owned(),
            socket: flag("cri-socket-path").map(|path| path.trim_start_matches("unix://").to_owned()),
        }),
        "log-counter" => Some(count_of(&flag).map_or_else(Builtin::Unknown, Builtin::Count)),
        _ => None,
    }
}

fn count_of<'a>(flag: &impl Fn(&str) -> Option<&'a str>) -> Result<Count, String> {
    let pattern = |name: &str| {
        flag(name)
            .map(|text| RegexBuilder::new(text).unicode(false).build().map_err(|error| format!("--{name}: {error}")))
            .transpose()
    };
    Ok(Count {
        source: flag("journald-source").unwrap_or("kernel").to_owned(),
        lookback: duration("--lookback", flag("lookback"), Duration::ZERO)?,
        at_least: flag("count").unwrap_or("1").parse().map_err(|error| format!("--count: {error}"))?,
        pattern: pattern("pattern")?.ok_or("--pattern is missing")?,
        revert: pattern("revert-pattern")?,
    })
}

/// `--name=value`, `-name value` and `--name`, as Go's flags are written.
fn flags_of(args: &[String]) -> BTreeMap<String, String> {
    let mut flags = BTreeMap::new();
    let mut rest = args.iter().peekable();
    while let Some(arg) = rest.next() {
        let Some(name) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')) else { continue };
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => (name, rest.next_if(|next| !next.starts_with('-')).cloned().unwrap_or_default()),
        };
        flags.insert(name.to_owned(), value);
    }
    flags
}

/// Does what the helper would.
pub(super) async fn run(builtin: &Builtin, context: &ProbeContext, within: Duration) -> Outcome {
    let answer = match builtin {
        Builtin::Unknown(why) => return Outcome::unknown(why.as_str()),
        Builtin::Health { component, socket } => {
            timeout(within, health(context, component, socket.as_deref(), within)).await
        }
        Builtin::Count(count) => timeout(within, count_lines(context, count, within)).await,
    };
    answer.unwrap_or_else(|_| Outcome::unknown(format!("no answer within {} ms", within.as_millis())))
}

async fn health(context: &ProbeContext, component: &str, socket: Option<&str>, within: Duration) -> Outcome {
    match component {
        "kubelet" => match crate::probes::kubelet::split_url(&context.config.healthz_url) {
            Some((address, path)) => get_healthz(address, path, within, component).await,
            None => Outcome::unknown("probes.healthz_url is no address"),
        },
        "kube-proxy" => get_healthz(SocketAddr::from(KUBE_PROXY), "/healthz", within, component).await,
        "cri" => ask_runtime(context, socket).await,
        other => Outcome::unknown(format!("health of {other} is not looked at here; run its own program")),
    }
}

async fn get_healthz(address: SocketAddr, path: &str, within: Duration, component: &str) -> Outcome {
    match http::get(address, path, within).await {
        Ok(answer) if answer.status == 200 => {
            Outcome { verdict: Verdict::Ok, message: format!("{component} is healthy") }
        }
        Ok(answer) => Outcome {
            verdict: Verdict::NonOk,
            message: format!("{component} answers {} {}", answer.status, answer.body),
        },
        Err(error) => Outcome { verdict: Verdict::NonOk, message: chain(&error) },
    }
}

async fn ask_runtime(context: &ProbeContext, socket: Option<&str>) -> Outcome {
    let configured = context.config.runtime_sockets.iter().map(|path| path.display().to_string());
    let mut failure = "no socket of a container runtime is there".to_owned();
    for path in socket.map(str::to_owned).into_iter().chain(configured) {
        let asked = async {
            let mut client = client::CriClient::new(client::open(&context.host, &path)?).await?;
            client.version().await
        };
        match asked.await {
            Ok(version) => return Outcome { verdict: Verdict::Ok, message: version },
            Err(client::CallError::NotFound) => {}
            Err(error) => failure = format!("{path}: {error:?}"),
        }
    }
    Outcome { verdict: Verdict::NonOk, message: failure }
}

async fn count_lines(context: &ProbeContext, count: &Count, within: Duration) -> Outcome {
    let (host, now) = (context.host.clone(), context.clock.now());
    let lookback_usec = i64::try_from(count.lookback.as_micros()).unwrap_or(i64::MAX);
    let (pattern, revert) = (count.pattern.clone(), count.revert.clone());
    let source = count.source.clone();
    let counted = Blocking::default()
        .run(within, move || {
            let mut n_lines = 0_i64;
            let mut take = |line: &[u8]| {
                n_lines += i64::from(pattern.is_match(line));
                n_lines -= i64::from(revert.as_ref().is_some_and(|revert| revert.is_match(line)));
            };
            let read = if source == "kernel" {
                read_kernel(&host, now.boottime_usec.saturating_sub(lookback_usec), &mut take)
            } else {
                let start = JournalStart::Since(now.wall_usec.saturating_sub(lookback_usec));
                read_journal(JournalReader::of_identifiers(host, vec![source], start), &mut take)
            };
            read.map(|()| n_lines)
        })
        .await;
    match counted {
        Ok(Ok(n_lines)) if u64::try_from(n_lines).is_ok_and(|n_lines| n_lines >= count.at_least) => Outcome {
            verdict: Verdict::NonOk,
            message: format!("Found {n_lines} matching logs, which meets the threshold of {}", count.at_least),
        },
        Ok(Ok(_)) => Outcome { verdict: Verdict::Ok, message: String::new() },
        Ok(Err(error)) => Outcome::unknown(chain(&error)),
        Err(late) => Outcome::unknown(format!("reading the log has not returned for {} s", late.for_secs)),
    }
}

fn read_kernel(
    host: &kulprit_host::HostRoot,
    since_usec: i64,
    take: &mut impl FnMut(&[u8]),
) -> Result<(), kulprit_host::ReadError> {
    let mut reader = open_log(host, &KmsgStart::Oldest)?;
    while let Some(item) = reader.try_next()? {
        if let KmsgItem::Record(record) = item
            && i64::try_from(record.usec).is_ok_and(|usec| usec >= since_usec)
        {
            take(record.text.as_bytes());
        }
    }
    Ok(())
}

fn read_journal(mut reader: JournalReader, take: &mut impl FnMut(&[u8])) -> Result<(), kulprit_host::ReadError> {
    while !reader.poll(ENTRIES, |entry| take(entry.message.trim_ascii()))?.is_drained {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(path: &str, args: &[&str]) -> CustomRule {
        CustomRule {
            condition: None,
            reason: String::new(),
            path: path.to_owned(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            timeout: Duration::from_secs(1),
            invoke_interval: Duration::from_secs(30),
        }
    }

    #[test]
    fn the_helpers_of_real_configurations_are_known_by_their_command_lines() {
        // config/health-checker-kubelet.json, config/kernel-monitor-counter.json, config/systemd-monitor-counter.json.
        let kubelet =
            ["--component=kubelet", "--enable-repair=true", "--cooldown-time=1m", "--health-check-timeout=10s"];
        let want = Builtin::Health { component: "kubelet".to_owned(), socket: None };
        assert_eq!(of_rule(&rule("/opt/npd/bin/health-checker", &kubelet)), Some(want));
        let restarts = [
            "--journald-source=systemd",
            "--log-path=/var/log/journal",
            "--lookback=20m",
            "--delay=5m",
            "--count=5",
            "--pattern=Started (Kubernetes kubelet|kubelet.service)",
        ];
        let Some(Builtin::Count(count)) = of_rule(&rule("/opt/npd/bin/log-counter", &restarts)) else {
            panic!("it counts lines")
        };
        assert_eq!((count.source.as_str(), count.lookback, count.at_least), ("systemd", Duration::from_secs(1200), 5));
        assert!(count.pattern.is_match(b"Started Kubernetes kubelet."));
        assert_eq!(of_rule(&rule("./check_ntp.sh", &[])), None);
    }

    #[test]
    fn a_command_line_that_cannot_be_followed_says_why() {
        for (args, want) in [(&["--count=x", "--pattern=y"][..], "--count"), (&["--count=1"], "--pattern is missing")] {
            let Some(Builtin::Unknown(why)) = of_rule(&rule("log-counter", args)) else { panic!("{args:?}") };
            assert!(why.contains(want), "{why}");
        }
    }

    #[test]
    fn flags_are_written_in_three_ways() {
        let args = ["--a=1", "-b", "2", "--c", "--d"].map(str::to_owned);
        let flags = flags_of(&args);
        assert_eq!((flags["a"].as_str(), flags["b"].as_str(), flags["c"].as_str()), ("1", "2", ""));
    }
}
