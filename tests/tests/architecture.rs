//! The bans of ARCHITECTURE.md, checked on what Cargo resolves.
//!
//! Crates exist where a ban must hold; the bans stand here as tables and are read by functions from `cargo metadata`'s
//! answer to what is wrong with it, so that each is also shown to fail on an answer that was tampered with.
//! Cargo resolves the features of the whole workspace at once, so a tree is at most too large, never too small.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::LazyLock,
};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Node, Package, PackageId};
use serde_json::{Value, json};

/// One of our crates, and what it must not know.
struct Crate {
    name: &'static str,
    /// Where it is, from the workspace's root.
    folder: &'static str,
    /// Those of ours that it may name, also in its tests and build script.
    ours: &'static [&'static str],
    /// What it must not name itself.
    never_named: &'static [&'static str],
    /// What must not come with it, by any way, into a program.
    never_below: &'static [&'static str],
}

/// What only sees the world: files, sockets, clocks, databases. Not `libc`, which comes with macros and hashes.
const EFFECTS: &[&str] =
    &["tokio", "mio", "nix", "rustix", "procfs", "zbus", "tonic", "hyper", "axum", "kube", "rusqlite"];
/// What only central or the wire need.
const WIRE: &[&str] = &["prost", "tonic", "hyper", "axum", "kube", "rusqlite"];
/// What an agent has no use for: it has no Kubernetes rights, no database, and C stays in its worker.
const CENTRAL_ONLY: &[&str] = &["kube", "k8s-openapi", "rusqlite", "libsqlite3-sys"];
/// What only central keeps.
const DATABASE: &[&str] = &["rusqlite", "libsqlite3-sys"];

const CRATES: &[Crate] = &[
    Crate {
        name: "kulprit-model",
        folder: "proto/model",
        ours: &[],
        never_named: &["serde"],
        never_below: &["prost", "tokio", "mio", "nix", "rustix", "tonic", "kube", "rusqlite"],
    },
    Crate {
        name: "kulprit-proto",
        folder: "proto",
        ours: &["kulprit-model"],
        never_named: &["tokio", "hyper", "axum"],
        never_below: CENTRAL_ONLY,
    },
    // Both sides of TLS and nothing that is spoken over it.
    Crate {
        name: "kulprit-tls",
        folder: "tls",
        // Itself, with what its tests want of it.
        ours: &["kulprit-tls"],
        never_named: &["hyper", "axum"],
        never_below: &["prost", "tonic", "kube", "rusqlite", "zbus"],
    },
    Crate {
        name: "kulprit-daemon",
        folder: "daemon",
        ours: &["kulprit-model"],
        never_named: &["prost"],
        never_below: &["prost", "tonic", "kube", "rusqlite", "zbus"],
    },
    Crate { name: "kulprit-host", folder: "agent/host", ours: &[], never_named: &["regex"], never_below: WIRE },
    // What it judges are the host's own types, so what reads them (tokio, zbus) is below it; it may not touch that.
    Crate {
        name: "kulprit-judge",
        folder: "agent/judge",
        ours: &["kulprit-host", "kulprit-model", "kulprit-signature"],
        never_named: EFFECTS,
        never_below: WIRE,
    },
    Crate {
        name: "kulprit-signature",
        folder: "agent/judge/signature",
        ours: &["kulprit-model"],
        never_named: &[],
        never_below: EFFECTS,
    },
    Crate {
        name: "kulprit-agent",
        folder: "agent",
        ours: &["kulprit-daemon", "kulprit-host", "kulprit-judge", "kulprit-model", "kulprit-proto", "kulprit-tls"],
        never_named: &[],
        never_below: CENTRAL_ONLY,
    },
    Crate {
        name: "kulprit-agent-libvirt",
        folder: "agent/libvirt",
        ours: &["kulprit-model", "kulprit-proto"],
        never_named: &["tokio", "tonic"],
        never_below: CENTRAL_ONLY,
    },
    Crate {
        name: "kulprit-cluster",
        folder: "central/cluster",
        ours: &["kulprit-model", "kulprit-signature"],
        never_named: &[],
        never_below: EFFECTS,
    },
    Crate {
        name: "kulprit-diagnosis",
        folder: "central/diagnosis",
        ours: &["kulprit-cluster", "kulprit-model"],
        never_named: &[],
        never_below: EFFECTS,
    },
    Crate {
        name: "kulprit-central",
        folder: "central",
        ours: &[
            "kulprit-cluster",
            "kulprit-daemon",
            "kulprit-diagnosis",
            "kulprit-model",
            "kulprit-proto",
            "kulprit-signature",
            "kulprit-tls",
        ],
        never_named: &[],
        never_below: &["zbus", "procfs"],
    },
    // Reads recorded cases, so it sees what is pure and what reads files; no network, no wire.
    Crate {
        name: "kulprit-case",
        folder: "cli/case",
        ours: &[
            "kulprit-cluster",
            "kulprit-diagnosis",
            "kulprit-host",
            "kulprit-judge",
            "kulprit-model",
            "kulprit-signature",
        ],
        never_named: &["tokio", "zbus"],
        never_below: WIRE,
    },
    Crate {
        name: "kulprit-cli",
        folder: "cli",
        ours: &["kulprit-case", "kulprit-diagnosis", "kulprit-model", "kulprit-proto", "kulprit-tls"],
        never_named: &["zbus"],
        // Kubernetes is its way to central: a kubeconfig and a forwarded stream.
        never_below: DATABASE,
    },
    Crate {
        name: "kulprit-tests",
        folder: "tests",
        ours: &[
            "kulprit-agent",
            "kulprit-case",
            "kulprit-central",
            "kulprit-cli",
            "kulprit-cluster",
            "kulprit-daemon",
            "kulprit-diagnosis",
            "kulprit-host",
            "kulprit-judge",
            "kulprit-model",
            "kulprit-proto",
            "kulprit-signature",
            "kulprit-tls",
        ],
        never_named: &[],
        never_below: &[],
    },
];

