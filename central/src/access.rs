//! Who may talk to central, and who may be told what ([ADR 18](../../docs/adr/0018-who-may-ask.md)).
//!
//! Agents show the token of their pod, and report for the node of that pod alone. People show their own token of Kubernetes, and are told what
//! Kubernetes lets them get. Read in this order: [`needs`] (what each question needs: the table), [`rights`] (what somebody may be shown; pure),
//! `token` (what comes), [`Caller`], [`Refusal`], `asked` (answers that are remembered), `guesses` (what is not asked any more), [`Access`] here, [`guard`] (the door).
//!
//! A stream outlives the token it was opened with: [`Access::until_refused`] has it checked anew whenever that is due. An API server that
//! does not answer ends no agent's stream, since what was verified when it began is the same connection still, and central is not to go blind with
//! the API server; nobody new comes in meanwhile.

mod asked;
mod caller;
pub mod guard;
mod guesses;
pub mod needs;
mod refusal;
mod remembered;
pub mod rights;
#[cfg(test)]
mod tests;
mod token;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    future::pending,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::request::Parts;
use kube::Client;
use kulprit_daemon::{Clock, UsageError};
use serde::{Deserialize, Serialize};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tonic::Status;
use tracing::{debug, warn};

pub use caller::{Caller, Verified};
pub use guard::Guarded;
pub use refusal::Refusal;

use asked::Asked;
use caller::{Place, place, service_account};
use guesses::Guesses;
use rights::{About, Right, Sight};
use token::{Bearer, Hash};

use crate::{
    connections,
    kubernetes::{Failure, review::Reviews},
    metrics::{AccessLabels, CentralMetrics, WriteLabels},
    tls::{Peer, PeerName},
};

/// Tokens of which the answer is remembered: twice the largest fleet, and its garbage.
const TOKENS_MAX: usize = 16_384;
/// Rights of which the answer is remembered.
const RIGHTS_MAX: usize = 65_536;
/// How long a right is remembered, also one that somebody does not have: as long as a person takes to ask again after it was granted.
const RIGHT_FOR: Duration = Duration::from_secs(10);
/// How long it is remembered that a token is nobody's.
const REFUSED_FOR: Duration = Duration::from_secs(10);
/// An agent's token is checked anew at half of its life, and at least so often: one that was taken back is good for no longer.
const AGENT_FOR: Duration = Duration::from_secs(30 * 60);
/// The same for people and programs that ask.
const ASKER_FOR: Duration = Duration::from_secs(2 * 60);
/// Not more often, however little of its life is left.
const AT_LEAST_FOR: Duration = Duration::from_secs(5);
/// How far central's clock may be ahead of the API server's.
const CLOCKS_APART_SECS: i64 = 60;
/// A stream whose caller cannot be verified: when that is tried again.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(30);
/// Who watches and cannot be verified for so long is told nothing more.
const ASKER_PATIENCE: Duration = Duration::from_secs(2 * 60);
/// Rights that one question may cost to ask for.
const RIGHTS_OF_A_QUESTION: usize = 1_000;
/// How many of them are asked for at once.
const RIGHTS_AT_ONCE: usize = 8;
/// Questions of one user that are under way at once: a person asks one, a program some. Whoever has a token of the cluster may ask for what he
/// may see, and to find out that it is nothing costs as much as a whole answer.
const QUESTIONS_AT_ONCE: usize = 8;
/// Refusals of agents that are said once each; those beyond are counted only.
const SAID_MAX: usize = 256;
/// No longer than this nothing is asked, even if the API server wants more.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);
/// Name of the agents' service account.
const AGENT: &str = "kulprit-agent";

/// How agents show who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Agents {
    /// Not at all.
    Open,
    /// By the token of their pod.
    Token,
    /// By a client certificate of their node's name.
    Certificate,
}

/// How those who ask show who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Queries {
    /// Not at all: whoever comes is told everything.
    Open,
    /// By a token of Kubernetes; they are told what they may get there.
    Review,
    /// By a client certificate; who has one is told everything.
    Certificate,
}

