//! The certificate authority as pure functions: a root, an online intermediate below it, and the leaves that the intermediate signs.
//!
//! # Guarantees
//!
//! A leaf is for one identity, is no authority, never outlives the intermediate, and holds nothing that its owner asked for but the public key.
//!
//! # Assumptions
//!
//! The clock of the caller is right to within [`BACKDATE`] of the clocks of those who verify. Serials are random.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::{Duration, OffsetDateTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::csr::PublicKey;
use super::{SpiffeId, TrustBundle};

/// Ten years: longer than a cluster lives. Replacing it needs every proxy's consent.
pub const ROOT_LIFETIME: Duration = Duration::days(3650);
/// Ninety days; the operator makes the next one of itself.
pub const ISSUER_LIFETIME: Duration = Duration::days(90);
/// The intermediate is renewed when this much of its life is left: weeks for a person to notice that it was not.
pub const ISSUER_RENEWAL: Duration = Duration::days(30);
/// One day; proxies ask for the next at half of it.
pub const LEAF_LIFETIME: Duration = Duration::hours(24);
/// Certificates begin this long before they are made, for clocks that lag.
pub const BACKDATE: Duration = Duration::minutes(2);

/// What is wrong with a certificate and key that were stored, in words that fit after the name of the Secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaterialError {
    /// `tls.crt` cannot be read.
    #[error("tls.crt is not one certificate in PEM")]
    Certificate,
    /// `tls.key` cannot be read.
    #[error("tls.key is not a P-256 private key in PKCS#8 PEM")]
    Key,
    /// One of the two was replaced alone.
    #[error("tls.key does not belong to tls.crt")]
    Mismatch,
    /// Someone stored a leaf.
    #[error("tls.crt may not sign certificates (no CA, or no keyCertSign)")]
    NotAnAuthority,
    /// Its time is over.
    #[error("tls.crt expired at {0}")]
    Expired(OffsetDateTime),
    /// The clock is wrong, or someone stored a certificate for later.
    #[error("tls.crt is not valid before {0}: check this machine's clock")]
    NotYetValid(OffsetDateTime),
    /// Root and intermediate are of two different meshes.
    #[error("tls.crt is not signed by the root in Secret fairlead-root")]
    ForeignIssuer,
    /// Signing failed.
    #[error("cannot sign: {0}")]
    Signing(String),
}

impl From<rcgen::Error> for MaterialError {
    fn from(error: rcgen::Error) -> Self {
        Self::Signing(error.to_string())
    }
}

/// 158 random bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serial([u8; 20]);

impl Serial {
    /// From the system's generator.
    pub fn random() -> Result<Self, MaterialError> {
        let mut bytes = [0; 20];
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| MaterialError::Signing("the system has no randomness".to_owned()))?;
        Ok(Self::from_bytes(bytes))
    }

    /// Of these bytes; the first is changed so that the number is positive and always 20 bytes long, as RFC 5280 wants.
    pub fn from_bytes(mut bytes: [u8; 20]) -> Self {
        bytes[0] = bytes[0] & 0x7f | 0x40;
        Self(bytes)
    }
}

/// A certificate that may sign others, and its key.
pub struct Material {
    certificate: CertificateDer<'static>,
    key: KeyPair,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Material").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl Material {
    /// A new root, signed by itself.
    pub fn new_root(serial: &Serial, now: OffsetDateTime) -> Result<Self, MaterialError> {
        let key = KeyPair::generate()?;
        let params = authority_params("Fairlead root", serial, 1, now, now + ROOT_LIFETIME);
        let certificate = params.self_signed(&key)?;
        Self::of(certificate.der().clone(), key)
    }

    /// A new intermediate below this root, which may sign leaves alone.
    pub fn new_issuer(&self, serial: &Serial, now: OffsetDateTime) -> Result<Self, MaterialError> {
        let key = KeyPair::generate()?;
        let not_after = (now + ISSUER_LIFETIME).min(self.not_after);
        let params = authority_params("Fairlead issuer", serial, 0, now, not_after);
        let certificate = params.signed_by(&key, &self.issuer()?)?;
        Self::of(certificate.der().clone(), key)
    }

    /// What [`Self::certificate_pem`] and [`Self::key_pem`] wrote. The validity is not looked at here: an intermediate that expired is renewed,
    /// a root is not.
    pub fn parse(certificate: &[u8], key: &[u8]) -> Result<Self, MaterialError> {
        let mut certificates = CertificateDer::pem_slice_iter(certificate);
        let (Some(Ok(certificate)), None) = (certificates.next(), certificates.next()) else {
            return Err(MaterialError::Certificate);
        };
        let key = std::str::from_utf8(key).map_err(|_| MaterialError::Key)?;
        let key = KeyPair::from_pkcs8_pem_and_sign_algo(key, &rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|_| MaterialError::Key)?;
        Self::of(certificate, key)
    }

