//! The cluster's certificates: one authority, a serving certificate for the API server, and one for each client.
//!
//! By `openssl`, elliptic curve keys, valid for a month. What a client may do is in its subject, as Kubernetes reads it: `O` is a group,
//! `CN` the user.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::lab::GATEWAY;
use crate::shell;

/// The authority of a cluster, with its files in a folder.
#[derive(Debug)]
pub(super) struct Authority {
    folder: PathBuf,
}

/// A certificate and its key, PEM.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    authority: PathBuf,
}

impl Authority {
    /// A new authority; its files go to `folder`.
    pub(super) fn new(folder: &Path) -> Result<Self> {
        let authority = Self { folder: folder.to_owned() };
        let (certificate, key) = (authority.file("ca.crt"), authority.file("ca.key"));
        request(&["-subj", "/CN=kulprit-lab", "-out", &certificate, "-keyout", &key])?;
        Ok(authority)
    }

    /// Path of the authority's certificate.
    pub(super) fn certificate(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// The API server's serving certificate.
    pub(super) fn server(&self) -> Result<Identity> {
        let names = format!(
            "subjectAltName=IP:{GATEWAY},IP:127.0.0.1,IP:10.96.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default.svc"
        );
        self.sign("apiserver", "/CN=kube-apiserver", &[&names, "extendedKeyUsage=serverAuth"])
    }

    /// A client's certificate.
    pub(super) fn client(&self, name: &str, subject: &str) -> Result<Identity> {
        self.sign(name, subject, &["extendedKeyUsage=clientAuth"])
    }

    fn sign(&self, name: &str, subject: &str, extensions: &[&str]) -> Result<Identity> {
        let (certificate, key) = (self.file(&format!("{name}.crt")), self.file(&format!("{name}.key")));
        let (authority, authority_key) = (self.file("ca.crt"), self.file("ca.key"));
        let mut args =
            vec!["-CA", &authority, "-CAkey", &authority_key, "-subj", subject, "-out", &certificate, "-keyout", &key];
        // Without it openssl makes an authority of each, and rustls takes none as a server.
        for extension in ["basicConstraints=critical,CA:FALSE"].iter().chain(extensions) {
            args.extend(["-addext", extension]);
        }
        request(&args)?;
        Ok(Identity { certificate: certificate.into(), key: key.into(), authority: authority.into() })
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).to_string_lossy().into_owned()
    }
}

impl Identity {
    /// Certificate and key one after the other, as kubelet keeps its own.
    pub(super) fn pem(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.certificate)? + &fs::read_to_string(&self.key)?)
    }

    /// A kubeconfig of this client, with its files where they are.
    pub(super) fn kubeconfig(&self) -> String {
        kubeconfig(&self.authority, &self.certificate, &self.key)
    }
}

/// A kubeconfig that names these files.
pub(super) fn kubeconfig(authority: &Path, certificate: &Path, key: &Path) -> String {
    let server = super::server();
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: lab
  cluster: {{server: \"{server}\", certificate-authority: {}}}
users:
- name: self
  user: {{client-certificate: {}, client-key: {}}}
contexts:
- name: lab
  context: {{cluster: lab, user: self}}
current-context: lab
",
        authority.display(),
        certificate.display(),
        key.display()
    )
}

fn request(args: &[&str]) -> Result<()> {
    let new = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "30",
    ];
    shell::run(&[&new[..], args].concat()).map(drop)
}
