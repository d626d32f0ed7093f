//! What is made, years on end, judged as a client judges it.

use std::sync::Arc;

use kulprit_tls::{Clients, Identity, server_config};
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
    crypto::ring,
    pki_types::{ServerName, UnixTime},
    time_provider::DefaultTimeProvider,
};

use super::*;

/// 2026-11-22, Unix time in seconds.
const NOW: u64 = 1_795_305_600;

fn names() -> Vec<String> {
    ["kulprit-central", "kulprit-central.kulprit.svc", "10.77.0.1"].map(ToOwned::to_owned).to_vec()
}

fn first() -> Made {
    due(None, &names(), NOW).unwrap().expect("there is nothing yet")
}

/// What becomes of it by then.
fn renewed(made: &Made, now_secs: u64) -> Option<Made> {
    due(Some(made), &names(), now_secs).unwrap()
}

/// Whether a client that trusts `cas` trusts a server that shows this, for each of its names, at that time.
fn is_trusted(made: &Made, cas: &str, now_secs: u64) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(Pem::new("cas", cas).certificates().unwrap());
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    let chain = Pem::new("chain", made.chain.as_str()).certificates().unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now_secs));
    names().into_iter().all(|name| {
        let name = ServerName::try_from(name).unwrap();
        verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], now).is_ok()
    })
}

fn n_certificates(text: &str) -> usize {
    text.matches("BEGIN CERTIFICATE").count()
}

#[test]
fn the_first_is_trusted_by_who_has_its_ca_and_by_nobody_else() {
    let (made, other) = (first(), first());
    assert!(is_trusted(&made, &made.cas, NOW));
    // A client's clock may be behind.
    assert!(is_trusted(&made, &made.cas, NOW - BEHIND_SECS));
    assert!(!is_trusted(&made, &made.cas, NOW + LEAF_SECS + 1));
    assert!(!is_trusted(&made, &other.cas, NOW));
    let identity = Identity::new(&Pem::new("", made.chain), &Pem::new("", made.key)).unwrap();
    server_config(identity, Clients::Anyone, Arc::new(DefaultTimeProvider)).unwrap();
}

#[test]
fn it_stays_until_two_thirds_of_its_life_or_until_it_has_other_names() {
    let made = first();
    assert!(renewed(&made, NOW).is_none());
    assert!(renewed(&made, NOW + LEAF_SECS / 3 * 2 - DAY_SECS).is_none());
    let later = NOW + LEAF_SECS / 3 * 2;
    let next = renewed(&made, later).expect("it is old");
    assert!(next.cas == made.cas && next.ca_key == made.ca_key, "the CA stays");
    assert!(next.chain != made.chain && next.key != made.key);
    assert!(is_trusted(&next, &made.cas, later));
    let named = vec!["central.example".to_owned()];
    let next = due(Some(&made), &named, NOW).unwrap().expect("it has other names");
    assert!(!is_trusted(&next, &made.cas, NOW), "it is for the new name alone");
    assert!(due(Some(&next), &named, NOW).unwrap().is_none());
}

#[test]
fn a_new_ca_is_trusted_by_who_knows_only_the_one_before_and_by_who_knows_only_it() {
    let made = first();
    let later = NOW + CA_SECS / 3 * 2;
    let next = renewed(&made, later).expect("the CA is old");
    assert_eq!((n_certificates(&next.cas), n_certificates(&next.chain)), (2, 2));
    assert!(next.cas.ends_with(&made.cas) && next.ca_key != made.ca_key);
    let only_new = &next.cas[..next.cas.len() - made.cas.len()];
    for cas in [made.cas.as_str(), only_new, &next.cas] {
        assert!(is_trusted(&next, cas, later), "{cas}");
    }
    let over = NOW + CA_SECS;
    let last = renewed(&next, over).expect("a CA that has ended is trusted no more");
    assert_eq!((last.cas.as_str(), n_certificates(&last.chain)), (only_new, 1));
    assert!(is_trusted(&last, only_new, over));
}

#[test]
fn in_twenty_years_no_client_loses_central_that_reads_the_ca_once_a_month() {
    let (mut made, mut known, mut n_cas) = (first(), first().cas, 1);
    known.clone_from(&made.cas);
    for day in 0..20 * 365 {
        let now_secs = NOW + day * DAY_SECS;
        if let Some(next) = renewed(&made, now_secs) {
            n_cas += usize::from(next.ca_key != made.ca_key);
            made = next;
        }
        assert!(is_trusted(&made, &known, now_secs), "day {day}");
        if day % 30 == 0 {
            known.clone_from(&made.cas);
        }
    }
    assert_eq!(n_cas, 6);
}

#[test]
fn a_central_that_was_away_for_years_makes_all_anew() {
    let made = first();
    let later = NOW + 3 * CA_SECS;
    let next = renewed(&made, later).expect("all has ended");
    assert_eq!((n_certificates(&next.cas), n_certificates(&next.chain)), (1, 1));
    assert!(is_trusted(&next, &next.cas, later));
}

#[test]
fn what_is_kept_and_cannot_be_read_is_told_and_not_replaced() {
    let good = first();
    for bad in [
        Made { chain: String::new(), ..good.clone() },
        Made { cas: "x".to_owned(), ..good.clone() },
        Made { ca_key: "x".to_owned(), ..good.clone() },
        Made { chain: good.chain.replace("MI", "AA"), ..good.clone() },
    ] {
        assert!(due(Some(&bad), &names(), NOW).is_err());
    }
    assert!(due(None, &["no name".to_owned(), "ä".to_owned()], NOW).is_err());
}
