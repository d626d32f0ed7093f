//! What `deploy/` holds is what the programs and the chart say: manifests are rendered anew, files that the chart writes are read by the
//! programs that get them, units are taken by systemd. No cluster is needed.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use kulprit_agent::config::AgentConfig;
use kulprit_agent::probes::PROBES;
use kulprit_central::conditions::{NpdCondition, NpdMode, type_of};
use kulprit_central::config::{Config, Flags, PublishConfig};
use kulprit_central::taints::{Effect, key_of};
use kulprit_model::catalogue::NodeCondition;
use kulprit_tests::kubernetes::product::{chart, render};
use kulprit_tests::shell;
use serde_json::{Value, json};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The objects that the chart renders.
fn objects(values: &[&str]) -> Result<Vec<Value>> {
    let text = render(values)?;
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text)?;
    ensure!(objects.len() > 10, "{text}");
    Ok(objects)
}

fn find<'o>(objects: &'o [Value], kind: &str, name: &str) -> Result<&'o Value> {
    let is_it = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
    objects.iter().find(is_it).with_context(|| format!("no {kind} {name}"))
}

/// The files that the programs get, read by them.
fn files(values: &[&str]) -> Result<(AgentConfig, Config)> {
    let objects = objects(values)?;
    let text = |name: &str, file: &str| -> Result<String> {
        let data = &find(&objects, "ConfigMap", name)?["data"][file];
        Ok(data.as_str().with_context(|| format!("no {file}"))?.to_owned())
    };
    let folder = tempfile::tempdir()?;
    let (agent, central) = (folder.path().join("agent.yaml"), folder.path().join("central.yaml"));
    fs::write(&agent, text("kulprit-agent", "agent.yaml")?)?;
    fs::write(&central, text("kulprit-central", "central.yaml")?)?;
    let agent: AgentConfig = kulprit_daemon::config::load(&agent)?;
    agent.check().map_err(anyhow::Error::msg)?;
    Ok((agent, Config::effective(Flags { config: Some(central), ..Flags::default() })?))
}

#[test]
fn the_manifests_are_what_the_chart_renders() -> Result<()> {
    let script = workspace().join("scripts/manifests.sh");
    shell::run(&[&script.to_string_lossy(), "--check"]).map(drop)
}

#[test]
fn the_programs_read_the_files_that_the_chart_writes() -> Result<()> {
    let (agent, central) = files(&[])?;
    assert_eq!(agent.central, "https://kulprit-central.kulprit.svc:7443");
    assert_eq!(
        (agent.host_root.as_path(), agent.socket().as_path()),
        (Path::new("/host"), Path::new("/var/lib/kulprit/agent.sock"))
    );
    assert_eq!((central.listen.port(), central.admin_listen.port()), (7443, 7444));
    // Whoever installs adds to them, and wins.
    let own = [
        "agent.config.probes.kvm_every=5s",
        "central.config.publish.taints.effects.KvmUnavailable=NoSchedule",
        "central.config.silence_after=30s",
    ];
    let (agent, central) = files(&own)?;
    assert_eq!(agent.probes.kvm_every.to_string(), "5s");
    assert_eq!((central.silence_after.to_string().as_str(), central.publish.taints.effects.len()), ("30s", 1));
    Ok(())
}