/// The service that is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Agents report.
    Ingest,
    /// People and programs ask.
    Query,
}

/// What has been configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How agents show who they are.
    pub agents: Agents,
    /// How those who ask do.
    pub queries: Queries,
    /// For whom tokens of agents are made.
    pub audience: String,
    /// `namespace/name` of the agents' service account; `None`: the one of central's own namespace.
    pub agent_account: Option<String>,
}

/// Lets in who may come, and says what he may be told. Clones share what is remembered.
#[derive(Clone)]
pub struct Access(Arc<Shared>);

struct Shared {
    settings: Settings,
    /// The agents' user name.
    agent: String,
    /// `None` where nobody has to be asked.
    reviews: Option<Reviews>,
    clock: Clock,
    metrics: CentralMetrics,
    agents: Asked<Hash, Checked>,
    askers: Asked<Hash, Checked>,
    rights: Asked<(Hash, Right), bool>,
    guesses: Guesses,
    /// Before that nothing is asked, as the API server said last.
    ask_from: Mutex<Option<Instant>>,
    said: Mutex<HashSet<String>>,
    /// How many questions of a user are under way.
    asking: Mutex<HashMap<String, usize>>,
}

/// A place among the questions of a user that are under way; given back when it is dropped.
#[derive(Debug)]
pub struct Turn(Option<(Access, String)>);

impl Drop for Turn {
    fn drop(&mut self) {
        let Some((access, name)) = self.0.take() else { return };
        let mut asking = access.0.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = asking.get_mut(&name) {
            *n -= 1;
            if *n == 0 {
                asking.remove(&name);
            }
        }
    }
}

/// What the API server says of a token.
type Checked = Result<Arc<Verified>, Refusal>;

impl Access {
    /// As configured. `client` leads to the API server that tokens are shown to.
    ///
    /// # Errors
    /// If tokens are to be checked and there is no Kubernetes.
    pub fn new(
        settings: Settings,
        client: Option<&Client>,
        clock: Clock,
        metrics: CentralMetrics,
    ) -> Result<Self, UsageError> {
        let wanted = match (settings.agents, settings.queries) {
            (Agents::Token, _) => Some("access.agents: token"),
            (_, Queries::Review) => Some("access.queries: review"),
            (Agents::Open | Agents::Certificate, Queries::Open | Queries::Certificate) => None,
        };
        if let (Some(wanted), None) = (wanted, client) {
            return Err(UsageError::new(format!("`{wanted}` without Kubernetes, which alone could check a token"))
                .fix("write `certificate` there, or name a kubeconfig"));
        }
        let namespace = client.map(Client::default_namespace).unwrap_or_default();
        let account = settings.agent_account.clone().unwrap_or_else(|| format!("{namespace}/{AGENT}"));
        Ok(Self(Arc::new(Shared {
            agent: service_account(&account),
            settings,
            reviews: client.filter(|_| wanted.is_some()).cloned().map(Reviews::new),
            clock,
            metrics,
            agents: Asked::new("the token", TOKENS_MAX),
            askers: Asked::new("the token", TOKENS_MAX),
            rights: Asked::new("what you may see", RIGHTS_MAX),
            guesses: Guesses::new(),
            ask_from: Mutex::default(),
            said: Mutex::default(),
            asking: Mutex::default(),
        })))
    }

    /// Lets everybody in and shows him everything.
    #[must_use]
    pub fn open(clock: Clock, metrics: CentralMetrics) -> Self {
        let (agents, queries, audience) = (Agents::Open, Queries::Open, String::new());
        let settings = Settings { agents, queries, audience, agent_account: None };
        Self::new(settings, None, clock, metrics).expect("nobody has to be asked")
    }