    fn of(certificate: CertificateDer<'static>, key: KeyPair) -> Result<Self, MaterialError> {
        let parsed = parse(&certificate)?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(MaterialError::Mismatch);
        }
        let is_ca = matches!(parsed.basic_constraints(), Ok(Some(constraints)) if constraints.value.ca);
        let may_sign = matches!(parsed.key_usage(), Ok(Some(usage)) if usage.value.key_cert_sign());
        if !is_ca || !may_sign {
            return Err(MaterialError::NotAnAuthority);
        }
        let validity = parsed.validity();
        let (not_before, not_after) = (validity.not_before.to_datetime(), validity.not_after.to_datetime());
        Ok(Self { certificate, key, not_before, not_after })
    }

    /// PEM.
    pub fn certificate_pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    /// PKCS#8, PEM; secret.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// When the certificate ends.
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// Whether the time has come to make the next one.
    pub fn needs_renewal(&self, now: OffsetDateTime) -> bool {
        now >= self.not_after - ISSUER_RENEWAL
    }

    /// That `now` lies within the validity.
    pub fn check_validity(&self, now: OffsetDateTime) -> Result<(), MaterialError> {
        if now < self.not_before {
            return Err(MaterialError::NotYetValid(self.not_before));
        }
        if now >= self.not_after {
            return Err(MaterialError::Expired(self.not_after));
        }
        Ok(())
    }

    /// That `self`, a root, signed `issuer`.
    pub fn check_signed(&self, issuer: &Self) -> Result<(), MaterialError> {
        let (root, parsed) = (parse(&self.certificate)?, parse(&issuer.certificate)?);
        if parsed.issuer().as_raw() != root.subject().as_raw() {
            return Err(MaterialError::ForeignIssuer);
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, self.key.public_key_raw())
            .verify(parsed.tbs_certificate.as_ref(), &parsed.signature_value.data)
            .map_err(|_| MaterialError::ForeignIssuer)
    }

    fn issuer(&self) -> Result<Issuer<'static, &KeyPair>, MaterialError> {
        Ok(Issuer::from_ca_cert_der(&self.certificate, &self.key)?)
    }
}

/// Root and intermediate that belong together.
#[derive(Debug)]
pub struct Authority {
    root: Material,
    issuer: Material,
}

/// A certificate for one identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// DER, leaf first, then the intermediate.
    pub chain: Vec<Vec<u8>>,
    /// Backdated.
    pub not_before: OffsetDateTime,
    /// Not later than the intermediate's.
    pub not_after: OffsetDateTime,
}

impl Authority {
    /// The caller checked validity and signature of both.
    pub fn new(root: Material, issuer: Material) -> Self {
        Self { root, issuer }
    }

    /// The root.
    pub fn root(&self) -> &Material {
        &self.root
    }

    /// The intermediate.
    pub fn issuer(&self) -> &Material {
        &self.issuer
    }

    /// What verifies the leaves. The sequence is the root's first second: a root made later has a greater one, on any replica, with nothing more
    /// to store.
    pub fn trust_bundle(&self) -> TrustBundle {
        TrustBundle {
            sequence: u64::try_from(self.root.not_before.unix_timestamp()).unwrap_or_default(),
            roots: vec![self.root.certificate.to_vec()],
        }
    }

    /// Signs a leaf for `identity`. `dns_names` are for the operator's own serving certificate; a workload has none.
    pub fn issue(
        &self,
        public_key: &PublicKey,
        identity: &SpiffeId,
        dns_names: &[String],
        serial: &Serial,
        now: OffsetDateTime,
    ) -> Result<Leaf, MaterialError> {
        self.issuer.check_validity(now)?;
        let not_before = (now - BACKDATE).max(self.issuer.not_before);
        let not_after = (now + LEAF_LIFETIME).min(self.issuer.not_after);
        let mut params = CertificateParams::default();
        params.not_before = not_before;
        params.not_after = not_after;
        params.serial_number = Some(SerialNumber::from_slice(&serial.0));
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
        let certificate = params.signed_by(public_key, &self.issuer.issuer()?)?;
        Ok(Leaf { chain: vec![certificate.der().to_vec(), self.issuer.certificate.to_vec()], not_before, not_after })
    }
}

/// The key of a pair that was made here, in the form that [`Authority::issue`] takes.
pub fn public_key_of(key: &KeyPair) -> Option<PublicKey> {
    PublicKey::from_raw(key.der_bytes())
}

