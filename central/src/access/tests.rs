//! Attacks and outages, each by its word in the metrics.

mod server;

use std::net::SocketAddr;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use http::{Request, header::AUTHORIZATION};
use kulprit_daemon::{clock::ManualClock, metrics::Metrics};
use kulprit_model::Moment;
use serde_json::json;
use tokio::time::{sleep, timeout};
use tonic::Code;

use super::{
    rights::{Key, Resource},
    *,
};
use server::Server;

const NOW_SECS: i64 = 1_800_000_000;
const AUDIENCE: &str = "kulprit-central";
const AGENT_USER: &str = "system:serviceaccount:kulprit:kulprit-agent";
const REPORT: &str = "/kulprit.v1.Ingest/Report";

/// Central's door, and the API server behind it.
struct Door {
    server: Server,
    access: Access,
    metrics: CentralMetrics,
}

impl Door {
    fn new() -> Self {
        Self::with(Agents::Token, Queries::Review)
    }

    fn with(agents: Agents, queries: Queries) -> Self {
        let (server, clock) =
            (Server::default(), ManualClock::new(Moment { wall_usec: NOW_SECS * 1_000_000, boottime_usec: 0 }));
        let mut all = Metrics::new("x", "0", &clock.clock());
        let metrics = CentralMetrics::register(all.section("central"));
        let settings = Settings { agents, queries, audience: AUDIENCE.to_owned(), agent_account: None };
        let access = Access::new(settings, Some(&server.client()), clock.clock(), metrics.clone()).unwrap();
        Self { server, access, metrics }
    }

    async fn call(&self, service: Service, path: &str, header: Option<&str>) -> Result<Caller, Refusal> {
        self.call_from(None, service, path, header).await
    }

    async fn call_from(
        &self,
        address: Option<IpAddr>,
        service: Service,
        path: &str,
        header: Option<&str>,
    ) -> Result<Caller, Refusal> {
        let mut request = Request::builder().uri(path);
        if let Some(header) = header {
            request = request.header(AUTHORIZATION, header);
        }
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        let address = address.map(|address| SocketAddr::new(address, 50_000));
        head.extensions.insert(Peer { address, name: None });
        self.access.admit(service, &head).await
    }

    async fn report_from(&self, address: IpAddr, token: &str) -> Result<Caller, Refusal> {
        self.call_from(Some(address), Service::Ingest, REPORT, Some(&format!("Bearer {token}"))).await
    }

    /// A token that nobody has signed.
    async fn guess_from(&self, address: IpAddr, n: u32) -> &'static str {
        let forged = token(&format!("forged-{n}"), &[AUDIENCE], NOW_SECS + 60);
        self.report_from(address, &forged).await.unwrap_err().word()
    }

    async fn report(&self, token: &str) -> Result<Caller, Refusal> {
        self.call(Service::Ingest, REPORT, Some(&format!("Bearer {token}"))).await
    }

    async fn ask(&self, rpc: &str, token: &str) -> Result<Caller, Refusal> {
        self.call(Service::Query, &format!("/kulprit.v1.Query/{rpc}"), Some(&format!("Bearer {token}"))).await
    }

    /// A token of an agent on that node, which lives for so long.
    fn agent(&self, node: &str, secs: i64) -> String {
        let token = token(node, &[AUDIENCE], NOW_SECS + secs);
        let extra = json!({"authentication.kubernetes.io/node-name": [node]});
        self.server.knows(&token, AUDIENCE, json!({"username": AGENT_USER, "extra": extra}));
        token
    }

    fn counted(&self, service: &'static str, outcome: &'static str) -> u64 {
        self.metrics.access.get_or_create(&AccessLabels::new(service, outcome)).get()
    }

    fn reviewed(&self, what: &'static str, outcome: &'static str) -> u64 {
        self.metrics.reviews.get_or_create(&WriteLabels::new(what, outcome)).get()
    }

    /// Refused with that word, which is counted once, and that code.
    #[track_caller]
    fn is_refused(&self, service: &'static str, answer: Result<Caller, Refusal>, word: &'static str, code: Code) {
        let refusal = answer.map(|caller| caller.name().to_owned()).unwrap_err();
        assert_eq!((refusal.word(), refusal.status().code()), (word, code), "{refusal}");
        assert_eq!((self.counted(service, word), self.counted(service, "let_in")), (1, 0), "{refusal}");
    }
}

