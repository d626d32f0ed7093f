//! What the programs say to a person who told them something wrong, and how they live with a host that answers nonsense.
//!
//! A start that cannot go well ends with exit code 2 and one line: what was attempted, on what, and what to do about it. A host that
//! lies costs a probe its sight, never the agent: what was readable is kept, the probe says `Unknown`, a counter moves.

use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kulprit_tests::check::{SOON, assert_contains};
use kulprit_tests::programs::{Said, Started, binary, free_address, metric, run_to_end};
use kulprit_tests::wait::wait_until;
use serde_json::Value;
use tempfile::TempDir;

const DAEMONS: [&str; 2] = ["kulprit-agent", "kulprit-central"];

/// A start that must fail; central's and the agent's ports are left to the kernel unless `flags` give them.
fn refused(program: &str, flags: &[&str]) -> Result<Said> {
    run_to_end(Command::new(binary(program)?).args(flags).env_clear(), SOON)
}

/// Exit code 2 and one line that begins with `error: ` and has all of `parts`; other lines are log lines of what went well before.
#[track_caller]
fn check_refused(said: &Said, parts: &[&str]) {
    let errors: Vec<&str> = said.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!((said.code, errors.len(), said.stdout.as_str()), (Some(2), 1, ""), "{}", said.stderr);
    assert_eq!(said.stderr.lines().last(), Some(errors[0]), "the error comes last");
    assert!(!said.stderr.contains(" ERROR "), "{}", said.stderr);
    for part in parts {
        assert_contains(errors[0], part);
    }
}

fn config(folder: &TempDir, text: &str) -> Result<String> {
    let path = folder.path().join("kulprit.yaml");
    fs::write(&path, text)?;
    Ok(path.to_str().context("a UTF-8 path")?.to_owned())
}

fn path(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).display().to_string()
}

#[test]
fn an_unknown_key_is_named_with_its_place_and_what_is_allowed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = config(&folder, "# ours\nlog_fromat: json\n")?;
    let said = refused("kulprit-central", &["--config", &file])?;
    check_refused(&said, &[&file, ":2:1", "unknown key `log_fromat`", "did you mean `log_format`?", "allowed: listen"]);
    let file = config(&folder, "probes:\n  libvirt:\n    uir: qemu:///system\n")?;
    let said = refused("kulprit-agent", &["--config", &file])?;
    check_refused(&said, &[&file, ":3:5", "unknown key `probes.libvirt.uir`", "did you mean `uri`?"]);
    Ok(())
}

#[test]
fn a_bad_duration_is_named_with_an_example() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = config(&folder, "drain: 10 parsecs\n")?;
    for program in DAEMONS {
        let said = refused(program, &["--config", &file])?;
        check_refused(&said, &[&file, ":1:8", "`drain`", "bad duration `10 parsecs`", "for example 10s"]);
    }
    Ok(())
}

#[test]
fn a_configuration_that_is_not_there_is_named() -> Result<()> {
    for program in DAEMONS {
        let said = refused(program, &["--config", "/nonexistent/kulprit.yaml"])?;
        check_refused(
            &said,
            &["`/nonexistent/kulprit.yaml`", "No such file or directory", "name another with --config"],
        );
    }
    Ok(())
}

#[test]
fn a_configuration_that_is_no_yaml_is_named() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = path(&folder, "junk.yaml");
    fs::write(&file, junk(400))?;
    for program in DAEMONS {
        check_refused(&refused(program, &["--config", &file])?, &[&file]);
    }
    Ok(())
}

/// clap's own form: the error first, then the usage.
#[test]
fn a_bad_flag_is_named() -> Result<()> {
    for program in ["kulprit-agent", "kulprit-central", "kulprit"] {
        let said = refused(program, &["--no-such-flag"])?;
        assert_eq!((said.code, said.stdout.as_str()), (Some(2), ""), "{}", said.stderr);
        assert_contains(said.stderr.lines().next().unwrap_or_default(), "error: unexpected argument '--no-such-flag'");
    }
    let said = refused("kulprit-agent", &["--admin-listen", "localhost"])?;
    assert_eq!(said.code, Some(2));
    assert_contains(&said.stderr, "'localhost' for '--admin-listen");
    check_refused(
        &refused("kulprit-agent", &["--central", "10.0.0.1:7443"])?,
        &["`10.0.0.1:7443`", "http://127.0.0.1:7443"],
    );
    Ok(())
}

#[test]
fn a_folder_that_cannot_be_made_is_named() -> Result<()> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("file"), "in the way")?;
    let below = path(&folder, "file/below");
    check_refused(&refused("kulprit-central", &["--data-dir", &below])?, &[&below, "Not a directory", "--data-dir"]);
    check_refused(&refused("kulprit-agent", &["--state-dir", &below])?, &[&below, "Not a directory", "--run-dir"]);
    Ok(())
}

