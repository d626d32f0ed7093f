//! The agent: parses, starts logging, runs, exits.

use std::{cell::Cell, process::ExitCode, sync::Arc};

use clap::Parser as _;
use kulprit_agent::{
    app,
    arguments::{Arguments, Command},
    reload::ReadConfig,
    sacrifice,
};
use kulprit_daemon::{
    BoxError,
    run::{RunOptions, Threads, fail, run},
    telemetry,
};
use kulprit_host::{allocator, kept};
use tokio::time::Instant;

/// More than there are sources of blocking calls: each has one at a time, so that all of them may hang and nobody waits for another's.
const N_BLOCKING_THREADS: usize = 64;

fn main() -> ExitCode {
    allocator::keep_small();
    let arguments = Arguments::parse();
    if let Some(Command::Sacrifice { place, task }) = &arguments.command {
        return sacrifice::child(place, task);
    }
    kept::allow_many();
    let config = match arguments.to_config() {
        Ok(config) => config,
        Err(error) => return fail(error.as_ref()),
    };
    telemetry::init(config.log.format, &config.log.filter);
    let options = RunOptions {
        threads: Threads::Current,
        n_blocking_threads: N_BLOCKING_THREADS,
        drain_deadline: config.drain.get(),
    };
    match arguments.command.clone().unwrap_or(Command::Run) {
        Command::Run => {
            let source = arguments.config.clone().map(|file| {
                let read: ReadConfig = Arc::new(move || arguments.to_config());
                (file, read)
            });
            let started = Instant::now();
            run(&options, |stop| async move { app::run(config, source, started, stop).await.map_err(boxed) })
        }
        Command::Check { output, npd, within } => {
            let seen = Cell::new(ExitCode::SUCCESS);
            let ended = run(&options, |stop| async {
                let checked = match npd {
                    Some(probe) => app::check_npd(config, &probe, within.get(), stop).await,
                    None => app::check(config, output, stop).await,
                };
                seen.set(checked.map_err(boxed)?);
                Ok::<(), BoxError>(())
            });
            if ended == ExitCode::SUCCESS { seen.get() } else { ended }
        }
        Command::Probes { output } => {
            app::list_probes(output);
            ExitCode::SUCCESS
        }
        Command::Sacrifice { place, task } => sacrifice::child(&place, &task),
    }
}

/// So that the error in it is still found by its type, which decides on the exit code; anyhow's own conversion hides it.
fn boxed(error: anyhow::Error) -> BoxError {
    error.reallocate_into_boxed_dyn_error_without_backtrace()
}
