//! What another authority signed, judged before anybody sees it: the right key, the right names and nothing beside them, not for longer than asked, and a
//! chain that whoever trusts the mesh's roots can verify. A pure function of the answer and the time.

use std::time::{Duration, SystemTime};

use fairlead_identity::leaf::{self, LeafError};
use fairlead_identity::verifier;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::Ask;
use crate::ca::SpiffeId;
use crate::ca::authority::Leaf;
use crate::ca::material::{MAX_INTERMEDIATES, Validity, is_self_signed};

/// How much longer than asked a certificate may last: issuers round, and our clocks differ.
const SLACK: Duration = Duration::from_secs(60);
/// With less left, whoever got it would ask for the next one at once, again and again.
const SHORTEST: Duration = Duration::from_secs(60);

/// Why an answer is not passed on, in words that fit after "what it signed".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// No PEM, or none of certificates.
    #[error("is not a chain of certificates in PEM")]
    Unreadable,
    /// More than proxies take.
    #[error("has more than a certificate and {MAX_INTERMEDIATES} above it")]
    Chain,
    /// CA:true, another purpose, or not exactly one URI.
    #[error("is no leaf of a workload: {0}")]
    Leaf(#[from] LeafError),
    /// Purposes that nobody asked for.
    #[error("is for more than clients and servers of TLS (extended key usages)")]
    Usages,
    /// Of somebody else.
    #[error("is for {0}")]
    Identity(SpiffeId),
    /// Names that nobody asked for, or not all of those.
    #[error("does not have the names that were asked for, and these alone")]
    Names,
    /// For a key that nobody holds.
    #[error("is for another key")]
    Key,
    /// It would be of no use yet.
    #[error("begins at {0}, in the future: check the clocks")]
    Early(OffsetDateTime),
    /// Longer than asked, and there is no revocation.
    #[error("ends at {0}, later than was asked for: does the issuer heed spec.duration?")]
    Late(OffsetDateTime),
    /// It would be renewed in a tight loop.
    #[error("ends at {0}, in less than a minute: what is the issuer's longest lifetime?")]
    Short(OffsetDateTime),
    /// The next certificate, as old again, would be asked for at once, and so on.
    #[error(
        "began at {0}, so long ago that it would be renewed at once, again and again: have the issuer begin certificates when it signs them, or make certificateLifetime longer"
    )]
    Old(OffsetDateTime),
    /// It could not be verified any more long before it ends.
    #[error("ends later than a certificate above it, at {0}: renew the issuer's own")]
    Outlives(OffsetDateTime),
    /// Foreign, or not verifiable.
    #[error("does not lead to the roots in ConfigMap fairlead-roots that the mesh trusts ({0})")]
    Foreign(String),
}

/// The certificate with what lies between it and the root, if it is what was asked for and verifies now.
pub(super) fn check(pem: &[u8], ask: &Ask, now: OffsetDateTime) -> Result<Leaf, AnswerError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).take(MAX_INTERMEDIATES + 3).collect();
    let mut chain = chain.map_err(|_| AnswerError::Unreadable)?;
    // Peers have the root, and one that they do not have would not help them.
    if chain.len() > 1 && chain.last().is_some_and(is_self_signed) {
        chain.pop();
    }
    let (first, above) = chain.split_first().ok_or(AnswerError::Unreadable)?;
    if above.len() > MAX_INTERMEDIATES {
        return Err(AnswerError::Chain);
    }
    let claims = leaf::claims(first)?;
    if claims.identity != ask.identity {
        return Err(AnswerError::Identity(claims.identity));
    }
    let parsed = parse(first)?;
    if parsed.public_key().raw != ask.public_key.to_spki() {
        return Err(AnswerError::Key);
    }
    check_names(&parsed, ask)?;
    let usages = parsed.extended_key_usage().ok().flatten().map(|usages| usages.value);
    let only_tls = usages.is_some_and(|usages| {
        let others = usages.code_signing || usages.email_protection || usages.time_stamping || usages.ocsp_signing;
        usages.server_auth && usages.client_auth && !usages.any && !others && usages.other.is_empty()
    });
    if !only_tls {
        return Err(AnswerError::Usages);
    }
    let (not_before, not_after) = (time_of(claims.not_before), time_of(claims.not_after));
    if not_before > now {
        return Err(AnswerError::Early(not_before));
    }
    if not_after > now + ask.lifetime + SLACK {
        return Err(AnswerError::Late(not_after));
    }
    if not_after < now + SHORTEST {
        return Err(AnswerError::Short(not_after));
    }
    for certificate in above {
        let ends = parse(certificate)?.validity().not_after.to_datetime();
        if ends < not_after {
            return Err(AnswerError::Outlives(ends));
        }
    }
    // Proxies renew at half of the life, less a tenth of it at the earliest: so there is time left before that.
    if now - not_before >= (not_after - not_before) * 2 / 5 {
        return Err(AnswerError::Old(not_before));
    }
    let anchors: Result<Vec<_>, _> = ask.roots.iter().map(verifier::anchor).collect();
    let anchors = anchors.map_err(|error| AnswerError::Foreign(error.to_string()))?;
    leads_to(&anchors, first, above, now).map_err(|error| AnswerError::Foreign(verifier::reason(&error)))?;
    Ok(Leaf { chain: chain.iter().map(|certificate| certificate.to_vec()).collect(), not_before, not_after })
}

/// Of what lies above a leaf that was checked, what ends first. `None`: a root signed it.
pub(super) fn signer_validity(leaf: &Leaf) -> Option<Validity> {
    let above = leaf.chain.iter().skip(1).filter_map(|der| {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        let validity = parsed.validity();
        Some(Validity { not_before: validity.not_before.to_datetime(), not_after: validity.not_after.to_datetime() })
    });
    above.min_by_key(|validity| validity.not_after)
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, AnswerError> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        _ => Err(AnswerError::Unreadable),
    }
}

/// The URI, which `claims` compared, and the DNS names that were asked for, in any order.
fn check_names(parsed: &X509Certificate<'_>, ask: &Ask) -> Result<(), AnswerError> {
    let names = parsed.subject_alternative_name().ok().flatten().ok_or(AnswerError::Names)?;
    let mut missing: Vec<&str> = ask.dns_names.iter().map(String::as_str).collect();
    for name in &names.value.general_names {
        match name {
            GeneralName::URI(_) => {}
            GeneralName::DNSName(name) => {
                let at = missing.iter().position(|wanted| wanted == name).ok_or(AnswerError::Names)?;
                missing.swap_remove(at);
            }
            _ => return Err(AnswerError::Names),
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(AnswerError::Names) }
}

fn leads_to(
    anchors: &[TrustAnchor<'_>],
    first: &CertificateDer<'_>,
    above: &[CertificateDer<'_>],
    now: OffsetDateTime,
) -> Result<(), rustls::Error> {
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now.unix_timestamp().try_into().unwrap_or_default()));
    for usage in [webpki::KeyUsage::server_auth(), webpki::KeyUsage::client_auth()] {
        verifier::verify_chain(anchors, first, above, now, usage)?;
    }
    Ok(())
}

fn time_of(time: SystemTime) -> OffsetDateTime {
    OffsetDateTime::from(time)
}