/// Packages that nothing may bring in, and why.
const NOWHERE: &[(&str, &str)] = &[
    ("chrono", "a second time library"),
    ("openssl", "a second TLS library"),
    ("openssl-sys", "a second TLS library"),
    ("native-tls", "a second TLS library"),
    ("protobuf-src", "protobuf compiles without protoc"),
];

/// Packages that others bring and that none of ours may name, and why.
const UNNAMED: &[(&str, &str)] =
    &[("time", "a second time library: what `rcgen` writes the dates of certificates with")];

/// Those of ours that talk to an API server.
const OF_KUBERNETES: Option<&[&str]> = Some(&["kulprit-central", "kulprit-cli"]);

/// Those of ours that speak TLS.
const OF_TLS: Option<&[&str]> = Some(&["kulprit-agent", "kulprit-central", "kulprit-cli", "kulprit-tls"]);

/// Packages that declare `links`, what they link, and the only ones of ours that may have them in their programs.
const LINKS: &[(&str, &str, Option<&[&str]>)] = &[
    ("libsqlite3-sys", "SQLite, compiled in (`bundled`)", Some(&["kulprit-central"])),
    ("ring", "its own C and assembly, compiled in: TLS", OF_TLS),
    ("virt-sys", "libvirt", Some(&["kulprit-agent-libvirt"])),
    ("k8s-openapi", "nothing: the key keeps a second copy out", OF_KUBERNETES),
    ("prettyplease", "nothing: the key keeps a second copy out", None),
];

/// Crates with lints of their own, a copy of the workspace's in which `unsafe` is possible, and what that copy may leave out.
const OWN_LINTS: &[(&str, &[&str])] = &[
    ("kulprit-host", &["unsafe_code"]),
    // Has no async code.
    ("kulprit-agent-libvirt", &["unsafe_code", "await_holding_lock", "large_futures"]),
];

/// Members that a plain `cargo build` leaves out: the one that needs libvirt, and the one that starts it.
const NOT_BY_DEFAULT: &[&str] = &["kulprit-agent-libvirt", "kulprit-tests"];

/// `cargo metadata`'s answer for this workspace, for the machines Kulprit runs on.
static METADATA: LazyLock<Value> = LazyLock::new(|| {
    let mut command = MetadataCommand::new();
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    command.manifest_path(root().join("Cargo.toml"));
    command.other_options(["--locked".to_owned(), format!("--filter-platform={platform}")]);
    let output = command.cargo_command().output().expect("cargo runs this test, so it is there");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata writes JSON")
});

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace's root")
}

/// The packages of an answer and what depends on what.
struct Graph {
    metadata: Metadata,
    packages: BTreeMap<PackageId, Package>,
    nodes: BTreeMap<PackageId, Node>,
}

