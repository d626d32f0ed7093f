//! One socket of a container runtime, and the one round of calls that may be under way on it.
//!
//! A round is a task that owns the connection and gives it back. While it is not answered no other is begun, so a hung runtime holds
//! one connection of ours and no more, and its answer, when it comes, shows at once that it is back. A round that nobody answers is
//! given up after a minute and begun anew: the runtime may have forgotten it.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kulprit_host::HostRoot;
use kulprit_host::cri::{Container, ContainerExit, ContainerState, RuntimeInfo, Sandbox};
use kulprit_judge::runtime::{Answer, answer_of};
use kulprit_model::{Moment, Status};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::client::{self, CallError, CriClient};

/// A call without an answer for so long is late: the catalogue's threshold. Well answers in 1 ms.
const LATE_AFTER: Duration = Duration::from_secs(5);
/// A round is given up after so long.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// The calls of a round, in their order.
const CALLS: [&str; 6] = ["Version", "Status", "ImageFsInfo", "ListPodSandbox", "ListContainers", "ContainerStatus"];

/// How much to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wants {
    /// What the runtime thinks of itself.
    Status,
    /// The launchers' sandboxes and containers, too.
    Lists,
}

/// The rounds under way, at most one for each endpoint.
pub(super) type Rounds = JoinSet<RoundEnd>;
/// The sandbox of a launcher with its containers.
pub(super) type Launched = (Sandbox, Vec<Container>);
/// How containers that were asked for ended, by their id.
type Exits = BTreeMap<String, ContainerExit>;

/// One socket.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// Below the host's root.
    pub(super) path: String,
    /// Units that may run it.
    pub(super) units: Vec<String>,
    client: Option<CriClient>,
    /// Which runtime it is, and where its images are.
    words: String,
    exits: Exits,
    under_way: Option<UnderWay>,
    /// Since when it has not answered.
    failing_since: Option<Moment>,
    /// Whether the last round was given up without an answer.
    was_given_up: bool,
    /// How the last round ended; `None` before the first.
    pub(super) last: Option<Result<RuntimeInfo, CallError>>,
    /// Whether a container ran when it last listed them, also before its unit stopped; `None` while it never has.
    pub(super) runs_containers: Option<bool>,
    /// VMs of its launchers of which was spoken, with what is wrong there.
    pub(super) vms: BTreeMap<String, Status>,
}

#[derive(Debug)]
struct UnderWay {
    began: Moment,
    began_at: Instant,
    /// Index in [`CALLS`].
    call: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A round that has ended.
#[derive(Debug)]
pub(super) struct RoundEnd {
    /// Which endpoint it is of.
    pub(super) endpoint_idx: usize,
    began: Moment,
    client: Option<CriClient>,
    words: String,
    exits: Exits,
    result: Result<Seen, CallError>,
}

/// What a runtime said.
#[derive(Debug)]
struct Seen {
    info: RuntimeInfo,
    /// `None` when the lists were not asked for.
    lists: Option<Lists>,
}

#[derive(Debug)]
struct Lists {
    /// Whether any container runs, whosever.
    runs_containers: bool,
    /// The sandboxes of launchers.
    launchers: Vec<Launched>,
}

impl Endpoint {
    pub(super) fn new(path: String, units: Vec<String>) -> Self {
        Self {
            path,
            units,
            client: None,
            words: String::new(),
            exits: Exits::new(),
            under_way: None,
            failing_since: None,
            was_given_up: false,
            last: None,
            runs_containers: None,
            vms: BTreeMap::new(),
        }
    }

    /// Whether a round is under way that is not late.
    pub(super) fn is_waiting(&self) -> bool {
        self.under_way.is_some() && !self.is_late()
    }

    /// Whether it keeps us waiting: a round under way is late, or the one before it was given up.
    pub(super) fn is_late(&self) -> bool {
        self.under_way.as_ref().is_some_and(|round| self.was_given_up || round.began_at.elapsed() >= LATE_AFTER)
    }

    /// When the round under way becomes, or became, late.
    pub(super) fn late_at(&self) -> Option<Instant> {
        self.under_way.as_ref().map(|round| round.began_at + LATE_AFTER)
    }

    /// Begins a round, unless one is under way that is not yet given up.
    pub(super) fn ask(&mut self, endpoint_idx: usize, host: &HostRoot, wants: Wants, at: Moment, rounds: &mut Rounds) {
        if let Some(round) = &self.under_way {
            if round.began_at.elapsed() < GIVE_UP_AFTER {
                return;
            }
            self.failing_since.get_or_insert(round.began);
            self.stop_asking();
            self.was_given_up = true;
        }
        let known = self.client.take();
        let stream = match known.is_none().then(|| client::open(host, &self.path)).transpose() {
            Ok(stream) => stream,
            Err(error) => return self.end(at, Err(error)),
        };
        let call = Arc::new(AtomicUsize::new(0));
        let (mut exits, mut words) = (std::mem::take(&mut self.exits), std::mem::take(&mut self.words));
        let now_at = Arc::clone(&call);
        let task = rounds.spawn(async move {
            let mut client = known;
            let result = round(stream, &mut client, wants, &mut words, &mut exits, &now_at).await;
            RoundEnd { endpoint_idx, began: at, client, words, exits, result }
        });
        self.under_way = Some(UnderWay { began: at, began_at: Instant::now(), call, task });
    }

    /// Gives up what is under way; the connection goes with it.
    pub(super) fn stop_asking(&mut self) {
        self.under_way = None;
        self.client = None;
    }

