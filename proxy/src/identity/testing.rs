//! A certificate authority for tests: makes good chains, and any kind of bad one.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber, string::Ia5String,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use crate::identity::{Leaf, SpiffeId, TrustBundle, TrustDomain};

pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

/// A root and an online intermediate.
pub(crate) struct Authority {
    root: CertifiedIssuer<'static, KeyPair>,
    root_params: CertificateParams,
    intermediate: CertifiedIssuer<'static, KeyPair>,
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("{name} {:x}", rand::random::<u64>()));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

impl Authority {
    pub(crate) fn new() -> Self {
        let root_params = authority_params("root");
        let root = CertifiedIssuer::self_signed(root_params.clone(), KeyPair::generate().unwrap()).unwrap();
        let intermediate =
            CertifiedIssuer::signed_by(authority_params("intermediate"), KeyPair::generate().unwrap(), &root).unwrap();
        Self { root, root_params, intermediate }
    }

    /// Another intermediate, with its own idea of parameters.
    pub(crate) fn with_intermediate(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut authority = Self::new();
        let mut params = authority_params("intermediate");
        change(&mut params);
        authority.intermediate =
            CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), &authority.root).unwrap();
        authority
    }

    pub(crate) fn root_der(&self) -> Vec<u8> {
        self.root.der().to_vec()
    }

    pub(crate) fn root_pem(&self) -> String {
        self.root.pem()
    }

    pub(crate) fn bundle(&self, sequence: u64) -> TrustBundle {
        TrustBundle::new(sequence, vec![self.root.der().clone()]).unwrap()
    }

    /// A chain for somebody else's key, as the operator makes it; `change` spoils it.
    pub(crate) fn sign(
        &self,
        key: &impl PublicKeyData,
        uri: &str,
        validity: (SystemTime, SystemTime),
        change: impl FnOnce(&mut CertificateParams),
    ) -> Vec<CertificateDer<'static>> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.serial_number = Some(SerialNumber::from_slice(&rand::random::<[u8; 16]>()));
        params.not_before = validity.0.into();
        params.not_after = validity.1.into();
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(uri).unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let leaf = params.signed_by(key, &self.intermediate).unwrap();
        vec![leaf.der().clone(), self.intermediate.der().clone()]
    }

    /// A chain of the other authority, and its root once more, as ours signed it: whoever trusts only ours finds a way as well.
    pub(crate) fn cross_signed(&self, other: &Self, key: &KeyPair, uri: &str) -> Vec<CertificateDer<'static>> {
        let now = SystemTime::now();
        let mut chain = other.sign(key, uri, (now - Duration::from_secs(120), now + DAY), |_| {});
        let crossed = other.root_params.signed_by(other.root.key(), &self.root).unwrap();
        chain.push(crossed.der().clone());
        chain
    }

    /// A good leaf, valid from two minutes ago for a day.
    pub(crate) fn leaf(&self, uri: &str) -> Leaf {
        let now = SystemTime::now();
        self.leaf_valid(uri, (now - Duration::from_secs(120), now + DAY))
    }

    pub(crate) fn leaf_valid(&self, uri: &str, validity: (SystemTime, SystemTime)) -> Leaf {
        let (key, chain) = self.issue(uri, validity);
        Leaf::new(&id(uri), key, chain, &self.bundle(1), validity.0 + Duration::from_secs(1)).unwrap()
    }

    /// A new key and a good chain for it.
    pub(crate) fn issue(
        &self,
        uri: &str,
        validity: (SystemTime, SystemTime),
    ) -> (PrivatePkcs8KeyDer<'static>, Vec<CertificateDer<'static>>) {
        let key = KeyPair::generate().unwrap();
        let chain = self.sign(&key, uri, validity, |_| {});
        (PrivatePkcs8KeyDer::from(key.serialize_der()), chain)
    }
}

pub(crate) fn id(uri: &str) -> SpiffeId {
    SpiffeId::parse(uri).unwrap()
}

pub(crate) fn domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").unwrap()
}
