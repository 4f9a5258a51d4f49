//! What an authority is made of: a root, of which the certificate is enough to trust, and an intermediate, whose key signs leaves. Read from PEM and
//! checked whole, made where there is none.

use std::fmt;

use fairlead_identity::verifier;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SerialNumber,
};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use time::{Duration, OffsetDateTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

/// Ten years: longer than most clusters live. It is rotated at half of that.
pub const ROOT_LIFETIME: Duration = Duration::days(3650);
/// Ninety days; the operator makes the next one of itself at half of that.
pub const INTERMEDIATE_LIFETIME: Duration = Duration::days(90);
/// Certificates begin this long before they are made, for clocks that lag.
pub const BACKDATE: Duration = Duration::minutes(2);
/// A leaf, the intermediate, and two more above it: what proxies take (`MAX_CHAIN` there).
pub(super) const MAX_INTERMEDIATES: usize = 3;

/// What is wrong with a certificate and key that were stored, in words that fit after the name of the Secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaterialError {
    /// `tls.crt` cannot be read.
    #[error("tls.crt is not one certificate in PEM")]
    Certificate,
    /// More certificates in `tls.crt` of an intermediate than proxies take in a chain.
    #[error("tls.crt holds more than a certificate and {} above it", MAX_INTERMEDIATES - 1)]
    Chain,
    /// `ca.crt` cannot be read.
    #[error("ca.crt is not one certificate in PEM")]
    Root,
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
    /// Root and intermediate are of two different meshes, or the root does not let the intermediate sign what it must.
    #[error("tls.crt is not signed by the root of this mesh, or leaves below it do not verify ({0})")]
    Foreign(String),
    /// The root is the user's, who kept its key.
    #[error("the key of the root is not here")]
    NoRootKey,
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

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Which root: SHA-256 of its certificate.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RootId([u8; 32]);

impl RootId {
    /// Of a certificate in DER.
    pub fn of(certificate: &[u8]) -> Self {
        let mut id = [0; 32];
        id.copy_from_slice(digest(&SHA256, certificate).as_ref());
        Self(id)
    }

    /// Of its 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// As `openssl x509 -fingerprint -sha256` has it, without colons and in lower case.
impl fmt::Display for RootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// From when to when a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Its first second.
    pub not_before: OffsetDateTime,
    /// Its last second.
    pub not_after: OffsetDateTime,
}

impl Validity {
    /// That `now` lies within.
    pub fn check(&self, now: OffsetDateTime) -> Result<(), MaterialError> {
        if now < self.not_before {
            return Err(MaterialError::NotYetValid(self.not_before));
        }
        if now >= self.not_after {
            return Err(MaterialError::Expired(self.not_after));
        }
        Ok(())
    }

    /// Half of the life is over: it is time to make the next one. So it is for roots, intermediates and leaves alike.
    pub fn is_half_over(&self, now: OffsetDateTime) -> bool {
        now >= self.not_before + (self.not_after - self.not_before) / 2
    }

    /// Less than three tenths are left: whoever should have renewed it did not. Somewhat less than the third at which cert-manager renews, so that
    /// a renewal in time is not complained of.
    pub fn is_running_out(&self, now: OffsetDateTime) -> bool {
        now >= self.not_after - (self.not_after - self.not_before) * 3 / 10
    }
}

/// What chains lead to. Its key is needed only to sign intermediates: a user may keep that.
pub struct Root {
    certificate: CertificateDer<'static>,
    issuer: Option<Issuer<'static, KeyPair>>,
    /// Of the certificate.
    pub validity: Validity,
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Root").field("id", &self.id()).field("validity", &self.validity).finish_non_exhaustive()
    }
}

impl Root {
    /// A new root, signed by itself.
    pub fn new(serial: &Serial, now: OffsetDateTime) -> Result<Self, MaterialError> {
        let key = KeyPair::generate()?;
        let params = authority_params("Fairlead root", serial, 1, now, now + ROOT_LIFETIME);
        let certificate = params.self_signed(&key)?;
        Self::of(certificate.der().clone(), Some(key))
    }

