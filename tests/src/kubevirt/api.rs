//! The API server as the driver reaches it: one `kubectl proxy` for all requests, behind a Unix socket.
//!
//! The API server is in the lab's network, this process is not, and a socket in a folder is reached from both. So the driver speaks plain
//! HTTP/1.0 here, and the proxy has the connection, its TLS and the administrator's rights. One request takes a millisecond or two.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::node::Running;
use crate::wait;

/// How long the proxy may take until the API server answers through it.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// How long the API server may have no time.
const BUSY_LIMIT: Duration = Duration::from_secs(20);
const TOO_MANY_REQUESTS: u16 = 429;
/// How often a change is tried again that somebody else's change came before.
const ATTEMPTS: usize = 10;

/// A kind of object: where the API server keeps its objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    api: &'static str,
    plural: &'static str,
    is_namespaced: bool,
}

impl Kind {
    /// `VirtualMachine`.
    pub const VM: Self = Self::namespaced("apis/kubevirt.io/v1", "virtualmachines");
    /// `VirtualMachineInstance`.
    pub const VMI: Self = Self::namespaced("apis/kubevirt.io/v1", "virtualmachineinstances");
    /// `VirtualMachineInstanceMigration`.
    pub const VMIM: Self = Self::namespaced("apis/kubevirt.io/v1", "virtualmachineinstancemigrations");
    /// `KubeVirt`.
    pub const KUBEVIRT: Self = Self::namespaced("apis/kubevirt.io/v1", "kubevirts");
    /// `DataVolume`.
    pub const DATA_VOLUME: Self = Self::namespaced("apis/cdi.kubevirt.io/v1beta1", "datavolumes");
    /// `MigrationPolicy`.
    pub const POLICY: Self = Self::of_cluster("apis/migrations.kubevirt.io/v1alpha1", "migrationpolicies");
    /// `Pod`.
    pub const POD: Self = Self::namespaced("api/v1", "pods");
    /// `PersistentVolumeClaim`.
    pub const CLAIM: Self = Self::namespaced("api/v1", "persistentvolumeclaims");
    /// `Event` of `v1`.
    pub const EVENT: Self = Self::namespaced("api/v1", "events");
    /// `Node`.
    pub const NODE: Self = Self::of_cluster("api/v1", "nodes");
    /// `Lease`.
    pub const LEASE: Self = Self::namespaced("apis/coordination.k8s.io/v1", "leases");
    pub(super) const NAMESPACE: Self = Self::of_cluster("api/v1", "namespaces");
    pub(super) const ACCOUNT: Self = Self::namespaced("api/v1", "serviceaccounts");
    pub(super) const CRD: Self = Self::of_cluster("apis/apiextensions.k8s.io/v1", "customresourcedefinitions");

    const fn namespaced(api: &'static str, plural: &'static str) -> Self {
        Self { api, plural, is_namespaced: true }
    }

    const fn of_cluster(api: &'static str, plural: &'static str) -> Self {
        Self { api, plural, is_namespaced: false }
    }

    fn collection(self, namespace: &str) -> String {
        let Self { api, plural, is_namespaced } = self;
        if is_namespaced { format!("/{api}/namespaces/{namespace}/{plural}") } else { format!("/{api}/{plural}") }
    }
}

/// One object: its kind, its namespace (empty for a cluster's own), its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    kind: Kind,
    namespace: String,
    name: String,
}

impl Place {
    /// The object of that name.
    #[must_use]
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn path(&self) -> String {
        format!("{}/{}", self.kind.collection(&self.namespace), self.name)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.plural, self.namespace, self.name)
    }
}

/// A way to the API server. Ended when dropped.
#[derive(Debug)]
pub struct Api {
    socket: PathBuf,
    _proxy: Option<Running>,
}

impl Api {
    /// Starts `kubectl proxy` by a command that ends where its flags begin, with its socket in `folder`.
    ///
    /// # Errors
    /// If the API server does not answer through it.
    pub fn start(mut kubectl: Command, folder: &Path) -> Result<Self> {
        let socket = folder.join("proxy.sock");
        let log = std::fs::File::create(folder.join("proxy.log"))?;
        kubectl.arg("proxy").arg("--unix-socket").arg(&socket).stdout(log.try_clone()?).stderr(log);
        let api = Self { _proxy: Some(Running::start(&mut kubectl)?), ..Self::at(&socket) };
        let is_ready = || Ok(api.ask("GET", "/readyz", None).is_ok_and(|(status, _)| status == 200));
        wait::wait_until("kubectl proxy to reach the API server", START_LIMIT, is_ready)?;
        Ok(api)
    }

