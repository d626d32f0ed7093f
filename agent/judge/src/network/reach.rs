//! Whether the node reaches what it needs: a default route, name servers, the registry of an image that cannot be pulled.
//!
//! One state for the node, so the first of these that fails is told: without a route nothing else works, and without names no
//! registry is found. That a name server answers is what counts, not what it answers about the root: only for the API
//! server's own name is an error a fault. A registry is told by how far it was reached.

use std::net::IpAddr;

use kulprit_host::network::{Link, TcpSocket};
use kulprit_model::{Attributes, FindingCode, Moment, Subject, attribute};

use crate::say::{PROCFS, SYSFS, absent, present, unknown};
use crate::verdict::{StateVerdict, Verdict};

/// Share of packets that are broken, percent: the catalogue's threshold.
const ERRORS_PCT: u64 = 1;
/// Packets of a look below which nothing is said: a few broken ones of few are chance.
const MIN_PACKETS: u64 = 100;

/// What came of asking the name servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameSeen {
    /// One answered.
    Answered {
        /// Which.
        server: IpAddr,
        /// Code of the answer: 0 no error, 2 the server failed, 3 no such name, 5 refused.
        code: u8,
        /// The name, if one was asked that must be there; `None`: any answer will do.
        name: Option<String>,
    },
    /// None answered.
    Silent {
        /// Who was asked, in order.
        servers: Vec<IpAddr>,
    },
    /// Nobody was asked, and why.
    NotAsked(String),
}

/// How far a registry was reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegistryReach {
    /// It speaks.
    Reached,
    /// Its name has no address; one of the `FAILURE_*` values.
    NoAddress(&'static str),
    /// No connection; one of the `FAILURE_*` values.
    NoConnection(&'static str),
    /// A connection, and no TLS on it; one of the `FAILURE_*` values.
    NoTls(&'static str),
    /// Nobody tried, and why.
    NotTried(String),
}

/// A registry that was tried because an image of it cannot be pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistrySeen {
    /// The image.
    pub image: String,
    /// Host and port of the registry, or of the mirror.
    pub server: String,
    /// How far it was reached.
    pub reach: RegistryReach,
}

/// One look at what the node reaches.
#[derive(Clone, Copy, Debug)]
pub struct ReachLook<'a> {
    /// When.
    pub at: Moment,
    /// Whether there is a default route now; `None`: not known.
    pub has_route: Option<bool>,
    /// Whether there was one before.
    pub had_route: bool,
    /// What the name servers said.
    pub names: &'a NameSeen,
    /// Registries under suspicion.
    pub registries: &'a [RegistrySeen],
}

/// `NetworkUnreachable` of the node.
#[must_use]
pub fn judge_reach(look: &ReachLook<'_>) -> Verdict {
    let code = FindingCode::NetworkUnreachable;
    let says = |what: &str, server: Option<String>, failure: &str, text: String| {
        let facts = Attributes::new()
            .with(attribute::WHAT, what)
            .with_some(attribute::SERVER, server)
            .with(attribute::FAILURE, failure);
        present(code, &Subject::Node, look.at, "network", facts, text)
    };
    Verdict::State(if look.has_route == Some(false) && look.had_route {
        says("route", None, attribute::FAILURE_NOT_FOUND, "the node has lost its default route".to_owned())
    } else if let NameSeen::Silent { servers } = look.names {
        let shown: Vec<String> = servers.iter().map(ToString::to_string).collect();
        let text = format!("no name server answers: {}", shown.join(", "));
        says("dns", servers.first().map(ToString::to_string), attribute::FAILURE_TIMEOUT, text)
    } else if let NameSeen::Answered { server, code: answer @ 1.., name: Some(name) } = look.names {
        let (failure, words) = match answer {
            3 => (attribute::FAILURE_NOT_FOUND, "knows no such name"),
            5 => (attribute::FAILURE_REFUSED, "refuses to look up"),
            _ => (attribute::FAILURE_MALFORMED, "fails to look up"),
        };
        says("dns", Some(server.to_string()), failure, format!("{server} {words}: {name}, the API server's"))
    } else if let Some(state) = look.registries.iter().find_map(|seen| registry_fault(seen, &says)) {
        state
    } else if let NameSeen::NotAsked(why) = look.names {
        unknown(code, &Subject::Node, why.as_str())
    } else {
        let server = match look.names {
            NameSeen::Answered { server, .. } => server.to_string(),
            NameSeen::Silent { .. } | NameSeen::NotAsked(_) => String::new(),
        };
        let reached = look.registries.iter().filter(|seen| seen.reach == RegistryReach::Reached);
        let mut text = format!("the name server {server} answers");
        for seen in reached {
            text = format!("{text}, {} speaks", seen.server);
        }
        absent(code, &Subject::Node, look.at, "network", text)
    })
}

