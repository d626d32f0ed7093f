//! Calls that may never return, in a child process that may be lost.
//!
//! `statfs` on a file system whose server is gone puts its caller into state D, where no signal ends it. A thread of ours in
//! there would keep the agent's process alive for ever; so such calls are made by a child: our own binary again, with one
//! [`Task`] on its command line, in a session of its own, with nothing of ours open but the pipe that its one line comes back
//! through. A child that is late is abandoned: nobody kills it, nobody waits for it, and nobody asks at that place again until
//! it has returned. It holds an abstract socket with the place's name, so that this also holds for the next start of the
//! agent and for `check` beside it. It costs about 2 ms, so: on suspicion, or seldom.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kulprit_daemon::backoff::stable_seed;
use kulprit_host::HostRoot;
use kulprit_host::network::{NetworkNamespace, try_path};
use kulprit_host::space::read_space;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

/// The hidden subcommand of our binary.
const SUBCOMMAND: &str = "sacrifice";
/// Children that have not returned; then nobody is asked any more. Each holds some 3 MB.
const MAX_CHILDREN: usize = 16;
/// The longest answer, bytes.
const MAX_ANSWER_BYTES: u64 = 64 << 10;

/// What a child is to do. A new one is a variant here and its arm in [`perform`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "kebab-case")]
pub enum Task {
    /// `statfs`. Answer: [`kulprit_host::space::Space`].
    Space {
        /// The host's root as we see it; or `/proc/PID/root` for a path of a container.
        root: PathBuf,
        /// Below it.
        path: PathBuf,
    },
    /// `statfs`, for whether it answers at all. Answer: [`Reached`].
    Reach {
        /// As above.
        root: PathBuf,
        /// Below it.
        path: PathBuf,
    },
    /// Small and large packets to another host. Answer: [`kulprit_host::network::PathTry`].
    Packets {
        /// The network namespace they leave from: `/proc/PID/ns/net`.
        namespace: PathBuf,
        /// Whom they are for.
        peer: IpAddr,
    },
}

/// Whether a file system answers, be it with an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// What it answered instead of its room; `None`: it is well.
    pub error: Option<ReachError>,
}

/// An error that a file system answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReachError {
    /// Number of the error (`errno.h`). `None` where there was none.
    pub errno: Option<i32>,
    /// In words.
    pub text: String,
}

/// Does the task, however long it takes. Runs in the child.
fn perform(task: &Task) -> Result<serde_json::Value, Box<dyn std::error::Error>> {
    Ok(match task {
        Task::Space { root, path } => serde_json::to_value(read_space(&HostRoot::new(root), path)?)?,
        Task::Reach { root, path } => {
            let error = read_space(&HostRoot::new(root), path).err();
            let error = error.map(|error| ReachError { errno: errno_of(&error), text: chain(&error) });
            serde_json::to_value(Reached { error })?
        }
        Task::Packets { namespace, peer } => serde_json::to_value(try_path(&NetworkNamespace::at(namespace)?, *peer)?)?,
    })
}

fn errno_of(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.find_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error())
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// The child, this or an earlier one, has not returned: it hangs in the kernel.
    #[error("a child process that looks at it has not returned for {for_secs} s")]
    Late {
        /// Since it was started; 0 where an earlier agent started it.
        for_secs: u64,
    },
    /// Too many others hang: nobody was asked.
    #[error("{MAX_CHILDREN} child processes have not returned: no further one is started")]
    TooMany,
    /// It looked, and the call failed.
    #[error("{0}")]
    Failed(String),
    /// It ended without an answer.
    #[error("the child process ended without an answer")]
    NoAnswer,
    /// It could not be started.
    #[error("failed to start a child process")]
    Start(#[source] io::Error),
}

/// The one line of a child.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    /// It returned.
    Ok(serde_json::Value),
    /// The call failed, and how.
    Failed(String),
    /// Another child is at this place.
    Taken,
}

/// Starts children, at most one for each place.
#[derive(Debug)]
pub struct Sacrifice {
    command: Vec<OsString>,
    running: std::sync::Arc<Running>,
}

#[derive(Debug, Default)]
struct Running(Mutex<BTreeMap<String, Instant>>);

impl Running {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Sacrifice {
    /// Children are our own binary, the one that runs, whatever lies at its path by now.
    fn default() -> Self {
        Self::with_command(["/proc/self/exe", SUBCOMMAND])
    }
}

impl Sacrifice {
    /// Children are this command, with the place and the task as its last two arguments.
    pub fn with_command<T: Into<OsString>>(command: impl IntoIterator<Item = T>) -> Self {
        Self { command: command.into_iter().map(Into::into).collect(), running: std::sync::Arc::default() }
    }