    /// By the socket of a `kubectl proxy` that runs already.
    #[must_use]
    pub fn at(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), _proxy: None }
    }

    /// Creates an object in a namespace (empty for a cluster's own) and returns it as it is stored.
    ///
    /// # Errors
    /// If the API server refuses it: what it said.
    pub fn create(&self, kind: Kind, namespace: &str, object: &Value) -> Result<Value> {
        let path = kind.collection(namespace);
        said(self.ask("POST", &path, Some(object))?).with_context(|| format!("POST {path}"))
    }

    /// As [`Api::create`]; one of that name that is there already is as good.
    ///
    /// # Errors
    /// As [`Api::create`].
    pub fn ensure(&self, kind: Kind, namespace: &str, object: &Value) -> Result<()> {
        let path = kind.collection(namespace);
        let (status, answer) = self.ask("POST", &path, Some(object))?;
        if status == 409 {
            return Ok(());
        }
        said((status, answer)).map(drop).with_context(|| format!("POST {path}"))
    }

    /// The object as it is now; `None` if there is none.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub fn get(&self, place: &Place) -> Result<Option<Value>> {
        let (status, answer) = self.ask("GET", &place.path(), None)?;
        if status == 404 { Ok(None) } else { said((status, answer)).map(Some).with_context(|| place.to_string()) }
    }

    /// Whether the API server serves objects of that kind by now.
    pub(super) fn is_served(&self, kind: Kind) -> Result<bool> {
        let (status, _) = self.ask("GET", &kind.collection("default"), None)?;
        Ok(status == 200)
    }

    /// Changes an object but for its status, and returns it as it is stored; nothing is sent where nothing changes.
    ///
    /// # Errors
    /// If there is no such object, or the API server refuses the change.
    pub fn update(&self, place: &Place, change: impl Fn(&mut Value)) -> Result<Value> {
        self.replace(place, "", change)
    }

    /// As [`Api::update`], of its status alone, where the kind has that apart.
    ///
    /// # Errors
    /// As [`Api::update`].
    pub fn update_status(&self, place: &Place, change: impl Fn(&mut Value)) -> Result<Value> {
        self.replace(place, "/status", change)
    }

    /// Asks for an object's end; what is gone already is as good. `grace_secs` is for pods.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn delete(&self, place: &Place, grace_secs: Option<u32>) -> Result<()> {
        let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
        if let Some(secs) = grace_secs {
            options["gracePeriodSeconds"] = secs.into();
        }
        let (status, answer) = self.ask("DELETE", &place.path(), Some(&options))?;
        if status == 404 {
            return Ok(());
        }
        said((status, answer)).map(drop).with_context(|| format!("DELETE {place}"))
    }

    fn replace(&self, place: &Place, subresource: &str, change: impl Fn(&mut Value)) -> Result<Value> {
        let path = format!("{}{subresource}", place.path());
        for _ in 0..ATTEMPTS {
            let before = self.get(place)?.with_context(|| format!("there is no {place}"))?;
            let mut object = before.clone();
            change(&mut object);
            if object == before {
                return Ok(object);
            }
            let (status, answer) = self.ask("PUT", &path, Some(&object))?;
            if status != 409 {
                return said((status, answer)).with_context(|| format!("PUT {path}"));
            }
        }
        bail!("{place} was changed by somebody else each time")
    }

    /// One request; asked again while the API server says that it has no time, as for a moment after its start.
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        let (answer, _) = wait::wait_for("the API server to have time", BUSY_LIMIT, || {
            let answer = self.ask_once(method, path, body)?;
            Ok(Some(answer).filter(|(status, _)| *status != TOO_MANY_REQUESTS))
        })?;
        Ok(answer)
    }

    fn ask_once(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        let mut stream =
            UnixStream::connect(&self.socket).with_context(|| format!("no proxy at `{}`", self.socket.display()))?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut head = format!("{method} {path} HTTP/1.0\r\nHost: localhost\r\nAccept: application/json\r\n");
        if !body.is_empty() {
            head.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
        }
        stream.write_all(format!("{head}\r\n{body}").as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).with_context(|| format!("{method} {path}"))?;
        read_answer(&String::from_utf8_lossy(&answer)).with_context(|| format!("{method} {path}"))
    }
}

/// Status and body of an answer; a body that is no JSON (`ok`) as a string.
fn read_answer(answer: &str) -> Result<(u16, Value)> {
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
    Ok((status, serde_json::from_str(body).unwrap_or_else(|_| Value::from(body))))
}

/// The object of an answer, or what the API server said against it.
fn said((status, answer): (u16, Value)) -> Result<Value> {
    if (200..300).contains(&status) {
        return Ok(answer);
    }
    bail!("{status}: {}", answer["message"].as_str().map_or_else(|| answer.to_string(), str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_status_and_its_object() {
        let (status, body) = read_answer("HTTP/1.0 200 OK\r\nA: b\r\n\r\n{\"kind\":\"Pod\"}").unwrap();
        assert_eq!((status, &body["kind"]), (200, &json!("Pod")));
        assert_eq!(read_answer("HTTP/1.0 200 OK\r\n\r\nok").unwrap(), (200, json!("ok")));
        assert!(read_answer("HTTP/1.0 200 OK\r\n").is_err());
    }

    #[test]
    fn a_refusal_is_told_in_the_words_of_the_api_server() {
        let error = said((422, json!({"message": "spec: Required value"}))).unwrap_err();
        assert_eq!(error.to_string(), "422: spec: Required value");
    }

    #[test]
    fn objects_are_where_kubernetes_has_them() {
        for (place, path) in [
            (
                Place::new(Kind::VMI, "prod", "db-0"),
                "/apis/kubevirt.io/v1/namespaces/prod/virtualmachineinstances/db-0",
            ),
            (Place::new(Kind::POD, "prod", "p"), "/api/v1/namespaces/prod/pods/p"),
            (Place::new(Kind::NODE, "", "n1"), "/api/v1/nodes/n1"),
        ] {
            assert_eq!(place.path(), path);
        }
    }
}
