//! A `main` in five lines: runtime, signals, exit code.
//!
//! ```no_run
//! use std::process::ExitCode;
//! use kulprit_daemon::{BoxError, CancellationToken, run::{RunOptions, Threads, run}};
//!
//! async fn app(stop: CancellationToken) -> Result<(), BoxError> {
//!     stop.cancelled().await;
//!     Ok(())
//! }
//!
//! fn main() -> ExitCode {
//!     run(&RunOptions { threads: Threads::Current, ..RunOptions::default() }, app)
//! }
//! ```

use std::{
    error::Error,
    future::Future,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::Duration,
};

use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use crate::{
    BoxError, UsageError,
    exit::ExitReason,
    shutdown::{DEFAULT_DRAIN, watch_signals},
    telemetry::panic_text,
};

/// The stack of a runtime thread. Ours recurse nowhere deeply; the default of 2 MiB is only address space, but counts
/// against a memory limit with `vm.overcommit_memory=2`.
const THREAD_STACK_BYTES: usize = 512 * 1024;

/// On how many threads the app runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// On the main thread alone: the least memory, for the agent.
    Current,
    /// On so many worker threads, at least one.
    Workers(usize),
}

/// How [`run`] runs an app.
#[derive(Clone, Copy, Debug)]
pub struct RunOptions {
    /// On how many threads.
    pub threads: Threads,
    /// Most threads for blocking calls (`spawn_blocking`, file and DNS look-ups); further calls queue.
    pub n_blocking_threads: usize,
    /// How long tasks may take to end; must lie below the pod's grace period. Hand the same to `Supervisor::run`.
    pub drain_deadline: Duration,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self { threads: Threads::Current, n_blocking_threads: 4, drain_deadline: DEFAULT_DRAIN }
    }
}

/// Runs `app` until it returns; the token it gets is cancelled by the first SIGTERM or SIGINT (see [`watch_signals`]).
///
/// An error is printed to stderr as one line, `error: ...`, and becomes an exit code of [`crate::exit`]; so does a panic.
/// Blocking calls still under way at the end are left behind: a read in D state must not keep the process from ending.
pub fn run<A, F, E>(options: &RunOptions, app: A) -> ExitCode
where
    A: FnOnce(CancellationToken) -> F,
    F: Future<Output = Result<(), E>>,
    E: Into<BoxError>,
{
    match try_run(options, app) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error.as_ref()),
    }
}

fn try_run<A, F, E>(options: &RunOptions, app: A) -> Result<(), BoxError>
where
    A: FnOnce(CancellationToken) -> F,
    F: Future<Output = Result<(), E>>,
    E: Into<BoxError>,
{
    let runtime = runtime(options).map_err(|source| UsageError::new("failed to start the runtime").because(source))?;
    let stop = CancellationToken::new();
    let _watch = watch_signals(stop.clone(), options.drain_deadline)
        .map_err(|source| UsageError::new("failed to watch for signals").because(source))?;
    let ended = catch_unwind(AssertUnwindSafe(|| runtime.block_on(Box::pin(app(stop)))));
    runtime.shutdown_background();
    match ended {
        Ok(result) => result.map_err(Into::into),
        Err(payload) => Err(format!("panicked: {}", panic_text(payload.as_ref())).into()),
    }
}

fn runtime(options: &RunOptions) -> io::Result<Runtime> {
    let mut builder = match options.threads {
        Threads::Current => Builder::new_current_thread(),
        Threads::Workers(n_workers) => {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(n_workers.max(1));
            builder
        }
    };
    builder
        .enable_all()
        .thread_name("kulprit")
        .thread_stack_size(THREAD_STACK_BYTES)
        .max_blocking_threads(options.n_blocking_threads.max(1))
        .build()
}

/// Prints `error` as one line, `error: ...`, and returns its exit code; for a `main` that fails before [`run`].
#[expect(clippy::print_stderr, reason = "the last line of a process that ends; logging may not have started")]
pub fn fail(error: &(dyn Error + 'static)) -> ExitCode {
    let ExitReason { code, line } = ExitReason::of(error);
    eprintln!("error: {line}");
    ExitCode::from(code)
}
