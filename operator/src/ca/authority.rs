//! The certificate authority: the leaves that an intermediate signs here, as a pure function, or that another authority signs ([`super::requests`]), and what
//! verifies them. [`Authority::certify`] is the one call that enters.
//!
//! # Guarantees
//!
//! A leaf is for one identity, is no authority, never outlives the intermediate, and holds nothing that its owner asked for but the public key. Of another
//! authority nothing is asked that its owner would not get here, and nothing is taken that is not the same.
//!
//! # Assumptions
//!
//! The clock of the caller is right to within [`BACKDATE`] of the clocks of those who verify. Serials are random.

use std::sync::Arc;
use std::time::Duration;

use fairlead_identity::verifier;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, UnixTime};
use time::OffsetDateTime;

use super::csr::{Csr, CsrError, PublicKey};
use super::foreign::Foreign;
pub use super::material::{BACKDATE, Intermediate, MaterialError, Root, RootId, Serial, Validity, pem};
use super::requests::{Ask, RequestError, Requests};
use super::{SpiffeId, TrustBundle};
use crate::settings::DEFAULT_LIFETIME;

/// What signs leaves now, and what verifies them.
#[derive(Debug)]
pub struct Authority {
    signer: Signer,
    leaves: Leaves,
    bundle: TrustBundle,
    leaf_lifetime: Duration,
}

/// Who signs.
#[derive(Debug)]
enum Signer {
    /// This operator.
    Here(Box<Intermediate>),
    /// Another authority, whose leaves lead to one of these roots.
    Requests(Arc<Requests>, Vec<CertificateDer<'static>>),
}

/// Which leaves are as they should be. The others are renewed soon, whatever is left of their lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaves {
    /// They lead to one of these roots: there is one, or two between which another authority may change.
    pub roots: Vec<RootId>,
    /// And were issued at this moment or later.
    pub since: OffsetDateTime,
}

/// Why there is no leaf.
#[derive(Debug, thiserror::Error)]
pub enum CertifyError {
    /// What signs here cannot.
    #[error(transparent)]
    Material(#[from] MaterialError),
    /// The request cannot be passed on.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// The other authority did not sign, or not what it was asked for.
    #[error(transparent)]
    Request(#[from] RequestError),
}

/// A certificate for one identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// DER, leaf first, then what lies between it and the root.
    pub chain: Vec<Vec<u8>>,
    /// Backdated.
    pub not_before: OffsetDateTime,
    /// Not later than the intermediate's.
    pub not_after: OffsetDateTime,
}

impl Authority {
    /// Under one root, which alone is trusted. The caller checked validity and signature of both.
    pub fn new(root: &Root, intermediate: Intermediate) -> Self {
        let bundle = TrustBundle {
            sequence: root.first_sequence(),
            roots: vec![root.certificate().to_vec()],
            foreign: Foreign::new(),
        };
        Self::of(Signer::Here(Box::new(intermediate)), vec![root.id()], bundle)
    }

    /// Leaves are asked for; each must lead to one of `roots`, the first of which is the one that is to sign.
    pub(super) fn by_requests(requests: Arc<Requests>, roots: &[&Root], bundle: TrustBundle) -> Self {
        let ids = roots.iter().map(|root| root.id()).collect();
        let roots = roots.iter().map(|root| root.certificate().clone()).collect();
        Self::of(Signer::Requests(requests, roots), ids, bundle)
    }

    fn of(signer: Signer, roots: Vec<RootId>, bundle: TrustBundle) -> Self {
        let leaves = Leaves { roots, since: OffsetDateTime::UNIX_EPOCH };
        Self { signer, leaves, bundle, leaf_lifetime: DEFAULT_LIFETIME }
    }

    /// Whose leaves end so long after they were issued; proxies ask for the next at about half of it.
    pub fn lasting(self, leaf_lifetime: Duration) -> Self {
        Self { leaf_lifetime, ..self }
    }

    /// With `bundle` trusted, which holds the root, and leaves wanted that were issued at `renewed_since` or later.
    pub fn with(self, bundle: TrustBundle, renewed_since: OffsetDateTime) -> Self {
        let leaves = Leaves { since: renewed_since, ..self.leaves };
        Self { leaves, bundle, ..self }
    }

    /// What signs; `None`: another authority.
    pub fn intermediate(&self) -> Option<&Intermediate> {
        match &self.signer {
            Signer::Here(intermediate) => Some(intermediate),
            Signer::Requests(..) => None,
        }
    }

