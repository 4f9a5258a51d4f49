//! Certificate signing requests (PKCS#10), of which only the public key is of interest where this operator signs.
//!
//! [`read`] is the one call that enters. It reads the outermost structure as strict DER and steps over everything that a caller could ask
//! for (names, extensions): what is never looked into can neither be granted nor exhaust the stack. Where another authority signs, the request is passed on as it
//! is; [`Csr::asks_exactly`] then says whether it asks for what its owner gets and for nothing else. Its depth is fixed, and so is what it looks at.

use fairlead_identity::SpiffeId;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

/// Ten times what a request with a P-256 key needs; a longer one is refused unread.
pub const MAX_CSR: usize = 16 * 1024;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const ATTRIBUTES: u8 = 0xa0;
const OBJECT: u8 = 0x06;
const SET: u8 = 0x31;
const BOOLEAN: u8 = 0x01;
const OCTETS: u8 = 0x04;
const DNS_NAME: u8 = 0x82;
const URI_NAME: u8 = 0x86;

/// `extensionRequest` of PKCS#9.
const EXTENSION_REQUEST: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e];
const SUBJECT_ALT_NAME: [u8; 3] = [0x55, 0x1d, 0x11];

/// `AlgorithmIdentifier { id-ecPublicKey, prime256v1 }` and the header of a bit string of 65 bytes with no bit unused.
const P256_KEY_HEADER: [u8; 24] = [
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03,
    0x01, 0x07, 0x03, 0x42, 0x00,
];
/// The content of `AlgorithmIdentifier { ecdsa-with-SHA256 }`.
const ECDSA_SHA256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const POINT: usize = 65;
const UNCOMPRESSED: u8 = 4;

/// A point on P-256, uncompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; POINT]);

impl PublicKey {
    /// `raw` is `0x04`, then 32 bytes each of x and y. Whether the point lies on the curve is for who verifies a signature with it.
    pub fn from_raw(raw: &[u8]) -> Option<Self> {
        let point: [u8; POINT] = raw.try_into().ok()?;
        (point[0] == UNCOMPRESSED).then_some(Self(point))
    }

    /// `SubjectPublicKeyInfo`, DER, as a certificate for it holds it.
    pub fn to_spki(&self) -> Vec<u8> {
        let length = (P256_KEY_HEADER.len() + POINT) as u8;
        [&[SEQUENCE, length][..], &P256_KEY_HEADER, &self.0].concat()
    }
}

impl rcgen::PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Longer than [`MAX_CSR`].
    #[error("the certificate request is longer than 16 KiB")]
    TooLong,
    /// Not the DER encoding of a request.
    #[error("the certificate request is not DER-encoded PKCS#10")]
    Malformed,
    /// Of another kind.
    #[error("the certificate request does not hold an ECDSA key on P-256")]
    UnsupportedKey,
    /// Whoever sent it does not hold the private key, or it was damaged on its way.
    #[error("the certificate request is not signed by the key that it holds (ECDSA with SHA-256)")]
    BadSignature,
    /// It cannot be passed on.
    #[error(
        "the certificate request {0}; since another authority signs, it must state the identity of its owner as its one URI name, and nothing else"
    )]
    Asks(&'static str),
}

/// A request that its private key signed.
#[derive(Clone, Copy, Debug)]
pub struct Csr<'a> {
    der: &'a [u8],
    subject: &'a [u8],
    attributes: &'a [u8],
    public_key: PublicKey,
}

