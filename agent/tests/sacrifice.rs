//! The agent's child for calls that never return, with a file system that really never answers.
//!
//! In a user and mount namespace of its own the test mounts FUSE and never answers: `statfs` waits for its first reply. Where
//! namespaces or FUSE cannot be had the tests of the module itself have to do.

use std::{
    fs::File,
    os::fd::AsRawFd as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use kulprit_agent::sacrifice::{Lost, Sacrifice, Task};
use kulprit_host::space::Space;
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    unistd::{getgid, getuid},
};

const PATIENCE: Duration = Duration::from_secs(30);

fn children() -> Sacrifice {
    Sacrifice::with_command([env!("CARGO_BIN_EXE_kulprit-agent"), "sacrifice"])
}

fn task(path: &Path) -> Task {
    Task::Space { root: "/".into(), path: path.into() }
}

/// A FUSE server that says nothing; it ends when dropped, and with it every wait for it.
fn mount_silent(point: &Path) -> nix::Result<File> {
    let (uid, gid) = (getuid(), getgid());
    unshare(CloneFlags::CLONE_NEWNS).or_else(|_| unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS))?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    let server = File::options().read(true).write(true).open("/dev/fuse").map_err(|_| nix::errno::Errno::ENODEV)?;
    let options = format!("fd={},rootmode=40000,user_id={uid},group_id={gid}", server.as_raw_fd());
    mount(Some("silent"), point, Some("fuse"), MsFlags::empty(), Some(options.as_str()))?;
    Ok(server)
}

#[test]
fn a_file_system_that_never_answers_costs_one_child_and_no_agent() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let point = folder.path().join("silent");
    std::fs::create_dir(&point).expect("the folder is ours");
    let server = match mount_silent(&point) {
        Ok(server) => server,
        Err(errno) => return eprintln!("no FUSE in a namespace here: {errno}"),
    };
    let place = format!("test/{}", point.display());
    runtime.block_on(async {
        let sacrifice = children();
        let own: Space = sacrifice.ask("own", &task(folder.path()), PATIENCE).await.expect("our own disk answers");
        assert!(own.total_bytes > 0);
        let ask = |sacrifice: Sacrifice, deadline| {
            let (place, task) = (place.clone(), task(&point));
            async move { (sacrifice.ask::<Space>(&place, &task, deadline).await, sacrifice) }
        };
        let (late, sacrifice) = ask(sacrifice, Duration::from_millis(500)).await;
        assert!(matches!(late, Err(Lost::Late { .. })), "{late:?}");
        let (late, sacrifice) = ask(sacrifice, PATIENCE).await;
        assert!(matches!(late, Err(Lost::Late { .. })), "at once: {late:?}");
        // Another agent, or the next start of this one: the place is held by the child itself.
        let (late, _) = ask(children(), PATIENCE).await;
        assert!(matches!(late, Err(Lost::Late { for_secs: 0 })), "{late:?}");
        // The server ends: the call fails, the child returns, the place is free.
        drop(server);
        while sacrifice.n_running() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (failed, _) = ask(sacrifice, PATIENCE).await;
        assert!(matches!(failed, Err(Lost::Failed(_))), "{failed:?}");
    });
    umount2(&point, MntFlags::MNT_DETACH).expect("our own mount");
}

#[test]
fn a_child_knows_its_words() {
    let run = |arguments: &[&str]| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_kulprit-agent"));
        child.arg("sacrifice").args(arguments).stdin(Stdio::null()).output().expect("the agent is built")
    };
    let line = |arguments: &[&str]| String::from_utf8_lossy(&run(arguments).stdout).into_owned();
    let space = line(&["p", r#"{"task":"space","root":"/","path":"/"}"#]);
    assert!(space.starts_with(r#"{"ok":{"#) && space.contains("total_bytes"), "{space}");
    let failed = line(&["p", r#"{"task":"space","root":"/","path":"none"}"#]);
    assert_eq!(failed, "{\"failed\":\"`/none` does not exist\"}\n");
    assert_eq!(run(&["p", "garbage"]).status.code(), Some(2));
}
