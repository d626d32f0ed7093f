//! The `network` probe: links, routes, names, full listen queues, the sockets of migrations; registries on suspicion.
//!
//! Links and counters are small files, read on the beat. Tables of connections cost the kernel a walk: they are read while a VM
//! leaves the node, one is suspect or a peer was silent, else at most once a minute, and only where the kernel has counted a
//! timeout since. Name servers are asked once a minute, and at each look while they fail or a VM is suspect; a registry only when
//! somebody says that a pull from it fails ([`PullFailures`]). Tries run beside the looks, each answer is a look of its own.

mod packets;
mod pulls;
mod reach;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kulprit_host::network::{
    Bridge, Link, PathTry, TcpSocket, read_bridges, read_default_routes, read_tcp, read_tcp_counters, read_used_links,
};
use kulprit_host::process::{CgroupFilter, Procfs};
use kulprit_host::{HostRoot, ReadError};
use kulprit_judge::Verdict;
use kulprit_judge::network::{
    CarrierHistory, LinkHistory, NameSeen, Owner, ReachLook, RegistryReach, RegistrySeen, judge_bridges,
    judge_connections, judge_flaps, judge_link_errors, judge_links, judge_listen_queues, judge_no_timeouts,
    judge_packets, judge_reach,
};
use kulprit_model::Subject;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::debug;

use self::packets::{Packets, Silent};
use self::reach::{NameConfig, ask_names, is_image_here, try_registry};
use super::blocking::{Blocking, Late};
use super::counters::count;
use super::{ProbeConfig, ProbeContext, ProbeSpec, chain};
use crate::look::Look;
use crate::sacrifice::Lost;

pub use pulls::PullFailures;

const NAME: &str = "network";
/// The probe's row in the table.
pub(super) const SPEC: ProbeSpec = ProbeSpec {
    name: NAME,
    meaning: "Whether links, routes, name service and the paths of migrations work.",
    sources: "/sys/class/net, /proc/1/net/{route,ipv6_route,netstat,tcp,tcp6}, /proc/PID/net/tcp of virt-handler, /etc/resolv.conf; one DNS query a minute; on suspicion TCP and TLS to a registry, UDP to the peer of a migration",
    needs: "the node's network namespace; /proc/PID/net of pods (root)",
    lost_without: "links and routes from another network namespace; silent peers of migrations without /proc/PID/net",
    look_every: Duration::from_secs(10),
    spawn: |context| Box::pin(run(context)),
};
/// A look takes some ms.
const READ_DEADLINE: Duration = Duration::from_secs(4);
/// While nothing migrates, every so many looks connections are read: the kernel walks its whole hash table for them, a quarter of a
/// million buckets on a machine of 24 GiB, 1 ms and more. What nobody looks at for two minutes is no longer known.
const N_LOOKS_WITHOUT: u32 = 5;
/// virt-handler is looked for, and bridges are read, this often.
const FIND_EVERY: Duration = Duration::from_secs(60);
/// A registry is tried again after this while pulls from it fail.
const TRY_EVERY: Duration = Duration::from_secs(60);
/// What was seen of a registry counts so long.
const REGISTRY_COUNTS: Duration = Duration::from_secs(600);

struct Probe {
    context: ProbeContext,
    reading: Blocking,
    reader: Option<Reader>,
    links: LinkHistory,
    carriers: CarrierHistory,
    overflows: Option<u64>,
    had_route: bool,
    has_route: Option<bool>,
    names: NameSeen,
    asked_names: Option<Instant>,
    is_asking_names: bool,
    registries: BTreeMap<String, (Instant, RegistrySeen)>,
    packets: Packets,
    tries: JoinSet<Tried>,
    told: Vec<Subject>,
    /// The node's bridges when they were last read.
    bridges: Vec<Subject>,
}

/// What came of a try.
enum Tried {
    Names(NameSeen),
    Registry(RegistrySeen),
    Packets(Silent, Result<PathTry, Lost>),
}