/// Reads a request, and verifies that whoever made it holds the private key.
pub fn read(csr: &[u8]) -> Result<Csr<'_>, CsrError> {
    if csr.len() > MAX_CSR {
        return Err(CsrError::TooLong);
    }
    let mut whole = Reader(csr);
    let mut request = Reader(whole.take(SEQUENCE)?.content);
    whole.end()?;

    let signed = request.take(SEQUENCE)?;
    let algorithm = request.take(SEQUENCE)?.content;
    let signature = request.take(BIT_STRING)?.content;
    request.end()?;

    let mut info = Reader(signed.content);
    let version = info.take(INTEGER)?.content;
    let subject = info.take(SEQUENCE)?.content;
    let key = info.take(SEQUENCE)?.content;
    let attributes = info.take(ATTRIBUTES)?.content;
    info.end()?;
    if version != [0] {
        return Err(CsrError::Malformed);
    }

    let point = key.strip_prefix(&P256_KEY_HEADER).and_then(PublicKey::from_raw).ok_or(CsrError::UnsupportedKey)?;
    let (0, signature) = signature.split_first().map(|(unused, rest)| (*unused, rest)).ok_or(CsrError::Malformed)?
    else {
        return Err(CsrError::Malformed);
    };
    if algorithm != ECDSA_SHA256 {
        return Err(CsrError::BadSignature);
    }
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &point.0)
        .verify(signed.whole, signature)
        .map_err(|_| CsrError::BadSignature)?;
    Ok(Csr { der: csr, subject, attributes, public_key: point })
}

impl Csr<'_> {
    /// Its key.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// As it came.
    pub fn der(&self) -> &[u8] {
        self.der
    }

    /// That it asks for `identity`, then `dns_names` in their order, and for nothing else: no subject, no other extension, no other attribute.
    pub fn asks_exactly(&self, identity: &SpiffeId, dns_names: &[String]) -> Result<(), CsrError> {
        if !self.subject.is_empty() {
            return Err(CsrError::Asks("has a subject (is the proxy of an older version? make its pod anew)"));
        }
        if self.attributes.is_empty() {
            return Err(CsrError::Asks("names nobody (is the proxy of an older version? make its pod anew)"));
        }
        let extension = self.only_extension().map_err(|_| CsrError::Asks("asks for more than names"))?;
        let mut wanted = vec![(URI_NAME, identity.as_str().as_bytes())];
        wanted.extend(dns_names.iter().map(|name| (DNS_NAME, name.as_bytes())));
        let mut names = Reader(extension);
        for (tag, name) in wanted {
            if !names.take(tag).is_ok_and(|stated| stated.content == name) {
                return Err(CsrError::Asks("names somebody else"));
            }
        }
        names.end().map_err(|_| CsrError::Asks("has more names than one"))
    }

    /// The names in the one extension that there is.
    fn only_extension(&self) -> Result<&[u8], CsrError> {
        let mut attributes = Reader(self.attributes);
        let mut attribute = Reader(attributes.only(SEQUENCE)?);
        let kind = attribute.take(OBJECT)?.content;
        let mut values = Reader(attribute.only(SET)?);
        let mut extensions = Reader(values.only(SEQUENCE)?);
        let mut extension = Reader(extensions.only(SEQUENCE)?);
        let of = extension.take(OBJECT)?.content;
        if kind != EXTENSION_REQUEST || of != SUBJECT_ALT_NAME {
            return Err(CsrError::Malformed);
        }
        // Critical where there is no subject, as RFC 5280 asks; not every library says so.
        if extension.0.first() == Some(&BOOLEAN) && extension.take(BOOLEAN)?.content != [0xff] {
            return Err(CsrError::Malformed);
        }
        Reader(extension.only(OCTETS)?).only(SEQUENCE)
    }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

struct Element<'a> {
    /// With tag and length.
    whole: &'a [u8],
    content: &'a [u8],
}

