//! `kulprit-central cleanup`: takes from a cluster what central left there.
//!
//! Conditions that our field manager owns, taints of our prefix, the Lease, and a Secret or ConfigMap that central made, where it is named.
//! Nothing of others is touched, and what is gone already is no failure, so it may run twice. It does not run while a central holds the
//! Lease, which would write all of it again. Events are left: the API server drops them within the hour (`--event-ttl`), and to delete
//! them in all namespaces takes rights that nothing else needs.

use std::{io::Write, time::Duration};

use kulprit_cluster::FIELD_MANAGER;
use kulprit_daemon::{BoxError, CancellationToken, Clock, UsageError};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{
    conditions::PREFIX,
    config::{CleanupFlags, Config},
    kubernetes::{
        Failure, client,
        lease::LEASE,
        write::{Owned, Writes},
    },
    taints::TaintChange,
};

/// How often a Lease is looked at whose holder may be gone.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A Lease is not waited for any longer, whatever it says.
const MAX_LASTS: Duration = Duration::from_secs(60);

/// Cleans up the cluster of this configuration, and prints what it removed.
///
/// # Errors
/// A [`UsageError`] if there is no cluster, or a central that writes; else if something could not be removed.
pub async fn run(config: Config, flags: CleanupFlags, stop: CancellationToken) -> Result<(), BoxError> {
    let Some(client) = client::connect(&config.kubernetes).await? else {
        let nowhere = UsageError::new("there is no Kubernetes to clean up");
        return Err(nowhere.fix("name its kubeconfig with --kubeconfig").into());
    };
    let namespace = config.publish.lease_namespace.unwrap_or_else(|| client.default_namespace().to_owned());
    let cleanup = Cleanup { writes: Writes::new(client), namespace, flags, clock: Clock::kernel() };
    let mut out = std::io::stdout();
    tokio::select! {
        biased;
        () = stop.cancelled() => Err("told to end before all was removed".into()),
        done = cleanup.run(&mut out) => done,
    }
}

/// One cleanup.
pub(crate) struct Cleanup {
    pub(crate) writes: Writes,
    /// Where the Lease is, and what central made.
    pub(crate) namespace: String,
    pub(crate) flags: CleanupFlags,
    pub(crate) clock: Clock,
}

/// What became of something, one line each.
struct Told<'o, W> {
    out: &'o mut W,
    verb: &'static str,
    n_removed: usize,
    failures: Vec<String>,
}

impl<W: Write> Told<'_, W> {
    fn note(&mut self, what: &str, removed: Result<(), Failure>) -> Result<(), BoxError> {
        match removed {
            Ok(()) => {
                self.n_removed += 1;
                writeln!(self.out, "{} {what}", self.verb)?;
            }
            // Somebody was faster.
            Err(Failure::Status { code: 404, .. }) => {}
            Err(failure) => self.failures.push(format!("{what}: {failure}")),
        }
        Ok(())
    }
}

impl Cleanup {
    pub(crate) async fn run<W: Write>(&self, out: &mut W) -> Result<(), BoxError> {
        let is_dry = self.flags.dry_run;
        if !is_dry && !self.flags.force {
            self.check_that_nobody_writes().await?;
        }
        let verb = if is_dry { "would remove" } else { "removed" };
        let mut told = Told { out, verb, n_removed: 0, failures: Vec::new() };
        let nodes = self.writes.nodes().await.map_err(|failure| failed("list nodes", &failure))?;
        for node in &nodes {
            self.clean_node(node, &mut told).await?;
        }
        for (what, name) in self.own() {
            self.clean_own(what, &name, &mut told).await?;
        }
        // Last: without it a central that comes now writes at once.
        let lease = self.writes.owned(Owned::Lease, &self.namespace, LEASE).await;
        if let Some(lease) = found(lease).map_err(|failure| failed("read the Lease", &failure))? {
            let what = format!("Lease {}/{LEASE}", self.namespace);
            let removed = self.remove(Owned::Lease, LEASE, &lease).await;
            told.note(&what, removed)?;
        }
        let Told { out, n_removed, failures, .. } = told;
        if n_removed == 0 && failures.is_empty() {
            writeln!(out, "nothing of central is there")?;
        }
        match failures.as_slice() {
            [] => Ok(()),
            failures => Err(format!("{} could not be removed: {}", failures.len(), failures.join("; ")).into()),
        }
    }