    /// What [`Self::certificate_pem`] and [`Self::key_pem`] wrote. The validity is not looked at here.
    pub fn parse(certificate: &[u8], key: Option<&[u8]>) -> Result<Self, MaterialError> {
        let Ok([certificate]) = <[_; 1]>::try_from(certificates(certificate).ok_or(MaterialError::Certificate)?) else {
            return Err(MaterialError::Certificate);
        };
        Self::of(certificate, key.map(parse_key).transpose()?)
    }

    fn of(certificate: CertificateDer<'static>, key: Option<KeyPair>) -> Result<Self, MaterialError> {
        let validity = check_authority(&certificate, key.as_ref())?;
        let issuer = key.map(|key| Issuer::from_ca_cert_der(&certificate, key)).transpose()?;
        Ok(Self { certificate, issuer, validity })
    }

    /// A new intermediate below this root, which may sign leaves alone.
    pub fn new_intermediate(&self, serial: &Serial, now: OffsetDateTime) -> Result<Intermediate, MaterialError> {
        let issuer = self.issuer.as_ref().ok_or(MaterialError::NoRootKey)?;
        let key = KeyPair::generate()?;
        let not_after = (now + INTERMEDIATE_LIFETIME).min(self.validity.not_after);
        let params = authority_params("Fairlead issuer", serial, 0, now, not_after);
        let certificate = params.signed_by(&key, issuer)?;
        Intermediate::of(vec![certificate.der().clone()], key)
    }

    /// The number of a bundle that holds this root alone and was never changed: its first second, the same on every replica.
    pub fn first_sequence(&self) -> u64 {
        u64::try_from(self.validity.not_before.unix_timestamp()).unwrap_or_default()
    }

    /// Which one it is.
    pub fn id(&self) -> RootId {
        RootId::of(&self.certificate)
    }

    /// DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// PEM.
    pub fn certificate_pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    /// PKCS#8, PEM; secret. `None`: its owner kept it.
    pub fn key_pem(&self) -> Option<String> {
        self.issuer.as_ref().map(|issuer| issuer.key().serialize_pem())
    }

    /// The same certificate, to trust alone.
    pub(super) fn without_key(&self) -> Self {
        Self { certificate: self.certificate.clone(), issuer: None, validity: self.validity }
    }

    /// Whether it names itself as its issuer.
    pub fn is_self_signed(&self) -> bool {
        is_self_signed(&self.certificate)
    }

    /// Whether it can sign intermediates.
    pub fn has_key(&self) -> bool {
        self.issuer.is_some()
    }
}

/// A certificate that signs leaves, its key, and the certificates between it and the root.
pub struct Intermediate {
    /// The intermediate's first; the root is not among them.
    chain: Vec<CertificateDer<'static>>,
    issuer: Issuer<'static, KeyPair>,
    /// Of the whole chain: the latest begin and the earliest end.
    pub validity: Validity,
}

impl fmt::Debug for Intermediate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intermediate").field("validity", &self.validity).finish_non_exhaustive()
    }
}

impl Intermediate {
    /// What [`Self::chain_pem`] and [`Self::key_pem`] wrote, or a user: the intermediate, then what lies between it and the root. The validity is
    /// not looked at here: one that expired is renewed.
    pub fn parse(chain: &[u8], key: &[u8]) -> Result<Self, MaterialError> {
        Self::of(certificates(chain).ok_or(MaterialError::Certificate)?, parse_key(key)?)
    }

    fn of(mut chain: Vec<CertificateDer<'static>>, key: KeyPair) -> Result<Self, MaterialError> {
        // Some tools put the root at the end. Peers have it, and an attacker's would not help them.
        if chain.len() > 1 && chain.last().is_some_and(is_self_signed) {
            chain.pop();
        }
        let Some(first) = chain.first().filter(|_| chain.len() <= MAX_INTERMEDIATES) else {
            return Err(MaterialError::Chain);
        };
        let issuer_der = first.clone();
        let mut validity = check_authority(first, Some(&key))?;
        for above in &chain[1..] {
            let of_above = check_authority(above, None)?;
            validity.not_before = validity.not_before.max(of_above.not_before);
            validity.not_after = validity.not_after.min(of_above.not_after);
        }
        Ok(Self { chain, issuer: Issuer::from_ca_cert_der(&issuer_der, key)?, validity })
    }