#[test]
fn a_store_that_is_none_or_damaged_or_newer_is_told_apart() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let store = folder.path().join("central.db");
    let data_dir = folder.path().display().to_string();
    let start = || {
        refused(
            "kulprit-central",
            &["--data-dir", &data_dir, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"],
        )
    };

    fs::write(&store, "Dear diary, today I was mistaken for a database.\n".repeat(40))?;
    check_refused(&start()?, &["central.db` is not a store of kulprit-central", "no SQLite database", "move it away"]);

    make_store(folder.path())?;
    let whole = fs::read(&store)?;
    fs::write(&store, &whole[..whole.len() / 2])?;
    check_refused(&start()?, &["central.db` is damaged", "move it away", "restore it from a backup"]);

    // `user_version` and `application_id` of a SQLite file, big endian (https://sqlite.org/fileformat2.html).
    let with = |at: usize, value: u32| {
        let mut bytes = whole.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
        fs::write(&store, bytes)
    };
    with(60, 99)?;
    check_refused(&start()?, &["central.db` has schema version 99", "run the newer version again"]);
    with(68, 0x0bad_cafe)?;
    check_refused(&start()?, &["central.db` is not a store of kulprit-central", "another program", "0xbadcafe"]);
    Ok(())
}

/// A store as central leaves it when it is told to end.
fn make_store(folder: &Path) -> Result<()> {
    let _ = fs::remove_file(folder.join("central.db"));
    let log = folder.join("central.log");
    let flags = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let central =
        Started::start(Command::new(binary("kulprit-central")?).arg("--data-dir").arg(folder).args(flags), &log)?;
    wait_until("central to be up", SOON, || Ok(central.log()?.contains("central is up")))?;
    assert!(central.stop()?.success());
    Ok(())
}

#[test]
fn a_port_in_use_is_named_with_its_flag() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let taken = taken.local_addr()?.to_string();
    let data_dir = path(&folder, "central");
    for (flags, flag) in [
        (["--listen", &taken, "--admin-listen", "127.0.0.1:0"], "--listen"),
        (["--listen", "127.0.0.1:0", "--admin-listen", &taken], "--admin-listen"),
    ] {
        let said = refused("kulprit-central", &[&["--data-dir", &data_dir], &flags[..]].concat())?;
        check_refused(&said, &[&taken, "Address already in use", "`ss -ltnp`", &format!("choose another with {flag}")]);
    }
    let said = refused("kulprit-agent", &["--state-dir", &path(&folder, "agent"), "--admin-listen", &taken])?;
    check_refused(&said, &[&taken, "Address already in use", "`ss -ltnp`", "choose another with --admin-listen"]);
    Ok(())
}

#[test]
fn a_folder_in_use_is_named() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let state_dir = path(&folder, "agent");
    let _agent = Agent::start(&folder, &["--state-dir", &state_dir])?;
    let said = refused("kulprit-agent", &["--state-dir", &state_dir, "--admin-listen", "127.0.0.1:0"])?;
    check_refused(&said, &[&state_dir, "in use by another agent", "--state-dir"]);
    Ok(())
}

/// An agent of this machine, or of a made-up one, without a central.
struct Agent {
    program: Started,
    admin: std::net::SocketAddr,
}

impl Agent {
    /// Starts it and waits until every probe has looked.
    fn start(folder: &TempDir, flags: &[&str]) -> Result<Self> {
        let admin = free_address()?;
        let mut command = Command::new(binary("kulprit-agent")?);
        command.env_clear().args(["--node-name", "n1", "--central", "http://127.0.0.1:1"]).args(flags);
        command.args(["--admin-listen", &admin.to_string()]);
        let mut program = Started::start(&mut command, &folder.path().join("agent.log"))?;
        let is_ready =
            || kulprit_tests::programs::http_get(admin, "/ready").is_ok_and(|text| !text.contains("looked once"));
        wait_until("the agent to be ready", SOON, || {
            anyhow::ensure!(program.is_running()?, "the agent has ended: {}", program.log()?);
            Ok(is_ready())
        })?;
        Ok(Self { program, admin })
    }

    fn metric(&self, series: &str) -> Result<f64> {
        Ok(metric(self.admin, series)?.unwrap_or(0.0))
    }
}

#[test]
fn without_central_the_agent_goes_on_and_says_so_once() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut agent = Agent::start(&folder, &["--state-dir", &path(&folder, "agent")])?;
    wait_until("three tries", SOON, || Ok(agent.metric("kulprit_uplink_failures_total")? >= 3.0))?;
    assert!(agent.program.is_running()?);
    let log = agent.program.log()?;
    assert_eq!(log.matches("no connection to central").count(), 1, "{log}");
    assert!(agent.metric("kulprit_spool_waiting_records")? > 0.0, "what it sees is kept");
    assert!(agent.program.stop()?.success());
    Ok(())
}

