//! Certificates for tests: a CA and what it signs, valid from 1975 to 4096 unless a test says otherwise.
#![expect(clippy::missing_panics_doc, reason = "a test that has no certificates cannot go on")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

use crate::{Identity, Pem};

/// A CA.
#[derive(Debug)]
pub struct Authority {
    params: CertificateParams,
    key: KeyPair,
    text: String,
}

/// A certificate and its key, PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// The key.
    pub key: String,
}

fn params(name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("the test's names are names");
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

impl Authority {
    /// Of this name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("keys can be made");
        let text = params.self_signed(&key).expect("a CA can be made").pem();
        Self { params, key, text }
    }

    /// Its certificate.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its certificate, as a client or server is given it.
    #[must_use]
    pub fn pem(&self) -> Pem {
        Pem::new("the test's CA", self.text.clone())
    }

    /// A certificate of this common name and for these names.
    #[must_use]
    pub fn issue(&self, name: &str, names: &[&str]) -> Issued {
        self.sign(&params(name, names))
    }

    /// One that is valid from the begin of one year to that of another.
    #[must_use]
    pub fn issue_for_years(&self, names: &[&str], from: i32, until: i32) -> Issued {
        let mut params = params("a test", names);
        (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(until, 1, 1));
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Issued {
        let key = KeyPair::generate().expect("keys can be made");
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).expect("a certificate can be made").pem();
        Issued { certificate, key: key.serialize_pem() }
    }
}

impl Issued {
    /// As a client or server is given it.
    #[must_use]
    pub fn identity(&self) -> Identity {
        let pem = |place: &str, text: &str| Pem::new(place, text);
        let identity = Identity::new(&pem("the test's certificate", &self.certificate), &pem("its key", &self.key));
        identity.expect("it was made well")
    }

    /// Writes `NAME.crt` and `NAME.key`, in the place of what is there.
    pub fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let (certificate, key) = (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
        fs::write(&certificate, &self.certificate).expect("the test's folder can be written");
        fs::write(&key, &self.key).expect("the test's folder can be written");
        (certificate, key)
    }
}