/// `name` gets a part of the serial, so that two roots never share a subject.
fn authority_params(
    name: &str,
    serial: &Serial,
    path_length: u8,
    now: OffsetDateTime,
    not_after: OffsetDateTime,
) -> CertificateParams {
    let [_, a, b, c, d, ..] = serial.0;
    let mut params = CertificateParams::default();
    params.not_before = now - BACKDATE;
    params.not_after = not_after;
    params.serial_number = Some(SerialNumber::from_slice(&serial.0));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "fairlead.dev");
    params.distinguished_name.push(DnType::CommonName, format!("{name} {a:02x}{b:02x}{c:02x}{d:02x}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, MaterialError> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        _ => Err(MaterialError::Certificate),
    }
}

/// A block of text around DER, RFC 7468.
pub fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = tail;
    }
    pem + "-----END " + label + "-----\n"
}

#[cfg(test)]
pub(super) mod tests {
    use x509_parser::extensions::{GeneralName, ParsedExtension};

    use super::*;

    pub(crate) fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
    }

    pub(crate) fn serial(seed: u8) -> Serial {
        Serial::from_bytes([seed; 20])
    }

    pub(crate) fn authority() -> Authority {
        let root = Material::new_root(&serial(1), now()).unwrap();
        let issuer = root.new_issuer(&serial(2), now()).unwrap();
        Authority::new(root, issuer)
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
        assert_eq!(parsed.validity().not_after.to_datetime(), now() + LEAF_LIFETIME);
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
        for root in authority.trust_bundle().roots {
            roots.add(root.into()).unwrap();
        }
        let provider = rustls::crypto::ring::default_provider().into();
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
        let at = |time: OffsetDateTime| {
            let time = std::time::Duration::from_secs(time.unix_timestamp().try_into().unwrap());
            let chain: Vec<CertificateDer<'_>> =
                leaf.chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
            verifier.verify_client_cert(&chain[0], &chain[1..], rustls::pki_types::UnixTime::since_unix_epoch(time))
        };
        at(now()).unwrap();
        at(now() - Duration::minutes(1)).unwrap();
        assert!(at(now() + Duration::hours(25)).is_err());
    }

    #[test]
    fn a_leaf_never_outlives_its_issuer() {
        let authority = authority();
        let end = authority.issuer().not_after();
        assert_eq!(leaf(&authority, end - Duration::hours(1)).not_after, end);
        let key = public_key_of(&KeyPair::generate().unwrap()).unwrap();
        let refused = authority.issue(&key, &identity(), &[], &serial(3), end);
        assert_eq!(refused, Err(MaterialError::Expired(end)));
    }

    #[test]
    fn an_issuer_never_outlives_its_root() {
        let root = Material::new_root(&serial(1), now()).unwrap();
        let late = root.not_after() - Duration::days(1);
        assert_eq!(root.new_issuer(&serial(2), late).unwrap().not_after(), root.not_after());
    }

    #[test]
    fn stored_material_is_read_back() {
        let authority = authority();
        let root =
            Material::parse(authority.root().certificate_pem().as_bytes(), authority.root().key_pem().as_bytes())
                .unwrap();
        root.check_signed(authority.issuer()).unwrap();
        root.check_validity(now()).unwrap();
        assert_eq!(root.check_validity(now() - Duration::days(1)), Err(MaterialError::NotYetValid(now() - BACKDATE)));
    }

    #[test]
    fn damaged_material_is_named() {
        let (one, two) = (authority(), authority());
        let certificate = one.root().certificate_pem();
        let key = one.root().key_pem();
        let parse = |certificate: &str, key: &str| Material::parse(certificate.as_bytes(), key.as_bytes()).map(|_| ());
        assert_eq!(parse("", &key), Err(MaterialError::Certificate));
        assert_eq!(parse(&certificate[..certificate.len() / 2], &key), Err(MaterialError::Certificate));
        assert_eq!(parse(&format!("{certificate}{certificate}"), &key), Err(MaterialError::Certificate));
        assert_eq!(parse(&certificate, "garbage"), Err(MaterialError::Key));
        let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
        assert_eq!(parse(&certificate, &other), Err(MaterialError::Key));
        assert_eq!(parse(&certificate, &two.root().key_pem()), Err(MaterialError::Mismatch));
        assert_eq!(one.root().check_signed(two.issuer()), Err(MaterialError::ForeignIssuer));
        let leaf_key = KeyPair::generate().unwrap();
        let leaf = one.issue(&public_key_of(&leaf_key).unwrap(), &identity(), &[], &serial(3), now()).unwrap();
        assert_eq!(
            parse(&pem("CERTIFICATE", &leaf.chain[0]), &leaf_key.serialize_pem()),
            Err(MaterialError::NotAnAuthority)
        );
    }

    #[test]
    fn serials_are_random_and_positive() {
        let (one, two) = (Serial::random().unwrap(), Serial::random().unwrap());
        assert_ne!(one, two);
        assert_eq!(Serial::from_bytes([0xff; 20]).0[0], 0x7f);
        assert_eq!(Serial::from_bytes([0; 20]).0[0], 0x40);
    }
}