fn token(id: &str, audiences: &[&str], ends: i64) -> String {
    let payload = json!({"jti": id, "aud": audiences, "exp": ends}).to_string();
    format!("e30.{}.c2ln", Base64UrlUnpadded::encode_string(payload.as_bytes()))
}

#[tokio::test(start_paused = true)]
async fn an_agent_is_let_in_for_its_own_node_alone() {
    let door = Door::new();
    let caller = door.report(&door.agent("n1", 3_600)).await.unwrap();
    assert_eq!((caller.name(), door.counted("ingest", "let_in")), (AGENT_USER, 1));
    assert_eq!(door.access.check_node(&caller, "n1"), Ok(()));
    let forged = door.access.check_node(&caller, "n2").unwrap_err();
    assert_eq!(forged.to_string(), format!("hello.node: `n2`, but {AGENT_USER} is of the node `n1`"),);
    assert_eq!((forged.status().code(), door.counted("ingest", "node")), (Code::PermissionDenied, 1));
    assert!(!format!("{caller:?}").contains("c2ln"), "a token is not printed");
}

#[tokio::test(start_paused = true)]
async fn on_an_older_cluster_the_node_is_that_of_the_tokens_pod() {
    let door = Door::new();
    let user = |pod: &str, uid: &str| {
        json!({"username": AGENT_USER, "extra": {
            "authentication.kubernetes.io/pod-name": [pod], "authentication.kubernetes.io/pod-uid": [uid]}})
    };
    let pod = |name: &str, uid: &str| json!({"metadata": {"name": name, "uid": uid}, "spec": {"nodeName": "n1"}});
    door.server.has_pod(pod("a-1", "u-1"));
    for (id, pod, uid, is_of_n1) in [("a", "a-1", "u-1", true), ("b", "a-1", "u-0", false), ("c", "a-2", "u-1", false)]
    {
        let token = token(id, &[AUDIENCE], NOW_SECS + 60);
        door.server.knows(&token, AUDIENCE, user(pod, uid));
        let caller = door.report(&token).await.unwrap();
        assert_eq!(door.access.check_node(&caller, "n1").is_ok(), is_of_n1, "{pod} {uid}");
    }
    assert_eq!((door.reviewed("pod", "yes"), door.reviewed("pod", "no"), door.counted("ingest", "node")), (1, 2, 2));
    // Of no pod at all: of no node.
    let loose = token("d", &[AUDIENCE], NOW_SECS + 60);
    door.server.knows(&loose, AUDIENCE, json!({"username": AGENT_USER}));
    let caller = door.report(&loose).await.unwrap();
    let refusal = door.access.check_node(&caller, "n1").unwrap_err().to_string();
    assert!(refusal.ends_with("is of no node: use the token of a pod"), "{refusal}");
}

