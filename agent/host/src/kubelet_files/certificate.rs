//! Until when the kubelet's client certificate is valid.
//!
//! Only `notBefore` and `notAfter` are read, from the first certificate of a PEM file; the file goes on with the private key, so it
//! is read no further than that certificate's end. Sources: RFC 5280, 4.1 (`TBSCertificate`); kubelet
//! `pkg/kubelet/certificate/kubelet.go` (`kubelet-client-current.pem`); k3s and rke2 `agent/config` (`client-kubelet.crt`).

use std::io::Read;
use std::path::{Path, PathBuf};

use base64ct::{Base64, Encoding};
use der::asn1::{AnyRef, GeneralizedTime, UtcTime};
use der::{Decode, Reader, SliceReader, Tag, Tagged};

use super::{KUBELET_ROOT, KubeletArgs};
use crate::{HostRoot, Malformed, ReadError};

/// Where certificates of a kubelet are when its kubeconfig names none, below the host's root.
const USUAL_PATHS: [&str; 2] =
    ["var/lib/rancher/k3s/agent/client-kubelet.crt", "var/lib/rancher/rke2/agent/client-kubelet.crt"];
/// Where kubeadm and most others have the kubelet's kubeconfig.
const USUAL_KUBECONFIG: &str = "etc/kubernetes/kubelet.conf";
/// Most that is read of a certificate's file, bytes: they have about 1 KiB.
const LIMIT_BYTES: usize = 64 << 10;
/// How much is read at once, bytes: little of what stands behind the certificate.
const CHUNK_BYTES: usize = 256;
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// From when until when a certificate is valid, Unix time in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// `notBefore`.
    pub not_before_usec: i64,
    /// `notAfter`.
    pub not_after_usec: i64,
}

/// A certificate that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Where, as the host sees it.
    pub path: PathBuf,
    /// When it is valid.
    pub validity: Validity,
}

/// Reads the validity of the first certificate of a PEM text.
///
/// # Errors
/// When there is no certificate, or it is not DER of the form that RFC 5280 gives.
pub fn parse_certificate_validity(text: &str) -> Result<Validity, Malformed> {
    let malformed = || Malformed::new(1, text.lines().next().unwrap_or_default());
    let begin = text.find(BEGIN).ok_or_else(malformed)?;
    let end = text[begin..].find(END).ok_or_else(malformed)?;
    // The line's width is not held against anybody.
    let base64: String = text[begin + BEGIN.len()..begin + end].split_whitespace().collect();
    let bytes = Base64::decode_vec(&base64).map_err(|_| malformed())?;
    parse_der(&bytes).ok_or_else(malformed)
}

/// `Certificate { TBSCertificate { [0] version, serialNumber, signature, issuer, validity { … }, … }, … }`.
fn parse_der(bytes: &[u8]) -> Option<Validity> {
    let certificate = inside(&mut SliceReader::new(bytes).ok()?)?;
    let tbs = inside(&mut SliceReader::new(certificate).ok()?)?;
    let mut fields = SliceReader::new(tbs).ok()?;
    let first = AnyRef::decode(&mut fields).ok()?;
    if first.tag() != Tag::Integer {
        AnyRef::decode(&mut fields).ok()?;
    }
    AnyRef::decode(&mut fields).ok()?;
    AnyRef::decode(&mut fields).ok()?;
    let mut times = SliceReader::new(inside(&mut fields)?).ok()?;
    Some(Validity { not_before_usec: time(&mut times)?, not_after_usec: time(&mut times)? })
}

/// What is in the next sequence.
fn inside<'a>(reader: &mut SliceReader<'a>) -> Option<&'a [u8]> {
    let any = AnyRef::decode(reader).ok()?;
    (any.tag() == Tag::Sequence).then(|| any.value())
}

fn time<'a>(reader: &mut impl Reader<'a>) -> Option<i64> {
    let any = AnyRef::decode(reader).ok()?;
    let since_1970 = match any.tag() {
        Tag::UtcTime => any.decode_as::<UtcTime>().ok()?.to_unix_duration(),
        _ => any.decode_as::<GeneralizedTime>().ok()?.to_unix_duration(),
    };
    i64::try_from(since_1970.as_micros()).ok()
}

