//! Real signals to a real process: this binary starts itself in a mode and sees with which code and last line it ends.
//!
//! Without the test harness, because the child's exit code is what is tested. `process NAME` runs the tests whose name
//! contains NAME.

use std::{
    env,
    io::Write,
    process::{ExitCode, Stdio},
    time::Duration,
};

use kulprit_daemon::{
    BoxError, CancellationToken, Clock, Readiness, Supervisor, UsageError,
    http::{Admin, listen},
    metrics::Metrics,
    run::{RunOptions, Threads, run},
    telemetry,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

/// Far more than any of these processes takes, so that a slow machine fails nothing.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["child", mode] => child(mode),
        _ => tests(args.iter().find(|arg| !arg.starts_with('-')).map_or("", String::as_str)),
    }
}

// The process under test

fn child(mode: &str) -> ExitCode {
    telemetry::init(telemetry::LogFormat::Json, &telemetry::LogFilter::default());
    let drain_ms = if mode.starts_with("slow") { 60_000 } else { 200 };
    let threads = if mode == "hung workers" { Threads::Workers(1) } else { Threads::Current };
    let options = RunOptions { threads, drain_deadline: Duration::from_millis(drain_ms), ..RunOptions::default() };
    run(&options, |stop| app(mode.to_owned(), stop, options.drain_deadline))
}

async fn app(mode: String, stop: CancellationToken, drain_deadline: Duration) -> Result<(), BoxError> {
    let mut metrics = Metrics::new("process-test", "0", &Clock::kernel());
    let mut tasks = Supervisor::new(stop.clone(), metrics.section("task"), 1);
    let (readiness, admin_stop) = (Readiness::new(), stop.clone());
    let admin = Admin::new("process-test", "0", readiness, metrics, &"no configuration")?;
    let listener = listen("admin HTTP", "127.0.0.1:0".parse()?, "--admin-listen").await?;
    tasks.core("admin", admin.serve(listener, admin_stop));
    match mode.as_str() {
        "well" | "idle" => tasks.core("spool", async move {
            stop.cancelled().await;
            sleep(Duration::from_millis(50)).await;
            Ok(())
        }),
        "late" | "slow" => tasks.core("uplink", std::future::pending()),
        "usage" => {
            let error = UsageError::new("failed to open the store `/x`").because("file is not a database");
            return Err(error.fix("choose another with --data-dir").into());
        }
        "panic" => panic!("planted"),
        "early" => tasks.core("engine", async { Err("planted".into()) }),
        "blocking" => {
            tokio::task::spawn_blocking(park);
            say("up");
            return Ok(());
        }
        "hung" | "slow hung" => {
            say("up");
            park();
        }
        "hung workers" => tasks.core("reader", async {
            tokio::task::yield_now().await;
            park();
            Ok(())
        }),
        other => return Err(format!("no mode `{other}`").into()),
    }
    say("up");
    tasks.run(drain_deadline).await?.into_result()?;
    Ok(())
}

/// Blocks its thread for good, as a read in D state does.
fn park() {
    loop {
        std::thread::park();
    }
}

#[expect(clippy::print_stdout, reason = "tells the test that the signals may come")]
fn say(word: &str) {
    println!("{word}");
    std::io::stdout().flush().expect("the test reads it");
}

// The tests

struct Process {
    child: Child,
    pid: Pid,
}

struct Ended {
    code: Option<i32>,
    stderr: String,
    took: Duration,
}

impl Process {
    /// Starts the mode; returns when it says it is up, or ended.
    async fn start(mode: &str) -> Self {
        let program = env::current_exe().expect("this binary");
        let mut command = Command::new(program);
        command.args(["child", mode]).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("started");
        let pid = Pid::from_raw(child.id().expect("running").try_into().expect("a pid"));
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        timeout(PATIENCE, stdout.read_line(&mut line)).await.expect("up in time").expect("readable");
        Self { child, pid }
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid, signal).expect("it runs");
    }

    async fn end(mut self) -> Ended {
        let began = Instant::now();
        let mut stderr = String::new();
        let mut pipe = self.child.stderr.take().expect("piped");
        timeout(PATIENCE, pipe.read_to_string(&mut stderr)).await.expect("ended in time").expect("text");
        let status = self.child.wait().await.expect("waited");
        Ended { code: status.code(), stderr, took: began.elapsed() }
    }
}