    /// What verifies the leaves.
    pub fn trust_bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// What leaves should be.
    pub fn leaves(&self) -> &Leaves {
        &self.leaves
    }

    /// Whether nobody would see a difference.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let chain = |authority: &Self| authority.intermediate().map(|intermediate| intermediate.chain().to_vec());
        self.bundle == other.bundle && self.leaves == other.leaves && chain(self) == chain(other)
    }

    /// A leaf for `identity` and the key in `csr`, signed here or by the other authority. `dns_names` are for the operator's own serving certificate.
    pub async fn certify(
        &self,
        csr: &Csr<'_>,
        identity: &SpiffeId,
        dns_names: &[String],
        now: OffsetDateTime,
    ) -> Result<Leaf, CertifyError> {
        match &self.signer {
            Signer::Here(_) => Ok(self.issue(csr.public_key(), identity, dns_names, &Serial::random()?, now)?),
            Signer::Requests(requests, roots) => {
                csr.asks_exactly(identity, dns_names)?;
                let ask = Ask {
                    csr: csr.der().to_vec(),
                    public_key: *csr.public_key(),
                    identity: identity.clone(),
                    dns_names: dns_names.to_vec(),
                    lifetime: self.leaf_lifetime,
                    roots: roots.clone(),
                };
                Ok(requests.certificate(ask).await?)
            }
        }
    }

    /// The trusted roots to which `leaf` leads.
    pub(super) fn roots_above(&self, leaf: &Leaf, now: OffsetDateTime) -> Vec<RootId> {
        let ders: Vec<CertificateDer<'_>> = leaf.chain.iter().map(|der| der.as_slice().into()).collect();
        let Some((first, above)) = ders.split_first() else { return Vec::new() };
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now.unix_timestamp().try_into().unwrap_or_default()));
        let leads_to = |root: &&Vec<u8>| {
            verifier::anchor(&root.as_slice().into()).is_ok_and(|anchor| {
                verifier::verify_chain(&[anchor], first, above, now, webpki::KeyUsage::client_auth()).is_ok()
            })
        };
        self.bundle.roots.iter().filter(leads_to).map(|root| RootId::of(root)).collect()
    }

    /// Signs a leaf for `identity`, here. `dns_names` are for the operator's own serving certificate; a workload has none.
    pub fn issue(
        &self,
        public_key: &PublicKey,
        identity: &SpiffeId,
        dns_names: &[String],
        serial: &Serial,
        now: OffsetDateTime,
    ) -> Result<Leaf, MaterialError> {
        let intermediate = self.intermediate().ok_or(MaterialError::NoRootKey)?;
        intermediate.validity.check(now)?;
        let not_before = (now - BACKDATE).max(intermediate.validity.not_before);
        let not_after = (now + self.leaf_lifetime).min(intermediate.validity.not_after);
        let mut params = CertificateParams::default();
        params.not_before = not_before;
        params.not_after = not_after;
        params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "fairlead.dev");
        params.subject_alt_names.push(SanType::URI(identity.to_string().try_into()?));
        for name in dns_names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(public_key, intermediate.issuer())?;
        let chain = std::iter::once(certificate.der()).chain(intermediate.chain()).map(|der| der.to_vec()).collect();
        Ok(Leaf { chain, not_before, not_after })
    }
}

/// The key of a pair that was made here, in the form that [`Authority::issue`] takes.
pub fn public_key_of(key: &KeyPair) -> Option<PublicKey> {
    PublicKey::from_raw(key.der_bytes())
}

#[cfg(test)]
pub(super) mod tests {
    use x509_parser::certificate::X509Certificate;
    use x509_parser::extensions::{GeneralName, ParsedExtension};
    use x509_parser::prelude::FromDer;

    use time::Duration as Span;

    use super::*;
    use crate::settings::{MAX_LIFETIME, MIN_LIFETIME};

