//! Who is who in the lab's network: central, each agent and the person who asks show certificates of one CA to each other.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use kulprit_tls::testing::Authority;

use crate::lab::GATEWAY;

/// The CA and its files.
#[derive(Debug)]
pub struct Certificates {
    folder: PathBuf,
    authority: Authority,
}

impl Certificates {
    /// A new CA; files go to `folder`.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn new(folder: &Path) -> Result<Self> {
        let certificates = Self { folder: folder.to_owned(), authority: Authority::new("kulprit-lab") };
        fs::write(certificates.ca(), certificates.authority.text())?;
        Ok(certificates)
    }

    /// What central's configuration says of it, lines of YAML.
    #[must_use]
    pub fn central(&self) -> String {
        let (certificate, key) = self.authority.issue("central", &[GATEWAY]).write(&self.folder, "central");
        let (certificate, key, ca) = (certificate.display(), key.display(), self.ca());
        format!(
            "tls: {{certificate: {certificate}, key: {key}, client_ca: {}}}\naccess: {{agents: certificate, queries: certificate}}\n",
            ca.display()
        )
    }

    /// What an agent's configuration says of it, one line of YAML.
    #[must_use]
    pub fn agent(&self, node: &str) -> String {
        let (certificate, key) = self.authority.issue(node, &[node]).write(&self.folder, &format!("agent-{node}"));
        let (certificate, key, ca) = (certificate.display(), key.display(), self.ca());
        format!("tls: {{ca: {}, certificate: {certificate}, key: {key}}}\n", ca.display())
    }

    /// What `kulprit` is told of it.
    #[must_use]
    pub fn flags(&self) -> Vec<String> {
        let (certificate, key) = self.authority.issue("a person", &[]).write(&self.folder, "person");
        let flags = [("--ca", self.ca()), ("--certificate", certificate), ("--key", key)];
        flags.into_iter().flat_map(|(flag, path)| [flag.to_owned(), path.to_string_lossy().into_owned()]).collect()
    }

    fn ca(&self) -> PathBuf {
        self.folder.join("kulprit-ca.crt")
    }
}
