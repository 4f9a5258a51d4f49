//! JSON Web Key Sets (RFC 7517): the public keys that an issuer signs its tokens with.
//!
//! What a key is decides which algorithms it verifies, never what a token says: a set holds no key that HS256 or `none` could be checked with, so
//! there is nothing to confuse. Of a key that cannot be used nothing is taken (RFC 7517 section 5); a set without any other is an error.

mod key;
#[cfg(test)]
mod tests;

use serde::Deserialize;

use self::key::{Jwk, Key};

/// Bytes of a set. The largest public ones have about 8 KiB.
pub const MAX_SET: usize = 64 * 1024;
/// Keys of a set. Issuers publish two or three: the present one, the next, and the one before.
pub const MAX_KEYS: usize = 64;
/// Keys that one signature is tried with, so that a forged token costs no more than a few verifications.
const MAX_TRIED: usize = 4;

/// Why a text is not a key set that tokens can be verified with, as a clause about the text. It repeats nothing of the text itself, which may come
/// from anywhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Over [`MAX_SET`].
    #[error("is longer than {} KiB", MAX_SET / 1024)]
    TooLong,
    /// Not JSON, or without `keys`.
    #[error("is not a JSON Web Key Set (line {line}, column {column})")]
    NotASet {
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
    },
    /// Over [`MAX_KEYS`].
    #[error("has {0} keys, more than {MAX_KEYS}")]
    TooMany(usize),
    /// Whoever can read the set can sign with it.
    #[error("holds the private part of key {0}: replace that key, and publish the public part alone")]
    Private(usize),
    /// None at all.
    #[error("has no key")]
    Empty,
    /// The first one and what is wrong with it.
    #[error("has no key that can be used: key {number} {why}")]
    Unusable {
        /// Counted from 1.
        number: usize,
        /// A clause about the key.
        why: &'static str,
    },
}

/// Why a signature does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// No key of this name is for this algorithm.
    #[error("no key of the issuer fits")]
    NoKey,
    /// The token names no key, and there are too many that it may mean.
    #[error("several keys of the issuer fit, and the token names none")]
    Ambiguous,
    /// Somebody else's, or of something else.
    #[error("the signature does not hold")]
    Wrong,
}

/// How a token is signed (RFC 7518 section 3.1, RFC 8037, RFC 9864). Those with a shared secret are not among them, and neither is `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the field's")]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

impl Algorithm {
    /// As `alg` has it; `None`: one that is not accepted.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            // The second is what RFC 9864 calls the first where the curve is meant as well.
            "EdDSA" | "Ed25519" => Self::EdDsa,
            _ => return None,
        })
    }
}

/// The keys of one issuer; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySet {
    keys: Box<[Key]>,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Jwk>,
}

impl KeySet {
    /// Reads a set as issuers publish it.
    pub fn parse(text: &str) -> Result<Self, KeySetError> {
        if text.len() > MAX_SET {
            return Err(KeySetError::TooLong);
        }
        let set: Set = serde_json::from_str(text)
            .map_err(|error| KeySetError::NotASet { line: error.line(), column: error.column() })?;
        if set.keys.len() > MAX_KEYS {
            return Err(KeySetError::TooMany(set.keys.len()));
        }
        if let Some(at) = set.keys.iter().position(Jwk::is_private) {
            return Err(KeySetError::Private(at + 1));
        }
        let mut unusable = KeySetError::Empty;
        let mut keys = Vec::new();
        for (at, jwk) in set.keys.iter().enumerate() {
            match Key::new(jwk) {
                Ok(key) => keys.push(key),
                Err(why) if unusable == KeySetError::Empty => {
                    unusable = KeySetError::Unusable { number: at + 1, why };
                }
                Err(_) => {}
            }
        }
        if keys.is_empty() { Err(unusable) } else { Ok(Self { keys: keys.into() }) }
    }

    /// Whether a key of the set signed `message`. `id` is the name of the key that the signer says it used (`kid`); one that has no name in the set
    /// may be any.
    pub fn verify(
        &self,
        algorithm: Algorithm,
        id: Option<&str>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureError> {
        let fits = |key: &&Key| key.is_for(algorithm) && key.may_be(id);
        match self.keys.iter().filter(fits).take(MAX_TRIED + 1).count() {
            0 => return Err(SignatureError::NoKey),
            1..=MAX_TRIED => {}
            _ => return Err(SignatureError::Ambiguous),
        }
        let signed = self.keys.iter().filter(fits).any(|key| key.signed(algorithm, message, signature));
        if signed { Ok(()) } else { Err(SignatureError::Wrong) }
    }
}
