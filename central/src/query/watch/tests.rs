//! What a client is told, by what happened between two looks.

use kulprit_model::Moment;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Semaphore, mpsc, watch};

use super::*;
use crate::{
    access::{Access, Caller},
    incident::testing::{incident, member},
    query::asker::Asker,
};

use IncidentEvent::{
    CauseChanged, Closed, MemberEnded, MemberJoined, MemberLeft, Merged, Opened, ProbabilityChanged, Reopened,
};

fn all() -> IncidentFilter {
    IncidentFilter::default()
}

fn of_namespace(namespace: &str) -> IncidentFilter {
    IncidentFilter::new(false, namespace.to_owned(), String::new(), String::new()).unwrap()
}

fn one() -> Incident {
    let mut one = incident(1, "LocalDiskStalled", "n1");
    one.members = vec![member("prod", "a", "n1"), member("prod", "b", "n1")];
    one
}

#[track_caller]
fn check(change: impl FnOnce(&mut Incident), want: &[IncidentEvent]) {
    let before = one();
    let mut now = before.clone();
    change(&mut now);
    assert_eq!(became(&before, &now), want, "{now:#?}");
}

#[test]
fn each_change_has_its_word() {
    check(|_| {}, &[]);
    check(|now| now.members.push(member("prod", "c", "n2")), &[MemberJoined]);
    check(|now| now.members[0].until_wall_usec = Some(5), &[MemberEnded]);
    check(|now| drop(now.members.remove(0)), &[MemberLeft]);
    check(|now| now.key.cause = "KubeletDown".to_owned(), &[CauseChanged]);
    check(|now| now.key.place = "node/n2".to_owned(), &[CauseChanged]);
    check(|now| now.closed_wall_usec = Some(5), &[Closed]);
    check(
        |now| {
            now.closed_wall_usec = Some(5);
            now.merged_into = Some(Ulid::from(9));
        },
        &[Merged],
    );
}

#[test]
fn a_probability_is_told_from_a_tenth_on_and_with_another_cause_not_at_all() {
    check(|now| now.probability = 0.79, &[]);
    check(|now| now.probability = 0.8, &[ProbabilityChanged]);
    check(|now| now.probability = 0.6, &[ProbabilityChanged]);
    check(
        |now| {
            now.probability = 0.3;
            now.key.cause = "KubeletDown".to_owned();
        },
        &[CauseChanged],
    );
}

#[test]
fn what_came_and_went_between_two_looks_is_told() {
    check(
        |now| {
            now.members.push(member("prod", "c", "n2"));
            now.members[2].until_wall_usec = Some(5);
        },
        &[MemberJoined, MemberEnded],
    );
    let mut before = one();
    before.closed_wall_usec = Some(5);
    before.members.iter_mut().for_each(|member| member.until_wall_usec = Some(4));
    let mut now = before.clone();
    now.closed_wall_usec = Some(9);
    now.members[0].until_wall_usec = Some(8);
    assert_eq!(became(&before, &now), [Reopened, MemberJoined, MemberEnded, Closed]);
    now.closed_wall_usec = None;
    now.members[0].until_wall_usec = None;
    assert_eq!(became(&before, &now), [Reopened, MemberJoined]);
}

/// A book, and one client of it.
struct Watched {
    book: Incidents,
    teller: Teller,
}

impl Watched {
    fn new(filter: IncidentFilter) -> Self {
        Self { book: Incidents::default(), teller: Teller::new(filter) }
    }

    fn put(&mut self, incident: Incident) -> &mut Self {
        let change = crate::incident::IncidentChange { incident: Arc::new(incident), events: Vec::new() };
        self.book.apply(&[change]);
        self
    }

    /// A whole round: ids and events.
    fn told(&mut self) -> Vec<(u128, Vec<IncidentEvent>)> {
        let (mut told, mut after) = (Vec::new(), None);
        while let Some((id, change)) = self.teller.next(&self.book, after) {
            assert_eq!(change.incident.as_ref().unwrap().id, id.to_string());
            told.push((id.0, change.events().collect()));
            after = Some(id);
        }
        self.teller.is_complete = true;
        self.teller.forget_dropped(&self.book);
        told
    }
}

#[test]
fn in_the_beginning_open_ones_are_told_oldest_first_without_events() {
    let mut watched = Watched::new(all());
    let mut closed = incident(2, "KubeletDown", "n1");
    closed.closed_wall_usec = Some(5);
    watched.put(incident(3, "KubeletDown", "n2")).put(closed).put(one());
    assert_eq!(watched.told(), [(1, vec![]), (3, vec![])]);
    assert_eq!(watched.told(), [], "nothing has changed");
    watched.put(incident(4, "KubeletDown", "n3"));
    assert_eq!(watched.told(), [(4, vec![Opened])]);
}

#[test]
fn a_client_that_is_behind_is_told_the_newest_of_each_and_everything_that_became_of_it() {
    let mut watched = Watched::new(all());
    watched.put(one()).told();
    let mut now = one();
    for name in ["c", "d", "e"] {
        now.members.push(member("prod", name, "n1"));
        watched.put(now.clone());
    }
    now.members[0].until_wall_usec = Some(7);
    watched.put(now.clone());
    let mut quick = incident(2, "KubeletDown", "n1");
    quick.closed_wall_usec = Some(5);
    watched.put(quick);
    assert_eq!(watched.told(), [(1, vec![MemberJoined, MemberEnded])], "what came and went unseen is not open");
}

