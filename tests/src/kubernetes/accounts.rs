//! Service accounts of the cluster, what they may do, and what they did: the API server's own audit of every request of theirs.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use serde_json::Value;

use super::Cluster;

/// Requests of these namespaces' service accounts are written down; of all others none.
pub(super) const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, userGroups: ['system:serviceaccounts:kulprit']}
- {level: None}
";
/// Where they are written down, in the cluster's folder.
pub(super) const AUDIT_LOG: &str = "audit.log";

/// A request that the API server answered, or for a watch began to.
#[derive(Clone, Debug)]
pub struct Audited {
    /// RBAC's verb.
    pub verb: String,
    /// API group; empty for the core group.
    pub group: String,
    /// Plural, with the subresource.
    pub resource: String,
    /// Namespace; empty for none.
    pub namespace: String,
    /// Name of the object; empty if the request names none.
    pub name: String,
    /// HTTP's code.
    pub code: i64,
    /// When it was answered.
    pub at: Timestamp,
}

/// One right: the namespace of a Role or nothing, group, resource, verb.
pub type Right = [String; 4];

impl Cluster {
    /// A service account, made if it is not there, and a kubeconfig with a token of it.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn account(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        for words in [&["namespace", namespace][..], &["serviceaccount", name, "--namespace", namespace]] {
            let made = self.kubectl(&[&["create"], words].concat());
            if let Err(error) = made
                && !format!("{error:#}").contains("already exists")
            {
                return Err(error);
            }
        }
        let token = self.kubectl(&["create", "token", name, "--namespace", namespace, "--duration=2h"])?;
        let path = self.folder.join(format!("{namespace}-{name}.conf"));
        let (server, authority) = (super::server(), self.authority.certificate());
        let config = format!(
            "apiVersion: v1\nkind: Config\nclusters: [{{name: lab, cluster: {{server: \"{server}\", certificate-authority: {}}}}}]\n\
             users: [{{name: self, user: {{token: {}}}}}]\ncontexts: [{{name: lab, context: {{cluster: lab, user: self, namespace: {namespace}}}}}]\n\
             current-context: lab\n",
            authority.display(),
            token.trim()
        );
        fs::write(&path, config)?;
        Ok(path)
    }

    /// Applies objects written as YAML.
    ///
    /// # Errors
    /// If the API server refuses: what it said.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        let mut command = self.kubectl_command();
        command.args(["apply", "--filename", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().context("failed to start kubectl")?;
        child.stdin.take().context("standard input is piped")?.write_all(yaml.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("kubectl apply: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// Gives a service account of the namespace `kulprit` every role of a file of roles.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn grant(&self, account: &str, roles: &str) -> Result<()> {
        let subject = format!("{{kind: ServiceAccount, name: {account}, namespace: kulprit}}");
        let mut yaml = roles.to_owned();
        for role in documents(roles)? {
            let (kind, meta) = (role["kind"].as_str().unwrap_or_default(), &role["metadata"]);
            let name = meta["name"].as_str().context("a role has a name")?;
            let namespace = meta["namespace"].as_str().map_or_else(String::new, |own| format!(", namespace: {own}"));
            yaml.push_str(&format!(
                "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}Binding\nmetadata: {{name: {name}{namespace}}}\n\
                 roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: {kind}, name: {name}}}\nsubjects: [{subject}]\n"
            ));
        }
        self.apply(&yaml)
    }

    /// What a service account of the namespace `kulprit` asked so far, oldest first.
    ///
    /// # Errors
    /// If the audit log cannot be read.
    pub fn audited(&self, account: &str) -> Result<Vec<Audited>> {
        let user = format!("system:serviceaccount:kulprit:{account}");
        let text = fs::read_to_string(self.folder.join(AUDIT_LOG)).context("the audit log")?;
        // The last line may be half written.
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let audited = lines.filter(|line| line["user"]["username"] == user.as_str()).filter_map(|line| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let object = line.get("objectRef")?;
            let (resource, subresource) = (text(&object["resource"]), text(&object["subresource"]));
            Some(Audited {
                verb: text(&line["verb"]),
                group: text(&object["apiGroup"]),
                resource: if subresource.is_empty() { resource } else { format!("{resource}/{subresource}") },
                namespace: text(&object["namespace"]),
                name: text(&object["name"]),
                code: line["responseStatus"]["code"].as_i64().unwrap_or_default(),
                at: line["stageTimestamp"].as_str()?.parse().ok()?,
            })
        });
        Ok(audited.collect())
    }
}

/// The rights that requests used. Of what is granted in one namespace alone the namespace counts.
#[must_use]
pub fn used(audited: &[Audited], granted: &BTreeSet<Right>) -> BTreeSet<Right> {
    let right = |one: &Audited| {
        let whole = [String::new(), one.group.clone(), one.resource.clone(), one.verb.clone()];
        let own = [one.namespace.clone(), one.group.clone(), one.resource.clone(), one.verb.clone()];
        if granted.contains(&whole) { whole } else { own }
    };
    audited.iter().map(right).collect()
}

/// What central's log says of a right that is missing, or was.
#[must_use]
pub fn logged([_, group, resource, verb]: &Right) -> String {
    let is_with_group = GROUPS_SAID.contains(&group.as_str());
    let resource = if is_with_group { format!("{resource}.{group}") } else { resource.clone() };
    format!("verb=\"{verb}\" resource=\"{resource}\"")
}

/// Groups that central names with their resources.
const GROUPS_SAID: [&str; 3] = ["authentication.k8s.io", "authorization.k8s.io", "events.k8s.io"];

/// What central's log says of a right that it misses.
pub const MISSING: &str = "a right is missing in Kubernetes";
/// What it says when the right is there after all.
pub const THERE: &str = "a right that was missing in Kubernetes is there";

/// A file of roles among the product's documents.
///
/// # Errors
/// If there is none of that name.
pub fn document(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// Each verb on each resource of a file of roles.
///
/// # Errors
/// If it is not YAML.
pub fn rights(roles: &str) -> Result<BTreeSet<Right>> {
    let mut rights = BTreeSet::new();
    for role in documents(roles)? {
        let namespace = role["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        for rule in role["rules"].as_array().into_iter().flatten() {
            let words = |key: &str| -> Vec<String> {
                let words = rule[key].as_array().into_iter().flatten();
                words.filter_map(|word| word.as_str().map(ToOwned::to_owned)).collect()
            };
            for group in words("apiGroups") {
                for resource in words("resources") {
                    let right = |verb| [namespace.clone(), group.clone(), resource.clone(), verb];
                    rights.extend(words("verbs").into_iter().map(right));
                }
            }
        }
    }
    Ok(rights)
}

/// The same file of roles, without those rights.
///
/// # Errors
/// If it is not YAML.
pub fn without(roles: &str, is_taken: impl Fn(&Right) -> bool) -> Result<String> {
    let mut text = String::new();
    let all = rights(roles)?;
    for role in documents(roles)? {
        let meta = &role["metadata"];
        let namespace = meta["namespace"].as_str().unwrap_or_default();
        let rules = all.iter().filter(|right| right[0] == namespace && !is_taken(right));
        let rules = rules.map(|[_, group, resource, verb]| {
            format!("{{apiGroups: [\"{group}\"], resources: [{resource}], verbs: [{verb}]}}")
        });
        let rules = rules.collect::<Vec<_>>().join(", ");
        let word = |value: &Value| value.as_str().map(ToOwned::to_owned).context("a role without kind or name");
        let (kind, name) = (word(&role["kind"])?, word(&meta["name"])?);
        let namespace = if namespace.is_empty() { String::new() } else { format!(", namespace: {namespace}") };
        text.push_str(&format!(
            "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}{namespace}}}\nrules: [{rules}]\n"
        ));
    }
    Ok(text)
}

fn documents(yaml: &str) -> Result<Vec<Value>> {
    let documents = yaml.split("---\n").filter(|text| text.contains("kind:"));
    documents.map(|text| serde_saphyr::from_str(text).context("a file of roles")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLES: &str = "# c\napiVersion: v1\nkind: ClusterRole\nmetadata: {name: r}\nrules:\n- {apiGroups: [\"\"], resources: [nodes, pods], verbs: [list, watch]}\n---\napiVersion: v1\nkind: Role\nmetadata: {name: r, namespace: n}\nrules:\n- {apiGroups: [x.io], resources: [ys], verbs: [get]}\n";

    #[test]
    fn roles_are_read_and_written_without_a_right() {
        let all = rights(ROLES).unwrap();
        assert_eq!(all.len(), 5);
        let taken = ["", "", "pods", "watch"].map(ToOwned::to_owned);
        assert!(all.contains(&taken));
        let less = rights(&without(ROLES, |right| *right == taken).unwrap()).unwrap();
        assert_eq!(all.difference(&less).collect::<Vec<_>>(), [&taken]);
        assert_eq!(rights(&without(ROLES, |_| false).unwrap()).unwrap(), all);
    }
}