impl Graph {
    fn new(answer: Value) -> Self {
        let mut metadata: Metadata = serde_json::from_value(answer).expect("the answer has the form of its version");
        let packages = metadata.packages.drain(..).map(|package| (package.id.clone(), package)).collect();
        let resolve = metadata.resolve.take().expect("asked for with dependencies");
        Self { metadata, packages, nodes: resolve.nodes.into_iter().map(|node| (node.id.clone(), node)).collect() }
    }

    fn name(&self, id: &PackageId) -> &str {
        self.packages[id].name.as_str()
    }

    fn members(&self) -> impl Iterator<Item = &Package> {
        self.metadata.workspace_members.iter().map(|id| &self.packages[id])
    }

    fn member(&self, name: &str) -> Option<&PackageId> {
        self.metadata.workspace_members.iter().find(|id| self.name(id) == name)
    }

    /// The names `id` depends on for one of `kinds`.
    fn named(&self, id: &PackageId, kinds: &[DependencyKind]) -> Vec<&PackageId> {
        let wanted = |dep: &&cargo_metadata::NodeDep| dep.dep_kinds.iter().any(|kind| kinds.contains(&kind.kind));
        self.nodes[id].deps.iter().filter(wanted).map(|dep| &dep.pkg).collect()
    }

    /// What comes with `id` into a program: normal dependencies of normal dependencies.
    fn below(&self, id: &PackageId) -> BTreeSet<&str> {
        let mut seen = BTreeSet::new();
        let mut left = self.named(id, &[DependencyKind::Normal]);
        while let Some(next) = left.pop() {
            if seen.insert(next) {
                left.extend(self.named(next, &[DependencyKind::Normal]));
            }
        }
        seen.into_iter().map(|id| self.name(id)).collect()
    }
}

const ANY_KIND: &[DependencyKind] = &[DependencyKind::Normal, DependencyKind::Development, DependencyKind::Build];

/// Everything in an answer that is against the tables.
fn broken(graph: &Graph) -> Vec<String> {
    let mut broken = Vec::new();
    for member in graph.members() {
        match CRATES.iter().find(|rules| rules.name == member.name.as_str()) {
            Some(rules) => broken.extend(broken_by(graph, member, rules)),
            None => broken.push(format!("{} has no row in CRATES: what may it not know?", member.name)),
        }
    }
    let members: BTreeSet<&str> = graph.members().map(|member| member.name.as_str()).collect();
    broken.extend(
        CRATES.iter().filter(|rules| !members.contains(rules.name)).map(|rules| format!("{} is no member", rules.name)),
    );
    for package in graph.packages.values() {
        let name = package.name.as_str();
        if let Some((_, why)) = NOWHERE.iter().find(|(never, _)| *never == name) {
            broken.push(format!("{name} is in the tree: {why}"));
        }
        if package.links.is_some() && !LINKS.iter().any(|(links, ..)| *links == name) {
            broken.push(format!("{name} links a C library"));
        }
    }
    let defaults = &graph.metadata.workspace_default_members;
    for member in graph.members() {
        let name = member.name.as_str();
        if defaults.contains(&member.id) == NOT_BY_DEFAULT.contains(&name) {
            broken.push(format!("{name}: default-members and NOT_BY_DEFAULT disagree"));
        }
    }
    broken
}

/// What one of ours does against its row.
fn broken_by(graph: &Graph, member: &Package, rules: &Crate) -> Vec<String> {
    let mut broken = Vec::new();
    let folder = member.manifest_path.parent().map(|folder| folder.as_std_path());
    if folder != Some(root().join(rules.folder).as_path()) {
        broken.push(format!("{} is not in {}", rules.name, rules.folder));
    }
    for id in graph.named(&member.id, ANY_KIND) {
        let name = graph.name(id);
        if graph.member(name).is_some() && name != rules.name && !rules.ours.contains(&name) {
            broken.push(format!("{} names {name}", rules.name));
        }
    }
    for id in graph.named(&member.id, &[DependencyKind::Normal]) {
        if rules.never_named.contains(&graph.name(id)) {
            broken.push(format!("{} names {}", rules.name, graph.name(id)));
        }
    }
    for id in graph.named(&member.id, ANY_KIND) {
        let unnamed = UNNAMED.iter().find(|(unnamed, _)| *unnamed == graph.name(id));
        broken.extend(unnamed.map(|(unnamed, why)| format!("{} names {unnamed}: {why}", rules.name)));
    }
    let below = graph.below(&member.id);
    broken.extend(
        rules
            .never_below
            .iter()
            .filter(|never| below.contains(**never))
            .map(|never| format!("{} brings {never}", rules.name)),
    );
    // The tests see all, so they have central's database in their tree.
    let not_for_it = |users: &Option<&[&str]>| {
        users.is_some_and(|users| !users.contains(&rules.name)) && rules.name != "kulprit-tests"
    };
    broken.extend(
        LINKS
            .iter()
            .filter(|(links, _, users)| not_for_it(users) && below.contains(*links))
            .map(|(links, what, _)| format!("{} brings {links}, which links {what}", rules.name)),
    );
    broken
}