#[test]
fn the_programs_take_certificates_that_are_given_from_where_they_are_mounted() -> Result<()> {
    let in_folder = |mounts: &Value, file: &Path| {
        let mut folders = mounts.as_array().into_iter().flatten().filter_map(|mount| mount["mountPath"].as_str());
        folders.any(|folder| Some(Path::new(folder)) == file.parent())
    };
    let check = |values: &[&str]| -> Result<(AgentConfig, Config)> {
        let (agent, central) = files(values)?;
        let objects = objects(values)?;
        let mounts = |kind: &str, name: &str| -> Result<Value> {
            Ok(find(&objects, kind, name)?["spec"]["template"]["spec"]["containers"][0]["volumeMounts"].clone())
        };
        let (of_agent, of_central) = (mounts("DaemonSet", "kulprit-agent")?, mounts("Deployment", "kulprit-central")?);
        let tls = &agent.tls;
        for file in [tls.ca.as_ref(), tls.certificate.as_ref(), tls.key.as_ref()].into_iter().flatten() {
            ensure!(file.starts_with("/host") || in_folder(&of_agent, file), "{}: {of_agent}", file.display());
        }
        let tls = central.tls.as_ref().context("tls of central")?;
        for file in [tls.certificate.as_ref(), tls.key.as_ref(), tls.client_ca.as_ref()].into_iter().flatten() {
            ensure!(in_folder(&of_central, file), "{}: {of_central}", file.display());
        }
        Ok((agent, central))
    };
    let (_, central) = check(&["tls.mode=given", "tls.secret=of-cert-manager"])?;
    let tls = central.tls.context("tls")?;
    assert_eq!((tls.certificate.is_some(), tls.key.is_some(), tls.made.is_none()), (true, true, true));

    let by_certificate = ["tls.clientCaSecret=clients", "access.agents=certificate", "access.queries=certificate"];
    let (agent, central) = check(&[&by_certificate[..], &["agent.certificateSecret=of-node"]].concat())?;
    assert_eq!((agent.token, central.tls.context("tls")?.client_ca.is_some()), (None, true));
    // One Secret is one node's.
    let own = ["agent.config.tls.certificate=/host/etc/kulprit/a.crt", "agent.config.tls.key=/host/etc/kulprit/a.key"];
    let (agent, _) = check(&[&by_certificate[..], &own].concat())?;
    assert_eq!(agent.tls.certificate.as_deref(), Some(Path::new("/host/etc/kulprit/a.crt")));
    Ok(())
}

