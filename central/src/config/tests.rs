//! Values that win, are refused with what to write, and fill the types they are for.

use kulprit_daemon::exit::ExitReason;

use super::*;

#[track_caller]
fn check_error(yaml: &str, want: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("central.yaml");
    std::fs::write(&path, yaml).unwrap();
    let flags = Flags { config: Some(path.clone()), ..Flags::default() };
    let error: kulprit_daemon::BoxError = match Config::effective(flags).unwrap_err() {
        LoadError::File(error) => error.into(),
        LoadError::Value(error) => error.into(),
    };
    let reason = ExitReason::of(error.as_ref());
    assert_eq!(reason.code, 2);
    assert_eq!(reason.line.replace(&path.display().to_string(), "FILE"), want);
}

#[test]
fn defaults_are_those_of_the_types_they_fill() {
    let config = Config::default();
    assert_eq!(config.settings(), Settings::default());
    assert_eq!(config.timers(), Timers::default());
    assert_eq!(config.limits(), Limits::default());
    config.check(None).unwrap();
}

#[test]
fn flags_win_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("central.yaml");
    std::fs::write(&path, "listen: 127.0.0.1:1\ndata_dir: /a\nsymptoms: {shutdown_grace: 30s}\n").unwrap();
    let flags = Flags { config: Some(path), data_dir: Some(PathBuf::from("/b")), ..Flags::default() };
    let config = Config::effective(flags).unwrap();
    assert_eq!((config.listen.port(), config.data_dir.as_path()), (1, Path::new("/b")));
    assert_eq!(config.settings().shutdown_grace_usec, 30_000_000);
    assert_eq!(config.settings().kill_grace_usec, 15_000_000, "what the file leaves out keeps its default");
}

#[test]
fn nonsense_is_told_with_what_to_write() {
    check_error(
        "silence_after: 5s\n",
        "bad value of `silence_after` in `FILE`: no longer than one heartbeat of an agent (5 s): healthy nodes would be Unknown; write at least 6s",
    );
    check_error(
        "history_retention: 10m\n",
        "bad value of `history_retention` in `FILE`: less than an hour; write at least 1h",
    );
    check_error(
        "kubernetes: {standalone: true, kubeconfig: /k}\n",
        "bad value of `kubernetes.standalone` in `FILE`: true, and a kubeconfig is given; leave one of the two out",
    );
    check_error(
        "limits: {history_per_hour: 0}\n",
        "bad value of `limits.history_per_hour` in `FILE`: 0: nothing would be let in; write at least 1",
    );
    check_error(
        "admin_listen: 127.0.0.1:7443\n",
        "bad value of `admin_listen` in `FILE`: the same address as `listen`; choose another port with --admin-listen",
    );
}

