//! Keeps the certificate in use what its source says it is: files, or the Secret that central keeps itself.
//!
//! Files are read every 5 s, which works for the swapped links of mounted Secrets as for files that are written in place. What
//! changed is judged when it is the same at two looks, so that no pair is judged of which only one half is there. A pair that cannot be
//! used changes nothing: it is said once, counted, and the last good one stays in use. Connections that stand are never touched.

use std::{path::PathBuf, sync::Arc, time::Duration};

use kulprit_daemon::{BoxError, CancellationToken, Chain, Clock, UsageError, readiness::Guard};
use kulprit_tls::{Clients, Identity, Pem, TlsError, server_config};
use rustls::{ServerConfig, pki_types::UnixTime, time_provider::TimeProvider};
use tokio::{sync::watch, task::spawn_blocking, time::sleep};
use tracing::{info, warn};

use super::{accept::Configs, certificate::Facts, kept::Kept};
use crate::{
    config::TlsConfig,
    kubernetes::write::Writes,
    metrics::{CentralMetrics, CertificateLabel, OutcomeLabel},
};

/// How often files are looked at; what central makes itself it asks for much less often.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Keeps the certificate.
pub struct Keeper {
    source: Source,
    client_ca: Option<PathBuf>,
    must_show: bool,
    clock: Clock,
    metrics: CentralMetrics,
    configs: watch::Sender<Option<Arc<ServerConfig>>>,
    /// What was seen at the last look, and not yet judged.
    seen: Option<Material>,
    /// What was judged last.
    judged: Option<Material>,
    said: Said,
}

/// What was said last of looks that failed, until one does not.
#[derive(Default)]
struct Said {
    of_material: Option<String>,
    of_kubernetes: Option<String>,
}

enum Source {
    Files { certificate: PathBuf, key: PathBuf },
    Kept(Box<Kept>),
}

/// What a configuration is made of.
#[derive(Clone, PartialEq, Eq)]
struct Material {
    certificate: Pem,
    key: Pem,
    client_ca: Option<Pem>,
}

/// Central's clock, as rustls asks it.
#[derive(Debug)]
struct ClockOf(Clock);

impl TimeProvider for ClockOf {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(secs(&self.0))))
    }
}

fn secs(clock: &Clock) -> u64 {
    u64::try_from(clock.now().wall_usec / 1_000_000).unwrap_or(0)
}

impl Keeper {
    /// By this configuration; files are read at once. `kubernetes` is where what central makes is kept, with its namespace. With
    /// `must_show` a client without a certificate of `client_ca` is refused in the handshake.
    ///
    /// # Errors
    /// If the files cannot be used, or there is no Kubernetes to keep anything in.
    pub fn open(
        config: TlsConfig,
        must_show: bool,
        kubernetes: Option<(Writes, String)>,
        clock: Clock,
        metrics: CentralMetrics,
    ) -> Result<(Self, Configs), UsageError> {
        let TlsConfig { certificate, key, made, client_ca } = config;
        let source = match (certificate, key, made, kubernetes) {
            (Some(certificate), Some(key), ..) => Source::Files { certificate, key },
            (_, _, Some(made), Some((writes, namespace))) => Source::Kept(Box::new(Kept::new(writes, namespace, made))),
            _ => {
                return Err(UsageError::new("`tls.made` needs Kubernetes, and there is none")
                    .fix("name a kubeconfig, run central in a pod, or set `tls.certificate` and `tls.key`"));
            }
        };
        let (configs, in_use) = watch::channel(None);
        let mut keeper = Self {
            source,
            client_ca,
            must_show,
            clock,
            metrics,
            configs,
            seen: None,
            judged: None,
            said: Said::default(),
        };
        let unusable = |error: TlsError| {
            UsageError::new("failed to use the certificate of `tls`")
                .because(error)
                .fix("put it right, or name another")
        };
        if let Source::Files { certificate, key } = &keeper.source {
            let client_ca = keeper.client_ca.as_deref().map(Pem::read).transpose().map_err(unusable)?;
            let certificate = Pem::read(certificate).map_err(unusable)?;
            let key = Pem::read(key).map_err(unusable)?;
            keeper.take(Material { certificate, key, client_ca }).map_err(unusable)?;
        }
        Ok((keeper, in_use))
    }