async fn run(context: ProbeContext) {
    let mut probe = Probe {
        reading: context.blocking(),
        reader: None,
        links: LinkHistory::default(),
        carriers: CarrierHistory::default(),
        overflows: None,
        had_route: false,
        has_route: None,
        names: NameSeen::NotAsked("no name server was asked yet".to_owned()),
        asked_names: None,
        is_asking_names: false,
        registries: BTreeMap::new(),
        packets: Packets::default(),
        tries: JoinSet::new(),
        told: Vec::new(),
        bridges: Vec::new(),
        context,
    };
    loop {
        let mut look = probe.look().await;
        probe.start_tries();
        if probe.context.once {
            while let Some(Ok(tried)) = probe.tries.join_next().await {
                look.verdicts.extend(probe.on_tried(tried));
            }
            look.verdicts.push(probe.judge_reach());
            probe.context.send(look).await;
            return;
        }
        if !probe.context.send(look).await {
            return;
        }
        let next = probe.context.beat.next(probe.context.config.network.every.get());
        loop {
            let context = &probe.context;
            tokio::select! {
                biased;
                () = context.stop.cancelled() => return,
                Some(tried) = probe.tries.join_next() => {
                    let Ok(tried) = tried else { continue };
                    let verdict = probe.on_tried(tried);
                    let draft = probe.context.begin(NAME).verdicts(verdict);
                    let look = draft.verdicts([probe.judge_reach()]).end(&probe.context.clock);
                    if !probe.context.send(look).await {
                        return;
                    }
                }
                () = context.pulls.reported() => probe.start_tries(),
                () = tokio::time::sleep_until(next) => break,
            }
        }
    }
}

impl Probe {
    async fn look(&mut self) -> Look {
        let draft = self.context.begin(NAME);
        let config = &self.context.config;
        let new = || Reader::new(&self.context.host, config);
        let has_launchers = !self.context.launchers.borrow().rows.is_empty();
        let is_wanted = self.packets.is_suspicious()
            || self.context.vms.migrations.is_any_leaving()
            || !self.context.suspects.borrow().is_empty();
        let read = move |reader: &mut Reader| reader.read(has_launchers, is_wanted);
        let seen = match self.reading.run_with(READ_DEADLINE, &mut self.reader, new, read).await {
            Ok(seen) => seen,
            Err(Late { for_secs }) => {
                let because = format!("reading sysfs and procfs has not returned for {for_secs} s");
                return draft.blind(because).end(&self.context.clock);
            }
        };
        count(&self.context.counters.errors, seen.n_errors);
        let links = match seen.links {
            Ok(links) => links,
            Err(because) => return draft.blind(because).end(&self.context.clock),
        };
        self.has_route = seen.has_route;
        self.had_route |= seen.has_route == Some(true);
        let at = self.context.clock.now();
        let mut verdicts = judge_links(at, &links);
        verdicts.extend(judge_link_errors(at, &links, &mut self.links));
        verdicts.extend(judge_flaps(at, &links, &mut self.carriers));
        if let Some(bridges) = seen.bridges {
            verdicts.extend(judge_bridges(at, &bridges));
            self.bridges = bridges.into_iter().map(|bridge| Subject::Device { name: bridge.name }).collect();
        }
        if let Some(now) = seen.overflows {
            let node = seen.node.as_ref().map(Connections::sockets).unwrap_or_default();
            verdicts.extend(judge_listen_queues(at, self.overflows.replace(now), now, node));
        }
        let owner = if has_launchers || seen.handler.is_some() { Owner::Node } else { Owner::Libvirt };
        let node = seen.node.map(|connections| (1, owner, connections));
        let handler = seen.handler.map(|(pid, connections)| (pid, Owner::KubeVirt, connections));
        for (pid, owner, connections) in node.into_iter().chain(handler) {
            let mut judged = match &connections {
                Connections::Read(sockets) => judge_connections(at, owner, sockets),
                Connections::NoTimeouts => judge_no_timeouts(at, owner).into_iter().collect(),
            };
            self.packets.note(at, pid, &mut judged);
            verdicts.extend(judged);
        }
        // What a storage server's silence means is told by the probe of volumes.
        verdicts.retain(|verdict| matches!(verdict, Verdict::State(_)));
        if !self.context.once {
            verdicts.push(self.judge_reach());
        }
        let links = links.into_iter().map(|link| Subject::Device { name: link.name });
        let now: Vec<Subject> = links.chain(self.bridges.iter().cloned()).collect();
        let gone: Vec<Subject> = self.told.iter().filter(|subject| !now.contains(subject)).cloned().collect();
        self.told = now;
        draft.verdicts(verdicts).gone(gone).end(&self.context.clock)
    }

    fn judge_reach(&self) -> Verdict {
        let registries: Vec<RegistrySeen> = self.registries.values().map(|(_, seen)| seen.clone()).collect();
        judge_reach(&ReachLook {
            at: self.context.clock.now(),
            has_route: self.has_route,
            had_route: self.had_route,
            names: &self.names,
            registries: &registries,
        })
    }