    /// Does `task` in a child and waits at most `deadline` for its answer, which is an `A` (see [`Task`]).
    ///
    /// `place` is what may hang, with everything that makes it another one: for a mount its id and device, so that a new mount
    /// at the same point is a new place. Cancel-safe: a child that nobody waits for any more keeps its place until it returns.
    ///
    /// # Errors
    /// See [`Lost`]; `Late` is a finding by itself.
    pub async fn ask<A: DeserializeOwned>(&self, place: &str, task: &Task, deadline: Duration) -> Result<A, Lost> {
        let since = self.take(place)?;
        let held = Held { running: std::sync::Arc::clone(&self.running), place: place.to_owned() };
        let child = self.start(place, task)?;
        let (give, take) = oneshot::channel();
        tokio::spawn(async move {
            let answer = read_answer(child).await;
            // Free before the asker goes on: it may ask again at once.
            drop(held);
            let _ = give.send(answer);
        });
        match timeout(deadline, take).await {
            Ok(Ok(Some(Answer::Ok(value)))) => {
                serde_json::from_value(value).map_err(|error| Lost::Failed(error.to_string()))
            }
            Ok(Ok(Some(Answer::Failed(text)))) => Err(Lost::Failed(text)),
            Ok(Ok(Some(Answer::Taken))) => Err(Lost::Late { for_secs: 0 }),
            Ok(Ok(None) | Err(_)) => Err(Lost::NoAnswer),
            Err(_) => Err(Lost::Late { for_secs: since.elapsed().as_secs() }),
        }
    }

    /// How many children have not returned.
    #[must_use]
    pub fn n_running(&self) -> usize {
        self.running.lock().len()
    }

    fn take(&self, place: &str) -> Result<Instant, Lost> {
        let mut running = self.running.lock();
        if let Some(since) = running.get(place) {
            return Err(Lost::Late { for_secs: since.elapsed().as_secs() });
        }
        if running.len() >= MAX_CHILDREN {
            return Err(Lost::TooMany);
        }
        let now = Instant::now();
        running.insert(place.to_owned(), now);
        Ok(now)
    }

    fn start(&self, place: &str, task: &Task) -> Result<Child, Lost> {
        let task = serde_json::to_string(task).map_err(|error| Lost::Failed(error.to_string()))?;
        let (program, arguments) = self.command.split_first().ok_or(Lost::NoAnswer)?;
        Command::new(program)
            .args(arguments)
            .args([place, &task])
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(false)
            .spawn()
            .map_err(Lost::Start)
    }
}

/// Keeps a place taken.
struct Held {
    running: std::sync::Arc<Running>,
    place: String,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.running.lock().remove(&self.place);
    }
}

/// Its line, when it comes. `None` when it ends without one.
async fn read_answer(mut child: Child) -> Option<Answer> {
    let mut text = Vec::new();
    let read = child.stdout.take()?.take(MAX_ANSWER_BYTES).read_to_end(&mut text).await;
    // Its pipe is closed: it ends now, so that this does not wait for long, and leaves no zombie.
    let _ = child.wait().await;
    read.ok().and_then(|_| serde_json::from_slice(&text).ok())
}

/// The child's whole life: takes the place, does the task, prints one line.
///
/// 0 when it printed one, 2 when its arguments are none of ours.
#[expect(clippy::print_stdout, reason = "the line is what the child is for")]
pub fn child(place: &str, task: &str) -> ExitCode {
    // No hang-up of a terminal and no signal to our group reaches it. Fails only for a group's leader, which was started by hand.
    let _ = nix::unistd::setsid();
    let Ok(task) = serde_json::from_str::<Task>(task) else { return ExitCode::from(2) };
    let answer = match take_place(place) {
        Ok(Some(_held)) => match perform(&task) {
            Ok(value) => Answer::Ok(value),
            Err(error) => Answer::Failed(chain(&*error)),
        },
        Ok(None) => Answer::Taken,
        Err(error) => Answer::Failed(chain(&error)),
    };
    match serde_json::to_string(&answer) {
        Ok(line) => println!("{line}"),
        Err(_) => return ExitCode::from(2),
    }
    ExitCode::SUCCESS
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    kulprit_daemon::Chain(error).to_string()
}

