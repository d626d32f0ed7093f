//! PEM texts with the place they come from, so that whatever is wrong with one names it.

use std::{fmt, fs, path::Path};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _};

use crate::TlsError;

/// Larger files are none of certificates: a chain has some 4 KiB, a bundle of all public CAs 250 KiB.
const MAX_BYTES: u64 = 1 << 20;

/// A PEM text. `Debug` shows the place alone: it may be a key.
#[derive(Clone, PartialEq, Eq)]
pub struct Pem {
    place: String,
    bytes: Vec<u8>,
}

impl Pem {
    /// Of a text that was got elsewhere; `place` is how errors name it, for example "the ConfigMap kulprit/kulprit-central-ca".
    #[must_use]
    pub fn new(place: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { place: place.into(), bytes: bytes.into() }
    }

    /// Reads a file. Blocks.
    ///
    /// # Errors
    /// If it cannot be read, or is much too large.
    pub fn read(path: &Path) -> Result<Self, TlsError> {
        let failed = |source| TlsError::Read { path: path.to_owned(), source };
        let n_bytes = fs::metadata(path).map_err(failed)?.len();
        if n_bytes > MAX_BYTES {
            return Err(TlsError::TooLarge { path: path.to_owned(), n_bytes });
        }
        Ok(Self { place: format!("`{}`", path.display()), bytes: fs::read(path).map_err(failed)? })
    }

    /// How errors name it.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Its certificates, in their order.
    ///
    /// # Errors
    /// If there is none, or one is no PEM.
    pub fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let read: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&self.bytes).collect();
        let certificates = read.map_err(|error| self.bad(&error))?;
        if certificates.is_empty() {
            return Err(TlsError::NoCertificate { place: self.place.clone() });
        }
        Ok(certificates)
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(&self.bytes).map_err(|error| match error {
            pem::Error::NoItemsFound => TlsError::NoKey { place: self.place.clone() },
            // What is in the file is not for logs.
            other => self.bad(&other),
        })
    }

    fn bad(&self, error: &pem::Error) -> TlsError {
        let reason = match error {
            pem::Error::MissingSectionEnd { .. } => "a section has no end",
            pem::Error::IllegalSectionStart { .. } => "a section begins wrongly",
            _ => "its base64 is broken",
        };
        TlsError::BadPem { place: self.place.clone(), reason }
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pem").field("place", &self.place).finish_non_exhaustive()
    }
}

/// Who one is: a certificate, those that lead from it to its CA, and its key.
pub struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) places: [String; 2],
}

impl Identity {
    /// Of a chain, its own certificate first, and a key (PKCS#8, PKCS#1 or SEC1).
    ///
    /// # Errors
    /// If one of them is not there or no PEM. Whether they fit each other shows when they are used.
    pub fn new(chain: &Pem, key: &Pem) -> Result<Self, TlsError> {
        let places = [chain.place.clone(), key.place.clone()];
        Ok(Self { chain: chain.certificates()?, key: key.key()?, places })
    }

    /// Reads both files. Blocks.
    ///
    /// # Errors
    /// As [`Pem::read`] and [`Identity::new`].
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        Self::new(&Pem::read(certificate)?, &Pem::read(key)?)
    }
}