    /// Begins what is due: name servers, registries of images whose pull fails.
    fn start_tries(&mut self) {
        let config = &self.context.config.network;
        let is_suspicious =
            !matches!(self.names, NameSeen::Answered { code: 0, .. } | NameSeen::Answered { name: None, .. })
                || !self.context.suspects.borrow().is_empty();
        let every = if is_suspicious { config.every.get() } else { config.names_every.get() };
        // A look that comes a moment early must not wait for the next.
        let is_due = self.asked_names.is_none_or(|at| at.elapsed() + Duration::from_secs(1) >= every);
        if is_due && !self.is_asking_names {
            self.asked_names = Some(Instant::now());
            self.is_asking_names = true;
            let host = self.context.host.clone();
            self.tries.spawn(async move {
                let read = tokio::task::spawn_blocking(move || NameConfig::read(&host)).await;
                Tried::Names(match read {
                    Ok(Ok(config)) => ask_names(&config).await,
                    Ok(Err(why)) => NameSeen::NotAsked(why),
                    Err(error) => NameSeen::NotAsked(error.to_string()),
                })
            });
        }
        if let Some(silent) = self.packets.due() {
            let (sacrifice, procfs) = (Arc::clone(&self.context.sacrifice), self.context.host.display_path("proc"));
            let procfs = if silent.pid == 1 { procfs } else { self.context.config.procfs.clone() };
            self.tries.spawn(async move {
                let tried = packets::send(&sacrifice, &procfs, silent).await;
                Tried::Packets(silent, tried)
            });
        }
        self.registries.retain(|_, (at, _)| at.elapsed() < REGISTRY_COUNTS);
        for image in self.context.pulls.take() {
            let is_fresh = self.registries.get(&image).is_some_and(|(at, _)| at.elapsed() < TRY_EVERY);
            if !is_fresh {
                let (host, config) = (self.context.host.clone(), Arc::clone(&self.context.config));
                self.tries.spawn(async move {
                    // What is here by now needs no registry; asking the runtime pulls nothing.
                    Tried::Registry(match is_image_here(&host, &config.runtime_sockets, &image).await {
                        Some(true) => RegistrySeen {
                            server: image.clone(),
                            image,
                            reach: RegistryReach::NotTried("the container runtime has the image by now".to_owned()),
                        },
                        Some(false) | None => try_registry(host, image).await,
                    })
                });
            }
        }
    }

    /// Takes in what came of a try; what it says by itself comes back.
    fn on_tried(&mut self, tried: Tried) -> Option<Verdict> {
        match tried {
            Tried::Names(seen) => {
                self.is_asking_names = false;
                self.names = seen;
                None
            }
            Tried::Registry(seen) => {
                self.registries.insert(seen.image.clone(), (Instant::now(), seen));
                None
            }
            Tried::Packets(silent, tried) => {
                let tried = tried.inspect_err(|error| {
                    count(&self.context.counters.errors, 1);
                    debug!(probe = NAME, error = %chain(error), "packets to the peer of a migration were not tried");
                });
                let tried = tried.ok();
                let judged = tried.and_then(|tried| judge_packets(self.context.clock.now(), silent.peer, tried));
                self.packets.done(silent, tried, judged.as_ref());
                judged
            }
        }
    }
}

/// Reads procfs and sysfs, on a thread that may wait.
struct Reader {
    host: HostRoot,
    procfs: Procfs,
    filter: CgroupFilter,
    /// virt-handler's pid.
    handler: Option<u32>,
    looked_for_handler: Option<Instant>,
    read_bridges: Option<Instant>,
    /// Dropped connections at the last look.
    overflows: Option<u64>,
    /// What had timed out in a namespace when its connections were last read, by the pid whose it is.
    timeouts: BTreeMap<u32, u64>,
    /// Looks since connections were last asked about.
    n_without: u32,
}

/// What is known of the connections of a network namespace.
enum Connections {
    Read(Vec<TcpSocket>),
    /// Nothing has timed out since they were read last.
    NoTimeouts,
}

impl Connections {
    fn sockets(&self) -> &[TcpSocket] {
        match self {
            Self::Read(sockets) => sockets,
            Self::NoTimeouts => &[],
        }
    }
}

struct Seen {
    links: Result<Vec<Link>, String>,
    has_route: Option<bool>,
    overflows: Option<u64>,
    /// `None` when they were not read.
    bridges: Option<Vec<Bridge>>,
    /// Connections of the node's own namespace; `None` when nobody asked about them.
    node: Option<Connections>,
    /// Those of virt-handler's, and its pid.
    handler: Option<(u32, Connections)>,
    n_errors: u64,
}

