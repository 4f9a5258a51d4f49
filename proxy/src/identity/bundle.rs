//! The trust bundle: the roots that this mesh trusts, with the sequence number that orders its versions.

use std::collections::BTreeMap;

use fairlead_identity::{
    SpiffeError, TrustDomain,
    verifier::{self, Trusted},
};
use fairlead_proxy_api::v1;
use rustls::pki_types::{CertificateDer, TrustAnchor, pem::PemObject};

/// More roots than a rotation ever needs (the old and the new one); a bound, so that a handshake's cost has one.
const MAX_ROOTS: usize = 16;

/// Other meshes, and a bound for the same reason: far more than anybody has.
const MAX_FOREIGN: usize = 64;

/// Why a bundle is not taken.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A bundle without roots would trust nobody.
    #[error("the trust bundle holds no certificate")]
    Empty,
    /// Over the bound.
    #[error("the trust bundle holds {0} certificates, more than {MAX_ROOTS}")]
    TooMany(usize),
    /// Not a certificate that can anchor a chain.
    #[error("certificate {index} of the trust bundle cannot be a root: {source}")]
    Root {
        /// Counted from 0.
        index: usize,
        /// What webpki says.
        source: webpki::Error,
    },
    /// Not PEM.
    #[error("the trust bundle is not PEM: {0}")]
    Pem(rustls::pki_types::pem::Error),
    /// Over the bound.
    #[error("the trust bundle holds {0} other trust domains, more than {MAX_FOREIGN}")]
    TooManyForeign(usize),
    /// The name of another trust domain.
    #[error("the trust bundle holds roots of {0:?}: {1}")]
    Foreign(String, SpiffeError),
}

/// Parsed once, read by every handshake.
#[derive(Debug, Clone)]
pub struct TrustBundle {
    sequence: u64,
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    /// Of other trust domains; each within the same bounds.
    foreign: BTreeMap<TrustDomain, TrustBundle>,
}

impl TrustBundle {
    /// Roots in DER.
    pub fn new(sequence: u64, roots: Vec<CertificateDer<'static>>) -> Result<Self, BundleError> {
        if roots.is_empty() {
            return Err(BundleError::Empty);
        }
        if roots.len() > MAX_ROOTS {
            return Err(BundleError::TooMany(roots.len()));
        }
        let anchors = roots
            .iter()
            .enumerate()
            .map(|(index, root)| verifier::anchor(root).map_err(|source| BundleError::Root { index, source }))
            .collect::<Result<_, _>>()?;
        Ok(Self { sequence, roots, anchors, foreign: BTreeMap::new() })
    }

    /// As received from the operator.
    pub fn from_proto(bundle: v1::TrustBundle) -> Result<Self, BundleError> {
        let ders = |roots: Vec<Vec<u8>>| roots.into_iter().map(CertificateDer::from).collect();
        if bundle.foreign.len() > MAX_FOREIGN {
            return Err(BundleError::TooManyForeign(bundle.foreign.len()));
        }
        let mut taken = Self::new(bundle.sequence, ders(bundle.roots))?;
        for foreign in bundle.foreign {
            let domain = TrustDomain::parse(&foreign.trust_domain);
            let domain = domain.map_err(|error| BundleError::Foreign(foreign.trust_domain, error))?;
            taken.foreign.insert(domain, Self::new(bundle.sequence, ders(foreign.roots))?);
        }
        Ok(taken)
    }

    /// What verifies peers, where `own` is our trust domain.
    pub fn trusted(&self, own: &TrustDomain) -> Trusted {
        let trusted = Trusted::new(own.clone(), self.anchors().into());
        let foreign = self.foreign.iter();
        foreign.fold(trusted, |trusted, (domain, bundle)| trusted.and(domain.clone(), bundle.anchors().into()))
    }

    /// As mounted into the pod: PEM certificates, without a sequence number, hence 0: whatever the operator says is newer.
    pub fn from_pem(pem: &[u8]) -> Result<Self, BundleError> {
        let roots = CertificateDer::pem_slice_iter(pem)
            .take(MAX_ROOTS + 1)
            .collect::<Result<_, _>>()
            .map_err(BundleError::Pem)?;
        Self::new(0, roots)
    }

    /// For the state directory.
    pub fn to_proto(&self) -> v1::TrustBundle {
        let ders = |bundle: &Self| bundle.roots.iter().map(|root| root.to_vec()).collect();
        let foreign = self
            .foreign
            .iter()
            .map(|(domain, bundle)| v1::ForeignBundle { trust_domain: domain.to_string(), roots: ders(bundle) });
        v1::TrustBundle { sequence: self.sequence, roots: ders(self), foreign: foreign.collect() }
    }

    /// Grows with each change.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The roots, DER; what stands at the same place among [`Self::anchors`] is made of them.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// What chains are verified against.
    pub fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::testing::Authority;

    #[test]
    fn reads_what_the_config_map_holds() {
        let (a, b) = (Authority::new(), Authority::new());
        let pem = format!("{}{}", a.root_pem(), b.root_pem());
        let bundle = TrustBundle::from_pem(pem.as_bytes()).unwrap();
        assert_eq!(bundle.anchors().len(), 2);
        assert_eq!(bundle.sequence(), 0);
    }

    #[test]
    fn survives_the_wire() {
        let bundle = Authority::new().bundle(7);
        let again = TrustBundle::from_proto(bundle.to_proto()).unwrap();
        assert_eq!(again.sequence(), 7);
        assert_eq!(again.anchors(), bundle.anchors());
    }

    #[test]
    fn refuses_what_cannot_anchor() {
        assert!(matches!(TrustBundle::from_pem(b"hello"), Err(BundleError::Empty)));
        assert!(matches!(
            TrustBundle::new(1, vec![CertificateDer::from(vec![0x30, 0])]),
            Err(BundleError::Root { index: 0, .. })
        ));
        let root = CertificateDer::from(Authority::new().root_der());
        assert!(matches!(TrustBundle::new(1, vec![root; 17]), Err(BundleError::TooMany(17))));
    }
}
