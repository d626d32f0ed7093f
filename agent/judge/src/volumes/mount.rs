//! Mounts over the network: is the server silent?
//!
//! NFS counts requests and answers, Ceph lists the requests without an answer, FUSE counts those its server has not given back.
//! Requests that were sent after the last answer, and none for 5 s, are silence. What only may be silence (a retransmission
//! leaves a request without an answer of its own for ever; a lock request waits by nature) is asked, see [`Asked`].

use kulprit_host::mount::Mount;
use kulprit_host::volume::{CephClient, NfsMount};
use kulprit_model::{FindingCode, Moment, Subject, attribute};

use super::{Backend, NO_ANSWER_USEC};
use crate::command::reach::backend_of;
use crate::say::{PROCFS, absent, present, unknown};
use crate::verdict::StateVerdict;

const CODE: FindingCode = FindingCode::BackendUnreachable;
/// FUSE file systems that live on the node by themselves.
const LOCAL_FUSE: [&str; 6] =
    ["fuse.lxcfs", "fuse.snapfuse", "fuse.gvfsd-fuse", "fuse.portal", "fuse.overlayfs", "fuse.fuse-overlayfs"];

/// The kind of backend of a mount; `None` for one that does not leave the node.
#[must_use]
pub fn remote_backend(mount: &Mount) -> Option<&'static str> {
    if LOCAL_FUSE.contains(&mount.fs_type.as_str()) || mount.fs_type == "fusectl" {
        return None;
    }
    match mount.fs_type.as_str() {
        "gfs2" | "ocfs2" | "lustre" | "gpfs" | "beegfs" | "9p" => Some("cluster"),
        kind => backend_of(mount.source.as_deref().unwrap_or_default(), Some(kind)),
    }
}

/// A mount over the network, and what is known of it without asking.
#[derive(Clone, Copy, Debug)]
pub struct MountSeen<'a> {
    /// The mount.
    pub mount: &'a Mount,
    /// Statistics of NFS.
    pub nfs: Option<&'a NfsMount>,
    /// Requests that a FUSE server has not given back.
    pub fuse_waiting: Option<u64>,
    /// The client of CephFS.
    pub ceph: Option<&'a CephClient>,
    /// Whether a VM on it is looked closer at.
    pub is_suspect: bool,
}

/// What came of a look that may hang.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It answered.
    Answered,
    /// It has not, for so many seconds.
    Late {
        /// Seconds since it was asked.
        for_secs: u64,
    },
    /// It answered with an error.
    Failed {
        /// Number of the error, where there was one.
        errno: Option<i32>,
        /// What it said.
        text: String,
    },
    /// Nobody could be sent to ask.
    NotAsked(String),
}

/// What is remembered of one mount from look to look.
#[derive(Clone, Debug, Default)]
pub struct MountHistory {
    nfs: Option<NfsSeen>,
    /// Number of the oldest Ceph request, and since when it has been that.
    ceph: Option<(u64, Moment)>,
    fuse_since: Option<Moment>,
    /// Whether it was seen to answer, or to have nothing to answer. Before that, what is under way may have waited for long.
    has_answered: bool,
    /// The last time that somebody was sent and did not come back in time.
    is_late: bool,
}

#[derive(Clone, Copy, Debug)]
struct NfsSeen {
    at: Moment,
    sends: u64,
    replies: u64,
    timeouts: u64,
    /// Sends without a reply of their own when all was quiet.
    surplus: u64,
    unanswered_since: Option<Moment>,
    /// Whether something was sent, or given up, after the last reply.
    is_certain: bool,
}

/// What a look at a mount gives.
#[derive(Clone, Debug)]
pub struct MountVerdict {
    /// `BackendUnreachable` of the mount; `None`: nobody knows, and nothing hints at a fault.
    pub state: Option<StateVerdict>,
    /// Whether only a look that may hang can tell.
    pub is_to_be_asked: bool,
}

/// What the kernel's memory says of a mount.
enum Passive {
    /// Nothing waits, or answers come.
    Answers(String),
    /// Requests without an answer.
    Silent { since: Moment, text: String },
    /// The server refuses this client.
    Refused(String),
    /// Something waits that may wait by nature.
    Unclear(String),
    /// There is no such memory of this kind of mount, or it was not yet looked at for long enough.
    NotKnown,
}

