//! Kulprit's own programs, started and asked as a person would: flags, standard error, `/metrics`, signals.
//!
//! Nothing here knows their insides. A [`Started`] is killed when dropped; its standard error is in a file, which may be read at any time.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use crate::{lab, process, wait};

/// How long a local HTTP answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Path of a binary of this workspace.
///
/// # Errors
/// If it was not built.
pub fn binary(name: &str) -> Result<PathBuf> {
    lab::built_binary(name).with_context(|| format!("{name} is not built: run `make build`"))
}

/// What a program said until it ended.
#[derive(Debug)]
pub struct Said {
    /// Its exit code; `None`: a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs a program to its end.
///
/// # Errors
/// If it cannot be started, or has not ended within `limit`; it is killed then.
pub fn run_to_end(command: &mut Command, limit: Duration) -> Result<Said> {
    let folder = tempfile::tempdir()?;
    let (out, err) = (folder.path().join("out"), folder.path().join("err"));
    command.stdout(File::create(&out)?);
    let mut started = Started::start(command, &err)?;
    let status = started.wait(limit)?;
    let read = |path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok(Said { code: status.code(), stdout: read(out)?, stderr: read(err)? })
}

/// A running program.
#[derive(Debug)]
pub struct Started {
    child: Child,
    log: PathBuf,
}

impl Started {
    /// Starts it; what it writes to standard error goes to the end of `log`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let stderr = File::options().create(true).append(true).open(log)?;
        let child = command.stdin(Stdio::null()).stderr(stderr).spawn();
        let child = child.with_context(|| format!("failed to start {:?}", command.get_program()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// What it, and whoever had the same log before, has written to standard error.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn log(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.log)?).into_owned())
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it does not end within `limit`: with the last of its log.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let ended = wait::wait_for("a program to end", limit, || Ok(self.child.try_wait()?));
        let log = self.log()?;
        ended.map(|(status, _)| status).with_context(|| format!("its log: {log}"))
    }

    /// `kill -9`, and waits until it is gone.
    ///
    /// # Errors
    /// If it had ended before: with its log.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("had ended by itself: {status}: {}", self.log()?);
        }
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// If it does not end within 15 s.
    pub fn stop(mut self) -> Result<ExitStatus> {
        process::signal(self.pid(), Signal::SIGTERM)?;
        self.wait(Duration::from_secs(15))
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Pid of the child of `parent` whose command name begins with `name`; `None` while there is none.
#[must_use]
pub fn child_of(parent: i32, name: &str) -> Option<i32> {
    let is_named = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with(name));
    children_of(parent).into_iter().find(|pid| is_named(pid) && process::is_alive(*pid))
}

/// A process and all below it, itself first; only itself if it is gone.
#[must_use]
pub fn family_of(pid: i32) -> Vec<i32> {
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(parent) = family.get(next) {
        family.extend(children_of(*parent));
        next += 1;
    }
    family
}

/// The children of all threads of a process.
fn children_of(parent: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    children.flat_map(|pids| pids.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// An address of this machine that nobody has now.
///
/// # Errors
/// If there is no port left.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// The body of an HTTP answer.
///
/// # Errors
/// If nobody listens, or the answer is late.
pub fn http_get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_LIMIT)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
    Ok(body.to_owned())
}

/// The value of a series as `/metrics` prints it, labels included; `None` if there is no such series.
///
/// # Errors
/// As [`http_get`].
pub fn metric(address: SocketAddr, series: &str) -> Result<Option<f64>> {
    let text = http_get(address, "/metrics")?;
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    Ok(value.and_then(|value| value.parse().ok()))
}
