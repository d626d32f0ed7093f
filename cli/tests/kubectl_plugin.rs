//! `kubectl kulprit`: the real command, through a Kubernetes that is played by the test, to a central that is played as well.
//!
//! What is real: the command under the plugin's name, its kubeconfig, kube's client, the WebSocket, kubelet's protocol on it, HTTP/2 and
//! gRPC inside. A real API server and a real kubelet: `tests/tests/kubectl_plugin.rs`.

#[path = "kubectl_plugin/central.rs"]
mod central;
#[path = "kubectl_plugin/server.rs"]
mod server;

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Output},
    sync::Arc,
};

use kulprit_tls::{Clients, server_config, testing::Authority};
use rustls::{ServerConfig, time_provider::DefaultTimeProvider};
use serde_json::{Value, json};
use server::{ApiServer, Forward};

const PLUGIN: &str = "kubectl-kulprit";
const COMPLETION: &str = "kubectl_complete-kulprit";

/// A pod of central.
fn pod(namespace: &str, name: &str, is_ready: bool) -> Value {
    let ready = if is_ready { "True" } else { "False" };
    json!({
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"containers": [{"name": "central", "ports": [{"name": "grpc", "containerPort": 9000}]}]},
        "status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": ready, "lastTransitionTime": "2026-11-22T04:00:00Z"},
        ]},
    })
}

/// Runs the command under a name, with a kubeconfig for the server whose context `shop` has the namespace `prod`.
fn run(server: &ApiServer, name: &str, words: &[&str]) -> Output {
    run_as(server, name, words, &json!({}))
}

/// The same as that user of the kubeconfig.
fn run_as(server: &ApiServer, name: &str, words: &[&str], user: &Value) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join(name);
    symlink(env!("CARGO_BIN_EXE_kulprit"), &program).expect("a link to the command");
    let kubeconfig = folder.path().join("kubeconfig");
    write_kubeconfig(&kubeconfig, &server.address(), user);
    let mut command = Command::new(&program);
    command.args(words).env("KUBECONFIG", &kubeconfig).env("HOME", folder.path());
    command.env_remove("KULPRIT_CENTRAL").env_remove("HTTPS_PROXY").env_remove("https_proxy").env_remove("COMPLETE");
    command.output().expect("the command was built for this test")
}

fn write_kubeconfig(path: &Path, address: &str, user: &Value) {
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": {"server": format!("http://{address}")}}],
        "users": [{"name": "lab", "user": user}],
        "contexts": [
            {"name": "lab", "context": {"cluster": "lab", "user": "lab"}},
            {"name": "shop", "context": {"cluster": "lab", "user": "lab", "namespace": "prod"}},
        ],
    });
    fs::write(path, text.to_string()).expect("a file");
}

#[track_caller]
fn check_answered(server: &ApiServer, words: &[&str], want: &[&str]) {
    let output = run(server, PLUGIN, words);
    let (text, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{words:?}: {said}");
    assert!(want.iter().all(|part| text.contains(part)), "{words:?}: {want:?}: {text}");
}

/// What is said where there is no answer, in one line.
#[track_caller]
fn check_refused(server: &ApiServer, words: &[&str], want: &[&str]) {
    let output = run(server, PLUGIN, words);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), text.lines().count()), (Some(2), 1), "{words:?}: {text}");
    assert!(want.iter().all(|part| text.contains(part)), "{words:?}: {want:?}: {text}");
}

/// What central says that it was shown, or what else is said, in one line.
#[track_caller]
fn shown(server: &ApiServer, user: &Value) -> String {
    let output = run_as(server, PLUGIN, &["nodes"], user);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), text.lines().count()), (Some(2), 1), "{text}");
    text.trim().to_owned()
}

