//! The CA of central's certificate, which central keeps in a ConfigMap of its namespace where it made the certificate itself.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use kulprit_tls::Pem;

use super::error::said;
use crate::error::innermost;

/// Where central keeps it: `tls.made.config_map`.
const CONFIG_MAP: &str = "kulprit-central-ca";
/// Its key there.
const KEY: &str = "ca.crt";

/// The CA; `None` if there is none, and central speaks plaintext or has a certificate of somebody else's.
///
/// # Errors
/// Why Kubernetes did not say.
pub(super) async fn of_central(client: &Client, namespace: &str) -> Result<Option<Pem>, String> {
    let place = format!("ConfigMap {namespace}/{CONFIG_MAP}");
    let why = |reason: String| format!("its CA could not be read from the {place}: {reason}; name a file with --ca");
    match Api::<ConfigMap>::namespaced(client.clone(), namespace).get_opt(CONFIG_MAP).await {
        Ok(found) => {
            let text = found.and_then(|map| map.data).and_then(|mut data| data.remove(KEY));
            Ok(text.filter(|text| !text.trim().is_empty()).map(|text| Pem::new(place, text)))
        }
        Err(kube::Error::Api(status)) => Err(why(said(&status))),
        Err(other) => Err(why(innermost(&other))),
    }
}