    /// Whether nobody is asked who he is.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let Settings { agents, queries, .. } = &self.0.settings;
        (*agents, *queries) == (Agents::Open, Queries::Open)
    }

    /// Who calls, if he may call this.
    ///
    /// # Errors
    /// Why he may not, or why nobody can tell.
    pub async fn admit(&self, service: Service, request: &Parts) -> Result<Caller, Refusal> {
        let admitted = match self.identify(service, request).await {
            Ok(caller) => self.check_call(service, &caller, request.uri.path()).await.map(|()| caller),
            Err(refusal) => Err(refusal),
        };
        match &admitted {
            Ok(_) => self.count(service, "let_in"),
            Err(refusal) => self.refuse(service, refusal),
        }
        admitted
    }

    /// A place among this caller's questions. Where nobody is asked who he is there is no end of them.
    ///
    /// # Errors
    /// If as many are under way as may be.
    pub fn turn(&self, caller: &Caller) -> Result<Turn, Refusal> {
        let name = match caller {
            Caller::Anyone => return Ok(Turn(None)),
            Caller::Peer(_) | Caller::User(_) => caller.name(),
        };
        let is_free = {
            let mut asking = self.0.asking.lock().unwrap_or_else(PoisonError::into_inner);
            let n = asking.entry(name.to_owned()).or_default();
            let is_free = *n < QUESTIONS_AT_ONCE;
            *n += usize::from(is_free);
            is_free
        };
        if is_free {
            return Ok(Turn(Some((self.clone(), name.to_owned()))));
        }
        let refusal = Refusal::Busy(QUESTIONS_AT_ONCE);
        self.refuse(Service::Query, &refusal);
        Err(refusal)
    }

    async fn identify(&self, service: Service, request: &Parts) -> Result<Caller, Refusal> {
        let Settings { agents, queries, .. } = &self.0.settings;
        match (service, agents, queries) {
            (Service::Ingest, Agents::Open, _) | (Service::Query, _, Queries::Open) => Ok(Caller::Anyone),
            (Service::Ingest, Agents::Certificate, _) | (Service::Query, _, Queries::Certificate) => {
                let peer = request.extensions.get::<PeerName>().ok_or(Refusal::NoCertificate)?;
                Ok(Caller::Peer(peer.0.clone()))
            }
            (Service::Ingest, Agents::Token, _) | (Service::Query, _, Queries::Review) => {
                let how = match service {
                    Service::Ingest => "an agent shows that of its pod (`token` in its configuration)",
                    Service::Query => {
                        "ask with `kubectl kulprit`, which shows that of your kubeconfig, or with --token-file"
                    }
                };
                let bearer = Bearer::of(&request.headers)?.ok_or(Refusal::NoToken(how))?;
                self.check_claims(service, &bearer)?;
                let address = request.extensions.get::<Peer>().and_then(|peer| peer.address);
                let address = address.map(|address| connections::place(address.ip()));
                let verified = self.verify(service, &bearer, address).await?;
                if service == Service::Ingest && verified.user.name != self.0.agent {
                    let (name, wanted) = (verified.user.name.clone(), self.0.agent.clone());
                    return Err(Refusal::Account { name, wanted });
                }
                Ok(Caller::User(verified))
            }
        }
    }

    /// What a question needs whatever is named in it.
    async fn check_call(&self, service: Service, caller: &Caller, path: &str) -> Result<(), Refusal> {
        let rpc = path.rsplit('/').next().unwrap_or_default();
        if service == Service::Ingest {
            return Ok(());
        }
        let need = needs::of(rpc).ok_or_else(|| Refusal::Forbidden(format!("nobody may ask `{rpc}`")))?;
        let rights: BTreeSet<Right> = need.in_any_case().into_iter().collect();
        let granted = self.granted(caller, rights.clone()).await?;
        match rights.iter().find(|right| !granted.contains(right)) {
            Some(lacking) => Err(forbidden(caller, lacking)),
            None => Ok(()),
        }
    }

    /// Refuses without asking what the API server would refuse as well.
    fn check_claims(&self, service: Service, bearer: &Bearer) -> Result<(), Refusal> {
        let Some(claims) = bearer.claims() else {
            return match service {
                Service::Ingest => Err(Refusal::Malformed("authorization: no token of a service account".to_owned())),
                // A token of a user may be any text.
                Service::Query => Ok(()),
            };
        };
        let now_secs = self.0.clock.now().wall_usec / 1_000_000;
        if claims.ends_wall_secs.is_some_and(|ends| ends.saturating_add(CLOCKS_APART_SECS) < now_secs) {
            return Err(Refusal::Expired);
        }
        let audience = &self.0.settings.audience;
        if service == Service::Ingest && !claims.audiences.contains(audience) {
            return Err(Refusal::Audience(audience.clone()));
        }
        Ok(())
    }

    /// Whose token this is; remembered until it is due. `address`: who shows it anew, and may be guessing.
    async fn verify(&self, service: Service, bearer: &Bearer, address: Option<IpAddr>) -> Checked {
        let tokens = match service {
            Service::Ingest => &self.0.agents,
            Service::Query => &self.0.askers,
        };
        if !tokens.knows(&bearer.hash) {
            // Who guesses takes nobody's turn.
            self.check_guesses(address)?;
        }
        tokens.get_or_ask(bearer.hash, self.ask_whose(service, bearer, address)).await?
    }

    fn check_guesses(&self, address: Option<IpAddr>) -> Result<(), Refusal> {
        match address.filter(|address| self.0.guesses.are_too_many(*address, Instant::now())) {
            Some(address) => Err(Refusal::Guesses(address)),
            None => Ok(()),
        }
    }

    async fn ask_whose(
        &self,
        service: Service,
        bearer: &Bearer,
        address: Option<IpAddr>,
    ) -> Result<(Checked, Duration), Refusal> {
        // There may be more of them since it waited for its turn.
        self.check_guesses(address)?;
        let reviews = self.reviews("the token")?;
        let audience = &self.0.settings.audience;
        let claims = bearer.claims().unwrap_or_default();
        // A user's own token is made for the API server, one of the reader's for central.
        let is_for_us = service == Service::Ingest || claims.audiences.contains(audience);
        let whose = reviews.whose(&bearer.text, is_for_us.then_some(audience.as_str())).await;
        let user = match self.answered("token", "the token", whose.map(|whose| (whose.is_ok(), whose)))? {
            Ok(user) => user,
            Err(why) => {
                if let Some(address) = address {
                    self.0.guesses.note(address, Instant::now());
                }
                return Ok((Err(Refusal::Unauthenticated(why)), REFUSED_FOR));
            }
        };
        let node = match (service, place(&user)) {
            (Service::Query, _) | (_, Place::Nowhere) => None,
            (_, Place::Node(node)) => Some(node.to_owned()),
            (_, Place::Pod { namespace, name, uid }) => {
                let node = reviews.node_of_pod(namespace, name, uid).await;
                self.answered("pod", "the node of the token's pod", node.map(|node| (node.is_some(), node)))?
            }
        };
        let keep = keep_for(service, claims.ends_wall_secs, self.0.clock.now().wall_usec);
        let due = Instant::now() + keep;
        Ok((Ok(Arc::new(Verified { bearer: bearer.clone(), user, node, due })), keep))
    }

    /// Whom to ask, if he may be asked now.
    fn reviews(&self, what: &'static str) -> Result<&Reviews, Refusal> {
        let cannot = |why: &str| Refusal::CannotVerify { what, why: why.to_owned() };
        let ask_from = *self.0.ask_from.lock().unwrap_or_else(PoisonError::into_inner);
        if ask_from.is_some_and(|ask_from| ask_from > Instant::now()) {
            return Err(cannot("Kubernetes has asked to be asked later"));
        }
        self.0.reviews.as_ref().ok_or_else(|| cannot("there is no Kubernetes"))
    }

    /// Asks nothing before the API server wants to be asked again.
    fn heed(&self, failure: &Failure) {
        if let Failure::Status { code: 429, retry_after, .. } = failure {
            let from = Instant::now() + (*retry_after).min(MAX_RETRY_AFTER);
            let mut ask_from = self.0.ask_from.lock().unwrap_or_else(PoisonError::into_inner);
            *ask_from = (*ask_from).max(Some(from));
        }
    }

    /// Counts an answer, or says what is in the way of one.
    fn answered<T>(
        &self,
        kind: &'static str,
        what: &'static str,
        answer: Result<(bool, T), Failure>,
    ) -> Result<T, Refusal> {
        let count = |outcome| self.0.metrics.reviews.get_or_create(&WriteLabels::new(kind, outcome)).inc();
        match answer {
            Ok((is_yes, answer)) => {
                count(if is_yes { "yes" } else { "no" });
                Ok(answer)
            }
            Err(failure) => {
                count(failure.outcome());
                self.heed(&failure);
                Err(Refusal::CannotVerify { what, why: format!("Kubernetes says {failure}") })
            }
        }
    }

    /// Whether this caller may report for that node.
    ///
    /// # Errors
    /// Which node he is of; nothing is put right for him.
    pub fn check_node(&self, caller: &Caller, node: &str) -> Result<(), Refusal> {
        let own = match caller {
            Caller::Anyone => return Ok(()),
            Caller::Peer(name) => Some(name),
            Caller::User(verified) => verified.node.as_ref(),
        };
        if own.is_some_and(|own| own == node) {
            return Ok(());
        }
        let refusal = Refusal::Node { name: caller.name().to_owned(), own: own.cloned(), claimed: node.to_owned() };
        self.refuse(Service::Ingest, &refusal);
        Err(refusal)
    }

    /// Resolves when an open stream's caller is not let in any more: his token is checked anew whenever that is due.
    pub async fn until_refused(&self, service: Service, caller: &Caller) -> Refusal {
        let Caller::User(first) = caller else { return pending().await };
        let (mut due, mut unverified_since) = (first.due, None);
        loop {
            sleep_until(due).await;
            let refusal = match self.verify(service, &first.bearer, None).await {
                Ok(again) if again.user.name == first.user.name && again.node == first.node => {
                    (due, unverified_since) = (again.due, None);
                    continue;
                }
                Ok(_) => Refusal::Unauthenticated("it is somebody else's now".to_owned()),
                Err(refusal) => refusal,
            };
            self.refuse(service, &refusal);
            let since = *unverified_since.get_or_insert(Instant::now());
            match (&refusal, service) {
                (Refusal::CannotVerify { .. }, Service::Ingest) => {}
                (Refusal::CannotVerify { .. }, Service::Query) if since.elapsed() < ASKER_PATIENCE => {}
                _ => return refusal,
            }
            due = Instant::now() + TRY_AGAIN_AFTER;
        }
    }

    /// Refuses somebody who lacks this right.
    ///
    /// # Errors
    /// PERMISSION_DENIED names the right; UNAVAILABLE if nobody can tell.
    pub async fn require(&self, caller: &Caller, right: Right) -> Result<(), Status> {
        let granted = self.granted(caller, BTreeSet::from([right.clone()])).await;
        let refusal = match granted {
            Ok(granted) if granted.contains(&right) => return Ok(()),
            Ok(_) => forbidden(caller, &right),
            Err(refusal) => refusal,
        };
        self.refuse(Service::Query, &refusal);
        Err(refusal.status())
    }

    /// What of this somebody may be shown.
    ///
    /// # Errors
    /// UNAVAILABLE if nobody can tell; RESOURCE_EXHAUSTED where that would be too many questions.
    pub async fn sight(&self, caller: &Caller, about: &About) -> Result<Sight, Status> {
        let Caller::User(_) = caller else { return Ok(Sight::whole()) };
        self.look(caller, about).await.map_err(|refusal| {
            self.refuse(Service::Query, &refusal);
            refusal.status()
        })
    }

    async fn look(&self, caller: &Caller, about: &About) -> Result<Sight, Refusal> {
        use rights::Resource::{Migration, Node, Vm};
        let mut all = BTreeSet::from([Node.all(), Vm.all()]);
        if !about.migrations.is_empty() {
            all.insert(Migration.all());
        }
        let mut granted = self.granted(caller, all).await?;
        let has = |granted: &BTreeSet<Right>, right: Right| granted.contains(&right);
        let (vms, migrations) = (has(&granted, Vm.all()), has(&granted, Migration.all()));
        let narrower: BTreeSet<Right> = about
            .rights()
            .filter(|right| match right.resource {
                Vm => !vms,
                Migration => !migrations,
                Node => true,
            })
            .collect();
        granted.extend(self.granted(caller, narrower).await?);
        Ok(Sight::of(granted))
    }

    /// Those of these rights that somebody has.
    async fn granted(&self, caller: &Caller, rights: BTreeSet<Right>) -> Result<BTreeSet<Right>, Refusal> {
        let Caller::User(user) = caller else { return Ok(rights) };
        if rights.len() > RIGHTS_OF_A_QUESTION {
            return Err(Refusal::TooMuch(rights.len()));
        }
        let (mut waiting, mut asking, mut granted) = (rights.into_iter(), JoinSet::new(), BTreeSet::new());
        loop {
            while asking.len() < RIGHTS_AT_ONCE
                && let Some(right) = waiting.next()
            {
                let (access, user) = (self.clone(), Arc::clone(user));
                asking.spawn(async move {
                    let may = access.may(&user, &right).await?;
                    Ok((right, may))
                });
            }
            let Some(answer) = asking.join_next().await else { return Ok(granted) };
            let panicked = |_| Refusal::CannotVerify { what: "what you may see", why: "central failed".to_owned() };
            let (right, may) = answer.map_err(panicked)??;
            if may {
                granted.insert(right);
            }
        }
    }

    async fn may(&self, user: &Verified, right: &Right) -> Result<bool, Refusal> {
        let ask = async {
            let may = self.reviews("what you may see")?.may(&user.user, right.attributes()).await;
            let may = self.answered("right", "what you may see", may.map(|may| (may, may)))?;
            Ok((may, RIGHT_FOR))
        };
        self.0.rights.get_or_ask((user.bearer.hash, right.clone()), ask).await
    }

    /// Counts a refusal, and says one of an agent, once.
    pub(crate) fn refuse(&self, service: Service, refusal: &Refusal) {
        self.count(service, refusal.word());
        let text = refusal.to_string();
        let is_news = service == Service::Ingest && {
            let mut said = self.0.said.lock().unwrap_or_else(PoisonError::into_inner);
            said.len() < SAID_MAX && said.insert(text.clone())
        };
        if is_news {
            warn!(why = %text, "an agent was refused");
        } else {
            debug!(?service, why = %text, "somebody was refused");
        }
    }

    fn count(&self, service: Service, outcome: &'static str) {
        let api = match service {
            Service::Ingest => "ingest",
            Service::Query => "query",
        };
        self.0.metrics.access.get_or_create(&AccessLabels::new(api, outcome)).inc();
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

/// What is said to somebody who lacks a right.
pub(crate) fn forbidden(caller: &Caller, right: &Right) -> Refusal {
    Refusal::Forbidden(format!("`{}` may not {right}", caller.name()))
}

/// How long a token's answer is good: half of what is left of its life, within bounds.
fn keep_for(service: Service, ends_wall_secs: Option<i64>, now_wall_usec: i64) -> Duration {
    let most = match service {
        Service::Ingest => AGENT_FOR,
        Service::Query => ASKER_FOR,
    };
    let left = |ends: i64| Duration::from_secs(u64::try_from(ends - now_wall_usec / 1_000_000).unwrap_or(0));
    ends_wall_secs.map_or(ASKER_FOR, |ends| left(ends) / 2).clamp(AT_LEAST_FOR, most)
}
