//! Packets to the peer of a migration, once its connections are seen to get no answer.
//!
//! Whether the way to it is blocked, or only loses large packets, shows no table of connections. So a child sends some, from the
//! network namespace of the silent connection: the node's, or virt-handler's. Again after a minute while the peer is silent, and
//! after it was found to lose large ones until a try shows that it does not.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use kulprit_host::network::PathTry;
use kulprit_judge::Verdict;
use kulprit_judge::network::add_answer;
use kulprit_model::{FindingCode, Moment, Status, attribute};
use tokio::time::Instant;

use crate::sacrifice::{Lost, Sacrifice, Task};

/// Between two tries.
const EVERY: Duration = Duration::from_secs(60);
/// A try waits 1.1 s for each of six answers at most.
const DEADLINE: Duration = Duration::from_secs(8);

/// A peer that does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Silent {
    /// Whose network namespace its connection is in.
    pub(super) pid: u32,
    /// Its address.
    pub(super) peer: IpAddr,
}

/// Which peer is to be tried, and when.
#[derive(Debug, Default)]
pub(super) struct Packets {
    silent: Option<Silent>,
    /// The one that was found to lose large packets.
    lossy: Option<Silent>,
    tried: Option<Instant>,
    is_trying: bool,
    /// What came of the last try, while its peer is silent.
    answer: Option<(Silent, PathTry)>,
}

impl Packets {
    /// Takes in what the connections in the namespace of `pid` say, and adds to it what came of a try.
    pub(super) fn note(&mut self, at: Moment, pid: u32, verdicts: &mut [Verdict]) {
        let found = verdicts.iter().find_map(|verdict| {
            let Verdict::State(state) = verdict else { return None };
            let is_it = state.code == FindingCode::MigrationPeerSilent && state.status == Status::Present;
            is_it.then(|| state.attributes.get(attribute::SERVER)?.parse::<SocketAddr>().ok()).flatten()
        });
        match found {
            Some(peer) => self.silent = Some(Silent { pid, peer: peer.ip() }),
            None => self.silent = self.silent.filter(|silent| silent.pid != pid),
        }
        self.answer = self.answer.filter(|(silent, _)| self.silent == Some(*silent));
        if let Some((silent, tried)) = self.answer.filter(|(silent, _)| silent.pid == pid) {
            add_answer(at, verdicts, silent.peer, tried);
        }
    }

    /// Whether somebody was silent, or lost large packets, when last looked at.
    pub(super) fn is_suspicious(&self) -> bool {
        self.silent.or(self.lossy).is_some()
    }

    /// Whom to try now; the try counts as under way then.
    pub(super) fn due(&mut self) -> Option<Silent> {
        let silent = self.silent.or(self.lossy)?;
        let is_due = !self.is_trying && self.tried.is_none_or(|tried| tried.elapsed() >= EVERY);
        self.is_trying |= is_due;
        is_due.then_some(silent)
    }

    /// What came of it.
    pub(super) fn done(&mut self, silent: Silent, tried: Option<PathTry>, judged: Option<&Verdict>) {
        self.is_trying = false;
        self.tried = Some(Instant::now());
        self.answer = tried.map(|tried| (silent, tried));
        match judged {
            Some(Verdict::State(state)) if state.status == Status::Present => self.lossy = Some(silent),
            Some(_) => self.lossy = None,
            None => {}
        }
    }
}

/// Sends packets to a peer.
pub(super) async fn send(sacrifice: &Sacrifice, procfs: &Path, silent: Silent) -> Result<PathTry, Lost> {
    let namespace = procfs.join(silent.pid.to_string()).join("ns/net");
    let place = format!("packets to {} from {}", silent.peer, namespace.display());
    sacrifice.ask(&place, &Task::Packets { namespace, peer: silent.peer }, DEADLINE).await
}

#[cfg(test)]
mod tests {
    use kulprit_host::network::TcpSocket;
    use kulprit_judge::network::{Owner, judge_connections, judge_packets};

    use super::*;

    fn connections(is_silent: bool) -> Vec<Verdict> {
        let row = TcpSocket {
            local: "192.0.2.1:40000".parse().unwrap(),
            remote: "192.0.2.2:49152".parse().unwrap(),
            state: if is_silent { 2 } else { 1 },
            n_retransmits: if is_silent { 3 } else { 0 },
            send_queue_bytes: 0,
            receive_queue_bytes: 0,
            inode: 0,
        };
        judge_connections(Moment::default(), Owner::Libvirt, &[row])
    }

    fn tried(is_large_answered: bool) -> PathTry {
        PathTry { is_small_answered: true, is_large_answered: Some(is_large_answered), large_bytes: 9_000 }
    }

    fn done(packets: &mut Packets, silent: Silent, is_large_answered: bool) {
        let tried = tried(is_large_answered);
        let judged = judge_packets(Moment::default(), silent.peer, tried);
        packets.done(silent, Some(tried), judged.as_ref());
    }

    /// Whether the connections' finding says that the host of the silent peer answers.
    fn note(packets: &mut Packets, pid: u32, is_silent: bool) -> bool {
        let mut verdicts = connections(is_silent);
        packets.note(Moment::default(), pid, &mut verdicts);
        let Verdict::State(state) = &verdicts[0] else { panic!("a state") };
        state.attributes.get(attribute::HOST_ANSWERS).is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_tried_at_once_and_then_once_a_minute() {
        let mut packets = Packets::default();
        note(&mut packets, 1, false);
        assert_eq!(packets.due(), None);
        note(&mut packets, 1, true);
        let silent = Silent { pid: 1, peer: "192.0.2.2".parse().unwrap() };
        assert_eq!(packets.due(), Some(silent));
        assert_eq!(packets.due(), None, "one at a time");
        done(&mut packets, silent, true);
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(packets.due(), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(packets.due(), Some(silent));
        packets.done(silent, None, None);
        note(&mut packets, 1, false);
        tokio::time::advance(EVERY).await;
        assert_eq!(packets.due(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn that_the_host_answers_is_told_while_its_peer_is_silent_and_of_no_other() {
        let mut packets = Packets::default();
        assert!(!note(&mut packets, 1, true));
        let silent = packets.due().unwrap();
        done(&mut packets, silent, true);
        assert!(note(&mut packets, 1, true));
        assert!(note(&mut packets, 1, true), "until the next try");
        assert!(!note(&mut packets, 2, true), "from another namespace");
        assert!(!note(&mut packets, 1, true), "the last one seen silent is the one that is tried");
        done(&mut packets, silent, true);
        assert!(!note(&mut packets, 1, false));
        assert!(!note(&mut packets, 1, true), "it is another silence");
    }

    #[tokio::test(start_paused = true)]
    async fn a_path_that_loses_large_packets_is_tried_until_it_does_not() {
        let mut packets = Packets::default();
        note(&mut packets, 7, true);
        let silent = packets.due().unwrap();
        done(&mut packets, silent, false);
        note(&mut packets, 7, false);
        tokio::time::advance(EVERY).await;
        assert_eq!(packets.due(), Some(silent));
        done(&mut packets, silent, true);
        tokio::time::advance(EVERY).await;
        assert_eq!(packets.due(), None);
    }
}
