//! Launchers as KubeVirt's are, first without Kubernetes, then as real pods of a real one: two nodes with kubelet and containerd.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kulprit_tests::check::{SOON, assert_contains, report};
use kulprit_tests::guest::Program;
use kulprit_tests::wait::{Stopwatch, wait_until};
use kulprit_tests::{Cluster, Handler, Lab, Launcher};

/// Runs a test of the lab, and shows that nothing of it remains.
fn leaving_nothing(test: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    let lab = Lab::open()?;
    test(&lab)?;
    assert_eq!(lab.close()?, Vec::<String>::new());
    Ok(())
}

/// What makes a launcher of `prod/db-0` one, whatever started it.
fn assert_is_in_kubevirts_shape(launcher: &Launcher<'_>) -> Result<()> {
    let monitor = launcher.monitor_pid();
    let cmdline = fs::read_to_string(format!("/proc/{monitor}/cmdline"))?.replace('\0', " ");
    let uid = launcher.vmi_uid();
    let words = format!("/usr/bin/virt-launcher-monitor --qemu-timeout 279s --name db-0 --uid {uid} --namespace prod ");
    assert_contains(&cmdline, &words);
    let status = fs::read_to_string(format!("/proc/{monitor}/status"))?;
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).context("its pids")?;
    assert_eq!(ids.split_whitespace().next_back(), Some("1"), "the monitor is process 1 of its container");

    let qemu = launcher.qemu_pid().context("QEMU is a child of the monitor")?;
    assert_contains(&fs::read_to_string(format!("/proc/{qemu}/cmdline"))?, "guest=prod_db-0,");
    let cgroup = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup"));
    assert_contains(&cgroup(qemu)?, &format!("/kubepods/burstable/pod{}/", launcher.pod_uid()));
    assert_eq!(cgroup(qemu)?, cgroup(monitor)?, "QEMU stays in the container's cgroup");
    assert!(launcher.libvirt_pid().is_some(), "libvirt is a child of virt-launcher");
    assert_contains(&launcher.virsh(&["list", "--name"])?, "prod_db-0");

    for (volume, socket) in [("libvirt-runtime", "virtqemud-sock"), ("sockets", "launcher-sock")] {
        let path = launcher.empty_dir(volume).join(socket);
        assert!(fs::symlink_metadata(&path)?.file_type().is_socket(), "{}", path.display());
    }
    let in_container = launcher.root().join("run/libvirt/virtqemud-sock");
    assert!(fs::symlink_metadata(&in_container)?.file_type().is_socket());
    let log = fs::read_to_string(launcher.log_path())?;
    assert_contains(&log, " stdout F {\"component\":\"virt-launcher\"");
    assert_contains(&log, "Successfully started VM");
    let links = fs::read_to_string(format!("/proc/{monitor}/net/dev"))?;
    for link in ["eth0:", "tap0:", "k6t-eth0:"] {
        assert_contains(&links, link);
    }
    Ok(())
}

#[test]
fn a_launcher_without_kubernetes_is_in_kubevirts_shape() -> Result<()> {
    leaving_nothing(|lab| {
        let node = lab.node("n1").without_libvirt().start()?;
        let clock = Stopwatch::start();
        let launcher = Launcher::define(&node, "prod", "db-0")?.non_root().start()?;
        report("launcher", clock.elapsed());
        assert_is_in_kubevirts_shape(&launcher)?;
        let (volumes, log) = (launcher.empty_dir("sockets"), launcher.log_path());
        drop(launcher);
        assert!(!volumes.exists() && !log.exists(), "the pod is gone with what it had on the node");
        assert_eq!(node.run(&["sh", "-c", "find /sys/fs/cgroup -path '*/pod*-*'"])?, "");
        Ok(())
    })
}