impl<'a> Reader<'a> {
    /// The next element, which must have this tag, and a length that is definite and written as shortly as can be.
    fn take(&mut self, tag: u8) -> Result<Element<'a>, CsrError> {
        let (header, length) = match *self.0 {
            [found, ..] if found != tag => return Err(CsrError::Malformed),
            [_, length @ 0..=0x7f, ..] => (2, usize::from(length)),
            [_, 0x81, length @ 0x80..=0xff, ..] => (3, usize::from(length)),
            [_, 0x82, high @ 1..=0xff, low, ..] => (4, usize::from(high) << 8 | usize::from(low)),
            _ => return Err(CsrError::Malformed),
        };
        let (whole, rest) = self.0.split_at_checked(header + length).ok_or(CsrError::Malformed)?;
        self.0 = rest;
        Ok(Element { whole, content: &whole[header..] })
    }

    /// The content of the next element, which must be the last.
    fn only(&mut self, tag: u8) -> Result<&'a [u8], CsrError> {
        let element = self.take(tag)?;
        self.end()?;
        Ok(element.content)
    }

    fn end(&self) -> Result<(), CsrError> {
        if self.0.is_empty() { Ok(()) } else { Err(CsrError::Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType};
    use rustls::pki_types::{CertificateSigningRequestDer, pem::PemObject as _};

    use super::*;

    fn request(params: &CertificateParams, key: &KeyPair) -> Vec<u8> {
        params.serialize_request(key).unwrap().der().to_vec()
    }

    fn plain(key: &KeyPair) -> Vec<u8> {
        request(&CertificateParams::default(), key)
    }

    fn public_key(csr: &[u8]) -> Result<PublicKey, CsrError> {
        read(csr).map(|csr| *csr.public_key())
    }

    fn identity() -> SpiffeId {
        SpiffeId::new("cluster.local", "bookinfo", "reviews").unwrap()
    }

    type Spoil<'a> = &'a dyn Fn(&mut CertificateParams);

    /// What `proxy/src/identity/certify.rs` makes, and what a test does to it.
    fn of_pod(spoil: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity().as_str().try_into().unwrap())];
        spoil(&mut params);
        request(&params, &KeyPair::generate().unwrap())
    }

    #[test]
    fn what_is_passed_on_asks_for_one_name_and_nothing_else() {
        let asks = |csr: &[u8]| read(csr).unwrap().asks_exactly(&identity(), &[]);
        assert_eq!(asks(&of_pod(|_| ())), Ok(()));
        let key = KeyPair::generate().unwrap();
        let of_proxy = fairlead_proxy::identity::certify::request(&identity(), &key).unwrap();
        assert_eq!(asks(&of_proxy), Ok(()), "what proxies make");

        let uri = |text: &str| SanType::URI(text.try_into().unwrap());
        let other = "spiffe://cluster.local/ns/kube-system/sa/admin";
        let cases: [(&str, Spoil<'_>, &str); 13] = [
            ("of an older proxy", &|params| *params = CertificateParams::default(), "subject"),
            ("no name", &|params| params.subject_alt_names.clear(), "names nobody"),
            ("a subject", &|params| params.distinguished_name.push(rcgen::DnType::CommonName, "admin"), "subject"),
            ("somebody else", &|params| params.subject_alt_names = vec![uri(other)], "somebody else"),
            ("two", &|params| params.subject_alt_names.push(uri(other)), "more names"),
            ("itself twice", &|params| params.subject_alt_names.push(uri(identity().as_str())), "more names"),
            (
                "a DNS name too",
                &|params| params.subject_alt_names.push(SanType::DnsName("a.svc".try_into().unwrap())),
                "more names",
            ),
            (
                "an address",
                &|params| params.subject_alt_names = vec![SanType::IpAddress([10, 0, 0, 1].into())],
                "somebody else",
            ),
            ("a longer name", &|params| params.subject_alt_names = vec![uri(&format!("{}x", identity()))], "somebody"),
            ("an authority", &|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), "more than names"),
            ("no authority", &|params| params.is_ca = IsCa::ExplicitNoCa, "more than names"),
            ("usages", &|params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign], "more than names"),
            (
                "another extension",
                &|params| {
                    params.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0])];
                },
                "more than names",
            ),
        ];
        for (name, spoil, why) in cases {
            let refused = asks(&of_pod(spoil)).unwrap_err().to_string();
            assert!(refused.contains(why), "{name}: {refused}");
        }
        // Another attribute beside the extensions.
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![uri(identity().as_str())];
        let password = rcgen::Attribute { oid: &[1, 2, 840, 113_549, 1, 9, 7], values: vec![0x31, 3, 0x0c, 1, b'x'] };
        let both = params.serialize_request_with_attributes(&key, vec![password]).unwrap();
        assert!(asks(both.der()).unwrap_err().to_string().contains("more than names"));

        let names = ["a.svc".to_owned(), "b.svc".to_owned()];
        let operators = of_pod(|params| {
            params
                .subject_alt_names
                .extend(names.each_ref().map(|name| SanType::DnsName(name.as_str().try_into().unwrap())));
        });
        let asks = |names: &[String]| read(&operators).unwrap().asks_exactly(&identity(), names).is_ok();
        assert!(asks(&names) && !asks(&names[..1]) && !asks(&[]));
    }

    #[test]
    fn a_key_is_written_as_certificates_hold_it() {
        use x509_parser::prelude::FromDer as _;
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap();
        let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(certificate.der()).unwrap();
        assert_eq!(PublicKey::from_raw(key.public_key_raw()).unwrap().to_spki(), parsed.public_key().raw);
    }

    #[test]
    fn takes_the_key_and_nothing_else() {
        let key = KeyPair::generate().unwrap();
        assert_eq!(public_key(&plain(&key)).unwrap().der_bytes(), key.public_key_raw());

        let mut greedy =
            CertificateParams::new(vec!["kubernetes.default.svc".to_owned(), "10.0.0.1".to_owned()]).unwrap();
        greedy.subject_alt_names.extend(
            ["admin", "other"].map(|name| {
                SanType::URI(format!("spiffe://cluster.local/ns/kube-system/sa/{name}").try_into().unwrap())
            }),
        );
        greedy.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let mut extension = rcgen::CustomExtension::from_oid_content(&[1, 2, 3], vec![0x30; 4000]);
        extension.set_criticality(true);
        greedy.custom_extensions = vec![extension.clone(), extension];
        greedy.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        assert_eq!(public_key(&request(&greedy, &key)).unwrap().der_bytes(), key.public_key_raw());
    }

    #[test]
    fn refuses_other_keys() {
        for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            assert_eq!(public_key(&plain(&key)), Err(CsrError::UnsupportedKey));
        }
        // `openssl req -new -newkey rsa:2048 -nodes -subj /` and the like: other libraries than ours make these.
        for pem in [
            &include_bytes!("csr/p-521.pem")[..],
            include_bytes!("csr/rsa-1024.pem"),
            include_bytes!("csr/rsa-2048.pem"),
            include_bytes!("csr/rsa-4096.pem"),
            include_bytes!("csr/rsa-16384.pem"),
        ] {
            let csr = CertificateSigningRequestDer::from_pem_slice(pem).unwrap();
            assert_eq!(public_key(&csr), Err(CsrError::UnsupportedKey));
        }
    }

    #[test]
    fn refuses_a_key_that_the_sender_does_not_hold() {
        let key = KeyPair::generate().unwrap();
        let mut csr = plain(&key);
        let other = KeyPair::generate().unwrap();
        let at = csr.windows(POINT).position(|window| window == key.public_key_raw()).unwrap();
        csr[at..at + POINT].copy_from_slice(other.public_key_raw());
        assert_eq!(public_key(&csr), Err(CsrError::BadSignature));
        // No point of the curve.
        csr[at + 1..at + POINT].fill(1);
        assert_eq!(public_key(&csr), Err(CsrError::BadSignature));
    }

    #[test]
    fn refuses_what_is_not_der() {
        let good = plain(&KeyPair::generate().unwrap());
        let trailing = [good.as_slice(), &[0]].concat();
        // The same lengths in more bytes than needed, and left open until two zeros: both are BER.
        let content = &good[3..];
        assert_eq!(&good[..2], [0x30, 0x81]);
        let long_form = [&[0x30, 0x82, 0, good[2]], content].concat();
        let indefinite = [&[0x30, 0x80], content, &[0, 0]].concat();
        let nested = [&[0x30, 0x82, 0x3f, 0xf0][..], &[0x30, 0x80].repeat(8_000)].concat();
        for csr in
            [&[][..], &[0x30], &[0x30, 0x00], &trailing, &long_form, &indefinite, &nested, &good[..good.len() - 1]]
        {
            assert_eq!(public_key(csr), Err(CsrError::Malformed));
        }
        assert_eq!(public_key(&vec![0x30; 1 << 20]), Err(CsrError::TooLong));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(public_key(&bytes).is_err());
        }
    }
}