    /// That leaves which this signs verify under `root`, by the rules that proxies apply. Independent of the time of day.
    pub fn check_under(&self, root: &Root) -> Result<(), MaterialError> {
        let foreign = |error: &dyn fmt::Display| MaterialError::Foreign(error.to_string());
        let anchor = verifier::anchor(root.certificate()).map_err(|error| foreign(&error))?;
        let at = self.validity.not_before.max(root.validity.not_before);
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = (at, self.validity.not_after);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = params.signed_by(&KeyPair::generate()?, &self.issuer)?;
        let at = std::time::Duration::from_secs(at.unix_timestamp().try_into().unwrap_or_default());
        let (at, usage) = (UnixTime::since_unix_epoch(at), webpki::KeyUsage::client_auth());
        verifier::verify_chain(&[anchor], leaf.der(), &self.chain, at, usage).map_err(|error| foreign(&error))
    }

    /// DER, without the root.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// PEM, without the root.
    pub fn chain_pem(&self) -> String {
        self.chain.iter().map(|certificate| pem("CERTIFICATE", certificate)).collect()
    }

    /// PKCS#8, PEM; secret.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    pub(super) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }
}

fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(pem).take(MAX_INTERMEDIATES + 2).collect::<Result<_, _>>().ok()?;
    (!found.is_empty()).then_some(found)
}

fn parse_key(pem: &[u8]) -> Result<KeyPair, MaterialError> {
    let pem = std::str::from_utf8(pem).map_err(|_| MaterialError::Key)?;
    KeyPair::from_pkcs8_pem_and_sign_algo(pem, &rcgen::PKCS_ECDSA_P256_SHA256).map_err(|_| MaterialError::Key)
}

/// That it may sign certificates, and that `key` is its key.
fn check_authority(certificate: &CertificateDer<'_>, key: Option<&KeyPair>) -> Result<Validity, MaterialError> {
    let Ok(([], parsed)) = X509Certificate::from_der(certificate) else {
        return Err(MaterialError::Certificate);
    };
    if key.is_some_and(|key| parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw()) {
        return Err(MaterialError::Mismatch);
    }
    let is_ca = matches!(parsed.basic_constraints(), Ok(Some(constraints)) if constraints.value.ca);
    let may_sign = matches!(parsed.key_usage(), Ok(Some(usage)) if usage.value.key_cert_sign());
    if !is_ca || !may_sign {
        return Err(MaterialError::NotAnAuthority);
    }
    let validity = parsed.validity();
    Ok(Validity { not_before: validity.not_before.to_datetime(), not_after: validity.not_after.to_datetime() })
}

pub(super) fn is_self_signed(certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, parsed)| parsed.issuer().as_raw() == parsed.subject().as_raw())
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
mod tests {
    use super::super::authority::tests::{identity, now, parts, serial};
    use super::super::authority::{Authority, public_key_of};
    use super::*;

    #[test]
    fn an_intermediate_never_outlives_its_root() {
        let root = Root::new(&serial(1), now()).unwrap();
        let late = root.validity.not_after - Duration::days(1);
        let intermediate = root.new_intermediate(&serial(2), late).unwrap();
        assert_eq!(intermediate.validity.not_after, root.validity.not_after);
    }

    #[test]
    fn stored_material_is_read_back() {
        let (root, intermediate) = parts();
        let key = root.key_pem().unwrap();
        let again = Root::parse(root.certificate_pem().as_bytes(), Some(key.as_bytes())).unwrap();
        assert_eq!((again.id(), again.validity), (root.id(), root.validity));
        let without_key = Root::parse(root.certificate_pem().as_bytes(), None).unwrap();
        assert!(!without_key.has_key() && without_key.key_pem().is_none());
        assert_eq!(without_key.new_intermediate(&serial(3), now()).unwrap_err(), MaterialError::NoRootKey);
        let read = Intermediate::parse(intermediate.chain_pem().as_bytes(), intermediate.key_pem().as_bytes()).unwrap();
        read.check_under(&without_key).unwrap();
        root.validity.check(now()).unwrap();
        let early = root.validity.check(now() - Duration::days(1));
        assert_eq!(early, Err(MaterialError::NotYetValid(now() - BACKDATE)));
    }