#[test]
fn in_a_cluster_without_ipv4_every_address_is_one_of_ipv6() -> Result<()> {
    let values = ["ipFamily=IPv6", "monitoring.serviceMonitor.enabled=true"];
    let (_, central) = files(&values)?;
    assert_eq!((central.listen, central.admin_listen), ("[::]:7443".parse()?, "[::]:7444".parse()?));
    // All nodes of a subnet are in one /64, which counts as one address.
    assert_eq!(central.limits.connections_per_address, 4_096);
    assert_eq!(files(&[])?.1.limits.connections_per_address, 256);
    assert_eq!(files(&["ipFamily=IPv6", "central.config.limits.nodes=7"])?.1.limits.nodes, 7);
    let objects = objects(&values)?;
    let agent = &find(&objects, "DaemonSet", "kulprit-agent")?["spec"]["template"]["spec"]["containers"][0];
    let mut args = agent["args"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let listens = args.find_map(|arg| arg.strip_prefix("--admin-listen=")).context("an address")?;
    // Kubernetes writes the address of the node without brackets.
    let address: SocketAddr = listens.replace("$(HOST_IP)", "fd00::7").parse()?;
    assert_eq!(address, "[fd00::7]:7442".parse()?);
    Ok(())
}

#[test]
fn values_that_make_no_sense_are_refused() -> Result<()> {
    for (value, part) in [
        ("agent.profile=most", "profile"),
        ("central.replicas=2", "replicas"),
        ("ipFamily=ipv6", "ipFamily"),
        ("tls.mode=given", "tls.secret"),
        ("access.agents=certificate", "tls.clientCaSecret"),
        ("podDisruptionBudget.maxUnavailable=2", "maxUnavailable"),
        ("priorityClass.name=", "priorityClass"),
    ] {
        let Err(error) = render(&[value]) else { bail!("{value} is taken") };
        assert!(format!("{error:#}").contains(part), "{value}: {error:#}");
    }
    Ok(())
}

#[test]
fn central_keeps_to_restricted_and_the_profiles_are_what_they_say() -> Result<()> {
    let container = |objects: &[Value], kind: &str, name: &str| -> Result<Value> {
        Ok(find(objects, kind, name)?["spec"]["template"]["spec"]["containers"][0].clone())
    };
    for (values, privileged) in [(&[][..], true), (&["agent.profile=restricted"][..], false)] {
        let objects = objects(values)?;
        let agent = container(&objects, "DaemonSet", "kulprit-agent")?;
        assert_eq!(agent["securityContext"]["privileged"] == true, privileged, "{agent}");
        assert_eq!(agent["securityContext"]["readOnlyRootFilesystem"], true);
        let writable: Vec<&Value> = agent["volumeMounts"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|mount| mount["readOnly"] != true)
            .map(|mount| &mount["mountPath"])
            .collect();
        assert_eq!(writable, ["/var/lib/kulprit"]);
        let central = container(&objects, "Deployment", "kulprit-central")?;
        assert_eq!(central["securityContext"]["capabilities"]["drop"][0], "ALL");
        assert_eq!(central["securityContext"]["readOnlyRootFilesystem"], true);
    }
    Ok(())
}

#[test]
fn no_pod_is_for_a_node_with_windows() -> Result<()> {
    let own = ["agent.nodeSelector.vms=yes", "central.nodeSelector.vms=no"];
    for (values, more) in [(&[][..], [json!(null), json!(null)]), (&own[..], [json!("yes"), json!("no")])] {
        let objects = objects(values)?;
        for (pods, more) in [("DaemonSet", "kulprit-agent"), ("Deployment", "kulprit-central")].into_iter().zip(more) {
            let selector = &find(&objects, pods.0, pods.1)?["spec"]["template"]["spec"]["nodeSelector"];
            assert_eq!((&selector["kubernetes.io/os"], &selector["vms"]), (&json!("linux"), &more), "{pods:?}");
        }
    }
    Ok(())
}

/// The chart names the version of what it installs.
#[test]
fn the_chart_is_of_this_version() -> Result<()> {
    let cargo = fs::read_to_string(workspace().join("Cargo.toml"))?;
    let version = cargo.lines().find_map(|line| line.strip_prefix("version = ")).context("a version")?;
    let chart = fs::read_to_string(chart().join("Chart.yaml"))?;
    assert!(chart.contains(&format!("\nappVersion: {}\n", version.trim_matches('"'))), "{version}: {chart}");
    Ok(())
}

#[test]
fn what_is_asked_for_is_rendered_and_nothing_else() -> Result<()> {
    let kinds = |values: &[&str]| -> Result<Vec<String>> {
        Ok(objects(values)?.iter().filter_map(|object| object["kind"].as_str().map(ToOwned::to_owned)).collect())
    };
    let asked = |values: &[&str]| -> Result<Vec<String>> {
        let mut more = kinds(values)?;
        for kind in kinds(&[])? {
            more.remove(more.iter().position(|other| *other == kind).with_context(|| format!("no {kind}"))?);
        }
        Ok(more)
    };
    assert_eq!(asked(&["openshift.enabled=true"])?, ["SecurityContextConstraints"]);
    assert_eq!(asked(&["monitoring.serviceMonitor.enabled=true"])?, ["Service", "ServiceMonitor", "ServiceMonitor"]);
    assert_eq!(asked(&["central.store.type=persistentVolumeClaim"])?, ["PersistentVolumeClaim"]);
    assert_eq!(asked(&["monitoring.rules.enabled=true"])?, ["PrometheusRule"]);
    assert_eq!(asked(&["namespace.create=true"])?, ["Namespace"]);
    let own_claim = ["central.store.type=persistentVolumeClaim", "central.store.existingClaim=own"];
    assert_eq!(asked(&own_claim)?, [] as [&str; 0]);
    Ok(())
}

#[test]
fn the_admin_port_of_central_is_open_to_those_who_are_named_alone() -> Result<()> {
    let ingress = |values: &[&str]| -> Result<Vec<(Value, Value)>> {
        let objects = objects(values)?;
        let rules = find(&objects, "NetworkPolicy", "kulprit-central")?["spec"]["ingress"].clone();
        let rules = rules.as_array().context("rules")?.clone();
        Ok(rules.into_iter().map(|rule| (rule["ports"][0]["port"].clone(), rule["from"].clone())).collect())
    };
    let everybody = || (Value::from("grpc"), Value::Null);
    assert_eq!(ingress(&[])?, [everybody()]);
    assert_eq!(ingress(&["networkPolicy.metricsFrom=null"])?, [everybody()]);
    let prometheus =
        [r"networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.kubernetes\.io/metadata\.name=monitoring"];
    let named = json!([{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]);
    assert_eq!(ingress(&prometheus)?, [everybody(), ("metrics".into(), named)]);
    Ok(())
}

#[test]
fn agents_answer_on_the_nodes_address_only_where_prometheus_is_to_ask_them() -> Result<()> {
    let args = |values: &[&str]| -> Result<Value> {
        let objects = objects(values)?;
        let agent = find(&objects, "DaemonSet", "kulprit-agent")?;
        Ok(agent["spec"]["template"]["spec"]["containers"][0]["args"].clone())
    };
    let config = "--config=/etc/kulprit/agent/agent.yaml";
    assert_eq!(args(&[])?, json!([config, "run"]));
    let on_the_node = "--admin-listen=$(HOST_IP):7442";
    assert_eq!(args(&["monitoring.serviceMonitor.enabled=true"])?, json!([config, on_the_node, "run"]));
    Ok(())
}

/// The rules of the roles of this name: namespace, group, resource, names, verb.
fn rights(objects: &[Value], name: &str) -> BTreeSet<[String; 5]> {
    let texts = |value: &Value| -> Vec<String> {
        let all = value.as_array().map_or(&[][..], Vec::as_slice);
        all.iter().filter_map(|text| text.as_str().map(ToOwned::to_owned)).collect()
    };
    let is_role = |object: &&Value| {
        object["metadata"]["name"] == name && ["ClusterRole", "Role"].iter().any(|kind| object["kind"] == *kind)
    };
    let mut rights = BTreeSet::new();
    for role in objects.iter().filter(is_role) {
        let namespace = role["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        for rule in role["rules"].as_array().into_iter().flatten() {
            let names = texts(&rule["resourceNames"]).join(",");
            for group in texts(&rule["apiGroups"]) {
                for resource in texts(&rule["resources"]) {
                    for verb in texts(&rule["verbs"]) {
                        rights.insert([namespace.clone(), group.clone(), resource.clone(), names.clone(), verb]);
                    }
                }
            }
        }
    }
    rights
}

#[test]
fn the_chart_gives_central_the_rights_that_it_needs_and_agents_none() -> Result<()> {
    let needed = fs::read_to_string(workspace().join("docs/central-role.yaml"))?;
    let needed = rights(&serde_saphyr::from_multiple::<Value>(&needed)?, "kulprit-central");
    ensure!(needed.len() > 20, "{needed:?}");
    let objects = objects(&[])?;
    let given = rights(&objects, "kulprit-central");
    let (missing, more): (Vec<_>, Vec<_>) = (needed.difference(&given).collect(), given.difference(&needed).collect());
    ensure!(missing.is_empty() && more.is_empty(), "missing in the chart: {missing:?}; in no document: {more:?}");
    let to_make = fs::read_to_string(workspace().join("docs/made-role.yaml"))?;
    let to_make = rights(&serde_saphyr::from_multiple::<Value>(&to_make)?, "kulprit-central-certificate");
    assert_eq!((to_make.len(), rights(&objects, "kulprit-central-certificate")), (6, to_make));
    let reader = fs::read_to_string(workspace().join("docs/reader-role.yaml"))?;
    let reader = rights(&serde_saphyr::from_multiple::<Value>(&reader)?, "kulprit-reader");
    assert_eq!(rights(&objects, "kulprit-reader"), reader);
    let binds = |object: &&Value| object["kind"].as_str().is_some_and(|kind| kind.ends_with("RoleBinding"));
    let bound: BTreeSet<&str> =
        objects.iter().filter(binds).filter_map(|binding| binding["subjects"][0]["name"].as_str()).collect();
    assert!(bound.contains("kulprit-central") && !bound.contains("kulprit-agent"), "{bound:?}");
    Ok(())
}

#[test]
fn the_sample_of_an_admission_policy_names_central_and_what_it_writes() -> Result<()> {
    let text = fs::read_to_string(workspace().join("deploy/samples/central-admission-policy.yaml"))?;
    let sample = serde_saphyr::from_multiple::<Value>(&text)?;
    let name = "kulprit-central-nodes";
    let policy = &find(&sample, "ValidatingAdmissionPolicy", name)?["spec"];
    let binding = &find(&sample, "ValidatingAdmissionPolicyBinding", name)?["spec"];
    assert_eq!((&binding["policyName"], &binding["validationActions"]), (&name.into(), &json!(["Deny"])));
    let objects = objects(&[])?;
    let central = &find(&objects, "ServiceAccount", "kulprit-central")?["metadata"];
    let (namespace, account) = (&central["namespace"], &central["name"]);
    let user = format!("'system:serviceaccount:{}:{}'", namespace.as_str().unwrap(), account.as_str().unwrap());
    assert_eq!(policy["matchConditions"][0]["expression"], format!("request.userInfo.username == {user}"));
    assert_eq!(policy["matchConstraints"]["resourceRules"][0]["resources"], json!(["nodes", "nodes/status"]));
    let written = NodeCondition::ALL.into_iter().flat_map(|condition| [type_of(condition), key_of(condition)]);
    for name in written {
        ensure!(name.starts_with("kulprit.io/"), "{name} is refused");
    }
    for effect in [Effect::NoSchedule, Effect::PreferNoSchedule] {
        ensure!(text.contains(&format!("'{}'", effect.as_str())), "{} is refused", effect.as_str());
    }
    for condition in NpdCondition::ALL {
        ensure!(text.contains(&format!("'{}'", condition.as_str())), "{} is not named", condition.as_str());
    }
    Ok(())
}

#[test]
fn central_reads_the_sample_that_puts_it_in_the_place_of_node_problem_detector() -> Result<()> {
    let sample = workspace().join("deploy/samples/central-replaces-npd.yaml");
    let config = Config::effective(Flags { config: Some(sample), ..Flags::default() })?;
    let publish = PublishConfig { npd_mode: NpdMode::Replace, ..PublishConfig::default() };
    assert_eq!(config, Config { publish, ..Config::default() }, "it is what the sample is about, and nothing else");
    Ok(())
}

#[test]
fn what_each_probe_loses_when_restricted_is_said() -> Result<()> {
    let page = fs::read_to_string(workspace().join("docs/install.md"))?;
    let said: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .filter_map(|(name, rest)| (rest.matches(" | ").count() == 2).then_some(name))
        .collect();
    assert_eq!(said, PROBES.iter().map(|probe| probe.name).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn systemd_takes_the_units() -> Result<()> {
    let folder = workspace().join("deploy/systemd");
    let root = tempfile::tempdir()?;
    let bin = root.path().join("bin");
    fs::create_dir(&bin)?;
    for program in ["kulprit-agent", "kulprit-central"] {
        // systemd looks whether the program is there.
        let there = bin.join(program);
        fs::write(&there, "#!/bin/sh\n")?;
        fs::set_permissions(&there, fs::Permissions::from_mode(0o755))?;
        let name = format!("{program}.service");
        let unit = fs::read_to_string(folder.join(&name))?;
        let start = format!("ExecStart=/usr/bin/{program} ");
        ensure!(unit.contains(&start), "{unit}");
        let copy = root.path().join(&name);
        fs::write(&copy, unit.replace(&start, &format!("ExecStart={} ", there.display())))?;
        shell::run(&["systemd-analyze", "verify", "--recursive-errors=no", "--man=no", &copy.to_string_lossy()])?;
    }
    Ok(())
}

#[test]
fn the_user_of_centrals_unit_is_one_that_systemd_makes_and_keys_can_be_given_to() -> Result<()> {
    let folder = workspace().join("deploy/systemd");
    let unit = fs::read_to_string(folder.join("kulprit-central.service"))?;
    let user =
        unit.lines().find_map(|line| line.strip_prefix("User=")).context("a user that is there before it runs")?;
    ensure!(unit.lines().any(|line| line == format!("Group={user}")), "{unit}");
    let root = tempfile::tempdir()?;
    fs::create_dir(root.path().join("etc"))?;
    let at = format!("--root={}", root.path().display());
    shell::run(&["systemd-sysusers", &at, &folder.join("kulprit-central.conf").to_string_lossy()])?;
    for file in ["passwd", "group"] {
        let made = fs::read_to_string(root.path().join("etc").join(file))?;
        ensure!(made.lines().any(|line| line.starts_with(&format!("{user}:"))), "{file}: {made}");
    }
    let page = fs::read_to_string(workspace().join("docs/install.md"))?;
    ensure!(page.contains(&format!("install -m 640 -o root -g {user} ")), "no owner of the key is named");
    Ok(())
}