#[test]
fn plaintext_is_for_loopback_and_a_certificate_is_given_or_made() {
    check_error(
        "listen: 0.0.0.0:7443\n",
        "bad value of `listen` in `FILE`: others reach 0.0.0.0:7443, and without `tls` all would be plaintext there; \
         set `tls.certificate` and `tls.key` to files, or `tls.made: {}` to let central make them in Kubernetes; or listen on 127.0.0.1",
    );
    check_error(
        "tls: {certificate: a}\n",
        "bad value of `tls.key` in `FILE`: missing; name the file of the certificate's key",
    );
    check_error(
        "tls: {key: a}\n",
        "bad value of `tls.certificate` in `FILE`: missing; name the file of the key's certificate",
    );
    check_error(
        "tls: {client_ca: a}\n",
        "bad value of `tls` in `FILE`: it names no certificate; set `tls.certificate` and `tls.key`, or `tls.made: {}`",
    );
    check_error(
        "tls: {certificate: a, key: b, made: {}}\n",
        "bad value of `tls.made` in `FILE`: a certificate is given as well; leave `tls.certificate` and `tls.key` out, or `tls.made`",
    );
    check_error(
        "tls: {made: {}}\nkubernetes: {standalone: true}\n",
        "bad value of `tls.made` in `FILE`: what central makes it keeps in Kubernetes, and `kubernetes.standalone` is true; \
         set `tls.certificate` and `tls.key` instead",
    );
    check_error(
        "tls: {made: {secret: ''}}\n",
        "bad value of `tls.made` in `FILE`: a name is empty; name both, `secret` and `config_map`, or neither",
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("central.yaml");
    for tls in ["{certificate: a, key: b, client_ca: c}", "{made: {names: [central.example]}}"] {
        let access = "{agents: certificate, queries: certificate}";
        std::fs::write(&path, format!("listen: '[::]:7443'\ntls: {tls}\naccess: {access}\n")).unwrap();
        Config::effective(Flags { config: Some(path.clone()), ..Flags::default() }).unwrap();
    }
}

#[test]
fn where_others_reach_central_it_has_to_be_said_who_may_talk_to_it() {
    check_error(
        "listen: 0.0.0.0:7443\ntls: {made: {}}\n",
        "bad value of `listen` in `FILE`: 0.0.0.0:7443, where others reach it, and nobody would be asked who he is; set `access.agents` to token (of Kubernetes) or certificate",
    );
    check_error(
        "listen: '[::]:7443'\ntls: {made: {}}\naccess: {agents: token, queries: open}\n",
        "bad value of `listen` in `FILE`: [::]:7443, where others reach it, and nobody would be asked who he is; set `access.queries` to review (by Kubernetes) or certificate",
    );
    check_error(
        "access: {agent_account: kulprit-agent}\n",
        "bad value of `access.agent_account` in `FILE`: `kulprit-agent`; write NAMESPACE/NAME of a service account",
    );
    check_error(
        "access: {audience: ''}\n",
        "bad value of `access.audience` in `FILE`: empty; write the audience of the agents' tokens",
    );
    let tls = Some(TlsConfig { made: Some(MadeConfig::default()), ..TlsConfig::default() });
    let mut config = Config { listen: "0.0.0.0:1".parse().unwrap(), tls, ..Config::default() };
    config.access.agents = Some(Agents::Token);
    config.access.queries = Some(Queries::Certificate);
    config.check(None).unwrap();
    let local = Config::default().access();
    assert_eq!(
        (local.agents, local.queries, local.audience.as_str()),
        (Agents::Open, Queries::Open, "kulprit-central")
    );
}

#[test]
fn taints_are_off_until_a_condition_is_named() {
    let settings = Config::default().published();
    assert!(settings.conditions && settings.taints.effects.is_empty() && !settings.dry_run);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("central.yaml");
    std::fs::write(&path, "publish: {taints: {effects: {KvmUnavailable: NoSchedule}, after: 2m}}\n").unwrap();
    let config = Config::effective(Flags { config: Some(path.clone()), ..Flags::default() }).unwrap();
    let taints = config.published().taints;
    assert_eq!(taints.effects, [(NodeCondition::KvmUnavailable, Effect::NoSchedule)].into());
    assert_eq!((taints.after_usec, taints.max_nodes), (120_000_000, 2));
    check_error(
        "publish: {taints: {effects: {Kvm: NoSchedule}}}\n",
        "bad value of `publish.taints.effects` in `FILE`: there is no condition `Kvm`; choose of KvmUnavailable, VirtStackUnresponsive, VmStorageStalled, MigrationPathDegraded, HostPressure, KubeletDegraded, ContainerRuntimeDegraded, HardwareFault",
    );
    check_error(
        "publish: {taints: {max_percent: 101}}\n",
        "bad value of `publish.taints.max_percent` in `FILE`: more than all; write 0 to 100",
    );
    check_error(
        "publish: {taints: {storm_nodes: 1}}\n",
        "bad value of `publish.taints.storm_nodes` in `FILE`: every node is a storm: none is ever tainted; write at least 2",
    );
    std::fs::write(&path, "publish: {taints: {effects: {KvmUnavailable: NoExecute}}}\n").unwrap();
    let error = Config::effective(Flags { config: Some(path), ..Flags::default() }).unwrap_err().to_string();
    assert!(error.contains("NoExecute") && error.contains("PreferNoSchedule"), "{error}");
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("central.yaml");
    std::fs::write(&path, "symptoms:\n  shutdown_grase: 30s\n").unwrap();
    let flags = Flags { config: Some(path), ..Flags::default() };
    let error = Config::effective(flags).unwrap_err().to_string();
    assert!(error.contains(":2:3: unknown key `symptoms.shutdown_grase`"), "{error}");
    assert!(error.contains("shutdown_grace"), "{error}");
}