#[test]
fn a_launcher_s_daemon_is_started_again_and_its_vm_runs_on() -> Result<()> {
    leaving_nothing(|lab| {
        let node = lab.node("n1").without_libvirt().start()?;
        let launcher = Launcher::start(&node, "prod", "db-0")?;
        let (libvirt, qemu) = (launcher.libvirt_pid().context("libvirt runs")?, launcher.qemu_pid());
        kulprit_tests::process::signal(libvirt, nix::sys::signal::Signal::SIGKILL)?;
        let answers = || launcher.virsh(&["list", "--name"]).is_ok_and(|names| names.contains("prod_db-0"));
        report("libvirt again", wait_until("libvirt to answer again", SOON, || Ok(answers()))?);
        assert_ne!(launcher.libvirt_pid(), Some(libvirt));
        assert_eq!(launcher.qemu_pid(), qemu);
        assert_contains(&fs::read_to_string(launcher.log_path())?, "virtqemud exited, restarting");
        Ok(())
    })
}

#[test]
fn a_vm_migrates_from_launcher_to_launcher() -> Result<()> {
    leaving_nothing(|lab| {
        let (one, two) = (lab.node("n1").without_libvirt().start()?, lab.node("n2").without_libvirt().start()?);
        let source =
            Launcher::define(&one, "prod", "db-0")?.program(Program::Eater { mib: 32, delay: 1000 }).start()?;
        let target = Launcher::define(&two, "prod", "db-0")?.for_migration_of(&source).start()?;
        assert_eq!((target.vmi_uid(), target.qemu_pid()), (source.vmi_uid(), None));
        let (from, to) = (Handler::start(&one)?, Handler::start(&two)?);
        from.carry(&source, &to, &target)?;
        let took = source.migrate_to(&target)?;
        report("migration", took);
        assert!(target.qemu_pid().is_some());
        let ended =
            wait_until("the source to end", SOON, || Ok(!kulprit_tests::process::is_alive(source.monitor_pid())))?;
        report("source ended", ended);
        Ok(())
    })
}

#[test]
fn a_cluster_of_two_nodes_runs_launchers_as_pods() -> Result<()> {
    leaving_nothing(|lab| {
        let clock = Stopwatch::start();
        let (cluster, nodes) = Cluster::start(lab, &["n1", "n2"])?;
        report("two nodes Ready", clock.elapsed());

        let clock = Stopwatch::start();
        let launcher = cluster.launch(Launcher::define(&nodes[0], "prod", "db-0")?)?;
        report("launcher pod", clock.elapsed());
        assert_is_in_kubevirts_shape(&launcher)?;
        let pod = cluster.get(&["pod", "--namespace", "prod", launcher.pod_name()])?;
        assert_eq!(pod["status"]["phase"], "Running");
        assert_eq!((&pod["spec"]["nodeName"], &pod["metadata"]["uid"]), (&"n1".into(), &launcher.pod_uid().into()));
        assert_eq!(pod["status"]["podIP"], launcher.address()?.as_str());

        nodes[1].systemctl(&["stop", "kubelet.service"])?;
        report("NotReady", cluster.wait_for_node(&nodes[1], false, Duration::from_secs(60))?);
        assert!(cluster.is_ready(&nodes[0])?, "the other node is Ready all the time");
        nodes[1].systemctl(&["start", "kubelet.service"])?;
        report("Ready again", cluster.wait_for_node(&nodes[1], true, Duration::from_secs(60))?);

        let session = cluster.launch(Launcher::define(&nodes[1], "prod", "db-0")?.non_root())?;
        assert_is_in_kubevirts_shape(&session)?;

        let clock = Stopwatch::start();
        cluster.kubectl(&["delete", "pod", "--namespace", "prod", launcher.pod_name()])?;
        report("pod ended with grace", clock.elapsed());
        let volumes = launcher.empty_dir("sockets");
        report(
            "pod's folders gone",
            wait_until("kubelet to clean up", Duration::from_secs(60), || Ok(!volumes.exists()))?,
        );
        Ok(())
    })
}