    /// A Lease that does not change for as long as it lasts is nobody's.
    async fn check_that_nobody_writes(&self) -> Result<(), BoxError> {
        let began = Instant::now();
        let mut first: Option<String> = None;
        loop {
            let lease = found(self.writes.owned(Owned::Lease, &self.namespace, LEASE).await);
            let Some(lease) = lease.map_err(|failure| failed("read the Lease", &failure))? else { return Ok(()) };
            let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
            if holder.is_empty() {
                return Ok(());
            }
            let version = lease["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
            if first.get_or_insert_with(|| version.clone()) != &version {
                let held = format!("a central writes to this cluster: {holder} holds the Lease of {}", self.namespace);
                return Err(UsageError::new(held)
                    .fix("end it first, or add --force: it would write all of it again")
                    .into());
            }
            let lasts = Duration::from_secs(lease["spec"]["leaseDurationSeconds"].as_u64().unwrap_or(0)).min(MAX_LASTS);
            if began.elapsed() > lasts {
                return Ok(());
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn clean_node<W: Write>(&self, node: &Value, told: &mut Told<'_, W>) -> Result<(), BoxError> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (name, uid) = (text(&node["metadata"]["name"]), text(&node["metadata"]["uid"]));
        let types = own_conditions(node);
        if !types.is_empty() {
            let now_usec = self.clock.now().wall_usec;
            // What another wrote before us does not go by itself: of it he still owns the name.
            let shared: Vec<&str> = types.iter().map(String::as_str).filter(|kind| !kind.starts_with(PREFIX)).collect();
            let removed = match self.flags.dry_run {
                true => Ok(()),
                false => match self.writes.remove_conditions(&name, &uid, &shared).await {
                    Ok(()) => self.writes.apply_conditions(&name, &uid, &[], now_usec).await,
                    failed => failed,
                },
            };
            told.note(&format!("conditions of node {name}: {}", types.join(", ")), removed)?;
        }
        let taints = node["spec"]["taints"].as_array().into_iter().flatten().map(|taint| text(&taint["key"]));
        let keys: Vec<String> = taints.filter(|key| key.starts_with(PREFIX)).collect();
        if !keys.is_empty() {
            let what = format!("taints of node {name}: {}", keys.join(", "));
            let change =
                TaintChange { node: name, uid, taints: Default::default(), adds: false, over: Default::default() };
            let removed = if self.flags.dry_run { Ok(()) } else { self.writes.set_taints(&change).await };
            told.note(&what, removed)?;
        }
        Ok(())
    }

    /// What is named on the command line.
    fn own(&self) -> impl Iterator<Item = (Owned, String)> {
        let CleanupFlags { secret, config_map, dry_run: _, force: _ } = &self.flags;
        let secrets = secret.iter().map(|name| (Owned::Secret, name.clone()));
        secrets.chain(config_map.iter().map(|name| (Owned::ConfigMap, name.clone())))
    }

    /// One that another made is left: a certificate may be given as well.
    async fn clean_own<W: Write>(&self, what: Owned, name: &str, told: &mut Told<'_, W>) -> Result<(), BoxError> {
        let place = format!("{} {}/{name}", what.as_str(), self.namespace);
        let object = found(self.writes.owned(what, &self.namespace, name).await);
        let Some(object) = object.map_err(|failure| failed(&format!("read {place}"), &failure))? else {
            return Ok(());
        };
        if !is_made_by_central(&object) {
            writeln!(told.out, "left {place}: another has made it")?;
            return Ok(());
        }
        let removed = self.remove(what, name, &object).await;
        told.note(&place, removed)
    }

    async fn remove(&self, what: Owned, name: &str, object: &Value) -> Result<(), Failure> {
        if self.flags.dry_run {
            return Ok(());
        }
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
        self.writes.delete_owned(what, &self.namespace, name, uid).await
    }
}

fn found(answer: Result<Value, Failure>) -> Result<Option<Value>, Failure> {
    match answer {
        Ok(object) => Ok(Some(object)),
        Err(Failure::Status { code: 404, .. }) => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn failed(what: &str, failure: &Failure) -> BoxError {
    format!("failed to {what}: {failure}").into()
}

fn entries(object: &Value) -> impl Iterator<Item = &Value> {
    let all = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    all.filter(|entry| entry["manager"] == FIELD_MANAGER)
}

/// Types of conditions that our field manager owns, as the API server keeps its book (`k:{"type":"kulprit.io/KvmUnavailable"}`).
fn own_conditions(node: &Value) -> Vec<String> {
    let of_status = entries(node).filter(|entry| entry["subresource"] == "status");
    let keys = of_status.flat_map(|entry| entry["fieldsV1"]["f:status"]["f:conditions"].as_object()).flatten();
    let of_key = |(key, fields): (&String, &Value)| {
        let key: Value = serde_json::from_str(key.strip_prefix("k:")?).ok()?;
        let kind = key["type"].as_str()?.to_owned();
        // Of what another writes now we may still own the name.
        (kind.starts_with(PREFIX) || fields.get("f:status").is_some()).then_some(kind)
    };
    keys.filter_map(of_key).collect()
}

fn is_made_by_central(object: &Value) -> bool {
    entries(object).next().is_some()
}
