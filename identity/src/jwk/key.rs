//! One key of a set: what it is, and which algorithms it verifies.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
    RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;
use serde_json::Value;

use super::Algorithm;

/// Of an RSA modulus. Shorter ones can be broken; longer ones cost a proxy more for a forged token than they protect.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;
/// Bytes of a public exponent, the common 65537 has three.
const MAX_EXPONENT: usize = 4;

/// A key as it is written (RFC 7517 section 4). Values are looked at one by one, so that an odd key costs itself and not the set.
#[derive(Deserialize)]
pub(super) struct Jwk {
    kty: Option<Value>,
    #[serde(rename = "use")]
    usage: Option<Value>,
    key_ops: Option<Value>,
    alg: Option<Value>,
    kid: Option<Value>,
    crv: Option<Value>,
    n: Option<Value>,
    e: Option<Value>,
    x: Option<Value>,
    y: Option<Value>,
    d: Option<Value>,
}

impl Jwk {
    /// Every kind of private key has `d` (RFC 7518 sections 6.2.2 and 6.3.2, RFC 8037 section 2).
    pub(super) fn is_private(&self) -> bool {
        self.d.is_some()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    id: Option<Box<str>>,
    /// The only one that it is for, where it says so.
    algorithm: Option<Algorithm>,
    material: Material,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Material {
    /// Big-endian, without leading zeros.
    Rsa {
        modulus: Box<[u8]>,
        exponent: Box<[u8]>,
    },
    /// An uncompressed point.
    P256(Box<[u8]>),
    /// An uncompressed point.
    P384(Box<[u8]>),
    Ed25519(Box<[u8]>),
}

impl Key {
    /// The error is a clause about the key.
    pub(super) fn new(jwk: &Jwk) -> Result<Self, &'static str> {
        if jwk.usage.as_ref().is_some_and(|usage| usage != "sig") {
            return Err("is not for signatures (use)");
        }
        let verifies = |ops: &Value| ops.as_array().is_some_and(|ops| ops.iter().any(|op| op == "verify"));
        if jwk.key_ops.as_ref().is_some_and(|ops| !verifies(ops)) {
            return Err("is not for verification (key_ops)");
        }
        let id = match &jwk.kid {
            None => None,
            Some(Value::String(id)) => Some(id.as_str().into()),
            Some(_) => return Err("has a kid that is not a string"),
        };
        let material = material(jwk)?;
        let algorithm = match &jwk.alg {
            None => None,
            Some(name) => {
                let algorithm = name.as_str().and_then(Algorithm::named);
                let algorithm = algorithm.filter(|algorithm| material.is_for(*algorithm));
                Some(algorithm.ok_or("has an alg that is not accepted for its kind")?)
            }
        };
        Ok(Self { id, algorithm, material })
    }

    pub(super) fn is_for(&self, algorithm: Algorithm) -> bool {
        self.algorithm.is_none_or(|only| only == algorithm) && self.material.is_for(algorithm)
    }

    pub(super) fn may_be(&self, id: Option<&str>) -> bool {
        match (&self.id, id) {
            (Some(own), Some(id)) => **own == *id,
            (None, _) | (_, None) => true,
        }
    }

    /// Only after [`Self::is_for`].
    pub(super) fn signed(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Rsa { modulus, exponent } => rsa(algorithm).is_some_and(|how| {
                RsaPublicKeyComponents { n: modulus, e: exponent }.verify(how, message, signature).is_ok()
            }),
            // Both numbers side by side (RFC 7518 section 3.4), not DER.
            Material::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
            }
            Material::P384(point) => {
                UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point).verify(message, signature).is_ok()
            }
            Material::Ed25519(key) => UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok(),
        }
    }
}

impl Material {
    fn is_for(&self, algorithm: Algorithm) -> bool {
        match self {
            Self::Rsa { .. } => rsa(algorithm).is_some(),
            Self::P256(_) => algorithm == Algorithm::Es256,
            Self::P384(_) => algorithm == Algorithm::Es384,
            Self::Ed25519(_) => algorithm == Algorithm::EdDsa,
        }
    }
}

fn rsa(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        Algorithm::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
        Algorithm::Rs384 => &RSA_PKCS1_2048_8192_SHA384,
        Algorithm::Rs512 => &RSA_PKCS1_2048_8192_SHA512,
        Algorithm::Ps256 => &RSA_PSS_2048_8192_SHA256,
        Algorithm::Ps384 => &RSA_PSS_2048_8192_SHA384,
        Algorithm::Ps512 => &RSA_PSS_2048_8192_SHA512,
        Algorithm::Es256 | Algorithm::Es384 | Algorithm::EdDsa => return None,
    })
}

fn material(jwk: &Jwk) -> Result<Material, &'static str> {
    match (jwk.kty.as_ref().and_then(Value::as_str), jwk.crv.as_ref().and_then(Value::as_str)) {
        (Some("RSA"), _) => {
            let modulus = number(jwk.n.as_ref()).ok_or("has no modulus (n)")?;
            let bits = 8 * modulus.len() - modulus.first().map_or(0, |first| first.leading_zeros() as usize);
            if !RSA_BITS.contains(&bits) {
                return Err("is RSA of less than 2048 or more than 4096 bits");
            }
            let exponent = number(jwk.e.as_ref()).ok_or("has no exponent (e)")?;
            let odd = exponent.last().is_some_and(|last| last % 2 == 1);
            if !odd || exponent.len() > MAX_EXPONENT || *exponent == [1] {
                return Err("has an exponent (e) that is even, 1 or too large");
            }
            Ok(Material::Rsa { modulus, exponent })
        }
        (Some("EC"), Some("P-256")) => Ok(Material::P256(point(jwk, 32)?)),
        (Some("EC"), Some("P-384")) => Ok(Material::P384(point(jwk, 48)?)),
        (Some("EC"), _) => Err("is of another curve than P-256 and P-384"),
        (Some("OKP"), Some("Ed25519")) => Ok(Material::Ed25519(exactly(jwk.x.as_ref(), 32)?.into())),
        (Some("OKP"), _) => Err("is of another curve than Ed25519"),
        (Some("oct"), _) => Err("is symmetric: whoever could verify with it could sign"),
        _ => Err("is of another kind (kty) than RSA, EC and OKP"),
    }
}

fn bytes(value: Option<&Value>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(value?.as_str()?).ok()
}

/// Some issuers write a zero in front, as DER does.
fn number(value: Option<&Value>) -> Option<Box<[u8]>> {
    let bytes = bytes(value)?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    (zeros < bytes.len()).then(|| bytes[zeros..].into())
}

fn exactly(value: Option<&Value>, len: usize) -> Result<Vec<u8>, &'static str> {
    bytes(value).filter(|bytes| bytes.len() == len).ok_or("has coordinates (x, y) of another length than its curve")
}

fn point(jwk: &Jwk, len: usize) -> Result<Box<[u8]>, &'static str> {
    Ok([vec![4], exactly(jwk.x.as_ref(), len)?, exactly(jwk.y.as_ref(), len)?].concat().into())
}