#[test]
fn no_ban_is_broken() {
    let broken = broken(&Graph::new(METADATA.clone()));
    assert!(broken.is_empty(), "against ARCHITECTURE.md's bans:\n  {}", broken.join("\n  "));
}

/// Tampers with the answer and looks for exactly the complaint that follows.
#[track_caller]
fn check_broken(tamper: impl FnOnce(&mut Value), want: &str) {
    let mut answer = METADATA.clone();
    tamper(&mut answer);
    let broken = broken(&Graph::new(answer));
    assert!(broken.iter().any(|complaint| complaint == want), "no {want:?} in {broken:#?}");
}

fn id_of(answer: &Value, name: &str) -> Value {
    let packages = answer["packages"].as_array().expect("packages are an array");
    packages.iter().find(|package| package["name"] == name).unwrap_or_else(|| panic!("no package {name}"))["id"].clone()
}

/// Lets `user` depend on `used`.
fn depend(answer: &mut Value, user: &str, used: &str, kind: Value) {
    let (user, used) = (id_of(answer, user), id_of(answer, used));
    let nodes = answer["resolve"]["nodes"].as_array_mut().expect("nodes are an array");
    let node = nodes.iter_mut().find(|node| node["id"] == user).expect("each package has a node");
    let deps = node["deps"].as_array_mut().expect("deps are an array");
    deps.push(json!({ "name": "x", "pkg": used, "dep_kinds": [{ "kind": kind, "target": null }] }));
}

/// Gives a package another name, everywhere.
fn rename(answer: &mut Value, from: &str, to: &str) {
    let id = id_of(answer, from);
    let packages = answer["packages"].as_array_mut().expect("packages are an array");
    packages.iter_mut().find(|package| package["id"] == id).expect("just found")["name"] = json!(to);
}

#[test]
fn agent_and_central_that_see_each_other_are_caught_in_tests_too() {
    check_broken(
        |answer| depend(answer, "kulprit-central", "kulprit-agent", Value::Null),
        "kulprit-central names kulprit-agent",
    );
    check_broken(
        |answer| depend(answer, "kulprit-agent", "kulprit-central", json!("dev")),
        "kulprit-agent names kulprit-central",
    );
}

#[test]
fn a_diagnosis_that_knows_the_runtime_is_caught_at_any_depth() {
    check_broken(|answer| depend(answer, "kulprit-diagnosis", "tokio", Value::Null), "kulprit-diagnosis brings tokio");
    check_broken(|answer| depend(answer, "jiff", "rusqlite", Value::Null), "kulprit-diagnosis brings rusqlite");
}

#[test]
fn a_judge_that_reads_for_itself_is_caught() {
    check_broken(|answer| depend(answer, "kulprit-judge", "zbus", Value::Null), "kulprit-judge names zbus");
}

#[test]
fn an_agent_that_links_libvirt_is_caught() {
    let want = "kulprit-agent brings virt-sys, which links libvirt";
    check_broken(|answer| depend(answer, "kulprit-host", "virt-sys", Value::Null), want);
}

#[test]
fn a_second_time_library_and_an_unknown_c_library_are_caught() {
    check_broken(|answer| rename(answer, "jiff", "chrono"), "chrono is in the tree: a second time library");
    check_broken(|answer| rename(answer, "libsqlite3-sys", "libz-sys"), "libz-sys links a C library");
}

#[test]
fn a_new_member_without_rules_is_caught() {
    let want = "kulprit-stranger has no row in CRATES: what may it not know?";
    check_broken(|answer| rename(answer, "kulprit-cli", "kulprit-stranger"), want);
}