fn registry_fault(
    seen: &RegistrySeen,
    says: &impl Fn(&str, Option<String>, &str, String) -> StateVerdict,
) -> Option<StateVerdict> {
    let (what, failure, words) = match &seen.reach {
        // A name server that is silent for one name and answers others: the name's own server.
        RegistryReach::NoAddress(failure) => ("registry", failure, "has no address"),
        RegistryReach::NoConnection(failure) => ("tcp", failure, "cannot be connected to"),
        RegistryReach::NoTls(failure) => ("tls", failure, "is connected to and does not speak TLS"),
        RegistryReach::Reached | RegistryReach::NotTried(_) => return None,
    };
    let text = format!("{} {words} ({failure}), for {}", seen.server, seen.image);
    let mut state = says(what, Some(seen.server.clone()), failure, text);
    state.attributes = state.attributes.with(attribute::IMAGE, &seen.image);
    Some(state)
}

/// What is remembered of the links' counters: packets and errors by link.
#[derive(Clone, Debug, Default)]
pub struct LinkHistory(std::collections::BTreeMap<String, (u64, u64)>);

/// `LinkErrors` of each link that has carried enough since the last look.
#[must_use]
pub fn judge_link_errors(at: Moment, links: &[Link], history: &mut LinkHistory) -> Vec<Verdict> {
    let code = FindingCode::LinkErrors;
    let mut now = std::collections::BTreeMap::new();
    let mut verdicts = Vec::new();
    for link in links {
        let (Some(packets), Some(errors)) = (link.packets_total, link.errors_total) else { continue };
        let before = history.0.get(&link.name).copied();
        now.insert(link.name.clone(), (packets, errors));
        // Counters that fell are a driver's that began anew.
        let grown = before.and_then(|(old_packets, old_errors)| {
            Some((packets.checked_sub(old_packets)?, errors.checked_sub(old_errors)?))
        });
        let Some((packets, errors)) = grown else { continue };
        let subject = Subject::Device { name: link.name.clone() };
        let all = packets.saturating_add(errors);
        let is_bad = errors.saturating_mul(100) >= all.saturating_mul(ERRORS_PCT) && errors > 0;
        if all < MIN_PACKETS && is_bad {
            continue;
        }
        let text = format!("{}: {errors} broken of {all} packets since the last look", link.name);
        verdicts.push(Verdict::State(if is_bad {
            let facts = Attributes::new()
                .with(attribute::DEVICE_NAME, &link.name)
                .with(attribute::MEASURED, errors.saturating_mul(100) / all.max(1))
                .with_some(attribute::MTU, link.mtu);
            present(code, &subject, at, SYSFS, facts, text)
        } else {
            absent(code, &subject, at, SYSFS, text)
        }));
    }
    history.0 = now;
    verdicts
}

/// `ListenQueueFull` of the node, by a counter that grew since the last look. `None` for the first look.
///
/// `sockets` are those of the node, where they were read: the one whose queue is longest is named.
#[must_use]
pub fn judge_listen_queues(at: Moment, before: Option<u64>, now: u64, sockets: &[TcpSocket]) -> Option<Verdict> {
    let code = FindingCode::ListenQueueFull;
    let n_dropped = now.checked_sub(before?)?;
    if n_dropped == 0 {
        let text = format!("no server of the node has dropped a connection ({now} since the boot)");
        return Some(Verdict::State(absent(code, &Subject::Node, at, PROCFS, text)));
    }
    // Of a listening socket (10) the kernel shows the connections that nobody has taken.
    let longest = sockets
        .iter()
        .filter(|row| row.state == 10 && row.receive_queue_bytes > 0)
        .max_by_key(|row| row.receive_queue_bytes);
    let place = longest.map(|row| format!(", {} wait at {}", row.receive_queue_bytes, row.local)).unwrap_or_default();
    let facts = Attributes::new()
        .with(attribute::MEASURED, n_dropped)
        .with_some(attribute::SERVER, longest.map(|row| row.local));
    let text = format!("{n_dropped} connections were dropped because a server's queue was full{place}");
    Some(Verdict::State(present(code, &Subject::Node, at, PROCFS, facts, text)))
}

#[cfg(test)]
mod tests {
    use kulprit_model::Status::{self, Absent, Present, Unknown};

    use super::*;

    fn answered(code: u8, name: Option<&str>) -> NameSeen {
        NameSeen::Answered { server: "192.0.2.53".parse().unwrap(), code, name: name.map(str::to_owned) }
    }

    fn registry(reach: RegistryReach) -> RegistrySeen {
        RegistrySeen { image: "quay.io/a:1".to_owned(), server: "quay.io:443".to_owned(), reach }
    }

    fn look(has_route: Option<bool>, names: &NameSeen, registries: &[RegistrySeen]) -> (Status, Option<String>) {
        let look = ReachLook { at: Moment::default(), has_route, had_route: true, names, registries };
        let Verdict::State(state) = judge_reach(&look) else { panic!("{look:?}") };
        assert!(state.code == FindingCode::NetworkUnreachable && state.subject == Subject::Node);
        (state.status, state.attributes.get("what").map(str::to_owned))
    }

