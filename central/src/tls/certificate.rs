//! What an X.509 certificate says: whose it is and how long it is valid. Source: RFC 5280, 4.1 and 4.2.1.6.

use std::net::IpAddr;

use rustls::pki_types::CertificateDer;
use x509_cert::{
    Certificate,
    der::Decode as _,
    ext::pkix::{SubjectAltName, name::GeneralName},
};

/// What is read of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The subject's common name.
    pub common_name: Option<String>,
    /// DNS names and IP addresses that it is for, in its order.
    pub names: Vec<String>,
    /// From when it is valid, Unix time in seconds.
    pub not_before_secs: u64,
    /// Until when it is valid, Unix time in seconds.
    pub not_after_secs: u64,
    /// The first of its DNS names.
    pub dns_name: Option<String>,
}

impl Facts {
    /// Reads a certificate; `None` if it is none.
    #[must_use]
    pub fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = Certificate::from_der(certificate).ok()?;
        let tbs = certificate.tbs_certificate();
        let common_name = tbs.subject().common_name().ok().flatten().map(|name| name.value().into_owned());
        let alternative = tbs.get_extension::<SubjectAltName>().ok()?.map(|(_, names)| names.0).unwrap_or_default();
        let names = alternative.iter().filter_map(named).collect();
        let is_dns = |name: &GeneralName| matches!(name, GeneralName::DnsName(_));
        let dns_name = alternative.iter().find(|name| is_dns(name)).and_then(named);
        let validity = tbs.validity();
        Some(Self {
            common_name,
            names,
            not_before_secs: validity.not_before.to_unix_duration().as_secs(),
            not_after_secs: validity.not_after.to_unix_duration().as_secs(),
            dns_name,
        })
    }

    /// Whose it is, in one word: its first DNS name, else its common name.
    #[must_use]
    pub fn holder(&self) -> Option<&str> {
        self.dns_name.as_deref().or(self.common_name.as_deref()).filter(|name| !name.is_empty())
    }
}

fn named(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(name.as_str().to_owned()),
        GeneralName::IpAddress(octets) => {
            let octets = octets.as_bytes();
            let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use kulprit_tls::{Pem, testing::Authority};
    use proptest::prelude::*;

    use super::*;

    fn read(name: &str, names: &[&str]) -> Facts {
        let issued = Authority::new("ca").issue(name, names);
        Facts::read(&Pem::new("", issued.certificate).certificates().unwrap()[0]).unwrap()
    }

    #[test]
    fn a_holder_is_its_first_dns_name_else_its_common_name() {
        let node = read("a node", &["10.0.0.1", "n1", "n1.example", "::1"]);
        assert_eq!(node.names, ["10.0.0.1", "n1", "n1.example", "::1"]);
        assert_eq!((node.holder(), node.common_name.as_deref()), (Some("n1"), Some("a node")));
        assert_eq!(read("n2", &["10.0.0.2"]).holder(), Some("n2"));
        assert_eq!(read("n3", &[]).holder(), Some("n3"));
        assert_eq!(read("", &[]).holder(), None);
    }

    #[test]
    fn times_are_those_of_the_certificate() {
        let issued = Authority::new("ca").issue_for_years(&["n1"], 2000, 2101);
        let facts = Facts::read(&Pem::new("", issued.certificate).certificates().unwrap()[0]).unwrap();
        assert_eq!((facts.not_before_secs, facts.not_after_secs), (946_684_800, 4_133_980_800));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0..500_usize, byte in any::<u8>()) {
            let _ = Facts::read(&CertificateDer::from(bytes));
            let mut changed = FIXED.with(Clone::clone);
            let at = at % changed.len();
            changed[at] = byte;
            let _ = Facts::read(&CertificateDer::from(changed));
        }
    }

    thread_local! {
        static FIXED: Vec<u8> = {
            let issued = Authority::new("ca").issue("a node", &["n1", "10.0.0.1"]);
            Pem::new("", issued.certificate).certificates().unwrap()[0].to_vec()
        };
    }
}