    pub(crate) fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
    }

    pub(crate) fn serial(seed: u8) -> Serial {
        Serial::from_bytes([seed; 20])
    }

    pub(crate) fn parts() -> (Root, Intermediate) {
        let root = Root::new(&serial(1), now()).unwrap();
        let intermediate = root.new_intermediate(&serial(2), now()).unwrap();
        (root, intermediate)
    }

    pub(crate) fn authority() -> Authority {
        let (root, intermediate) = parts();
        Authority::new(&root, intermediate)
    }

    pub(crate) fn identity() -> SpiffeId {
        SpiffeId::new("cluster.local", "bookinfo", "reviews").unwrap()
    }

    fn leaf(authority: &Authority, now: OffsetDateTime) -> Leaf {
        let key = public_key_of(&KeyPair::generate().unwrap()).unwrap();
        authority.issue(&key, &identity(), &[], &serial(3), now).unwrap()
    }

    #[test]
    fn a_leaf_says_who_it_is_for_and_nothing_more() {
        let leaf = leaf(&authority(), now());
        let (_, parsed) = X509Certificate::from_der(&leaf.chain[0]).unwrap();
        let names = &parsed.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(names, &[GeneralName::URI("spiffe://cluster.local/ns/bookinfo/sa/reviews")]);
        assert!(!parsed.basic_constraints().unwrap().unwrap().value.ca);
        let usage = parsed.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.flags == 1, "digitalSignature alone");
        let extended = parsed.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.server_auth && extended.client_auth && !extended.any && extended.other.is_empty());
        assert_eq!(parsed.raw_serial().len(), 20);
        assert_eq!(parsed.validity().not_before.to_datetime(), now() - BACKDATE);
        assert_eq!(parsed.validity().not_after.to_datetime(), now() + DEFAULT_LIFETIME);
        let has = |wanted: fn(&ParsedExtension<'_>) -> bool| {
            parsed.extensions().iter().any(|extension| wanted(extension.parsed_extension()))
        };
        assert!(has(|extension| matches!(extension, ParsedExtension::AuthorityKeyIdentifier(_))));
        assert!(has(|extension| matches!(extension, ParsedExtension::SubjectKeyIdentifier(_))));
    }

    #[test]
    fn the_chain_verifies_and_the_intermediate_signs_leaves_alone() {
        let authority = authority();
        let leaf = leaf(&authority, now());
        let (_, issuer) = X509Certificate::from_der(&leaf.chain[1]).unwrap();
        assert_eq!(issuer.basic_constraints().unwrap().unwrap().value.path_len_constraint, Some(0));
        let mut roots = rustls::RootCertStore::empty();
        for root in &authority.trust_bundle().roots {
            roots.add(root.as_slice().into()).unwrap();
        }
        let provider = rustls::crypto::ring::default_provider().into();
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
        let at = |time: OffsetDateTime| {
            let time = Duration::from_secs(time.unix_timestamp().try_into().unwrap());
            let chain: Vec<CertificateDer<'_>> =
                leaf.chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
            verifier.verify_client_cert(&chain[0], &chain[1..], rustls::pki_types::UnixTime::since_unix_epoch(time))
        };
        at(now()).unwrap();
        at(now() - Span::minutes(1)).unwrap();
        assert!(at(now() + Span::hours(25)).is_err());
    }

    #[test]
    fn a_leaf_lasts_as_long_as_the_settings_say() {
        for lifetime in [MIN_LIFETIME, Duration::from_secs(3600), MAX_LIFETIME] {
            let leaf = leaf(&authority().lasting(lifetime), now());
            assert_eq!((leaf.not_before, leaf.not_after), (now() - BACKDATE, now() + lifetime));
        }
        // What is left of an intermediate that was renewed in time is enough for the longest.
        let before_renewal = now() + super::super::material::INTERMEDIATE_LIFETIME / 2;
        let leaf = leaf(&authority().lasting(MAX_LIFETIME), before_renewal);
        assert_eq!(leaf.not_after, before_renewal + MAX_LIFETIME);
    }

    #[test]
    fn a_leaf_never_outlives_its_issuer() {
        let authority = authority();
        let end = authority.intermediate().unwrap().validity.not_after;
        assert_eq!(leaf(&authority, end - Span::hours(1)).not_after, end);
        let minutes = self::authority().lasting(MIN_LIFETIME);
        let end_of_minutes = minutes.intermediate().unwrap().validity.not_after;
        assert_eq!(leaf(&minutes, end_of_minutes - Span::minutes(1)).not_after, end_of_minutes);
        let key = public_key_of(&KeyPair::generate().unwrap()).unwrap();
        let refused = authority.issue(&key, &identity(), &[], &serial(3), end);
        assert_eq!(refused, Err(MaterialError::Expired(end)));
    }
}