    /// Nothing is known of its failures any more: its unit does not run.
    pub(super) fn forget(&mut self) {
        self.stop_asking();
        self.failing_since = None;
        self.was_given_up = false;
        self.last = None;
    }

    /// Takes a round in; what it says of the launchers, if that was asked for. `None` also for a round that was given up.
    pub(super) fn take(&mut self, end: RoundEnd) -> Option<Vec<Launched>> {
        self.under_way.take_if(|round| round.began == end.began)?;
        (self.exits, self.words) = (end.exits, end.words);
        // A connection on which a call failed is not trusted with another.
        self.client = end.client.filter(|_| end.result.is_ok());
        let (result, lists) = match end.result {
            Ok(Seen { info, lists }) => (Ok(info), lists),
            Err(error) => (Err(error), None),
        };
        self.end(end.began, result);
        let Lists { runs_containers, launchers } = lists?;
        self.runs_containers = Some(runs_containers);
        Some(launchers)
    }

    /// Whether it serves CRI, or may: one that hangs, fails or could not be asked may be the kubelet's.
    pub(super) fn may_serve(&self) -> bool {
        let serves_not = |last: &Result<_, CallError>| matches!(last, Err(CallError::NotFound | CallError::NotServed));
        self.is_late() || self.last.as_ref().is_some_and(|last| !serves_not(last))
    }

    /// Whether the pod network is ready, as it says; `None` when it does not.
    pub(super) fn is_network_ready(&self) -> Option<bool> {
        let info = self.last.as_ref().filter(|_| !self.is_late())?.as_ref().ok()?;
        info.is_network_ready
    }

    fn end(&mut self, began: Moment, result: Result<RuntimeInfo, CallError>) {
        let is_failing = match &result {
            Ok(info) => info.is_ready == Some(false),
            Err(error) => error.failure().is_some(),
        };
        if is_failing {
            self.failing_since.get_or_insert(began);
        } else {
            self.failing_since = None;
        }
        self.was_given_up = false;
        self.last = Some(result);
    }

    /// What it gave to our calls; `None` while it has not been asked, or its first round is under way in time.
    pub(super) fn answer(&self, at: Moment) -> Option<Answer> {
        if let Some(round) = self.under_way.as_ref().filter(|_| self.is_late()) {
            let since = self.failing_since.unwrap_or(round.began);
            let call = CALLS[round.call.load(Ordering::Relaxed).min(CALLS.len() - 1)];
            return Some(Answer::Late { call, since, process: None });
        }
        Some(match self.last.as_ref()? {
            Ok(info) => answer_of(info, &self.words, self.failing_since.unwrap_or(at)),
            Err(CallError::NotServed) => Answer::Answered { words: "it serves no CRI v1".to_owned() },
            Err(error) => match error.failure() {
                Some(failure) => {
                    let since = self.failing_since.unwrap_or(at);
                    Answer::Failed { failure, text: error.text().to_owned(), since }
                }
                None => Answer::Unknown(error.text().to_owned()),
            },
        })
    }
}

/// Asks the runtime: what it thinks of itself, and, if wanted, of the launchers here. Over `stream` where there is no client yet.
async fn round(
    stream: Option<UnixStream>,
    client: &mut Option<CriClient>,
    wants: Wants,
    words: &mut String,
    exits: &mut Exits,
    call: &AtomicUsize,
) -> Result<Seen, CallError> {
    let now_at = |name: &str| {
        let index = CALLS.iter().position(|known| *known == name).unwrap_or_default();
        call.store(index, Ordering::Relaxed);
    };
    let is_new = stream.is_some();
    if let Some(stream) = stream {
        now_at("Version");
        *words = client.insert(CriClient::new(stream).await?).version().await?;
    }
    let client = client.as_mut().expect("either it was known or it was made of the stream");
    now_at("Status");
    let info = client.status().await?;
    if is_new {
        // Once for each connection: CRI-O walks its store for the answer.
        now_at("ImageFsInfo");
        for mount in client.image_filesystems().await? {
            *words += &format!(", images in {mount}");
        }
    }
    if wants == Wants::Status {
        return Ok(Seen { info, lists: None });
    }
    now_at("ListPodSandbox");
    let sandboxes = client.launcher_sandboxes().await?;
    now_at("ListContainers");
    // The kubelet's PLEG asks for all; what hangs for it shall hang for us, also where no launcher is.
    let mut rows = client.containers(None).await?;
    let runs_containers = rows.iter().any(|row| row.state == ContainerState::Running);
    rows.retain(|row| sandboxes.iter().any(|sandbox| sandbox.id == row.sandbox_id));
    exits.retain(|id, _| rows.iter().any(|row| row.id == *id));
    now_at("ContainerStatus");
    for row in rows.iter_mut().filter(|row| row.state == ContainerState::Exited) {
        if !exits.contains_key(&row.id)
            && let Some(exit) = client.exit_of(&row.id).await?
        {
            exits.insert(row.id.clone(), exit);
        }
        row.exit = exits.get(&row.id).cloned();
    }
    let of = |sandbox: Sandbox| {
        let (own, others) = std::mem::take(&mut rows).into_iter().partition(|row| row.sandbox_id == sandbox.id);
        rows = others;
        (sandbox, own)
    };
    let launchers = sandboxes.into_iter().map(of).collect();
    Ok(Seen { info, lists: Some(Lists { runs_containers, launchers }) })
}
