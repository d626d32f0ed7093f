//! `kulprit-central`: reads its flags and configuration, then runs the app, or cleans up after it.

use std::process::ExitCode;

use clap::Parser as _;
use kulprit_central::{
    app, cleanup,
    config::{Command, Config, Flags, LoadError},
};
use kulprit_daemon::{
    run::{RunOptions, Threads, fail, run},
    telemetry,
};

/// Worker threads: one takes reports while the other answers; diagnosis and the store have threads of their own.
const N_WORKERS: usize = 2;

fn main() -> ExitCode {
    let flags = Flags::parse();
    let command = flags.command.clone();
    let config = match Config::effective(flags) {
        Ok(config) => config,
        Err(LoadError::File(error)) => return fail(&error),
        Err(LoadError::Value(error)) => return fail(&error),
    };
    telemetry::init_keeping(config.log_format, &config.log);
    let options = RunOptions {
        threads: Threads::Workers(N_WORKERS),
        drain_deadline: config.drain.get(),
        ..RunOptions::default()
    };
    match command {
        None => run(&options, |stop| app::run(config, stop)),
        Some(Command::Cleanup(flags)) => run(&options, |stop| cleanup::run(config, flags, stop)),
    }
}