/// What a kubeconfig says of its client's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KubeconfigCertificate {
    /// It is in this file.
    Path(String),
    /// It stands in the kubeconfig, PEM in base64.
    Data(String),
}

/// Finds the client's certificate in a kubeconfig: the first that it names.
pub fn parse_kubeconfig_certificate(text: &str) -> Option<KubeconfigCertificate> {
    let config = super::parse_yaml(text).ok()?;
    let value = |key| super::find_scalar(&config, key);
    value("client-certificate")
        .map(KubeconfigCertificate::Path)
        .or_else(|| value("client-certificate-data").map(KubeconfigCertificate::Data))
}

/// The client certificate of a kubelet with these arguments; `None` where none of the usual places has one.
///
/// # Errors
/// See [`ReadError`]; `NotFound` when a kubeconfig names a file that is not there.
pub fn read_client_certificate(root: &HostRoot, args: &KubeletArgs) -> Result<Option<ClientCertificate>, ReadError> {
    let kubeconfig = args.kubeconfig.as_deref().unwrap_or(USUAL_KUBECONFIG);
    if let Some(text) = root.read_text_if_any(kubeconfig)? {
        let malformed = |malformed: Malformed| malformed.at(root.display_path(kubeconfig));
        match parse_kubeconfig_certificate(&text) {
            Some(KubeconfigCertificate::Path(path)) => {
                // Relative to the kubeconfig's folder, as kubectl has it; an absolute one stays as it is.
                let path = Path::new("/").join(kubeconfig).parent().unwrap_or(Path::new("/")).join(path);
                return read(root, &path);
            }
            Some(KubeconfigCertificate::Data(data)) => {
                let bytes = Base64::decode_vec(data.trim()).map_err(|_| malformed(Malformed::new(1, "bad base64")))?;
                let validity = parse_certificate_validity(&String::from_utf8_lossy(&bytes)).map_err(malformed)?;
                return Ok(Some(ClientCertificate { path: Path::new("/").join(kubeconfig), validity }));
            }
            None => {}
        }
    }
    let root_dir = args.root_dir.as_deref().unwrap_or(KUBELET_ROOT);
    let cert_dir = args.cert_dir.clone().unwrap_or_else(|| format!("{root_dir}/pki"));
    let own = format!("{cert_dir}/kubelet-client-current.pem");
    for path in std::iter::once(own.as_str()).chain(USUAL_PATHS) {
        match read(root, &Path::new("/").join(path)) {
            Err(error) if error.is_not_found() => {}
            result => return result,
        }
    }
    Ok(None)
}

