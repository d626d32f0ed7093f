//! Where Kubernetes keeps what central makes: keys and certificates in a Secret, the CA in a ConfigMap for all to read.
//!
//! Both are read and replaced as a whole, with the `resourceVersion` that was read: of two centrals at once the first wins, and the other
//! reads again and takes that. Once an hour they are looked at: what another central renewed is taken, what somebody deleted is made anew.

use std::{collections::BTreeMap, time::Duration};

use base64ct::{Base64, Encoding as _};
use kulprit_daemon::backoff::{Backoff, BackoffPolicy, random_seed};
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::{info, warn};

use super::made::{Made, MakeError, due};
use crate::{
    config::MadeConfig,
    kubernetes::{
        Failure,
        write::{Owned, Writes},
    },
};

/// How often they are looked at. An hour: a certificate is renewed a month before it ends.
const LOOK_EVERY: Duration = Duration::from_secs(60 * 60);
/// After a failure, at most.
const RETRY_CAP: Duration = Duration::from_secs(60);
/// So often another central was first, within one look.
const CONFLICTS: usize = 3;
/// The type of a Secret with certificate and key.
const TLS_SECRET: &str = "kubernetes.io/tls";
/// Key of the ConfigMap.
const CA: &str = "ca.crt";

/// Why there is no certificate of the Secret.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeptError {
    #[error("the Secret {namespace}/{name} cannot be read or written: {failure}")]
    Secret { namespace: String, name: String, failure: Failure },
    #[error(
        "the Secret {namespace}/{name} has no `{missing}`: central did not make it, and leaves it alone; name another in `tls.made.secret`"
    )]
    Foreign { namespace: String, name: String, missing: &'static str },
    #[error("the Secret {namespace}/{name}: others change it all the time")]
    Contended { namespace: String, name: String },
    #[error("the Secret {namespace}/{name}; delete it, and central makes another")]
    Make {
        namespace: String,
        name: String,
        #[source]
        source: Box<MakeError>,
    },
    #[error("the ConfigMap {namespace}/{name} with the CA cannot be read or written: {failure}")]
    ConfigMap { namespace: String, name: String, failure: Failure },
}

/// The Secret and the ConfigMap, as central last saw them.
pub(super) struct Kept {
    writes: Writes,
    namespace: String,
    config: MadeConfig,
    names: Vec<String>,
    made: Option<Made>,
    next_look: Instant,
    backoff: Backoff,
}

impl Kept {
    /// In this namespace. The API server is not asked.
    pub(super) fn new(writes: Writes, namespace: String, config: MadeConfig) -> Self {
        let names = if config.names.is_empty() { service_names(&namespace) } else { config.names.clone() };
        let policy = BackoffPolicy { base: Duration::from_secs(1), cap: RETRY_CAP };
        let backoff = Backoff::new(policy, random_seed());
        Self { writes, namespace, config, names, made: None, next_look: Instant::now(), backoff }
    }

    /// What is kept, as central last saw it.
    pub(super) const fn made(&self) -> Option<&Made> {
        self.made.as_ref()
    }

    /// Asks Kubernetes when it is time to; `None` while it is not. After a failure what was known stays so.
    pub(super) async fn look(&mut self, now_secs: u64) -> Option<Result<(), KeptError>> {
        if Instant::now() < self.next_look {
            return None;
        }
        let looked = match self.read_or_make(now_secs).await {
            Ok(made) => {
                let published = self.publish(&made.cas).await;
                self.made = Some(made);
                published
            }
            Err(error) => Err(error),
        };
        let rest = match looked {
            Ok(()) => {
                self.backoff.reset();
                LOOK_EVERY
            }
            Err(_) => self.backoff.next_delay().max(Duration::from_secs(1)),
        };
        self.next_look = Instant::now() + rest;
        Some(looked)
    }

