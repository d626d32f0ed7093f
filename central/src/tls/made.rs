//! What central makes where nobody gives it a certificate: a CA, and a certificate of it. Time is data; keys are of the operating system's
//! randomness.
//!
//! Both are renewed at two thirds of their life. A new CA is also signed by the one before it, and that certificate goes out with
//! central's own: who knows only the old CA finds its way, who knows only the new one as well, and nobody has to wait for anybody. Both
//! stand in what clients trust until the old one ends.

use std::{collections::BTreeSet, time::Duration};

use kulprit_tls::{Pem, TlsError};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use super::certificate::Facts;

/// How long central's certificate is valid, seconds. 90 days: short for one that leaks, long for a central that nobody starts.
const LEAF_SECS: u64 = 90 * DAY_SECS;
/// How long its CA is valid, seconds. 5 years.
const CA_SECS: u64 = 5 * 365 * DAY_SECS;
const DAY_SECS: u64 = 24 * 60 * 60;
/// Clocks of other machines may be so far behind, seconds.
const BEHIND_SECS: u64 = 60 * 60;
/// What a CA of ours is called; the second in which it was made follows, so that no two are called the same.
const CA_NAME: &str = "kulprit-central CA ";

/// What is kept: PEM texts.
#[derive(Clone, PartialEq, Eq)]
pub struct Made {
    /// Central's certificate, and its CA's of the CA before, while that is valid.
    pub chain: String,
    /// Its key.
    pub key: String,
    /// The CAs to trust, the one that signs first.
    pub cas: String,
    /// The key of the first.
    pub ca_key: String,
}

/// Why nothing could be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// What is kept cannot be read.
    #[error("what is kept cannot be used")]
    Kept(#[from] TlsError),
    /// A certificate that is none, or a CA without a name.
    #[error("what is kept cannot be used: a certificate in it cannot be read")]
    Unreadable,
    /// Of a name that is none, or a key that does not fit.
    #[error("failed to make a certificate")]
    Make(#[from] rcgen::Error),
}

/// What is to be kept instead of `kept`, for a central of these names, at this Unix time in seconds; `None`: it stays.
///
/// # Errors
/// If what is kept cannot be used, or a name is none.
pub fn due(kept: Option<&Made>, names: &[String], now_secs: u64) -> Result<Option<Made>, MakeError> {
    let Some(kept) = kept else {
        let (ca, ca_key) = (authority(&format!("{CA_NAME}{now_secs}"), now_secs), KeyPair::generate()?);
        let root = ca.self_signed(&ca_key)?.pem();
        return Ok(Some(leaf(&ca, &ca_key, names, String::new(), root, now_secs)?));
    };
    let (chain, cas) = (read("tls.crt", &kept.chain)?, read("ca.crt", &kept.cas)?);
    let ([(_, own), between @ ..], [(signing, of_signing), others @ ..]) = (&chain[..], &cas[..]) else {
        return Err(MakeError::Unreadable);
    };
    let is_valid = |facts: &Facts| now_secs < facts.not_after_secs;
    let valid = |list: &[(String, Facts)]| -> String {
        list.iter().filter(|(_, facts)| is_valid(facts)).map(|(pem, _)| pem.as_str()).collect()
    };
    let ca_key = KeyPair::from_pem(&kept.ca_key)?;
    let old = authority(of_signing.common_name.as_deref().ok_or(MakeError::Unreadable)?, now_secs);
    if is_old(of_signing, now_secs) {
        let (new, new_key) = (authority(&format!("{CA_NAME}{now_secs}"), now_secs), KeyPair::generate()?);
        let root = new.self_signed(&new_key)?.pem();
        // A bridge from a CA that has ended leads nowhere.
        let between = if is_valid(of_signing) {
            let mut bridge = new.clone();
            last(&mut bridge, now_secs, of_signing.not_after_secs);
            bridge.signed_by(&new_key, &Issuer::from_params(&old, &ca_key))?.pem()
        } else {
            String::new()
        };
        let cas = root + &valid(&cas);
        return Ok(Some(leaf(&new, &new_key, names, between, cas, now_secs)?));
    }
    let wanted: BTreeSet<&String> = names.iter().collect();
    let is_renamed = own.names.iter().collect::<BTreeSet<_>>() != wanted;
    let has_ended = others.iter().chain(between).any(|(_, facts)| !is_valid(facts));
    if !is_renamed && !has_ended && !is_old(own, now_secs) {
        return Ok(None);
    }
    let cas = format!("{signing}{}", valid(others));
    Ok(Some(leaf(&old, &ca_key, names, valid(between), cas, now_secs)?))
}

/// Whether two thirds of its life are over.
const fn is_old(facts: &Facts, now_secs: u64) -> bool {
    let life_secs = facts.not_after_secs.saturating_sub(facts.not_before_secs);
    now_secs >= facts.not_before_secs + life_secs / 3 * 2
}

/// Each certificate of a PEM text, as a text of its own, and what it says.
fn read(what: &str, text: &str) -> Result<Vec<(String, Facts)>, MakeError> {
    const END: &str = "-----END CERTIFICATE-----";
    let pem = |part: &str| {
        let certificates = Pem::new(format!("its {what}"), part).certificates()?;
        let facts = certificates.first().and_then(Facts::read).ok_or(MakeError::Unreadable)?;
        Ok((format!("{}\n", part.trim()), facts))
    };
    text.split_inclusive(END).filter(|part| part.contains(END)).map(pem).collect()
}

/// A CA of this name that begins now. Of one that was made, what counts for signing is its name.
fn authority(name: &str, now_secs: u64) -> CertificateParams {
    let mut params = params(name, now_secs, CA_SECS);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf(
    ca: &CertificateParams,
    ca_key: &KeyPair,
    names: &[String],
    between: String,
    cas: String,
    now_secs: u64,
) -> Result<Made, MakeError> {
    let key = KeyPair::generate()?;
    let mut params = params("kulprit-central", now_secs, LEAF_SECS);
    params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let own = params.signed_by(&key, &Issuer::from_params(ca, ca_key))?.pem();
    Ok(Made { chain: own + &between, key: key.serialize_pem(), cas, ca_key: ca_key.serialize_pem() })
}

fn params(name: &str, now_secs: u64, life_secs: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    last(&mut params, now_secs, now_secs + life_secs);
    params
}

/// Makes it valid from then until then.
fn last(params: &mut CertificateParams, from_secs: u64, until_secs: u64) {
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(from_secs.saturating_sub(BEHIND_SECS));
    params.not_after = epoch + Duration::from_secs(until_secs);
}

#[cfg(test)]
mod tests;
