//! Certificate signing requests (PKCS#10), of which only the public key is of interest.
//!
//! [`public_key`] is the one call that enters. It reads the outermost structure as strict DER and steps over everything that a caller could ask
//! for (names, extensions): what is never looked into can neither be granted nor exhaust the stack.

use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

/// Ten times what a request with a P-256 key needs; a longer one is refused unread.
pub const MAX_CSR: usize = 16 * 1024;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const ATTRIBUTES: u8 = 0xa0;

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; POINT]);

impl PublicKey {
    /// `raw` is `0x04`, then 32 bytes each of x and y. Whether the point lies on the curve is for who verifies a signature with it.
    pub fn from_raw(raw: &[u8]) -> Option<Self> {
        let point: [u8; POINT] = raw.try_into().ok()?;
        (point[0] == UNCOMPRESSED).then_some(Self(point))
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
}

/// Takes the public key out of a request that its private key signed.
pub fn public_key(csr: &[u8]) -> Result<PublicKey, CsrError> {
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
    let _subject = info.take(SEQUENCE)?;
    let key = info.take(SEQUENCE)?.content;
    let _attributes = info.take(ATTRIBUTES)?;
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
    Ok(point)
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
