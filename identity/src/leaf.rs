//! What a certificate must look like to be the leaf of a workload, and what it says then.

use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, time::ASN1Time};

use crate::spiffe::{SpiffeError, SpiffeId};

/// Why a certificate is not the leaf of a workload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    /// Not DER, or not X.509.
    #[error("certificate does not parse")]
    Unparsable,
    /// Bytes after the certificate.
    #[error("certificate is followed by other data")]
    Trailing,
    /// basicConstraints or keyUsage of an authority.
    #[error("certificate is an authority's, not a leaf")]
    Authority,
    /// keyUsage without digitalSignature, or extendedKeyUsage without what this side of TLS needs.
    #[error("certificate's key usage does not allow TLS authentication")]
    KeyUsage,
    /// No URI name, two, or one that is not text.
    #[error("certificate must have exactly one URI name")]
    Uri,
    /// The one URI name is not an identity.
    #[error("certificate's URI name: {0}")]
    Spiffe(#[from] SpiffeError),
}

/// What a leaf says about its bearer. It says so truthfully only after its chain was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The one URI name.
    pub identity: SpiffeId,
    /// First moment of validity.
    pub not_before: SystemTime,
    /// Last moment of validity.
    pub not_after: SystemTime,
}

/// Checks the rules of X.509-SVID for a leaf and reads its identity. Counts URI names with a parser that does not skip malformed ones.
pub fn claims(certificate: &CertificateDer<'_>) -> Result<Claims, LeafError> {
    let (rest, parsed) = X509Certificate::from_der(certificate).map_err(|_| LeafError::Unparsable)?;
    if !rest.is_empty() {
        return Err(LeafError::Trailing);
    }
    // Each accessor fails where the extension occurs twice or does not parse.
    let constraints = parsed.basic_constraints().map_err(|_| LeafError::Unparsable)?;
    if constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(LeafError::Authority);
    }
    let usage = parsed.key_usage().map_err(|_| LeafError::Unparsable)?;
    let usage = usage.ok_or(LeafError::KeyUsage)?.value;
    if usage.key_cert_sign() || usage.crl_sign() {
        return Err(LeafError::Authority);
    }
    if !usage.digital_signature() {
        return Err(LeafError::KeyUsage);
    }
    // Which purposes, webpki checks; here only that they are stated at all.
    let purposes = parsed.extended_key_usage().map_err(|_| LeafError::Unparsable)?;
    if purposes.is_none_or(|purposes| purposes.value.any) {
        return Err(LeafError::KeyUsage);
    }
    let names = parsed.subject_alternative_name().map_err(|_| LeafError::Unparsable)?.ok_or(LeafError::Uri)?;
    let mut uri = None;
    for name in &names.value.general_names {
        match name {
            GeneralName::URI(_) if uri.is_some() => return Err(LeafError::Uri),
            GeneralName::URI(text) => uri = Some(*text),
            GeneralName::Invalid(..) => return Err(LeafError::Uri),
            _ => {}
        }
    }
    let validity = parsed.validity();
    Ok(Claims {
        identity: SpiffeId::parse(uri.ok_or(LeafError::Uri)?)?,
        not_before: system_time(validity.not_before),
        not_after: system_time(validity.not_after),
    })
}

fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
    };

    use super::*;

    const GOOD: &str = "spiffe://cluster.local/ns/bookinfo/sa/reviews";

    fn certificate(change: impl FnOnce(&mut CertificateParams), uris: &[&str]) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.is_ca = IsCa::ExplicitNoCa;
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn reads_the_one_identity() {
        assert_eq!(claims(&certificate(|_| (), &[GOOD])).unwrap().identity.as_str(), GOOD);
        let with_dns =
            certificate(|params| params.subject_alt_names.push(SanType::DnsName("a.svc".try_into().unwrap())), &[GOOD]);
        assert!(claims(&with_dns).is_ok());
    }

    #[test]
    fn refuses_what_an_auditor_would_try() {
        use LeafError::{Authority, KeyUsage, Spiffe, Trailing, Unparsable, Uri};
        let refused = |certificate: &CertificateDer<'_>, why: LeafError| assert_eq!(claims(certificate), Err(why));
        refused(&certificate(|_| (), &[]), Uri);
        refused(
            &certificate(|params| params.subject_alt_names.push(SanType::DnsName("a".try_into().unwrap())), &[]),
            Uri,
        );
        refused(&certificate(|_| (), &[GOOD, "spiffe://cluster.local/ns/kube-system/sa/admin"]), Uri);
        refused(&certificate(|_| (), &[GOOD, "http://other"]), Uri);
        refused(&certificate(|_| (), &["spiffe://cluster.local/ns/a/sa/../b"]), Spiffe(SpiffeError::Path));
        refused(&certificate(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), &[GOOD]), Authority);
        refused(&certificate(|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign), &[GOOD]), Authority);
        refused(&certificate(|params| params.key_usages.clear(), &[GOOD]), KeyUsage);
        refused(&certificate(|params| params.extended_key_usages.clear(), &[GOOD]), KeyUsage);
        refused(
            &certificate(|params| params.extended_key_usages.push(ExtendedKeyUsagePurpose::Any), &[GOOD]),
            KeyUsage,
        );
        let mut trailing = certificate(|_| (), &[GOOD]).to_vec();
        trailing.push(0);
        refused(&trailing.into(), Trailing);
        refused(&CertificateDer::from(vec![]), Unparsable);
        // A URI that is not UTF-8 is counted, not skipped.
        let mut broken = certificate(|_| (), &[GOOD, "http://other"]).to_vec();
        let at = broken.windows(5).position(|window| window == b"other").unwrap();
        broken[at] = 0xff;
        claims(&broken.into()).unwrap_err();
    }
}