    #[test]
    fn the_first_that_fails_is_told() {
        let silent = NameSeen::Silent { servers: vec!["192.0.2.53".parse().unwrap()] };
        let no_tls = [registry(RegistryReach::NoTls("reset"))];
        for (has_route, names, registries, want, what) in [
            (Some(true), answered(0, None), &[][..], Absent, None),
            (Some(false), silent.clone(), &no_tls, Present, Some("route")),
            (Some(true), silent.clone(), &no_tls, Present, Some("dns")),
            (None, silent, &[], Present, Some("dns")),
            (Some(true), answered(0, None), &no_tls, Present, Some("tls")),
            (Some(true), answered(0, None), &[registry(RegistryReach::NoConnection("timeout"))], Present, Some("tcp")),
            (
                Some(true),
                answered(0, None),
                &[registry(RegistryReach::NoAddress("not_found"))],
                Present,
                Some("registry"),
            ),
            (Some(true), answered(0, None), &[registry(RegistryReach::Reached)], Absent, None),
            (Some(true), answered(0, None), &[registry(RegistryReach::NotTried("a proxy".to_owned()))], Absent, None),
            (Some(true), NameSeen::NotAsked("no permission".to_owned()), &[], Unknown, None),
        ] {
            assert_eq!(
                look(has_route, &names, registries),
                (want, what.map(str::to_owned)),
                "{names:?} {registries:?}"
            );
        }
    }

    #[test]
    fn a_node_that_never_had_a_default_route_has_lost_none() {
        let names = answered(0, None);
        let look = ReachLook {
            at: Moment::default(),
            has_route: Some(false),
            had_route: false,
            names: &names,
            registries: &[],
        };
        assert!(matches!(judge_reach(&look), Verdict::State(state) if state.status == Absent));
    }

    #[test]
    fn an_error_counts_only_for_a_name_that_must_be_there() {
        for (code, name, want) in [
            (2, None, Absent),
            (3, None, Absent),
            (0, Some("api.example"), Absent),
            (2, Some("api.example"), Present),
            (3, Some("api.example"), Present),
            (5, Some("api.example"), Present),
        ] {
            assert_eq!(look(Some(true), &answered(code, name), &[]).0, want, "{code} {name:?}");
        }
    }

    fn link(packets: u64, errors: u64) -> Link {
        Link {
            name: "eth0".to_owned(),
            is_physical: true,
            is_set_up: Some(true),
            has_carrier: Some(true),
            rx_bytes: Some(1),
            carrier_down_total: Some(0),
            has_default_route: true,
            mtu: Some(9000),
            packets_total: Some(packets),
            errors_total: Some(errors),
        }
    }

    #[test]
    fn one_percent_of_broken_packets_is_too_much() {
        for (packets, errors, want) in [
            (990, 10, Some(Present)),
            (991, 9, Some(Absent)),
            (50, 49, None),
            (51, 49, Some(Present)),
            (0, 0, Some(Absent)),
        ] {
            let mut history = LinkHistory::default();
            assert!(judge_link_errors(Moment::default(), &[link(1_000, 7)], &mut history).is_empty(), "the first look");
            let verdicts = judge_link_errors(Moment::default(), &[link(1_000 + packets, 7 + errors)], &mut history);
            assert_eq!(crate::testing::status_of(&verdicts, FindingCode::LinkErrors), want, "{packets} {errors}");
            assert!(judge_link_errors(Moment::default(), &[link(0, 0)], &mut history).is_empty(), "it began anew");
        }
    }

    #[test]
    fn a_full_queue_is_told_by_the_counter_and_named_by_the_longest() {
        let socket = |local: &str, state, waiting| TcpSocket {
            local: local.parse().unwrap(),
            remote: "0.0.0.0:0".parse().unwrap(),
            state,
            n_retransmits: 0,
            send_queue_bytes: 0,
            receive_queue_bytes: waiting,
            inode: 0,
        };
        let sockets = [socket("0.0.0.0:22", 10, 1), socket("0.0.0.0:16509", 10, 65), socket("192.0.2.1:9", 1, 9_000)];
        assert_eq!(judge_listen_queues(Moment::default(), None, 5, &sockets), None);
        let Some(Verdict::State(state)) = judge_listen_queues(Moment::default(), Some(5), 8, &sockets) else {
            panic!()
        };
        assert_eq!((state.status, state.attributes.get("server")), (Present, Some("0.0.0.0:16509")));
        assert_eq!(state.attributes.get("measured"), Some("3"));
        let Some(Verdict::State(state)) = judge_listen_queues(Moment::default(), Some(5), 5, &sockets) else {
            panic!()
        };
        assert_eq!(state.status, Absent);
        assert_eq!(judge_listen_queues(Moment::default(), Some(5), 4, &sockets), None, "another boot's");
    }
}
