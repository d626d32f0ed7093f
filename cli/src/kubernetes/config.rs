//! Which cluster, as kubectl finds it: `--kubeconfig`, else the files that `KUBECONFIG` lists, else `~/.kube/config`, else, in a pod without
//! any of them, its service account.
//!
//! Source: <https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/>; files of the list that do not exist are
//! passed over, as client-go does and kube does not.

use std::{
    env,
    path::{Path, PathBuf},
};

use kube::{
    Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use super::KubernetesError;
use crate::route::ThroughKubernetes;

/// Kubernetes sets it in every container.
const IN_CLUSTER: &str = "KUBERNETES_SERVICE_HOST";

/// The cluster, the user and the default namespace. Runs no program that the kubeconfig may name.
///
/// # Errors
/// If there is no kubeconfig, it cannot be read, or it has no such context.
pub(super) async fn load(through: &ThroughKubernetes) -> Result<Config, KubernetesError> {
    let files = match &through.kubeconfig {
        Some(path) => vec![path.clone()],
        None => files(env::var_os("KUBECONFIG").map(|list| env::split_paths(&list).collect()), env::home_dir()),
    };
    if files.is_empty() {
        return match (env::var_os(IN_CLUSTER), &through.context) {
            (Some(_), None) => Config::incluster().map_err(|error| KubernetesError::BadKubeconfig {
                files: "the service account of this pod".to_owned(),
                reason: error.to_string(),
            }),
            (Some(_) | None, _) => Err(KubernetesError::NoKubeconfig),
        };
    }
    of_files(&files, through.context.clone()).await
}

/// Those files that exist: of `KUBECONFIG`, else the one of the home folder.
fn files(listed: Option<Vec<PathBuf>>, home: Option<PathBuf>) -> Vec<PathBuf> {
    let listed: Vec<PathBuf> = listed.unwrap_or_default().into_iter().filter(|path| path != Path::new("")).collect();
    let looked_at =
        if listed.is_empty() { home.map(|home| home.join(".kube/config")).into_iter().collect() } else { listed };
    looked_at.into_iter().filter(|path| path.exists()).collect()
}

async fn of_files(files: &[PathBuf], context: Option<String>) -> Result<Config, KubernetesError> {
    let names = || files.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    let bad = |error: KubeconfigError| KubernetesError::BadKubeconfig { files: names(), reason: error.to_string() };
    let mut merged = Kubeconfig::default();
    for file in files {
        merged = Kubeconfig::read_from(file).and_then(|next| merged.merge(next)).map_err(bad)?;
    }
    let wanted = context.clone().or_else(|| merged.current_context.clone()).filter(|name| !name.is_empty());
    let contexts: Vec<String> = merged.contexts.iter().map(|context| context.name.clone()).collect();
    let Some(wanted) = wanted else {
        return Err(KubernetesError::NoCurrentContext { files: names(), contexts });
    };
    if !contexts.contains(&wanted) {
        return Err(KubernetesError::NoSuchContext { context: wanted, files: names(), contexts });
    }
    let options = KubeConfigOptions { context: Some(wanted), ..KubeConfigOptions::default() };
    Config::from_custom_kubeconfig(merged, &options).await.map_err(bad)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const LAB: &str = r"
apiVersion: v1
kind: Config
current-context: lab
clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]
users: [{name: u, user: {token: secret}}]
contexts: [{name: lab, context: {cluster: c, user: u}}]
";
    const PROD: &str = r"
apiVersion: v1
kind: Config
clusters: [{name: p, cluster: {server: 'https://127.0.0.1:2'}}]
contexts: [{name: prod, context: {cluster: p, user: u, namespace: shop}}]
";

    /// Server and namespace, or what is said instead, of files `0`, `1`, … with these texts.
    #[track_caller]
    fn check(texts: &[&str], context: Option<&str>, want: Result<(&str, &str), &[&str]>) {
        let folder = tempfile::tempdir().unwrap();
        let path = |number: usize| folder.path().join(number.to_string());
        let files: Vec<PathBuf> = (0..texts.len()).map(path).collect();
        for (file, text) in files.iter().zip(texts) {
            fs::write(file, text).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        match (runtime.block_on(of_files(&files, context.map(str::to_owned))), want) {
            (Ok(config), Ok((server, namespace))) => {
                let server = format!("https://{server}/");
                assert_eq!((config.cluster_url.to_string(), config.default_namespace.as_str()), (server, namespace));
            }
            (Err(error), Err(parts)) => {
                let text = error.to_string();
                assert!(parts.iter().all(|part| text.contains(part)), "{parts:?}: {text}");
                assert!(!text.contains("secret"), "{text}");
            }
            (got, want) => panic!("{want:?}: {:?}", got.map(|config| config.cluster_url)),
        }
    }

    #[test]
    fn the_current_context_counts_unless_another_one_is_named() {
        check(&[LAB], None, Ok(("127.0.0.1:1", "default")));
        check(&[LAB, PROD], None, Ok(("127.0.0.1:1", "default")));
        check(&[PROD, LAB], Some("prod"), Ok(("127.0.0.1:2", "shop")));
    }

    #[test]
    fn what_is_wrong_with_a_kubeconfig_is_told_with_the_way_out() {
        check(&[LAB, PROD], Some("test"), Err(&["no context `test`", "lab, prod"]));
        check(&[PROD], None, Err(&["no current context", "--context", "prod"]));
        check(&["clusters: ["], None, Err(&["cannot be used", "kubectl config view"]));
    }

    #[test]
    fn a_file_of_the_list_that_is_not_there_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let (here, gone) = (folder.path().join("here"), folder.path().join("gone"));
        fs::write(&here, LAB).unwrap();
        fs::create_dir(folder.path().join(".kube")).unwrap();
        let home = folder.path().join(".kube/config");
        fs::write(&home, PROD).unwrap();
        let at_home = Some(folder.path().to_owned());
        assert_eq!(files(Some(vec![gone.clone(), here.clone()]), at_home.clone()), [here]);
        assert_eq!(files(Some(vec![PathBuf::new()]), at_home.clone()), std::slice::from_ref(&home));
        assert_eq!(files(None, at_home), [home]);
        assert_eq!(files(Some(vec![gone]), None), Vec::<PathBuf>::new());
    }
}
