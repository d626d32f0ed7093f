//! `kill -9` at 200 random moments: nothing acked is lost, nothing is counted twice, no status changes.

use std::{collections::BTreeSet, time::Duration};

use kulprit_central::store::{History as _, HistoryQuery, sqlite::SqliteStore};
use kulprit_model::{Moment, Status};
use kulprit_proto::v1::{self, agent_message::Message, query_client::QueryClient};
use tokio::time::sleep;

use crate::{
    agent::{Agent, channel, hello, kubelet},
    app::line,
    binary::Running,
};

const N_KILLS: usize = 200;

fn status_of(seq: u64) -> Status {
    if seq.is_multiple_of(2) { Status::Absent } else { Status::Present }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acked_is_lost_and_nothing_counts_twice() {
    let folder = tempfile::tempdir().unwrap();
    let mut random: u64 = 0x2545_f491_4f6c_dd1d;
    let now = kulprit_daemon::Clock::kernel().now();
    let mut told = Told::default();
    for n in 0..N_KILLS {
        let central = Running::start(folder.path()).await;
        check_status(&central, &told).await;
        // xorshift (Marsaglia 2003): the same lives in each run of the test.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let lives_for = Duration::from_micros(random % 20_000);
        let life = live(central.grpc, now, &mut told);
        tokio::select! {
            () = life => unreachable!("an agent goes on until it is killed"),
            () = sleep(lives_for) => {}
        }
        central.kill().await;
        assert!(told.acked <= told.sent, "kill {n}: {told:?}");
    }
    let acked = told.acked;
    assert!(acked > 1_000, "only {acked} records were acked in {N_KILLS} lives: the test proves little");

    let (store, _) = SqliteStore::open(folder.path()).unwrap();
    let query = HistoryQuery {
        from_wall_usec: i64::MIN,
        to_wall_usec: i64::MAX,
        include_absent: true,
        limit: usize::MAX,
        ..HistoryQuery::default()
    };
    let seqs: Vec<u64> =
        store.history().unwrap().read(&query).unwrap().into_iter().map(|entry| entry.record.seq).collect();
    let unique: BTreeSet<u64> = seqs.iter().copied().collect();
    assert_eq!(seqs.len(), unique.len(), "something counts twice");
    let last = unique.last().copied().unwrap_or(0);
    assert!(last >= acked, "{acked} were acked, the history ends at {last}");
    assert_eq!(unique, (1..=last).collect(), "something is lost");
}

/// What the agent knows over all lives of central.
#[derive(Debug, Default)]
struct Told {
    acked: u64,
    sent: u64,
    /// A snapshot was completed and acked: before that, a node is Unknown.
    is_settled: bool,
}

/// After a start, before any agent: the status is that of a record at or after the last acked one.
async fn check_status(central: &Running, told: &Told) {
    let Told { acked, sent, is_settled: true } = *told else { return };
    let mut query = QueryClient::new(channel(central.grpc).await);
    let request = v1::ListFindingsRequest { include_absent: true, ..v1::ListFindingsRequest::default() };
    let findings = query.list_findings(request).await.unwrap().into_inner().findings;
    let lines: Vec<String> = findings.iter().map(line).collect();
    let possible: BTreeSet<String> =
        (acked..=sent).map(|seq| format!("KubeletInactive unit/kubelet.service {:?}", status_of(seq))).collect();
    assert!(lines.len() == 1 && possible.contains(&lines[0]), "{lines:?}, wanted one of {possible:?}");
}

/// Sends again what was not acked, then new records, and takes acks, until it is dropped.
async fn live(grpc: std::net::SocketAddr, now: Moment, told: &mut Told) {
    let mut agent = Agent::connect(grpc, hello("n1", 1, now)).await;
    agent.seq = told.acked;
    agent.send(Message::SnapshotBegin(v1::SnapshotBegin {})).await;
    // One more than before, so that the snapshot holds something.
    told.sent += 1;
    for seq in told.acked + 1..=told.sent {
        agent.say(kubelet(status_of(seq), now), now).await;
    }
    let in_snapshot = agent.seq;
    agent.send(Message::SnapshotEnd(v1::SnapshotEnd { seq: in_snapshot })).await;
    loop {
        for _ in 0..20 {
            told.sent += 1;
            agent.say(kubelet(status_of(told.sent), now), now).await;
        }
        while told.acked + 40 < agent.seq {
            match agent.next_ack().await {
                Ok(ack) => told.acked = told.acked.max(ack.seq),
                // Killed under us.
                Err(_) => std::future::pending().await,
            }
        }
        told.is_settled |= told.acked > in_snapshot;
    }
}