#[tokio::test(start_paused = true)]
async fn each_attack_is_refused_with_its_word() {
    use Code::{PermissionDenied, Unauthenticated};
    let attack = async |header: Option<&str>, word: &'static str, code: Code, n_reviews: usize| {
        let door = Door::new();
        let other = token("web", &[AUDIENCE], NOW_SECS + 60);
        door.server.knows(&other, AUDIENCE, json!({"username": "system:serviceaccount:shop:web"}));
        door.is_refused("ingest", door.call(Service::Ingest, REPORT, header).await, word, code);
        assert_eq!(door.server.count("tokenreviews"), n_reviews, "{word}");
    };
    let bearer = |token: &str| format!("Bearer {token}");
    attack(None, "no_token", Unauthenticated, 0).await;
    attack(Some("Basic dTpw"), "malformed", Unauthenticated, 0).await;
    attack(Some("Bearer garbage"), "malformed", Unauthenticated, 0).await;
    attack(Some("Bearer a.b.c"), "malformed", Unauthenticated, 0).await;
    attack(Some(&bearer(&"a".repeat(10_000))), "malformed", Unauthenticated, 0).await;
    attack(Some(&bearer(&token("x", &[AUDIENCE], NOW_SECS - 61))), "expired", Unauthenticated, 0).await;
    attack(Some(&bearer(&token("x", &["vault"], NOW_SECS + 60))), "audience", Unauthenticated, 0).await;
    attack(Some(&bearer(&token("forged", &[AUDIENCE], NOW_SECS + 60))), "unauthenticated", Unauthenticated, 1).await;
    attack(Some(&bearer(&token("web", &[AUDIENCE], NOW_SECS + 60))), "account", PermissionDenied, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_token_is_checked_once_until_half_of_its_life() {
    let door = Door::new();
    let token = door.agent("n1", 1_000);
    for _ in 0..100 {
        door.report(&token).await.unwrap();
    }
    assert_eq!((door.server.count("tokenreviews"), door.reviewed("token", "yes")), (1, 1));
    sleep(Duration::from_secs(499)).await;
    door.report(&token).await.unwrap();
    assert_eq!(door.server.count("tokenreviews"), 1);
    sleep(Duration::from_secs(1)).await;
    door.report(&token).await.unwrap();
    assert_eq!(door.server.count("tokenreviews"), 2);
    // Also one that is nobody's, for a short time.
    for _ in 0..100 {
        door.report(&self::token("forged", &[AUDIENCE], NOW_SECS + 60)).await.unwrap_err();
    }
    assert_eq!((door.server.count("tokenreviews"), door.counted("ingest", "unauthenticated")), (3, 100));
}

#[test]
fn an_answer_is_kept_for_half_of_a_life_within_bounds() {
    let kept = |service, left: Option<i64>| keep_for(service, left.map(|left| NOW_SECS + left), NOW_SECS * 1_000_000);
    assert_eq!(kept(Service::Ingest, Some(600)), Duration::from_secs(300));
    assert_eq!(kept(Service::Ingest, Some(i64::MAX - NOW_SECS)), AGENT_FOR);
    assert_eq!(kept(Service::Ingest, Some(-600)), AT_LEAST_FOR);
    assert_eq!(kept(Service::Ingest, None), ASKER_FOR);
    assert_eq!(kept(Service::Query, Some(600)), ASKER_FOR);
    assert_eq!(kept(Service::Query, None), ASKER_FOR);
}

#[tokio::test(start_paused = true)]
async fn that_nobody_can_be_asked_is_no_refusal_and_is_not_remembered() {
    for (spoilt, outcome) in [
        (Some(403), "forbidden"),
        (Some(429), "throttled"),
        (Some(500), "server"),
        (Some(503), "server"),
        (None, "no_answer"),
    ] {
        let door = Door::new();
        let token = door.agent("n1", 3_600);
        door.server.spoil("tokenreviews", spoilt);
        let began = Instant::now();
        door.is_refused("ingest", door.report(&token).await, "cannot_verify", Code::Unavailable);
        assert!(began.elapsed() <= Duration::from_secs(4), "{outcome}");
        assert_eq!(door.reviewed("token", outcome), 1, "{outcome}");
        door.server.heal();
        door.report(&token).await.unwrap();
    }
    // What somebody may see is no other.
    let door = Door::new();
    door.server.knows("ada", "", json!({"username": "ada"}));
    door.server.spoil("subjectaccessreviews", Some(500));
    door.is_refused("query", door.ask("ListNodes", "ada").await, "cannot_verify", Code::Unavailable);
    assert_eq!(door.reviewed("right", "server"), 1);
}

const ATTACKER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

#[tokio::test(start_paused = true)]
async fn who_shows_one_forged_token_after_the_other_is_soon_not_asked_about_and_others_are() {
    let door = Door::new();
    let [known, new] = ["n1", "n2"].map(|node| door.agent(node, 3_600));
    door.report_from(ATTACKER, &known).await.unwrap();
    for n in 0..1_000 {
        let want = if n < guesses::BURST { "unauthenticated" } else { "guesses" };
        assert_eq!(door.guess_from(ATTACKER, n).await, want, "{n}");
    }
    assert_eq!((door.reviewed("token", "no"), door.counted("ingest", "guesses")), (20, 980));
    // Also where any text may be a token.
    let asks = door.call_from(Some(ATTACKER), Service::Query, "/kulprit.v1.Query/ListCauses", Some("Bearer x")).await;
    let refusal = asks.unwrap_err();
    assert_eq!((refusal.word(), refusal.status().code()), ("guesses", Code::ResourceExhausted));
    assert!(refusal.to_string().starts_with("10.0.0.1 has shown too many tokens"), "{refusal}");
    // What was accepted is, and who is elsewhere is asked about; an open stream is nobody's guess.
    let caller = door.report_from(ATTACKER, &known).await.unwrap();
    door.report_from(OTHER, &new).await.unwrap();
    let until_refused = door.access.until_refused(Service::Ingest, &caller);
    assert!(timeout(Duration::from_secs(7_200), until_refused).await.is_err());
    for n in 0..100 {
        door.guess_from(ATTACKER, 2_000 + n).await;
    }
    sleep(Duration::from_secs(1)).await;
    let mut n_asked = 0;
    for n in 0..100 {
        n_asked += u32::from(door.guess_from(ATTACKER, 3_000 + n).await == "unauthenticated");
    }
    assert_eq!(n_asked, 10, "ten a second");
}

#[tokio::test(start_paused = true)]
async fn forged_tokens_that_wait_for_their_turn_are_not_asked_about_either() {
    let door = Arc::new(Door::new());
    let mut guesses = JoinSet::new();
    for n in 0..2_000 {
        let door = Arc::clone(&door);
        guesses.spawn(async move { door.guess_from(ATTACKER, n).await });
    }
    while guesses.join_next().await.is_some() {}
    let n_asked = door.server.count("tokenreviews");
    assert!(n_asked <= 20 + 32, "{n_asked}: what was under way when there were too many");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_agents_behind_one_address_are_let_in() {
    let door = Arc::new(Door::new());
    let mut agents = JoinSet::new();
    for n in 0..1_000 {
        let (door, token) = (Arc::clone(&door), door.agent(&format!("n{n}"), 3_600));
        agents.spawn(async move { door.report_from(OTHER, &token).await.is_ok() });
    }
    assert!(agents.join_all().await.into_iter().all(|is_in| is_in));
    assert_eq!(door.counted("ingest", "let_in"), 1_000);
}

#[tokio::test(start_paused = true)]
async fn the_api_server_is_asked_again_when_it_said_so() {
    let door = Door::new();
    let (known, new) = (door.agent("n1", 3_600), door.agent("n2", 3_600));
    let caller = door.report(&known).await.unwrap();
    door.server.spoil("tokenreviews", Some(429));
    door.server.comes_again_after(20);
    assert_eq!(door.report(&new).await.unwrap_err().word(), "cannot_verify");
    door.server.heal();
    let n_asked = door.server.count("");
    for _ in 0..19 {
        sleep(Duration::from_secs(1)).await;
        let refusal = door.report(&new).await.unwrap_err();
        assert_eq!((refusal.word(), refusal.status().code()), ("cannot_verify", Code::Unavailable));
        door.report(&known).await.unwrap();
    }
    assert_eq!(door.server.count(""), n_asked);
    sleep(Duration::from_secs(1)).await;
    door.report(&new).await.unwrap();
    // Nor for hours, whatever it says.
    door.server.spoil("tokenreviews", Some(429));
    door.server.comes_again_after(36_000);
    let last = door.agent("n3", 3_600);
    door.report(&last).await.unwrap_err();
    door.server.heal();
    sleep(MAX_RETRY_AFTER).await;
    door.report(&last).await.unwrap();
    assert_eq!(caller.name(), AGENT_USER);
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_when_its_token_does_and_not_with_the_api_server() {
    let door = Door::new();
    let token = door.agent("n1", 1_000);
    let caller = door.report(&token).await.unwrap();
    let mut until_refused = Box::pin(door.access.until_refused(Service::Ingest, &caller));
    let mut lasts = async |secs| timeout(Duration::from_secs(secs), &mut until_refused).await;
    // It is asked about again and again; for hours, where nobody answers.
    assert!(lasts(2_000).await.is_err());
    door.server.spoil("tokenreviews", Some(503));
    assert!(lasts(20_000).await.is_err());
    assert!(door.counted("ingest", "cannot_verify") > 100);
    door.server.heal();
    assert!(lasts(60).await.is_err());
    door.server.forgets(&token);
    let refusal = lasts(2_000).await.unwrap();
    assert_eq!((refusal.word(), door.counted("ingest", "unauthenticated")), ("unauthenticated", 1));
}

#[tokio::test(start_paused = true)]
async fn a_stream_does_not_become_that_of_another_node() {
    let door = Door::new();
    let token = door.agent("n1", 1_000);
    let caller = door.report(&token).await.unwrap();
    let extra = json!({"authentication.kubernetes.io/node-name": ["n2"]});
    door.server.knows(&token, AUDIENCE, json!({"username": AGENT_USER, "extra": extra}));
    let refusal = timeout(Duration::from_secs(2_000), door.access.until_refused(Service::Ingest, &caller)).await;
    assert_eq!(refusal.unwrap().word(), "unauthenticated");
}

#[tokio::test(start_paused = true)]
async fn who_watches_and_cannot_be_verified_is_told_nothing_more_after_a_while() {
    let door = Door::new();
    door.server.knows("ada", "", json!({"username": "ada"}));
    let caller = door.ask("WatchIncidents", "ada").await.unwrap();
    door.server.spoil("tokenreviews", None);
    let began = Instant::now();
    let refusal = door.access.until_refused(Service::Query, &caller).await;
    assert_eq!(refusal.status().code(), Code::Unavailable);
    let took = began.elapsed();
    assert!(took > ASKER_FOR + ASKER_PATIENCE && took < ASKER_FOR + 2 * ASKER_PATIENCE, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_question_needs_what_the_table_says() {
    let door = Door::new();
    door.server.knows("ada", "", json!({"username": "ada", "uid": "7", "groups": ["g"], "extra": {"k": ["v"]}}));
    for (rpc, need) in needs::NEEDS {
        let answer = door.ask(rpc, "ada").await;
        assert_eq!(answer.is_ok(), need.in_any_case().is_empty(), "{rpc}");
    }
    let refusal = door.ask("ListNodes", "ada").await.unwrap_err();
    assert_eq!(refusal.to_string(), "`ada` may not get nodes");
    assert_eq!(door.ask("Unheard", "ada").await.unwrap_err().status().code(), Code::PermissionDenied);
    door.server.grants("ada get nodes  ");
    assert!(door.ask("ListNodes", "ada").await.is_err(), "remembered for some seconds");
    sleep(RIGHT_FOR).await;
    let n_before = door.server.count("subjectaccessreviews");
    for _ in 0..100 {
        door.ask("ListNodes", "ada").await.unwrap();
    }
    assert_eq!(door.server.count("subjectaccessreviews"), n_before + 1);
    assert_eq!(door.server.count("tokenreviews"), 1);
}

#[tokio::test(start_paused = true)]
async fn tokens_of_people_are_for_the_api_server_and_those_of_the_reader_for_central() {
    let door = Door::new();
    let own = token("own", &["https://kubernetes.default.svc"], NOW_SECS + 60);
    let readers = token("reader", &[AUDIENCE], NOW_SECS + 60);
    let foreign = token("vault", &["vault"], NOW_SECS + 60);
    door.server.knows(&own, "", json!({"username": "ada"}));
    door.server.knows(&readers, AUDIENCE, json!({"username": "system:serviceaccount:kulprit:kulprit-reader"}));
    door.server.knows(&foreign, "vault", json!({"username": "ada"}));
    assert_eq!(door.ask("ListCauses", &own).await.unwrap().name(), "ada");
    door.ask("ListCauses", &readers).await.unwrap();
    assert_eq!(door.ask("ListCauses", &foreign).await.unwrap_err().word(), "unauthenticated");
    assert_eq!(door.ask("ListCauses", &token("x", &[], NOW_SECS - 61)).await.unwrap_err().word(), "expired");
    // An agent's token is somebody's who may nothing.
    let agent = door.agent("n1", 60);
    assert_eq!(door.ask("ListNodes", &agent).await.unwrap_err().word(), "forbidden");
}

#[tokio::test(start_paused = true)]
async fn somebody_is_shown_what_he_may_get() {
    let door = Door::new();
    door.server.knows("ada", "", json!({"username": "ada"}));
    door.server.grants("ada get virtualmachineinstances prod ");
    door.server.grants("ada get virtualmachineinstances test db-0");
    let ada = door.ask("ListVms", "ada").await.unwrap();
    let key = |namespace: &str, name: &str| -> Key { (namespace.to_owned(), name.to_owned()) };
    let about = About {
        namespaces: ["prod", "test"].map(str::to_owned).into(),
        vms: [key("test", "db-0"), key("test", "db-1")].into(),
        migrations: [key("prod", "m")].into(),
    };
    let sight = door.access.sight(&ada, &about).await.unwrap();
    assert!(sight.shows_vm("prod", "x") && sight.shows_vm("test", "db-0"));
    assert!(!sight.shows_vm("test", "db-1") && !sight.shows_migration("prod", "m") && !sight.shows_nodes());
    door.access.require(&ada, Resource::Vm.one("prod", "x")).await.unwrap();
    let refused = door.access.require(&ada, Resource::Node.one("", "n1")).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::PermissionDenied, "`ada` may not get nodes `n1`"));
    assert_eq!(door.counted("query", "forbidden"), 1);
    door.server.takes_back("ada get virtualmachineinstances prod ");
    sleep(RIGHT_FOR).await;
    let later = door.access.sight(&ada, &about).await.unwrap();
    assert!(later.has_lost(&sight, &about));
    // One question costs so many and no more.
    let many = About::namespaces((0..=RIGHTS_OF_A_QUESTION).map(|n| n.to_string()));
    let refused = door.access.sight(&ada, &many).await.unwrap_err();
    assert_eq!((refused.code(), door.counted("query", "too_much")), (Code::ResourceExhausted, 1));
    door.server.grants("ada get virtualmachineinstances  ");
    sleep(RIGHT_FOR).await;
    let all = door.access.sight(&ada, &many).await.unwrap();
    assert!(all.shows_all_vms() && all.shows_vm("stage", "x"));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_names_the_node_of_an_agent_and_anybody_who_asks() {
    let door = Door::with(Agents::Certificate, Queries::Certificate);
    let call = async |service: Service, path: &str, peer: Option<&str>| {
        let (mut head, ()) = Request::builder().uri(path).body(()).unwrap().into_parts();
        if let Some(peer) = peer {
            head.extensions.insert(PeerName(peer.to_owned()));
        }
        door.access.admit(service, &head).await
    };
    let agent = call(Service::Ingest, REPORT, Some("n1")).await.unwrap();
    assert_eq!(door.access.check_node(&agent, "n1"), Ok(()));
    assert_eq!(door.access.check_node(&agent, "n2").unwrap_err().word(), "node");
    assert_eq!(call(Service::Ingest, REPORT, None).await.unwrap_err().word(), "no_certificate");
    let asker = call(Service::Query, "/kulprit.v1.Query/ListNodes", Some("ada")).await.unwrap();
    assert!(door.access.sight(&asker, &About::default()).await.unwrap().shows_all());
    assert_eq!(call(Service::Query, "/kulprit.v1.Query/ListNodes", None).await.unwrap_err().word(), "no_certificate");
    assert_eq!(door.server.count(""), 0, "Kubernetes is not asked");
}

#[test]
fn tokens_cannot_be_checked_without_kubernetes() {
    let clock = ManualClock::new(Moment { wall_usec: 0, boottime_usec: 0 });
    let mut all = Metrics::new("x", "0", &clock.clock());
    let metrics = CentralMetrics::register(all.section("central"));
    for (agents, queries, want) in [
        (Agents::Token, Queries::Open, "`access.agents: token` without Kubernetes"),
        (Agents::Certificate, Queries::Review, "`access.queries: review` without Kubernetes"),
    ] {
        let settings = Settings { agents, queries, audience: AUDIENCE.to_owned(), agent_account: None };
        let error = Access::new(settings, None, clock.clock(), metrics.clone()).unwrap_err().to_string();
        assert!(error.starts_with(want), "{error}");
    }
}

#[test]
fn every_word_is_documented() {
    let row = crate::metrics::TABLE.iter().find(|row| row.name == "kulprit_central_access_total").unwrap();
    let documented: Vec<&str> = row.label.rsplit(": ").next().unwrap().split(", ").collect();
    assert_eq!(documented[0], "let_in");
    assert_eq!(documented[1..], refusal::WORDS);
}

#[tokio::test]
async fn of_one_who_asks_so_many_questions_are_under_way_and_of_others_as_many() {
    let door = Door::new();
    let [ada, bob] = ["ada", "bob"].map(|name| Caller::Peer(name.to_owned()));
    let turns: Vec<Turn> = (0..QUESTIONS_AT_ONCE).map(|_| door.access.turn(&ada).unwrap()).collect();
    let refusal = door.access.turn(&ada).unwrap_err();
    assert_eq!((refusal.word(), refusal.status().code()), ("busy", Code::ResourceExhausted));
    assert_eq!(door.counted("query", "busy"), 1);
    assert!(door.access.turn(&bob).is_ok(), "others have their own");
    drop(turns);
    assert!(door.access.turn(&ada).is_ok());
    assert!(door.access.0.asking.lock().unwrap().is_empty(), "who asks no more is forgotten");
    let open: Vec<_> = (0..100).map(|_| door.access.turn(&Caller::Anyone)).collect();
    assert!(open.iter().all(Result::is_ok), "where nobody is asked who he is, all are one");
}