/// A name that only one process can have, and that ends with it. `None` when another has it.
///
/// Abstract names live in the network namespace and in no file system. Source: `unix(7)`.
fn take_place(place: &str) -> io::Result<Option<UnixDatagram>> {
    // Names are at most 107 bytes, places are paths.
    let name = format!("kulprit-{SUBCOMMAND}-{:016x}", stable_seed(&[place]));
    match UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name)?) {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use kulprit_host::space::Space;

    use super::*;

    /// Longer than any child needs.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn task() -> Task {
        Task::Space { root: "/".into(), path: "/".into() }
    }

    fn shell(script: &str) -> Sacrifice {
        Sacrifice::with_command(["/bin/sh", "-c", script, "sh"])
    }

    async fn ask(sacrifice: &Sacrifice, deadline: Duration) -> Result<Space, String> {
        sacrifice.ask("place", &task(), deadline).await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn an_answer_comes_back_and_so_does_an_error() {
        let line = r#"{"ok":{"total_bytes":9,"free_bytes":1,"available_bytes":1,"total_inodes":0,"free_inodes":0,"is_read_only":true}}"#;
        let space = ask(&shell(&format!("echo '{line}'")), PATIENCE).await.unwrap();
        assert_eq!((space.total_bytes, space.is_read_only), (9, true));
        let failed = ask(&shell(r#"echo '{"failed":"Stale file handle (os error 116)"}'"#), PATIENCE).await;
        assert_eq!(failed.unwrap_err(), "Stale file handle (os error 116)");
    }

    #[tokio::test]
    async fn what_is_no_answer_is_told_and_the_place_is_free_again() {
        for (script, want) in [
            ("exit 3", "the child process ended without an answer"),
            ("echo garbage", "the child process ended without an answer"),
            ("head -c 100000 /dev/zero", "the child process ended without an answer"),
            (r#"echo '{"ok":"text"}'"#, "invalid type: string \"text\", expected struct Space"),
            (r#"echo '"taken"'"#, "a child process that looks at it has not returned for 0 s"),
        ] {
            let sacrifice = shell(script);
            assert_eq!(ask(&sacrifice, PATIENCE).await.unwrap_err(), want, "{script}");
            assert_eq!(sacrifice.n_running(), 0, "{script}");
        }
        let missing = Sacrifice::with_command(["/none/kulprit-agent"]);
        assert_eq!(ask(&missing, PATIENCE).await.unwrap_err(), "failed to start a child process");
        assert_eq!(missing.n_running(), 0);
    }

    #[tokio::test]
    async fn a_child_that_hangs_is_abandoned_and_no_second_one_is_started_until_it_returns() {
        let dir = tempfile::tempdir().unwrap();
        let (pipe, count) = (dir.path().join("pipe"), dir.path().join("count"));
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let sacrifice = shell(&format!("echo x >> {}; read line < {}", count.display(), pipe.display()));
        let late = ask(&sacrifice, Duration::from_millis(20)).await.unwrap_err();
        assert_eq!(late, "a child process that looks at it has not returned for 0 s");
        assert!(ask(&sacrifice, PATIENCE).await.unwrap_err().contains("has not returned"), "at once, without a child");
        assert_eq!(sacrifice.n_running(), 1);
        tokio::task::spawn_blocking(move || std::fs::write(pipe, "\n").unwrap()).await.unwrap();
        while sacrifice.n_running() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(std::fs::read_to_string(count).unwrap(), "x\n");
        assert_eq!(ask(&shell("exit"), PATIENCE).await.unwrap_err(), "the child process ended without an answer");
    }

    #[tokio::test]
    async fn places_are_apart_and_their_number_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let sacrifice = shell(&format!("read line < {}", pipe.display()));
        for n in 0..MAX_CHILDREN {
            let place = n.to_string();
            let lost = sacrifice.ask::<Space>(&place, &task(), Duration::ZERO).await.unwrap_err();
            assert!(matches!(lost, Lost::Late { .. }), "{lost}");
        }
        let lost = sacrifice.ask::<Space>("one more", &task(), PATIENCE).await.unwrap_err();
        assert!(matches!(lost, Lost::TooMany), "{lost}");
        // Opened for both so that every reader's open returns, and closed so that they all read an end.
        drop(tokio::net::unix::pipe::OpenOptions::new().read_write(true).open_sender(&pipe).unwrap());
        while sacrifice.n_running() > 0 {
            let _ = tokio::net::unix::pipe::OpenOptions::new().read_write(true).open_sender(&pipe).unwrap();
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn a_place_is_held_by_one() {
        let place = format!("test/{}", std::process::id());
        let held = take_place(&place).unwrap();
        assert!(held.is_some());
        assert!(take_place(&place).unwrap().is_none());
        drop(held);
        assert!(take_place(&place).unwrap().is_some());
    }
}