impl Reader {
    fn new(host: &HostRoot, config: &ProbeConfig) -> Self {
        Self {
            host: host.clone(),
            procfs: Procfs::new(&config.procfs),
            filter: config.cgroup_filter(),
            handler: None,
            looked_for_handler: None,
            read_bridges: None,
            overflows: None,
            timeouts: BTreeMap::new(),
            n_without: N_LOOKS_WITHOUT,
        }
    }

    fn read(&mut self, has_launchers: bool, is_wanted: bool) -> Seen {
        let mut n_errors = 0;
        // The namespace of the host's process 1, not that of whoever reads.
        let directory = "proc/1/net";
        let routes = keep(read_default_routes(&self.host, directory), &mut n_errors);
        let links = read_used_links(&self.host, routes.as_deref().unwrap_or_default()).map_err(|error| chain(&error));
        let counters = keep(read_tcp_counters(&self.host, directory), &mut n_errors).unwrap_or_default();
        let overflows = counters.listen_overflows_total;
        let is_bridges_due = self.read_bridges.is_none_or(|at| at.elapsed() >= FIND_EVERY);
        let bridges = is_bridges_due.then(|| keep(read_bridges(&self.host), &mut n_errors)).flatten();
        if is_bridges_due {
            self.read_bridges = Some(Instant::now());
        }
        let handler = self.find_handler(has_launchers);
        self.n_without += 1;
        let is_due = is_wanted || self.n_without > N_LOOKS_WITHOUT;
        if is_due {
            self.n_without = 0;
        }
        // Whose queue is full shows the table alone.
        let has_dropped =
            std::mem::replace(&mut self.overflows, overflows).is_some_and(|before| overflows > Some(before));
        let own = self.host.clone();
        let node = (is_due || has_dropped).then(|| {
            self.connections(1, &own, Path::new(directory), counters.timeouts_total, is_wanted || has_dropped)
        });
        let node = node.and_then(|connections| keep(connections, &mut n_errors));
        let handler = handler.filter(|_| is_due).and_then(|pid| {
            let (root, directory) = (HostRoot::new(self.procfs.path()), PathBuf::from(format!("{pid}/net")));
            let counters = keep(read_tcp_counters(&root, &directory), &mut n_errors).unwrap_or_default();
            let connections = self.connections(pid, &root, &directory, counters.timeouts_total, is_wanted);
            Some((pid, keep(connections, &mut n_errors)?))
        });
        self.timeouts.retain(|pid, _| *pid == 1 || Some(*pid) == self.handler);
        let has_route = routes.map(|routes| !routes.is_empty());
        Seen { links, has_route, overflows, bridges, node, handler, n_errors }
    }

    /// The connections of a namespace, unless its count of timeouts is as it was when they were read last.
    fn connections(
        &mut self,
        pid: u32,
        root: &HostRoot,
        directory: &Path,
        timeouts: Option<u64>,
        is_wanted: bool,
    ) -> Result<Connections, ReadError> {
        if !is_wanted && timeouts.is_some() && self.timeouts.get(&pid).copied() == timeouts {
            return Ok(Connections::NoTimeouts);
        }
        self.timeouts.remove(&pid);
        let sockets = read_tcp(root, directory)?;
        self.timeouts.extend(timeouts.map(|timeouts| (pid, timeouts)));
        Ok(Connections::Read(sockets))
    }

    /// virt-handler, on a node that has launchers.
    fn find_handler(&mut self, has_launchers: bool) -> Option<u32> {
        let is_one = |pid: &u32| self.procfs.stat(*pid).is_ok_and(|stat| stat.comm == "virt-handler");
        if let Some(pid) = self.handler.filter(is_one) {
            return Some(pid);
        }
        self.handler = None;
        if !has_launchers || self.looked_for_handler.is_some_and(|at| at.elapsed() < FIND_EVERY) {
            return None;
        }
        self.looked_for_handler = Some(Instant::now());
        let (found, _) = self.procfs.scan(&self.filter, |stat| stat.comm == "virt-handler").ok()?;
        self.handler = found.first().map(|stat| stat.pid);
        self.handler
    }
}

fn keep<T>(result: Result<T, ReadError>, n_errors: &mut u64) -> Option<T> {
    result.inspect_err(|_| *n_errors += 1).ok()
}

#[cfg(test)]
mod tests;
