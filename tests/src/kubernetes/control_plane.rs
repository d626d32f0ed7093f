//! The control plane's programs, in the lab's network and cgroup.
//!
//! With the flags kubeadm gives them where it matters (Node and RBAC authorization, NodeRestriction, service account tokens), without
//! leader election, and with clocks short enough to wait for: a node whose kubelet is silent is NotReady after [`GRACE`].

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::accounts::{AUDIT_LOG, AUDIT_POLICY};
use super::certificates::Authority;
use super::tail;
use crate::lab::{GATEWAY, Lab};
use crate::node::Running;
use crate::{shell, wait};

/// The API server's port.
pub(super) const PORT: u16 = 6443;
/// etcd's, on the loopback of the lab's network.
const ETCD: &str = "http://127.0.0.1:2379";
/// How long a node may be silent; kubelet renews its lease every 2 s here. Kubernetes' own default is 50 s.
const GRACE: &str = "8s";
const API_SERVER: &str = "kube-apiserver";
/// The programs, in the order they are started.
const PROGRAMS: [&str; 4] = ["etcd", API_SERVER, "kube-controller-manager", "kube-scheduler"];
/// How long the API server may take to be ready; 4 s are normal on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(90);

/// One of the programs, which may be away for a while.
#[derive(Debug)]
pub(super) struct Program {
    name: &'static str,
    flags: Vec<String>,
    running: Option<Running>,
}

impl Program {
    fn start(&mut self, lab: &Lab, binaries: &Path, folder: &Path) -> Result<()> {
        let log = File::options().create(true).append(true).open(folder.join(format!("{}.log", self.name)))?;
        let mut command = lab.command(binaries.join(self.name));
        command.args(&self.flags).env("HOME", folder).stdout(log.try_clone()?).stderr(log);
        self.running = Some(Running::start(&mut command).context(self.name)?);
        Ok(())
    }
}

/// Kills the API server.
pub(super) fn stop_api_server(programs: &mut [Program]) {
    for program in programs.iter_mut().filter(|program| program.name == API_SERVER) {
        program.running = None;
    }
}

/// Starts the API server again, and waits until it is ready.
pub(super) fn start_api_server(
    programs: &mut [Program],
    lab: &Lab,
    binaries: &Path,
    folder: &Path,
    is_ready: impl Fn() -> bool,
) -> Result<()> {
    for program in programs.iter_mut().filter(|program| program.name == API_SERVER && program.running.is_none()) {
        program.start(lab, binaries, folder)?;
    }
    wait::wait_until("the API server to be ready", START_LIMIT, || Ok(is_ready())).with_context(|| logs(folder))?;
    Ok(())
}

/// Starts all of them; `is_ready` asks the API server, without which the last two give up.
pub(super) fn start(
    lab: &Lab,
    binaries: &Path,
    folder: &Path,
    authority: &Authority,
    is_ready: impl Fn() -> bool,
) -> Result<Vec<Program>> {
    let at = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let (key, public_key) = (at("service-account.key"), at("service-account.pub"));
    let curve = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1"];
    shell::run(&[&["openssl", "genpkey", "-out", &key], &curve[..]].concat())?;
    shell::run(&["openssl", "pkey", "-in", &key, "-pubout", "-out", &public_key])?;
    let serving = authority.server()?;
    // By which it asks kubelets: what `kubectl logs` and `port-forward` go through.
    let to_kubelets =
        authority.client("apiserver-kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client")?;
    let root = authority.certificate();
    fs::write(at("audit-policy.yaml"), AUDIT_POLICY)?;

    let mut programs = Vec::new();
    let mut start = |name: &'static str, flags: &[String]| -> Result<()> {
        let mut program = Program { name, flags: flags.to_vec(), running: None };
        program.start(lab, binaries, folder)?;
        programs.push(program);
        Ok(())
    };
    start(
        "etcd",
        &[
            format!("--data-dir={}", at("etcd")),
            format!("--listen-client-urls={ETCD}"),
            format!("--advertise-client-urls={ETCD}"),
            "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
            "--unsafe-no-fsync".to_owned(),
        ],
    )?;
    start(
        API_SERVER,
        &[
            format!("--etcd-servers={ETCD}"),
            format!("--bind-address={GATEWAY}"),
            format!("--advertise-address={GATEWAY}"),
            format!("--secure-port={PORT}"),
            format!("--tls-cert-file={}", serving.certificate.display()),
            format!("--tls-private-key-file={}", serving.key.display()),
            format!("--client-ca-file={}", root.display()),
            format!("--kubelet-client-certificate={}", to_kubelets.certificate.display()),
            format!("--kubelet-client-key={}", to_kubelets.key.display()),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={public_key}"),
            format!("--service-account-signing-key-file={key}"),
            "--service-cluster-ip-range=10.96.0.0/24".to_owned(),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--allow-privileged".to_owned(),
            format!("--audit-policy-file={}", at("audit-policy.yaml")),
            format!("--audit-log-path={}", at(AUDIT_LOG)),
        ],
    )?;
    wait::wait_until("the API server to be ready", START_LIMIT, || Ok(is_ready())).with_context(|| logs(folder))?;

    let kubeconfig = |name: &str| -> Result<String> {
        let path = at(&format!("{name}.conf"));
        fs::write(&path, authority.client(name, &format!("/CN=system:{name}"))?.kubeconfig())?;
        Ok(format!("--kubeconfig={path}"))
    };
    start(
        "kube-controller-manager",
        &[
            kubeconfig("kube-controller-manager")?,
            format!("--service-account-private-key-file={key}"),
            format!("--root-ca-file={}", root.display()),
            "--use-service-account-credentials".to_owned(),
            "--leader-elect=false".to_owned(),
            "--node-monitor-period=1s".to_owned(),
            format!("--node-monitor-grace-period={GRACE}"),
        ],
    )?;
    start("kube-scheduler", &[kubeconfig("kube-scheduler")?, "--leader-elect=false".to_owned()])?;
    Ok(programs)
}

/// The last lines of each program's log.
pub(super) fn logs(folder: &Path) -> String {
    PROGRAMS.map(|name| tail(&folder.join(format!("{name}.log")), name)).join("\n")
}