#[test]
fn a_plain_build_that_needs_libvirt_is_caught() {
    let want = "kulprit-agent-libvirt: default-members and NOT_BY_DEFAULT disagree";
    let add = |answer: &mut Value| {
        let id = id_of(answer, "kulprit-agent-libvirt");
        answer["workspace_default_members"].as_array_mut().expect("an array").push(id);
    };
    check_broken(add, want);
}

/// The lines of a `[table]` in a manifest of ours, without comments.
fn table<'a>(manifest: &'a str, name: &str) -> Vec<&'a str> {
    let header = format!("[{name}]");
    let lines = manifest.lines().map(str::trim).skip_while(|line| *line != header).skip(1);
    lines.take_while(|line| !line.starts_with('[')).filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

/// What is wrong with the lints of a crate.
fn lints_broken(name: &str, manifest: &str, workspace: &str) -> Vec<String> {
    let Some((_, may_leave_out)) = OWN_LINTS.iter().find(|(own, _)| *own == name) else {
        let has = table(manifest, "lints") == ["workspace = true"];
        return if has { vec![] } else { vec![format!("{name} does not take the workspace's lints")] };
    };
    let missing = |tool: &str| {
        let own = table(manifest, &format!("lints.{tool}"));
        let lints = table(workspace, &format!("workspace.lints.{tool}"));
        assert!(!lints.is_empty(), "no [workspace.lints.{tool}] was read");
        let allowed = |lint: &&str| lint.split_once(" = ").is_some_and(|(lint, _)| may_leave_out.contains(&lint));
        lints.into_iter().filter(|lint| !allowed(lint) && !own.contains(lint)).map(str::to_owned).collect::<Vec<_>>()
    };
    [missing("rust"), missing("clippy")]
        .concat()
        .iter()
        .map(|lint| format!("{name} lacks the workspace's lint {lint}"))
        .collect()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_crate_takes_the_workspace_lints_or_a_copy_that_allows_unsafe() {
    let workspace = read("Cargo.toml");
    assert!(table(&workspace, "workspace.lints.rust").contains(&"unsafe_code = \"forbid\""));
    let of = |rules: &Crate| lints_broken(rules.name, &read(Path::new(rules.folder).join("Cargo.toml")), &workspace);
    let broken: Vec<String> = CRATES.iter().flat_map(of).collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn lints_that_are_missing_are_caught() {
    let workspace =
        "[workspace.lints.rust]\nunsafe_code = \"forbid\"\n[workspace.lints.clippy]\nunwrap_used = \"deny\"\n";
    assert_eq!(
        lints_broken("kulprit-cli", "[dependencies]\n", workspace),
        ["kulprit-cli does not take the workspace's lints"]
    );
    assert_eq!(lints_broken("kulprit-cli", "[lints]\nworkspace = true\n", workspace), [""; 0]);
    let want = ["kulprit-host lacks the workspace's lint unwrap_used = \"deny\""];
    assert_eq!(lints_broken("kulprit-host", "[lints.clippy]\nunwrap_used = \"warn\"\n", workspace), want);
    assert_eq!(lints_broken("kulprit-host", "[lints.clippy]\nunwrap_used = \"deny\"\n", workspace), [""; 0]);
}

/// Folders of the root that are not the project's: hidden ones, and what a build leaves.
fn is_made(name: &str) -> bool {
    name.starts_with('.') || name == "target"
}

#[test]
fn the_code_map_names_every_folder_and_crate() {
    let map = read("ARCHITECTURE.md");
    let rows: Vec<&str> = map.lines().filter(|line| line.starts_with('|')).collect();
    let has = |folder: &str| rows.iter().any(|row| row.starts_with(&format!("| `{folder}` |")));
    let mut missing: Vec<String> = CRATES
        .iter()
        .filter(|rules| !rows.iter().any(|row| row.starts_with(&format!("| `{}` | `{}` |", rules.folder, rules.name))))
        .map(|rules| format!("{} in {}", rules.name, rules.folder))
        .collect();
    for entry in fs::read_dir(root()).expect("the workspace's root is readable").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() && !is_made(&name) && !has(&name) {
            missing.push(format!("folder {name}"));
        }
    }
    assert!(missing.is_empty(), "ARCHITECTURE.md's code map lacks {missing:#?}");
}