fn read(root: &HostRoot, path: &Path) -> Result<Option<ClientCertificate>, ReadError> {
    let mut file = root.open(path)?;
    let at = |source| ReadError::from_io(root.display_path(path), source);
    let mut bytes = Vec::with_capacity(2048);
    let mut chunk = [0; CHUNK_BYTES];
    while bytes.len() < LIMIT_BYTES && memchr::memmem::find(&bytes, END.as_bytes()).is_none() {
        match file.read(&mut chunk).map_err(at)? {
            0 => break,
            n_bytes => bytes.extend_from_slice(&chunk[..n_bytes]),
        }
    }
    let end = memchr::memmem::find(&bytes, END.as_bytes()).map_or(bytes.len(), |end| end + END.len());
    let text = String::from_utf8_lossy(&bytes[..end]);
    let validity = parse_certificate_validity(&text).map_err(|_| {
        // What the file holds is not for logs.
        Malformed::new(1, "not a PEM certificate").at(root.display_path(path))
    })?;
    Ok(Some(ClientCertificate { path: path.to_owned(), validity }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=system:node:n1`, and its dates.
    const PEM: &str = include_str!("../../fixtures/kubelet/client.pem");
    const VALID: Validity =
        Validity { not_before_usec: NOT_BEFORE_USEC, not_after_usec: NOT_BEFORE_USEC + 86_400 * 1_000_000 };
    const NOT_BEFORE_USEC: i64 = 1_795_271_750_000_000;

    fn host() -> (tempfile::TempDir, HostRoot) {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::new(dir.path());
        (dir, root)
    }

    fn write(dir: &tempfile::TempDir, path: &str, text: &str) {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn a_certificate_says_from_when_until_when_it_is_valid() {
        assert_eq!(parse_certificate_validity(PEM), Ok(VALID));
        assert_eq!(parse_certificate_validity(&PEM.replace('\n', "\r\n")), Ok(VALID));
        assert!(parse_certificate_validity(&PEM[..PEM.len() / 2]).is_err());
        assert!(parse_certificate_validity("").is_err());
        assert!(parse_certificate_validity(&format!("{BEGIN}\nMAA=\n{END}\n")).is_err(), "an empty sequence");
    }

    #[test]
    fn the_kubelets_own_file_is_found_and_its_key_is_not_needed() {
        let (dir, root) = host();
        let args = KubeletArgs::default();
        assert_eq!(read_client_certificate(&root, &args).unwrap(), None);
        write(&dir, "var/lib/kubelet/pki/kubelet-client-2026.pem", &format!("{PEM}-----BEGIN EC PRIVATE KEY-----\nx"));
        std::os::unix::fs::symlink(
            "/var/lib/kubelet/pki/kubelet-client-2026.pem",
            dir.path().join("var/lib/kubelet/pki/kubelet-client-current.pem"),
        )
        .unwrap();
        let found = read_client_certificate(&root, &args).unwrap().unwrap();
        assert_eq!(found.validity, VALID);
        assert_eq!(found.path, Path::new("/var/lib/kubelet/pki/kubelet-client-current.pem"));
    }

    #[test]
    fn a_kubeconfig_names_the_file_or_holds_it() {
        let (dir, root) = host();
        let args = KubeletArgs { kubeconfig: Some("/etc/k/kubelet.conf".to_owned()), ..KubeletArgs::default() };
        write(&dir, "etc/k/kubelet.conf", "users:\n- name: n\n  user:\n    client-certificate: n1.crt\n");
        assert!(read_client_certificate(&root, &args).unwrap_err().is_not_found(), "named and not there");
        write(&dir, "etc/k/n1.crt", PEM);
        assert_eq!(read_client_certificate(&root, &args).unwrap().unwrap().path, Path::new("/etc/k/n1.crt"));
        let data = Base64::encode_string(PEM.as_bytes());
        write(&dir, "etc/k/kubelet.conf", &format!("users:\n- user:\n    client-certificate-data: {data}\n"));
        assert_eq!(read_client_certificate(&root, &args).unwrap().unwrap().validity, VALID);
        write(&dir, "etc/k/kubelet.conf", "users:\n- user:\n    client-certificate-data: '%%%'\n");
        assert!(matches!(read_client_certificate(&root, &args).unwrap_err(), ReadError::Malformed { .. }));
    }

    #[test]
    fn k3s_has_its_own_place_and_rubbish_is_not_shown() {
        let (dir, root) = host();
        write(&dir, "var/lib/rancher/k3s/agent/client-kubelet.crt", "secret");
        let error = read_client_certificate(&root, &KubeletArgs::default()).unwrap_err();
        assert!(matches!(error, ReadError::Malformed { .. }) && !error.to_string().contains("secret"), "{error}");
        write(&dir, "var/lib/rancher/k3s/agent/client-kubelet.crt", PEM);
        assert_eq!(read_client_certificate(&root, &KubeletArgs::default()).unwrap().unwrap().validity, VALID);
    }

    proptest! {
        #[test]
        fn nothing_makes_a_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0..900_usize, byte in any::<u8>()) {
            let _ = parse_der(&bytes);
            let text = format!("{BEGIN}\n{}\n{END}", Base64::encode_string(&bytes));
            let _ = (parse_certificate_validity(&text), parse_kubeconfig_certificate(&text));
            let mut changed = PEM.as_bytes().to_vec();
            let at = at % changed.len();
            changed[at] = byte;
            let _ = parse_certificate_validity(&String::from_utf8_lossy(&changed));
        }
    }
}