#[test]
fn one_that_closes_is_told_and_one_that_comes_back_too() {
    let mut watched = Watched::new(all());
    watched.put(one()).told();
    let mut closed = one();
    closed.closed_wall_usec = Some(5);
    watched.put(closed.clone());
    assert_eq!(watched.told(), [(1, vec![Closed])]);
    closed.members[0].until_wall_usec = Some(6);
    watched.put(closed);
    assert_eq!(watched.told(), [], "nobody asked for closed ones");
    watched.put(one());
    assert_eq!(watched.told(), [(1, vec![Reopened, MemberJoined])]);
}

#[test]
fn one_that_is_no_longer_asked_for_is_told_once_more() {
    let mut watched = Watched::new(of_namespace("test"));
    watched.put(one());
    assert_eq!(watched.told(), [], "it touches nobody there");
    let mut both = one();
    both.members.push(member("test", "c", "n1"));
    watched.put(both.clone());
    assert_eq!(watched.told(), [(1, vec![MemberJoined])]);
    watched.put(one());
    assert_eq!(watched.told(), [(1, vec![MemberLeft])], "what the client has is out of date");
    let mut other = one();
    other.members.push(member("prod", "d", "n1"));
    watched.put(other);
    assert_eq!(watched.told(), []);
}

#[test]
fn small_steps_add_up() {
    let mut watched = Watched::new(all());
    watched.put(one()).told();
    for probability in [0.74, 0.78] {
        watched.put(Incident { probability, ..one() });
        assert_eq!(watched.told(), [], "{probability}");
    }
    watched.put(Incident { probability: 0.81, ..one() });
    assert_eq!(watched.told(), [(1, vec![ProbabilityChanged])]);
}

#[test]
fn what_retention_drops_is_forgotten() {
    let mut watched = Watched::new(all());
    let mut closed = incident(2, "KubeletDown", "n1");
    closed.closed_wall_usec = Some(5);
    watched.put(one()).put(closed).told();
    assert_eq!(watched.teller.known.len(), 2);
    watched.book.drop_closed_before(6);
    assert_eq!(watched.told(), []);
    assert_eq!(watched.teller.known.len(), 1);
}

/// The two halves of a running watch, its end and its seats.
struct Running {
    book: watch::Sender<Arc<Incidents>>,
    answers: mpsc::Receiver<Answer>,
    stop: CancellationToken,
    seats: Arc<Semaphore>,
    gauge: Gauge,
    task: tokio::task::JoinHandle<()>,
}

fn running(incidents: Incidents) -> Running {
    let (book, seats, gauge) = (watch::Sender::new(Arc::new(incidents)), Arc::new(Semaphore::new(1)), Gauge::default());
    let (to_client, answers) = mpsc::channel(1);
    let stop = CancellationToken::new();
    let seat = Seat::new(Arc::clone(&seats).try_acquire_owned().unwrap(), gauge.clone());
    let clock = kulprit_daemon::clock::ManualClock::new(Moment { wall_usec: 77, boottime_usec: 1 });
    let mut metrics = kulprit_daemon::metrics::Metrics::new("x", "0", &clock.clock());
    let metrics = crate::metrics::CentralMetrics::register(metrics.section("central"));
    let mut request = tonic::Request::new(());
    request.extensions_mut().insert(Caller::Anyone);
    let asker = Asker::of(&Access::open(clock.clock(), metrics), &request).unwrap();
    let window = Window::new(asker, String::new());
    let task = tokio::spawn(run(book.subscribe(), window, all(), clock.clock(), stop.clone(), to_client, seat));
    Running { book, answers, stop, seats, gauge, task }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_gets_the_newest_when_it_reads() {
    let mut watch = running([one()].into_iter().collect());
    // One answer waits in the channel; after it nothing is made until it is taken.
    for n in 0..50 {
        tokio::task::yield_now().await;
        let mut now = one();
        now.probability = 0.7 + f64::from(n) / 200.0;
        now.members.push(member("prod", &format!("late-{n}"), "n1"));
        watch.book.send_replace(Arc::new([now].into_iter().collect()));
    }
    let mut told = Vec::new();
    while let Ok(Some(answer)) = timeout(Duration::from_secs(1), watch.answers.recv()).await {
        told.push(answer.unwrap().message.unwrap());
    }
    assert!(told.len() <= 4, "{told:#?}");
    let Some(Message::Change(last)) = told.last() else { panic!("{told:#?}") };
    assert_eq!(last.at_wall_usec, 77);
    assert_eq!(last.incident.as_ref().unwrap().members[2].subject.as_ref().unwrap().name, "late-49");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_is_forgotten() {
    let watch = running(Incidents::default());
    assert_eq!((watch.seats.available_permits(), watch.gauge.get()), (0, 1));
    drop(watch.answers);
    watch.task.await.unwrap();
    assert_eq!((watch.seats.available_permits(), watch.gauge.get()), (1, 0));
    drop(watch.book);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_central_is_told_and_one_that_does_not_read_is_not_waited_for() {
    let mut reads = running(Incidents::default());
    assert_eq!(reads.answers.recv().await.unwrap().unwrap().message, Some(Message::Complete(v1::WatchComplete {})));
    reads.stop.cancel();
    let status = reads.answers.recv().await.unwrap().unwrap_err();
    assert_eq!((status.code(), status.message()), (tonic::Code::Unavailable, "central is ending"));
    assert!(reads.answers.recv().await.is_none());

    let sleeps = running([one(), incident(2, "KubeletDown", "n2")].into_iter().collect());
    tokio::task::yield_now().await;
    sleeps.stop.cancel();
    sleeps.task.await.unwrap();
}