    async fn read_or_make(&self, now_secs: u64) -> Result<Made, KeptError> {
        let (namespace, name) = (self.namespace.clone(), self.config.secret.clone());
        let failed = |failure| KeptError::Secret { namespace: namespace.clone(), name: name.clone(), failure };
        for _ in 0..CONFLICTS {
            let object = match self.writes.owned(Owned::Secret, &namespace, &name).await {
                Err(Failure::Status { code: 404, .. }) => None,
                object => Some(object.map_err(failed)?),
            };
            let kept = match &object {
                Some(object) => self.of_secret(object)?,
                None => None,
            };
            let next = due(kept.as_ref(), &self.names, now_secs).map_err(|source| KeptError::Make {
                namespace: namespace.clone(),
                name: name.clone(),
                source: Box::new(source),
            })?;
            let next = match (kept, next) {
                (_, Some(next)) => next,
                (Some(kept), None) => return Ok(kept),
                (None, None) => return Err(KeptError::Contended { namespace, name }),
            };
            let is_new = object.is_none();
            let written = self.write(Owned::Secret, &name, object, |secret| {
                if is_new {
                    secret["type"] = json!(TLS_SECRET);
                }
                for (key, text) in fields(&next) {
                    secret["data"][key] = json!(Base64::encode_string(text.as_bytes()));
                }
            });
            match written.await {
                // Another central was first; what it made is as good.
                Err(Failure::Status { code: 409 | 404, .. }) => {}
                Err(failure) => return Err(failed(failure)),
                Ok(()) => {
                    info!(%namespace, secret = name, is_new, "central made a certificate, which its Secret has now");
                    return Ok(next);
                }
            }
        }
        Err(KeptError::Contended { namespace, name })
    }

    /// What a Secret holds; `None` if that is nothing yet.
    fn of_secret(&self, secret: &Value) -> Result<Option<Made>, KeptError> {
        let data: BTreeMap<&str, &str> = secret["data"]
            .as_object()
            .map(|data| data.iter().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?))).collect())
            .unwrap_or_default();
        if data.values().all(|text| text.is_empty()) {
            return Ok(None);
        }
        let field = |key: &'static str| {
            let bytes = data.get(key).and_then(|text| Base64::decode_vec(text).ok()).filter(|bytes| !bytes.is_empty());
            bytes.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(|| KeptError::Foreign {
                namespace: self.namespace.clone(),
                name: self.config.secret.clone(),
                missing: key,
            })
        };
        let (chain, key, cas, ca_key) = (field("tls.crt")?, field("tls.key")?, field(CA)?, field("ca.key")?);
        Ok(Some(Made { chain, key, cas, ca_key }))
    }

    /// Makes the ConfigMap say this.
    async fn publish(&self, cas: &str) -> Result<(), KeptError> {
        let name = &self.config.config_map;
        let failed = |failure| KeptError::ConfigMap { namespace: self.namespace.clone(), name: name.clone(), failure };
        for _ in 0..CONFLICTS {
            let object = match self.writes.owned(Owned::ConfigMap, &self.namespace, name).await {
                Err(Failure::Status { code: 404, .. }) => None,
                object => Some(object.map_err(failed)?),
            };
            if object.as_ref().is_some_and(|object| object["data"][CA] == cas) {
                return Ok(());
            }
            match self.write(Owned::ConfigMap, name, object, |map| map["data"][CA] = json!(cas)).await {
                Err(Failure::Status { code: 409 | 404, .. }) => {}
                written => return written.map_err(failed),
            }
        }
        // What another central wrote is looked at in an hour again; a CA that follows another is signed by it.
        warn!(
            namespace = self.namespace,
            config_map = name,
            "others change the ConfigMap with the CA at the same time"
        );
        Ok(())
    }

    /// Creates an object, or replaces it as it was read.
    async fn write(
        &self,
        kind: Owned,
        name: &str,
        object: Option<Value>,
        change: impl FnOnce(&mut Value),
    ) -> Result<(), Failure> {
        let is_new = object.is_none();
        let mut object = object.unwrap_or_else(|| {
            let labels = json!({"app.kubernetes.io/name": "kulprit", "app.kubernetes.io/component": "central"});
            json!({"apiVersion": "v1", "kind": kind.as_str(),
                "metadata": {"name": name, "namespace": self.namespace, "labels": labels}})
        });
        if !object["data"].is_object() {
            object["data"] = json!({});
        }
        change(&mut object);
        let written = if is_new {
            self.writes.create_owned(kind, &self.namespace, &object).await
        } else {
            self.writes.replace_owned(kind, &self.namespace, name, &object).await
        };
        written.map(drop)
    }
}

fn fields(made: &Made) -> [(&'static str, &str); 4] {
    let Made { chain, key, cas, ca_key } = made;
    [("tls.crt", chain), ("tls.key", key), (CA, cas), ("ca.key", ca_key)]
}

/// The names of the Service `kulprit-central`.
fn service_names(namespace: &str) -> Vec<String> {
    let service = "kulprit-central";
    vec![
        service.to_owned(),
        format!("{service}.{namespace}"),
        format!("{service}.{namespace}.svc"),
        format!("{service}.{namespace}.svc.cluster.local"),
    ]
}

#[cfg(test)]
mod tests;