    /// Runs until `stop`; `guard` is ready with the first certificate.
    ///
    /// # Errors
    /// If reading files panics.
    pub async fn run(mut self, guard: Guard, stop: CancellationToken) -> Result<(), BoxError> {
        let mut guard = Some(guard);
        loop {
            if self.configs.borrow().is_some()
                && let Some(guard) = guard.take()
            {
                guard.ready();
            }
            let wait = if guard.is_some() { Duration::from_millis(500) } else { LOOK_EVERY };
            // Dropped midway: what was written to Kubernetes then is found there at the next start.
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                looked = async { self.look().await?; sleep(wait).await; Ok::<_, BoxError>(()) } => looked?,
            }
        }
    }

    async fn look(&mut self) -> Result<(), BoxError> {
        let now_secs = secs(&self.clock);
        let pair = match &mut self.source {
            Source::Files { certificate, key } => {
                let (certificate, key) = (certificate.clone(), key.clone());
                let read = spawn_blocking(move || Ok((Pem::read(&certificate)?, Pem::read(&key)?))).await?;
                read.map(Some)
            }
            Source::Kept(kept) => {
                let asked = kept.look(now_secs).await;
                let pem = |key: &str, text: &str| Pem::new(format!("`{key}` of the Secret"), text);
                let pair = kept.made().map(|made| (pem("tls.crt", &made.chain), pem("tls.key", &made.key)));
                match asked {
                    Some(Ok(())) => self.said.of_kubernetes = None,
                    Some(Err(error)) => {
                        self.count("failed");
                        say(&mut self.said.of_kubernetes, self.configs.borrow().is_some(), &error);
                    }
                    None => {}
                }
                Ok(pair)
            }
        };
        let client_ca = match self.client_ca.clone() {
            Some(path) => spawn_blocking(move || Pem::read(&path)).await?.map(Some),
            None => Ok(None),
        };
        let material = match (pair, client_ca) {
            (Ok(Some((certificate, key))), Ok(client_ca)) => Material { certificate, key, client_ca },
            (Ok(None), Ok(_)) => return Ok(()),
            (Err(error), _) | (_, Err(error)) => {
                self.refuse(&error);
                return Ok(());
            }
        };
        let is_settled = self.seen.replace(material.clone()).is_some_and(|seen| seen == material);
        let is_whole = matches!(self.source, Source::Kept(_));
        if self.judged.as_ref() == Some(&material) {
            self.said.of_material = None;
        } else if (is_settled || is_whole)
            && let Err(error) = self.take(material)
        {
            self.refuse(&error);
        }
        Ok(())
    }

    /// Takes it into use. What cannot be is judged only once as well.
    fn take(&mut self, material: Material) -> Result<(), TlsError> {
        let judged = self.judge(&material);
        let place = material.certificate.place().to_owned();
        self.judged = Some(material);
        let Judged { config, ends_secs } = judged?;
        self.configs.send_replace(Some(config));
        self.said.of_material = None;
        self.count("taken");
        for (what, ends_secs) in ends_secs {
            let gauge = self.metrics.certificate_ends.get_or_create(&CertificateLabel::new(what));
            gauge.set(i64::try_from(ends_secs).unwrap_or(i64::MAX));
        }
        info!(certificate = place, "a certificate is in use");
        Ok(())
    }

    fn judge(&self, Material { certificate, key, client_ca }: &Material) -> Result<Judged, TlsError> {
        let clients = match client_ca {
            None => Clients::Anyone,
            Some(ca) if self.must_show => Clients::Must(ca),
            Some(ca) => Clients::May(ca),
        };
        let mut ends_secs = Vec::new();
        for (what, pem) in [("server", Some(certificate)), ("client_ca", client_ca.as_ref())] {
            let certificates = pem.map(Pem::certificates).transpose()?.unwrap_or_default();
            let ends = certificates.iter().filter_map(Facts::read).map(|facts| facts.not_after_secs).min();
            ends_secs.extend(ends.map(|ends| (what, ends)));
        }
        let config = server_config(Identity::new(certificate, key)?, clients, Arc::new(ClockOf(self.clock.clone())))?;
        Ok(Judged { config, ends_secs })
    }

    fn refuse(&mut self, error: &TlsError) {
        if say(&mut self.said.of_material, self.configs.borrow().is_some(), error) {
            self.count("bad");
        }
    }

    fn count(&self, outcome: &'static str) {
        self.metrics.certificate_changes.get_or_create(&OutcomeLabel::new(outcome)).inc();
    }
}

/// What can be used.
struct Judged {
    config: Arc<ServerConfig>,
    /// When the first of each kind ends, Unix time in seconds.
    ends_secs: Vec<(&'static str, u64)>,
}

/// Says a failure, if it is not the one that was said last; whether it was said.
fn say(said: &mut Option<String>, is_any_in_use: bool, error: &(dyn std::error::Error + 'static)) -> bool {
    let text = Chain(error).to_string();
    if said.as_ref() == Some(&text) {
        return false;
    }
    let in_use = if is_any_in_use { "the last good one stays in use" } else { "there is none: nobody can connect" };
    warn!(error = text, in_use, "a certificate cannot be taken into use");
    *said = Some(text);
    true
}