impl Ended {
    #[track_caller]
    fn check(&self, code: i32, last_line: &str) {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        let last = self.stderr.lines().rfind(|line| !line.starts_with('{')).unwrap_or("");
        assert_eq!(last, last_line, "{}", self.stderr);
    }
}

async fn sigterm_and_sigint_end_it_well() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let process = Process::start("well").await;
        process.signal(signal);
        let ended = process.end().await;
        ended.check(0, "");
        assert!(ended.stderr.contains(signal.as_str()) && ended.stderr.contains("\"drained\""), "{}", ended.stderr);
    }
}

async fn a_late_task_is_named_with_its_own_code() {
    let process = Process::start("late").await;
    process.signal(Signal::SIGTERM);
    process.end().await.check(3, "error: not ended 200ms after being told to: uplink");
}

async fn a_second_signal_ends_it_at_once() {
    let process = Process::start("slow").await;
    process.signal(Signal::SIGTERM);
    sleep(Duration::from_millis(200)).await;
    process.signal(Signal::SIGINT);
    let ended = process.end().await;
    ended.check(4, "");
    assert!(ended.took < Duration::from_secs(10), "{:?} of a drain of 60 s", ended.took);
}

async fn a_hung_runtime_is_ended_after_the_deadline() {
    for mode in ["hung", "hung workers"] {
        let process = Process::start(mode).await;
        process.signal(Signal::SIGTERM);
        let ended = process.end().await;
        assert_eq!(ended.code, Some(3), "{mode}: {}", ended.stderr);
    }
}

async fn a_second_signal_ends_a_hung_runtime_at_once() {
    let process = Process::start("slow hung").await;
    process.signal(Signal::SIGTERM);
    sleep(Duration::from_millis(200)).await;
    process.signal(Signal::SIGTERM);
    process.end().await.check(4, "");
}

async fn a_usage_error_is_one_line_and_code_2() {
    let ended = Process::start("usage").await.end().await;
    ended.check(2, "error: failed to open the store `/x`: file is not a database; choose another with --data-dir");
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
}

async fn a_panic_of_the_app_is_logged_and_fails() {
    let ended = Process::start("panic").await.end().await;
    ended.check(1, "error: panicked: planted");
    let log: serde_json::Value = serde_json::from_str(ended.stderr.lines().next().expect("a log line")).expect("JSON");
    assert_eq!(log["panic"], "planted");
    assert!(log["location"].as_str().is_some_and(|at| at.contains("process.rs")), "{log}");
}

async fn an_early_end_of_a_core_task_is_named() {
    Process::start("early").await.end().await.check(1, "error: core task `engine` failed: planted");
}

async fn a_blocked_call_does_not_hold_the_end() {
    Process::start("blocking").await.end().await.check(0, "");
}

fn tests(filter: &str) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut n_run = 0;
    macro_rules! each {
        ($($name:ident),* $(,)?) => { $(
            if stringify!($name).contains(filter) {
                runtime.block_on($name());
                n_run += 1;
                say(concat!("test ", stringify!($name), " ... ok"));
            }
        )* };
    }
    each!(
        sigterm_and_sigint_end_it_well,
        a_late_task_is_named_with_its_own_code,
        a_second_signal_ends_it_at_once,
        a_hung_runtime_is_ended_after_the_deadline,
        a_second_signal_ends_a_hung_runtime_at_once,
        a_usage_error_is_one_line_and_code_2,
        a_panic_of_the_app_is_logged_and_fails,
        an_early_end_of_a_core_task_is_named,
        a_blocked_call_does_not_hold_the_end,
    );
    say(&format!("{n_run} passed"));
    ExitCode::SUCCESS
}