/// Where a mount comes from.
#[must_use]
pub(super) fn backend_of_mount(seen: &MountSeen<'_>) -> Backend {
    let source = seen.mount.source.as_deref().unwrap_or_default();
    let kind = remote_backend(seen.mount);
    let (server, export) = match kind {
        Some("ceph") => {
            // `mon1:6789,mon2:6789:/path`, `user@fsid.name=/path`.
            let (servers, path) = source.rsplit_once(":/").or_else(|| source.split_once("=/")).unwrap_or((source, ""));
            let server = seen.ceph.map(|client| client.fsid.clone()).or_else(|| Some(servers.to_owned()));
            (server, Some(format!("/{path}")))
        }
        Some("cifs") => {
            let (server, share) = source.trim_start_matches('/').split_once('/').unwrap_or((source, ""));
            (Some(server.to_owned()), Some(share.to_owned()))
        }
        _ => match source.split_once(":/") {
            Some((server, path)) => (Some(server.to_owned()), Some(format!("/{path}"))),
            None => (None, Some(source.to_owned())),
        },
    };
    let known = |text: Option<String>| text.filter(|text| !text.is_empty());
    Backend { kind, server: known(server), export: known(export) }
}

/// `BackendUnreachable` of a mount.
///
/// `asked` is the answer to the last [`MountVerdict::is_to_be_asked`], `None` when nobody was asked at this look.
#[must_use]
pub fn judge_mount(
    at: Moment,
    seen: &MountSeen<'_>,
    asked: Option<&Asked>,
    history: &mut MountHistory,
) -> MountVerdict {
    let passive = passive(at, seen, history);
    let backend = backend_of_mount(seen);
    let point = seen.mount.mount_point.to_string_lossy().into_owned();
    let subject = Subject::Mount { point: point.clone() };
    let facts = || backend.facts().with(attribute::MOUNT_POINT, &point).with(attribute::FSTYPE, &seen.mount.fs_type);
    let says = |failure: &str, text: String| {
        present(CODE, &subject, at, PROCFS, facts().with(attribute::FAILURE, failure), text)
    };
    let well = |text: String| StateVerdict { attributes: facts(), ..absent(CODE, &subject, at, PROCFS, text) };
    let what = backend.words();
    match asked {
        Some(Asked::Answered) => {
            history.answered();
            return MountVerdict {
                state: Some(well(format!("{what} answered a look at {point}"))),
                is_to_be_asked: false,
            };
        }
        Some(Asked::Late { for_secs }) => {
            history.is_late = true;
            let text = format!("{what} has not answered a look at {point} for {for_secs} s");
            return MountVerdict { state: Some(says(attribute::FAILURE_TIMEOUT, text)), is_to_be_asked: true };
        }
        Some(Asked::Failed { errno, text }) => {
            history.is_late = false;
            let failure = match errno {
                // Numbers of `errno.h`: ESTALE, ENOTCONN, EIO, ETIMEDOUT, EHOSTUNREACH, EHOSTDOWN, ESHUTDOWN, EBLOCKLISTED.
                Some(116) => Some("stale"),
                Some(107) => Some("not_connected"),
                Some(5) => Some(attribute::IO_OTHER),
                Some(110) => Some(attribute::FAILURE_TIMEOUT),
                Some(112 | 113) => Some("no_route"),
                Some(108) => Some(attribute::FAILURE_DENIED),
                _ => None,
            };
            let text = format!("a look at {point} ({what}) failed: {text}");
            let state = match failure {
                Some(failure) => says(failure, text),
                None => unknown(CODE, &subject, text),
            };
            return MountVerdict { state: Some(state), is_to_be_asked: failure.is_some() };
        }
        Some(Asked::NotAsked(_)) | None => {}
    }
    let is_to_be_asked = history.is_late || seen.is_suspect;
    match passive {
        // The last look at it has not come back: that look decides, whatever waits.
        Passive::Unclear(_) | Passive::Answers(_) if history.is_late => {
            MountVerdict { state: None, is_to_be_asked: true }
        }
        Passive::Silent { since, text } => MountVerdict {
            state: Some(StateVerdict { since: Some(since), ..says(attribute::FAILURE_TIMEOUT, text) }),
            is_to_be_asked: false,
        },
        Passive::Refused(text) => {
            MountVerdict { state: Some(says(attribute::FAILURE_DENIED, text)), is_to_be_asked: false }
        }
        Passive::Unclear(text) => {
            let because = match asked {
                Some(Asked::NotAsked(why)) => format!("{text}; {why}"),
                _ => text,
            };
            MountVerdict { state: Some(unknown(CODE, &subject, because)), is_to_be_asked: true }
        }
        Passive::Answers(text) => MountVerdict { state: Some(well(text)), is_to_be_asked },
        Passive::NotKnown => MountVerdict { state: None, is_to_be_asked },
    }
}

impl MountHistory {
    /// It answers: whatever is still open is no request of today.
    fn answered(&mut self) {
        self.is_late = false;
        self.has_answered = true;
        self.ceph = None;
        self.fuse_since = None;
        if let Some(nfs) = &mut self.nfs {
            nfs.surplus = nfs.sends.saturating_sub(nfs.replies);
            nfs.unanswered_since = None;
            nfs.is_certain = false;
        }
    }