#[test]
fn without_its_folder_the_agent_goes_on_and_says_so_once() -> Result<()> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("file"), "in the way")?;
    let flags = ["--state-dir", &path(&folder, "file/below"), "--run-dir", &path(&folder, "run")];
    let agent = Agent::start(&folder, &flags)?;
    assert_eq!(agent.metric("kulprit_spool_durable")?, 0.0);
    let log = agent.program.log()?;
    assert_eq!(log.matches("cannot write the state folder").count(), 1, "{log}");
    Ok(())
}

/// Bytes that are no text, the same in each run.
fn junk(n_bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    (0..n_bytes).map(|_| next()).collect()
}

/// A host whose kernel, buses and sockets say nothing but nonsense; only its boot id is one, without which no agent starts.
fn host_of_junk() -> Result<TempDir> {
    let host = tempfile::tempdir()?;
    let write = |name: &str| -> Result<()> {
        let path = host.path().join(name);
        fs::create_dir_all(path.parent().context("it has a parent")?)?;
        Ok(fs::write(path, junk(3_000))?)
    };
    for file in ["stat", "status", "cmdline", "cgroup", "mountinfo", "comm", "task/4711/stat", "task/4711/wchan"] {
        write(&format!("proc/4711/{file}"))?;
    }
    for file in
        ["proc/cpuinfo", "proc/modules", "proc/meminfo", "etc/machine-id", "etc/os-release", "dev/kvm", "dev/kmsg"]
    {
        write(file)?;
    }
    write("sys/module/kvm_intel/parameters/nested")?;
    write("run/libvirt/qemu/db-0.pid")?;
    fs::create_dir_all(host.path().join("proc/sys/kernel/random"))?;
    fs::write(host.path().join("proc/sys/kernel/random/boot_id"), "11111111-2222-4333-8444-555555555555\n")?;
    for socket in ["run/dbus/system_bus_socket", "run/libvirt/libvirt-sock"] {
        fs::create_dir_all(host.path().join(socket).parent().context("it has a parent")?)?;
        talk_nonsense(UnixListener::bind(host.path().join(socket))?);
    }
    Ok(host)
}

/// Answers every caller with junk.
fn talk_nonsense(listener: UnixListener) {
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.write_all(&junk(512));
            let _ = stream.read(&mut [0; 512]);
        }
    });
}

/// Flags of an agent for a host of junk.
fn flags_for(host: &TempDir) -> Vec<String> {
    let procfs = host.path().join("proc").display().to_string();
    ["--host-root", &host.path().display().to_string(), "--procfs", &procfs].map(str::to_owned).to_vec()
}

/// The members of a JSON object, in any order.
fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> =
        value.as_object().map(|object| object.keys().map(String::as_str).collect()).unwrap_or_default();
    keys.sort_unstable();
    keys
}

fn check_json(flags: &[String]) -> Result<(Option<i32>, Value)> {
    let mut command = Command::new(binary("kulprit-agent")?);
    let said = run_to_end(command.env_clear().args(["check", "-o", "json"]).args(flags), Duration::from_secs(45))?;
    let value: Value =
        serde_json::from_str(&said.stdout).with_context(|| format!("no JSON: {} {}", said.stdout, said.stderr))?;
    Ok((said.code, value))
}

fn probe<'a>(checked: &'a Value, name: &str) -> &'a Value {
    let probes = checked["probes"].as_array().map(Vec::as_slice).unwrap_or_default();
    probes.iter().find(|probe| probe["name"] == name).unwrap_or(&Value::Null)
}

#[test]
fn check_prints_json_of_one_shape_on_a_host_of_junk_and_on_this_one() -> Result<()> {
    let host = host_of_junk()?;
    for flags in [flags_for(&host), Vec::new()] {
        let (_, checked) = check_json(&flags)?;
        assert_eq!(keys(&checked), ["probes"]);
        let probes = checked["probes"].as_array().context("a list")?;
        assert_eq!(probes.len(), kulprit_agent::probes::PROBES.len());
        for probe in probes {
            assert_eq!(keys(probe), ["duration_ms", "findings", "name", "outcome"]);
            assert!(["ok", "partial", "blind"].contains(&probe["outcome"].as_str().unwrap_or_default()), "{probe}");
            assert!(probe["duration_ms"].is_u64() && probe["findings"].is_array(), "{probe}");
        }
    }
    Ok(())
}

