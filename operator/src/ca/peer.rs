//! Who a client certificate is for, read strictly: the chain was verified by rustls, which knows nothing of SPIFFE.

use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::{PeerIdentity, SpiffeId};

/// Why a certificate proves no identity of this mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the certificate proves no identity of this mesh: {0}")]
pub struct PeerError(&'static str);

/// An identity, and how long its proof holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Whose.
    pub identity: PeerIdentity,
    /// After this a connection that rests on it must end.
    pub not_after: OffsetDateTime,
}

/// Reads the leaf of a verified chain (DER): exactly one URI among its names, a SPIFFE ID of this trust domain; no authority; for signatures.
pub fn read(certificate: &[u8], trust_domain: &str) -> Result<Proof, PeerError> {
    let Ok(([], parsed)) = X509Certificate::from_der(certificate) else {
        return Err(PeerError("it does not parse"));
    };
    let is_leaf = match parsed.basic_constraints() {
        Ok(constraints) => constraints.is_none_or(|constraints| !constraints.value.ca),
        Err(_) => false,
    };
    if !is_leaf {
        return Err(PeerError("it is an authority's"));
    }
    let signs_data_alone = matches!(parsed.key_usage(), Ok(Some(usage))
        if usage.value.digital_signature() && !usage.value.key_cert_sign() && !usage.value.crl_sign());
    if !signs_data_alone {
        return Err(PeerError("its key usage is not digitalSignature"));
    }
    // An error covers a name that does not parse and an extension that is there twice.
    let Ok(Some(names)) = parsed.subject_alternative_name() else {
        return Err(PeerError("its alternative names are absent or do not parse"));
    };
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(Ok(*uri)),
        GeneralName::Invalid(..) => Some(Err(PeerError("one of its names does not parse"))),
        _ => None,
    });
    let (Some(uri), None) = (uris.next().transpose()?, uris.next()) else {
        return Err(PeerError("it does not have exactly one URI name"));
    };
    let identity: SpiffeId = uri.parse().map_err(|_| PeerError("its URI name is not a SPIFFE ID of a workload"))?;
    if identity.trust_domain() != trust_domain {
        return Err(PeerError("it is of another trust domain"));
    }
    Ok(Proof { identity: PeerIdentity(identity), not_after: parsed.validity().not_after.to_datetime() })
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, SanType};

    use super::*;

    const GOOD: &str = "spiffe://cluster.local/ns/bookinfo/sa/reviews";

    fn certificate(change: impl FnOnce(&mut CertificateParams), uris: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.is_ca = IsCa::ExplicitNoCa;
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn reads_the_one_identity() {
        let proof = read(&certificate(|_| (), &[GOOD]), "cluster.local").unwrap();
        assert_eq!(proof.identity.0.to_string(), GOOD);
        let with_dns =
            certificate(|params| params.subject_alt_names.push(SanType::DnsName("a.svc".try_into().unwrap())), &[GOOD]);
        assert!(read(&with_dns, "cluster.local").is_ok());
    }

    #[test]
    fn refuses_what_an_auditor_would_try() {
        let refused = |der: &[u8], words: &str| {
            let error = read(der, "cluster.local").unwrap_err().to_string();
            assert!(error.contains(words), "{error} does not say {words}");
        };
        refused(&certificate(|_| (), &[]), "absent");
        refused(
            &certificate(|params| params.subject_alt_names.push(SanType::DnsName("a".try_into().unwrap())), &[]),
            "exactly one",
        );
        refused(&certificate(|_| (), &[GOOD, "spiffe://cluster.local/ns/kube-system/sa/admin"]), "exactly one");
        refused(&certificate(|_| (), &[GOOD, "http://other"]), "exactly one");
        refused(&certificate(|_| (), &["spiffe://cluster.local/ns/a/sa/../b"]), "not a SPIFFE ID");
        refused(&certificate(|_| (), &["spiffe://other.local/ns/a/sa/b"]), "trust domain");
        refused(&certificate(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), &[GOOD]), "authority");
        refused(&certificate(|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign), &[GOOD]), "key usage");
        refused(&certificate(|params| params.key_usages.clear(), &[GOOD]), "key usage");
        let mut trailing = certificate(|_| (), &[GOOD]);
        trailing.push(0);
        refused(&trailing, "parse");
        refused(&[], "parse");
        // A URI that is not UTF-8 is counted, not skipped.
        let mut broken = certificate(|_| (), &[GOOD, "http://other"]);
        let at = broken.windows(5).position(|window| window == b"other").unwrap();
        broken[at] = 0xff;
        assert!(read(&broken, "cluster.local").is_err());
    }
}