    /// It answers by what the kernel remembers.
    fn answers(&mut self, text: String) -> Passive {
        self.has_answered = true;
        Passive::Answers(text)
    }

    /// Requests are open, not for long since it answered; or else nobody knows for how long.
    fn under_way(&self, text: String) -> Passive {
        if self.has_answered { Passive::Answers(text) } else { Passive::NotKnown }
    }
}

fn passive(at: Moment, seen: &MountSeen<'_>, history: &mut MountHistory) -> Passive {
    if let Some(mount) = seen.nfs {
        return passive_nfs(at, mount, history);
    }
    if let Some(client) = seen.ceph {
        return passive_ceph(at, client, history);
    }
    match seen.fuse_waiting {
        Some(0) => {
            history.fuse_since = None;
            history.answers("no request of FUSE waits".to_owned())
        }
        Some(n) => {
            let since = *history.fuse_since.get_or_insert(at);
            if at.usec_since(since) >= NO_ANSWER_USEC {
                Passive::Unclear(format!("{n} requests of FUSE wait, some since {} s", secs(at, since)))
            } else {
                history.under_way(format!("{n} requests of FUSE are under way"))
            }
        }
        None => Passive::NotKnown,
    }
}

fn passive_nfs(at: Moment, mount: &NfsMount, history: &mut MountHistory) -> Passive {
    let (sends, replies, timeouts) = (mount.sends_total(), mount.replies_total(), mount.timeouts_total);
    let surplus = sends.saturating_sub(replies);
    let began = NfsSeen { at, sends, replies, timeouts, surplus: 0, unanswered_since: None, is_certain: false };
    // A counter that fell belongs to a new connection or mount.
    let is_same = |before: &NfsSeen| sends >= before.sends && replies >= before.replies && timeouts >= before.timeouts;
    let before = history.nfs.filter(is_same).unwrap_or_else(|| {
        history.has_answered = false;
        began
    });
    let mut now = NfsSeen { surplus: before.surplus.min(surplus), ..began };
    let n_open = surplus - now.surplus;
    if n_open == 0 {
        history.nfs = Some(now);
        return history.answers(format!("every request of NFS is answered, {replies} so far"));
    }
    if replies > before.replies {
        now.unanswered_since = Some(at);
        history.nfs = Some(now);
        return history.answers(format!(
            "{} answers of NFS since the last look, {n_open} requests open",
            replies - before.replies
        ));
    }
    let since = before.unanswered_since.unwrap_or(before.at);
    now.unanswered_since = Some(since);
    now.is_certain = before.is_certain || sends > before.sends || timeouts > before.timeouts;
    history.nfs = Some(now);
    let waited = at.usec_since(since);
    if waited < NO_ANSWER_USEC {
        return history.under_way(format!("{n_open} requests of NFS are under way"));
    }
    let text = format!("{n_open} requests of NFS are open, and no answer came for {} s", secs(at, since));
    if now.is_certain { Passive::Silent { since, text } } else { Passive::Unclear(text) }
}

fn passive_ceph(at: Moment, client: &CephClient, history: &mut MountHistory) -> Passive {
    if client.is_blocklisted == Some(true) {
        return Passive::Refused(format!("the cluster has blocklisted {} of this node", client.client));
    }
    let (Some(osd), mds) = (&client.osd, &client.mds) else { return Passive::NotKnown };
    // Object stores answer or are silent; a metadata server may hold a lock request back for as long as it takes.
    let (oldest, is_certain) = match (osd.oldest, mds.as_ref().and_then(|mds| mds.oldest)) {
        (Some(oldest), _) => (oldest, true),
        (None, Some(oldest)) => (oldest, false),
        (None, None) => {
            history.ceph = None;
            return history.answers("no request of Ceph is open".to_owned());
        }
    };
    let since = match history.ceph {
        Some((known, since)) if known == oldest => since,
        before => {
            // The one that was the oldest is answered.
            history.has_answered |= before.is_some();
            at
        }
    };
    history.ceph = Some((oldest, since));
    if at.usec_since(since) < NO_ANSWER_USEC {
        return history.under_way("requests of Ceph are under way".to_owned());
    }
    let server = osd.server.as_deref().or(mds.as_ref().and_then(|mds| mds.server.as_deref())).unwrap_or("anybody");
    let text = format!("request {oldest} of Ceph to {server} has no answer for {} s", secs(at, since));
    if is_certain { Passive::Silent { since, text } } else { Passive::Unclear(text) }
}

fn secs(at: Moment, since: Moment) -> i64 {
    at.usec_since(since) / 1_000_000
}