    #[test]
    fn damaged_material_is_named() {
        let ((one, under_one), (two, under_two)) = (parts(), parts());
        let (certificate, key) = (one.certificate_pem(), one.key_pem().unwrap());
        let parse =
            |certificate: &str, key: &str| Root::parse(certificate.as_bytes(), Some(key.as_bytes())).map(|_| ());
        assert_eq!(parse("", &key), Err(MaterialError::Certificate));
        assert_eq!(parse(&certificate[..certificate.len() / 2], &key), Err(MaterialError::Certificate));
        assert_eq!(parse(&format!("{certificate}{certificate}"), &key), Err(MaterialError::Certificate));
        assert_eq!(parse(&certificate, "garbage"), Err(MaterialError::Key));
        let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
        assert_eq!(parse(&certificate, &other), Err(MaterialError::Key));
        assert_eq!(parse(&certificate, &two.key_pem().unwrap()), Err(MaterialError::Mismatch));
        assert!(matches!(under_two.check_under(&one), Err(MaterialError::Foreign(_))));
        let leaf_key = KeyPair::generate().unwrap();
        let public_key = public_key_of(&leaf_key).unwrap();
        let leaf = Authority::new(&one, under_one).issue(&public_key, &identity(), &[], &serial(3), now()).unwrap();
        assert_eq!(
            parse(&pem("CERTIFICATE", &leaf.chain[0]), &leaf_key.serialize_pem()),
            Err(MaterialError::NotAnAuthority)
        );
    }

    /// An intermediate below an intermediate of `root`, as a company's may be: `between` can be spoiled.
    fn nested(root: &Root, spoil: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let mut params = authority_params("Company", &serial(5), 1, now(), now() + Duration::days(300));
        spoil(&mut params);
        let between_key = KeyPair::generate().unwrap();
        let between = params.signed_by(&between_key, root.issuer.as_ref().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = authority_params("Mesh", &serial(6), 0, now(), now() + Duration::days(400));
        let below = params.signed_by(&key, &Issuer::from_ca_cert_der(between.der(), between_key).unwrap()).unwrap();
        (format!("{}{}", pem("CERTIFICATE", below.der()), pem("CERTIFICATE", between.der())), key.serialize_pem())
    }

    #[test]
    fn an_intermediate_may_lie_further_from_the_root() {
        let root_params = authority_params("Deep root", &serial(4), 2, now(), now() + Duration::days(900));
        let root_key = KeyPair::generate().unwrap();
        let certificate = root_params.self_signed(&root_key).unwrap();
        let root = Root::of(certificate.der().clone(), Some(root_key)).unwrap();
        let (chain, key) = nested(&root, |_| ());
        let intermediate = Intermediate::parse(chain.as_bytes(), key.as_bytes()).unwrap();
        intermediate.check_under(&root).unwrap();
        assert_eq!(intermediate.chain().len(), 2);
        assert_eq!(intermediate.validity.not_after, now() + Duration::days(300), "of the first that ends");
        let with_root = format!("{chain}{}", root.certificate_pem());
        assert_eq!(Intermediate::parse(with_root.as_bytes(), key.as_bytes()).unwrap().chain().len(), 2);
        let long = chain.repeat(2);
        assert_eq!(Intermediate::parse(long.as_bytes(), key.as_bytes()).unwrap_err(), MaterialError::Chain);

        // One that lets nothing below it be an authority is noticed before a proxy would refuse its leaves.
        let (chain, key) = nested(&root, |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
        let refused = Intermediate::parse(chain.as_bytes(), key.as_bytes()).unwrap().check_under(&root);
        assert!(matches!(refused, Err(MaterialError::Foreign(_))), "{refused:?}");
    }

    #[test]
    fn the_third_of_a_life_that_is_left_warns_and_half_of_it_renews() {
        let life = Validity { not_before: now(), not_after: now() + Duration::days(100) };
        for (day, half_over, running_out) in
            [(49, false, false), (50, true, false), (69, true, false), (70, true, true)]
        {
            let at = now() + Duration::days(day);
            assert_eq!((life.is_half_over(at), life.is_running_out(at)), (half_over, running_out), "day {day}");
        }
    }

    #[test]
    fn serials_are_random_and_positive() {
        let (one, two) = (Serial::random().unwrap(), Serial::random().unwrap());
        assert_ne!(one, two);
        assert_eq!(Serial::from_bytes([0xff; 20]).0[0], 0x7f);
        assert_eq!(Serial::from_bytes([0; 20]).0[0], 0x40);
    }
}
