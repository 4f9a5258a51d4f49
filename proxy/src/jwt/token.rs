//! A token as it is written (RFC 7515 section 7.1), read once and believed in nothing yet.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use fairlead_identity::jwk::Algorithm;

use super::{
    MAX_TOKEN, Refusal,
    claims::{Claim, Members, Said},
};

/// The parts of a token.
pub(super) struct Token<'a> {
    pub(super) algorithm: Algorithm,
    /// The key that its signer names.
    pub(super) key: Option<Box<str>>,
    pub(super) claims: Said,
    /// Header and payload as they came.
    pub(super) signed: &'a [u8],
    pub(super) signature: Vec<u8>,
}

impl<'a> Token<'a> {
    pub(super) fn parse(token: &'a [u8]) -> Result<Self, Refusal> {
        if token.len() > MAX_TOKEN {
            return Err(Refusal::TooLong);
        }
        let mut parts = token.split(|byte| *byte == b'.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Refusal::Malformed);
        };
        let signed = &token[..header.len() + 1 + payload.len()];
        let mut header = Members::parse(&decoded(header)?)?;
        // There is no extension that is understood here, so none can be critical.
        if header.0.contains_key("crit") {
            return Err(Refusal::Critical);
        }
        let Some(Claim::Text(algorithm)) = header.0.get("alg") else { return Err(Refusal::Malformed) };
        let algorithm = Algorithm::named(algorithm).ok_or(Refusal::Algorithm)?;
        let key = match header.0.remove("kid") {
            None => None,
            Some(Claim::Text(key)) => Some(key),
            Some(_) => return Err(Refusal::Malformed),
        };
        let claims = Said::new(Members::parse(&decoded(payload)?)?)?;
        Ok(Self { algorithm, key, claims, signed, signature: decoded(signature)? })
    }
}

/// The engine refuses padding, other alphabets, white space, and bits behind the last byte, so a token has one spelling.
fn decoded(part: &[u8]) -> Result<Vec<u8>, Refusal> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Refusal::Malformed)
}