#[test]
fn on_a_host_of_junk_what_cannot_be_seen_is_unknown_and_what_can_is_told() -> Result<()> {
    let host = host_of_junk()?;
    let (code, checked) = check_json(&flags_for(&host))?;
    assert_eq!(probe(&checked, "kubelet")["outcome"], "blind", "{checked:#}");
    assert_eq!(probe(&checked, "kernel-log")["outcome"], "blind", "{checked:#}");
    // A daemon that answers, and nonsense, is a fault of its own.
    assert_contains(&probe(&checked, "domain")["findings"].to_string(), "\"failure\":\"malformed\"");
    // The good part: `/dev/kvm` is there and is no device, whatever else is junk.
    assert_contains(&probe(&checked, "kvm")["findings"].to_string(), "KvmDeviceMissing");
    assert_eq!(code, Some(1), "a fault was found");
    Ok(())
}

#[test]
fn on_a_host_of_junk_the_agent_goes_on_and_counts() -> Result<()> {
    let (host, folder) = (host_of_junk()?, tempfile::tempdir()?);
    let flags = [flags_for(&host), vec!["--state-dir".to_owned(), path(&folder, "agent")]].concat();
    let mut agent = Agent::start(&folder, &flags.iter().map(String::as_str).collect::<Vec<_>>())?;
    wait_until("blind looks", SOON, || {
        Ok(agent.metric("kulprit_probe_looks_total{probe=\"kubelet\",outcome=\"blind\"}")? >= 2.0)
    })?;
    wait_until("errors of what was read", SOON, || Ok(agent.metric("kulprit_probe_errors_total")? >= 2.0))?;
    assert_eq!(agent.metric("kulprit_probe_ends_total{probe=\"qemu\"}")?, 0.0);
    assert!(agent.program.is_running()?);
    let log = agent.program.log()?;
    assert!(!log.contains("panicked"), "{log}");
    assert!(agent.program.stop()?.success());
    Ok(())
}

/// A worker that is a shell script; its standard input is the socket to the agent.
fn check_worker(script: &str, because: &str) -> Result<()> {
    let (host, folder) = (host_of_junk()?, tempfile::tempdir()?);
    let worker = path(&folder, "worker");
    fs::write(&worker, format!("#!/bin/sh\n{script}\n"))?;
    fs::set_permissions(&worker, Permissions::from_mode(0o755))?;
    let state_dir = path(&folder, "agent");
    let own = ["--state-dir", &state_dir, "--libvirt-worker", &worker].map(str::to_owned).to_vec();
    let flags = [flags_for(&host), own].concat();
    let mut agent = Agent::start(&folder, &flags.iter().map(String::as_str).collect::<Vec<_>>())?;
    wait_until("another start of the worker", SOON, || Ok(agent.metric("kulprit_probe_worker_starts_total")? >= 3.0))?;
    assert!(agent.metric("kulprit_probe_errors_total")? >= 2.0);
    let blind = "kulprit_probe_looks_total{probe=\"domain\",outcome=\"blind\"}";
    wait_until("the probe to be blind", SOON, || Ok(agent.metric(blind)? >= 1.0))?;
    assert!(agent.metric("kulprit_probe_looks_total{probe=\"kvm\",outcome=\"ok\"}")? >= 1.0, "the others look on");
    assert!(agent.program.is_running()?);
    assert_contains(&agent.program.log()?, because);

    let (_, checked) = check_json(&flags)?;
    assert_eq!(probe(&checked, "domain")["outcome"], "blind", "{checked:#}");
    assert_contains(&probe(&checked, "domain").to_string(), because);
    Ok(())
}

#[test]
fn a_worker_that_dies_is_started_anew_and_its_probe_is_blind() -> Result<()> {
    check_worker("exit 7", "the libvirt worker has ended")
}

#[test]
fn a_worker_that_announces_too_much_is_ended() -> Result<()> {
    check_worker("printf '\\377\\377\\377\\377junk' >&0; sleep 60", "sent a frame of 4294967295 bytes")
}

#[test]
fn a_worker_that_talks_nonsense_is_ended() -> Result<()> {
    check_worker("printf '\\000\\000\\000\\004\\377\\377\\377\\377' >&0; sleep 60", "no message")
}

#[test]
fn a_worker_that_is_not_there_is_named() -> Result<()> {
    let (host, mut flags) = (host_of_junk()?, Vec::new());
    flags.extend(flags_for(&host));
    flags.extend(["--libvirt-worker".to_owned(), "/nonexistent/worker".to_owned()]);
    let (_, checked) = check_json(&flags)?;
    assert_contains(&probe(&checked, "domain").to_string(), "failed to start the libvirt worker `/nonexistent/worker`");
    Ok(())
}
