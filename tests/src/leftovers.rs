//! Removing everything of a lab, dead or alive, in the order that works.
//!
//! Thaw before killing (a process in D state takes no signal), kill before unmounting (it keeps mounts busy), unmount before detaching.
//! Each step tolerates that there is nothing to do, so it runs at the end of every lab, at the start of the next, and by the reaper.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{cgroup, lab, process, shell, wait};

/// How long killed processes may take to go: QEMU gives its memory back, a thawed disk writes what was queued.
const END_LIMIT: Duration = Duration::from_secs(20);

/// What there is of any lab on this machine: mounts, loop devices, cgroups with their processes, the namespace, files.
pub(crate) fn list() -> Result<Vec<String>> {
    let folder = lab::folder();
    let mut found: Vec<String> =
        mounts_under(&folder)?.iter().map(|mount| format!("mount {}", mount.display())).collect();
    found.extend(loop_devices_under(&folder)?.into_iter().map(|device| format!("loop device {device}")));
    found.extend(cgroup::all().into_iter().map(|group| format!("cgroup {}", group.display())));
    found.extend(cgroup::processes().into_iter().map(|pid| format!("process {}", process::describe(pid))));
    if Path::new("/run/netns").join(lab::NETNS).exists() {
        found.push("network namespace".to_owned());
    }
    for entry in fs::read_dir(&folder)?.flatten().filter(|entry| entry.file_name() != "lock") {
        found.push(entry.path().display().to_string());
    }
    Ok(found)
}

/// Removes the lab. The caller holds its lock.
///
/// # Errors
/// If processes do not end: which, and in what state.
pub(crate) fn remove() -> Result<()> {
    let folder = lab::folder();
    for mount in mounts_under(&folder)? {
        let _ = shell::succeeds(&["fsfreeze", "-u", &mount.to_string_lossy()]);
    }
    end_processes()?;
    // Mounts stand on loop devices whose files lie in other mounts: last mounted, first unmounted.
    for mount in mounts_under(&folder)? {
        let path = mount.to_string_lossy();
        if !shell::succeeds(&["umount", &path]) {
            shell::run(&["umount", "--lazy", &path])?;
        }
    }
    for device in loop_devices_under(&folder)? {
        shell::run(&["losetup", "-d", &device])?;
    }
    if Path::new("/run/netns").join(lab::NETNS).exists() {
        shell::run(&["ip", "netns", "del", lab::NETNS])?;
    }
    cgroup::remove_all();
    remove_files(&folder)
}

fn end_processes() -> Result<()> {
    let ended = wait::wait_until("the lab's processes to end", END_LIMIT, || {
        let pids = cgroup::processes();
        for &pid in &pids {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        Ok(pids.is_empty())
    });
    if ended.is_err() {
        let stuck: Vec<String> = cgroup::processes().into_iter().map(process::describe).collect();
        bail!("these processes of the lab do not end: {}", stuck.join("; "));
    }
    Ok(())
}

/// Mount points under `folder`, last mounted first.
fn mounts_under(folder: &Path) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("failed to read `/proc/self/mountinfo`")?;
    let mut found: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|path| path.starts_with(folder))
        .collect();
    found.reverse();
    Ok(found)
}

/// Loop devices whose backing file lies under `folder`.
fn loop_devices_under(folder: &Path) -> Result<Vec<String>> {
    let table = shell::run(&["losetup", "--list", "--noheadings", "--raw", "--output", "NAME,BACK-FILE"])?;
    Ok(table
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(_, file)| Path::new(file).starts_with(folder))
        .map(|(device, _)| device.to_owned())
        .collect())
}

/// Empties the lab's folder, but for the lock.
fn remove_files(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("failed to list `{}`", folder.display()))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name == "lock") {
            continue;
        }
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.with_context(|| format!("failed to remove `{}`", path.display()))?;
    }
    Ok(())
}