#[test]
fn the_users_own_token_is_shown_to_central_whatever_makes_it() {
    let server = ApiServer::start();
    server.lists("kulprit", vec![pod("kulprit", "central-0", true)]);
    let said = shown(&server, &json!({"token": "own"}));
    assert!(said.contains("shown `Bearer own`"), "{said}");
    let folder = tempfile::tempdir().expect("a folder");
    let runs = folder.path().join("runs");
    let credential =
        json!({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "made"}});
    let script = format!("echo run >> {}; echo '{credential}'", runs.display());
    let exec = json!({"apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "args": ["-c", script], "interactiveMode": "Never"});
    let said = shown(&server, &json!({"exec": exec}));
    assert!(said.contains("shown `Bearer made`"), "{said}");
    assert_eq!(fs::read_to_string(&runs).expect("it was run"), "run\n", "a person may have to answer it");
    assert!(!server.asked().iter().any(|asked| asked.contains("serviceaccounts")), "{:?}", server.asked());
}

#[test]
fn who_has_no_token_of_his_own_asks_for_one_of_the_reader() {
    let server = ApiServer::start();
    server.lists("kulprit", vec![pod("kulprit", "central-0", true)]);
    server.makes(Ok("of-the-reader"));
    let said = shown(&server, &json!({}));
    assert!(said.contains("shown `Bearer of-the-reader`"), "{said}");
    let asked = server.asked();
    let asked = asked.iter().find(|asked| asked.contains("serviceaccounts")).expect("it was asked for");
    let (path, body) = asked.split_once(' ').expect("something was posted");
    assert!(path.starts_with("/api/v1/namespaces/kulprit/serviceaccounts/kulprit-reader/token"), "{path}");
    let spec = serde_json::from_str::<Value>(body).expect("JSON")["spec"].clone();
    assert_eq!(spec, json!({"audiences": ["kulprit-central"], "expirationSeconds": 600}));

    // Where there is none to be had, it is said why if central wants one, and no hindrance if it does not.
    server.makes(Err((403, "lab may not")));
    let said = shown(&server, &json!({}));
    for part in ["no token; your kubeconfig has", "service account kulprit/kulprit-reader", "lab may not (403)"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    check_answered(&server, &["vms"], &["db-0"]);
}

#[test]
fn a_token_goes_to_no_pod_that_only_calls_itself_central() {
    let server = ApiServer::start();
    server.lists("tenant", vec![pod("tenant", "central-0", true)]);
    server.makes(Ok("of-the-reader"));
    for user in [json!({"token": "own"}), json!({})] {
        let said = shown(&server, &user);
        for part in ["no token", "found in the namespace tenant", "--central-namespace names it"] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
    let named = run_as(&server, PLUGIN, &["nodes", "--central-namespace", "tenant"], &json!({"token": "own"}));
    let said = String::from_utf8_lossy(&named.stderr);
    assert!(said.contains("shown `Bearer own`"), "{said}");
}

#[test]
fn the_ca_that_central_keeps_in_its_namespace_is_trusted_without_being_named() {
    let (ca, other) = (Authority::new("ca"), Authority::new("ca"));
    let server = ApiServer::start();
    server.lists("kulprit", vec![pod("kulprit", "central-0", true)]);
    server.speaks(tls(&ca, "kulprit-central.kulprit.svc", Clients::Anyone));
    server.keeps_ca("kulprit", ca.text());
    check_answered(&server, &["vms"], &["prod/db-0"]);
    server.keeps_ca("kulprit", other.text());
    check_refused(&server, &["vms"], &["no TLS with pod kulprit/central-0", "ConfigMap kulprit/kulprit-central-ca"]);
}

#[test]
fn central_is_found_behind_the_api_server_and_asked() {
    let server = ApiServer::start();
    server.lists("kulprit", vec![pod("kulprit", "central-0", true)]);
    check_answered(&server, &["vms"], &["prod/db-0", "test/db-1", "n1"]);
    check_answered(&server, &["vms", "-n", "prod", "-o", "json"], &["\"db-0\""]);
    let json = String::from_utf8(run(&server, PLUGIN, &["vms", "-n", "prod", "-o", "json"]).stdout).expect("text");
    assert!(!json.contains("db-1"), "{json}");
    let asked = server.asked();
    let first = [
        "/api/v1/namespaces/kulprit/pods",
        "/api/v1/namespaces/kulprit/configmaps/kulprit-central-ca",
        "/api/v1/namespaces/kulprit/serviceaccounts/kulprit-reader/token",
        "/api/v1/namespaces/kulprit/pods/central-0/portforward",
    ];
    assert_eq!(
        asked.iter().map(|path| path.split(['?', ' ']).next().unwrap_or_default()).collect::<Vec<_>>()[..4],
        first
    );
    assert!(
        asked[0].contains("app.kubernetes.io%2Fname%3Dkulprit%2Capp.kubernetes.io%2Fcomponent%3Dcentral"),
        "{asked:?}"
    );
    assert!(asked[3].contains("ports=9000"), "{asked:?}");
}

#[test]
fn the_command_itself_goes_this_way_when_a_context_is_named() {
    let server = ApiServer::start();
    server.lists("kulprit", vec![pod("kulprit", "central-0", true)]);
    let output = run(&server, "kulprit", &["--context", "lab", "vms"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("db-0"), "{}", String::from_utf8_lossy(&output.stderr));
    let output = run(&server, "kulprit", &["--central", "http://127.0.0.1:1", "--context", "lab", "vms"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("127.0.0.1:1"), "an address wins");
}

/// The played central says whom it was asked about.
#[test]
fn a_short_name_is_looked_for_in_the_namespace_of_n_else_of_the_context_and_with_all_in_none() {
    let server = ApiServer::start();
    server.lists("kulprit", vec![pod("kulprit", "central-0", true)]);
    check_refused(&server, &["why", "db-0"], &["no VM `default/db-0`", "-A"]);
    check_refused(&server, &["why", "vm/db-0", "--context", "shop"], &["no VM `prod/db-0`", "-A"]);
    check_refused(&server, &["why", "vmi/db-0", "-n", "test"], &["no VM `test/db-0`"]);
    check_refused(&server, &["why", "other/db-0", "-n", "test"], &["no VM `other/db-0`"]);
    check_refused(&server, &["why", "db-0", "-A"], &["no VM `db-0`"]);
}

#[test]
fn who_may_not_get_nodes_is_told_all_the_same_that_nothing_is_wrong() {
    let server = ApiServer::start();
    server.lists("kulprit", vec![pod("kulprit", "central-0", true)]);
    let output = run_as(&server, PLUGIN, &["why", "-n", "prod"], &json!({"token": "tenant"}));
    let (text, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}");
    for part in ["No VM of namespace prod that you may get shows a symptom", "may not get nodes", "is left out"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let refused = run_as(&server, PLUGIN, &["nodes"], &json!({"token": "tenant"}));
    assert_eq!(refused.status.code(), Some(2), "asked for nodes themselves he is refused");
}

#[test]
fn findings_are_cut_to_the_vms_of_a_namespace() {
    let server = ApiServer::start();
    server.lists("kulprit", vec![pod("kulprit", "central-0", true)]);
    let codes = |words: &[&str]| {
        let output = run(&server, PLUGIN, &[&["findings", "-o", "json"], words].concat());
        let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let rows = answer["findings"].as_array().expect("rows").iter();
        rows.map(|row| row["code"].as_str().expect("a code").to_owned()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(codes(&["-n", "prod"]), "VmDiskStalled");
    assert_eq!(codes(&["-n", "test"]), "VmLinkLost QemuStuck");
    assert_eq!(codes(&["-n", "tes"]), "");
    let all = "VmDiskStalled VmLinkLost QemuStuck KubeletInactive";
    assert_eq!(codes(&[]), all);
    assert_eq!(codes(&["-n", "prod", "-A"]), all);
    check_answered(&server, &["findings", "-n", "none"], &["Nothing found of VMs in namespace none"]);
}

#[test]
fn a_pod_that_cannot_be_reached_is_passed_over_for_the_next() {
    let server = ApiServer::start();
    server.lists("kulprit", vec![pod("kulprit", "central-0", true), pod("kulprit", "central-1", true)]);
    server.forwards("central-0", Forward::Nobody("error forwarding port 9000: connection refused"));
    check_answered(&server, &["vms"], &["prod/db-0"]);
    server.forwards("central-1", Forward::Status(500, "no such container"));
    check_refused(
        &server,
        &["vms"],
        &[
            "nobody answers in pod kulprit/central-0 at port 9000: error forwarding port 9000: connection refused",
            "does not forward to pod kulprit/central-1: no such container (500)",
        ],
    );
}

#[test]
fn central_in_another_namespace_is_found_unless_one_is_named() {
    let server = ApiServer::start();
    server.lists("ops", vec![pod("ops", "central-0", true)]);
    check_answered(&server, &["vms"], &["prod/db-0"]);
    check_answered(&server, &["vms", "--central-namespace", "ops"], &["prod/db-0"]);
    check_refused(
        &server,
        &["vms", "--central-namespace", "here"],
        &["no pod of central in the namespace here", "--central"],
    );
}

#[test]
fn what_is_in_the_way_is_said_with_the_way_out() {
    let server = ApiServer::start();
    check_refused(&server, &["vms"], &["no pod of central in the namespace kulprit", "--central-namespace"]);
    server.lists("kulprit", vec![pod("kulprit", "central-0", false)]);
    check_refused(&server, &["vms"], &["no pod of central is ready: kulprit/central-0: not ready", "kubectl describe"]);
    server.lists("kulprit", vec![pod("kulprit", "central-0", true)]);
    server
        .forwards("central-0", Forward::Status(403, "pods \"central-0\" is forbidden: cannot create pods/portforward"));
    check_refused(
        &server,
        &["vms"],
        &["may not forward to pod kulprit/central-0", "cannot create", "pods/portforward there"],
    );
    server.fails(403, "pods is forbidden: User \"eve\" cannot list resource \"pods\"");
    check_refused(&server, &["vms"], &["may not list pods in the namespace kulprit", "eve", "--central"]);
    server.fails(401, "Unauthorized");
    check_refused(&server, &["vms"], &["does not accept the credentials", "log in"]);
    server.fails(500, "etcd is slow");
    check_refused(&server, &["vms"], &["did not list", "etcd is slow (500)"]);
    check_refused(&server, &["vms", "--context", "none"], &["no context `none`", "lab, shop"]);
    check_refused(&server, &["vms", "--kubeconfig", "/nonexistent"], &["/nonexistent"]);
    let nobody = ApiServer::gone();
    check_refused(&nobody, &["vms"], &["Kubernetes does not answer at", "refused"]);
}

/// A server with a certificate for this name.
fn tls(ca: &Authority, name: &str, clients: Clients<'_>) -> Arc<ServerConfig> {
    let identity = ca.issue("central", &[name]).identity();
    server_config(identity, clients, Arc::new(DefaultTimeProvider)).expect("it was made well")
}

#[test]
fn with_a_ca_tls_is_spoken_to_the_pod_within_the_stream() {
    let folder = tempfile::tempdir().expect("a folder");
    let (ca, other) = (Authority::new("ca"), Authority::new("ca"));
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("a file");
        path.to_string_lossy().into_owned()
    };
    let (ca_file, other_file) = (file("ca.crt", ca.text()), file("other.crt", other.text()));
    let token = file("token", "one\n");
    let server = ApiServer::start();
    server.lists("kulprit", vec![pod("kulprit", "central-0", true)]);
    server.speaks(tls(&ca, "kulprit-central.kulprit.svc", Clients::Anyone));
    check_answered(&server, &["vms", "--ca", &ca_file], &["prod/db-0"]);
    check_refused(&server, &["nodes", "--ca", &ca_file, "--token-file", &token], &["shown `Bearer one`"]);
    check_refused(&server, &["nodes", "--ca", &ca_file], &["no token"]);
    check_refused(
        &server,
        &["vms", "--ca", &other_file],
        &["no TLS with pod kulprit/central-0", "of no CA in", "other.crt"],
    );
    check_refused(
        &server,
        &["vms", "--ca", &ca_file, "--server-name", "x"],
        &["is for kulprit-central.kulprit.svc and not for x"],
    );
    check_refused(&server, &["vms", "--ca", "/nonexistent"], &["failed to read `/nonexistent`"]);
    server.forwards("central-0", Forward::Nobody("connection refused"));
    check_refused(
        &server,
        &["vms", "--ca", &ca_file],
        &["nobody answers in pod kulprit/central-0", "connection refused"],
    );
}

#[test]
fn an_address_is_asked_by_tls_with_what_the_options_and_the_environment_say() {
    let folder = tempfile::tempdir().expect("a folder");
    let (ca, clients) = (Authority::new("ca"), Authority::new("clients"));
    let ca_file = folder.path().join("ca.crt");
    fs::write(&ca_file, ca.text()).expect("a file");
    let token = folder.path().join("token");
    fs::write(&token, "two").expect("a file");
    let (certificate, key) = clients.issue("a person", &[]).write(folder.path(), "person");
    let trusted = clients.pem();
    let open = central::listen(tls(&ca, "127.0.0.1", Clients::Anyone));
    let closed = central::listen(tls(&ca, "127.0.0.1", Clients::Must(&trusted)));
    let asked = |address: &str, words: &[&std::ffi::OsStr], environment: &[(&str, &Path)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kulprit"));
        command.args(["nodes", "--central", address]).args(words);
        for name in ["KULPRIT_CA", "KULPRIT_SERVER_NAME", "KULPRIT_TOKEN_FILE", "KULPRIT_CERTIFICATE", "KULPRIT_KEY"] {
            command.env_remove(name);
        }
        command.envs(environment.iter().copied());
        let output = command.output().expect("the command was built for this test");
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).expect("text")
    };
    let (by_open, by_closed) = (format!("https://{open}"), format!("https://{closed}"));
    let ca_flag = ["--ca".as_ref(), ca_file.as_os_str()];
    let text = asked(&by_open, &ca_flag, &[]);
    assert!(text.contains("no token"), "{text}");
    let text = asked(&by_open, &[], &[("KULPRIT_CA", &ca_file), ("KULPRIT_TOKEN_FILE", &token)]);
    assert!(text.contains("shown `Bearer two`"), "{text}");
    let text = asked(&by_open, &[], &[]);
    assert!(text.contains("name the file of its CA with --ca"), "{text}");
    let text = asked(&format!("http://{open}"), &ca_flag, &[]);
    assert!(text.contains("write https://"), "{text}");
    let text = asked(&format!("http://{open}"), &[], &[]);
    assert!(text.contains("does central speak TLS there?"), "{text}");
    let text = asked("http://10.0.0.1:7443", &["--token-file".as_ref(), token.as_os_str()], &[]);
    assert!(text.contains("would be sent in plaintext"), "{text}");
    let text = asked(&by_open, &["--ca".as_ref(), certificate.as_os_str()], &[]);
    assert!(text.contains("no TLS with central at") && text.contains("is of no CA in"), "{text}");
    let text = asked(&by_closed, &ca_flag, &[]);
    assert!(text.contains("the server wants a certificate of its clients"), "{text}");
    let shown = [&ca_flag[..], &["--certificate".as_ref(), certificate.as_os_str(), "--key".as_ref(), key.as_os_str()]];
    let text = asked(&by_closed, &shown.concat(), &[]);
    assert!(text.contains("no token"), "{text}");
}

#[test]
fn help_says_how_it_was_called_and_needs_no_kubernetes() {
    let nobody = ApiServer::gone();
    let text = |name: &str, words: &[&str]| String::from_utf8(run(&nobody, name, words).stdout).expect("text");
    assert!(text(PLUGIN, &["--help"]).contains("Usage: kubectl kulprit "));
    assert!(text(PLUGIN, &["why", "--help"]).contains("Usage: kubectl kulprit why "));
    assert!(text("kulprit", &["why", "--help"]).contains("Usage: kulprit why "));
    assert!(text(PLUGIN, &["causes", "LocalDiskStalled"]).contains("LocalDiskStalled"));
}

#[test]
fn kubectl_is_offered_the_names_that_central_knows() {
    let server = ApiServer::start();
    server.lists("kulprit", vec![pod("kulprit", "central-0", true)]);
    let offered = |words: &[&str]| String::from_utf8(run(&server, COMPLETION, words).stdout).expect("text");
    assert_eq!(offered(&["why", ""]), "prod/db-0\ntest/db-1\n:4\n");
    assert_eq!(offered(&["why", "--context", "shop", "vm/d"]), "vm/db-0\n:4\n");
    assert_eq!(offered(&["why", "-n", "test", "d"]), "db-1\n:4\n");
    assert_eq!(offered(&["vms", "-n", ""]), "prod\ntest\n:4\n");
    // As a script of that name would ask.
    let by_command = run(&server, PLUGIN, &["__complete", "why", "-n", "test", "d"]).stdout;
    assert_eq!(String::from_utf8_lossy(&by_command), "db-1\n:4\n");
    server.fails(403, "forbidden");
    let output = run(&server, COMPLETION, &["why", ""]);
    assert_eq!(
        (output.stdout, output.stderr),
        (b":4\n".to_vec(), Vec::new()),
        "trouble is not said in the middle of a word"
    );
}
