//! Tokens of users (JSON Web Tokens, RFC 7519) that callers show beside their own identity: who vouches for them, and what they claim.
//!
//! [`bearer`] finds a token among the fields of a request, [`Issuers::verify`] says what it claims or why nothing of it is believed. Nothing is fetched
//! here: keys come with the configuration. What a token says of keys (`jwk`, `jku`, `x5u`, `x5c`) is not read; the issuer's keys decide which
//! algorithms there are (RFC 8725 sections 3.1 and 3.2); and whatever two readers could read differently is refused: duplicate members, padding, other
//! alphabets, bytes behind the end.

mod bearer;
mod claims;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod lately;
#[cfg(any(test, feature = "fuzz"))]
mod testing;
#[cfg(test)]
mod tests;
mod token;

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use fairlead_identity::jwk::{KeySet, SignatureError};

pub use self::{bearer::bearer, claims::Claims};
use self::{
    lately::{Lately, Place},
    token::Token,
};

/// Bytes of a token. Larger ones would not fit into a line of a request that servers take.
pub const MAX_TOKEN: usize = 8 * 1024;
/// By so many seconds the clocks of an issuer and of this node may differ (RFC 7519 section 4.1.4: "usually no more than a few minutes").
const LEEWAY: u64 = 60;

/// Why nothing that a token says is believed. For logs and metrics, not for callers; nothing of the token is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// More than one `Authorization`, of which the application might believe another.
    #[error("there are several authorization headers")]
    SeveralHeaders,
    /// `Bearer` without a token behind it (RFC 6750 section 2.1).
    #[error("the authorization header has no token")]
    NoToken,
    /// Over [`MAX_TOKEN`].
    #[error("the token is longer than {} KiB", MAX_TOKEN / 1024)]
    TooLong,
    /// Not three parts in base64url without padding, of which two are objects in JSON (RFC 7515 section 7.1).
    #[error("the token is malformed")]
    Malformed,
    /// A member occurs twice, so that two readers might read two tokens (RFC 7515 section 4, RFC 7519 section 4).
    #[error("the token has a member twice")]
    Duplicate,
    /// It asks to be understood in a way that is not (`crit`, RFC 7515 section 4.1.11).
    #[error("the token has a critical extension")]
    Critical,
    /// `none`, one with a shared secret, or an unknown one.
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    /// By none of those that the policy names.
    #[error("the token's issuer is not accepted")]
    Issuer,
    /// Made for somebody else.
    #[error("the token is for another audience")]
    Audience,
    /// It would be good for ever.
    #[error("the token has no expiry")]
    NoExpiry,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `nbf` or `iat` is to come.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// Not by a key of its issuer.
    #[error("{0}")]
    Signature(#[from] SignatureError),
}

/// One who vouches for users.
#[derive(Clone, Debug)]
pub struct Issuer {
    name: Arc<str>,
    audiences: Box<[Box<str>]>,
    keys: KeySet,
    forward: bool,
}

impl Issuer {
    /// `issuer` is what tokens must have as `iss`, byte for byte; `audiences`: one of which they must have in `aud`, empty: any; `jwks`: a JSON Web Key
    /// Set; `forward`: whether the application gets the token. The error is a sentence for a status.
    pub fn compile(issuer: &str, audiences: &[String], jwks: &str, forward: bool) -> Result<Self, String> {
        if issuer.is_empty() {
            return Err("an issuer without a name vouches for nobody".to_owned());
        }
        let keys = KeySet::parse(jwks).map_err(|why| format!("the key set of issuer {issuer} {why}"))?;
        let audiences = audiences.iter().map(|audience| audience.as_str().into()).collect();
        Ok(Self { name: issuer.into(), audiences, keys, forward })
    }

    /// What is cheap comes first.
    fn vouches_for(&self, token: &Token<'_>) -> Result<(), Refusal> {
        if !self.audiences.is_empty() && !self.audiences.iter().any(|audience| token.claims.is_for(audience)) {
            return Err(Refusal::Audience);
        }
        Ok(self.keys.verify(token.algorithm, token.key.as_deref(), token.signed, &token.signature)?)
    }
}

/// What `token` claims, if one of `issuers` vouches for it at `now`.
///
/// `iss` picks the issuer; of several of one name any may vouch, since each stands for a policy that holds. The signature is checked last, and
/// what else is wrong is told only to the log, so a caller learns nothing from it.
pub fn verify(issuers: &[Issuer], token: &[u8], now: SystemTime) -> Result<Claims, Refusal> {
    let token = Token::parse(token)?;
    let mut refusal = Refusal::Issuer;
    for issuer in issuers.iter().filter(|issuer| token.claims.text("iss") == Some(&*issuer.name)) {
        // The same for every issuer, but a stranger's token is a stranger's, whatever time it is.
        token.claims.valid_at(seconds(now))?;
        match issuer.vouches_for(&token) {
            Ok(()) => return Ok(token.claims.by(Arc::clone(&issuer.name), issuer.forward)),
            Err(why) => refusal = why,
        }
    }
    Err(refusal)
}

/// All who vouch for users at one workload, and what they vouched for lately.
#[derive(Debug, Default)]
pub struct Issuers {
    issuers: Box<[Issuer]>,
    lately: Lately,
}

impl Issuers {
    /// What is remembered begins anew with each set, so that a key that is withdrawn takes its tokens along.
    pub fn new(issuers: Vec<Issuer>) -> Self {
        Self { issuers: issuers.into(), lately: Lately::default() }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.issuers.is_empty()
    }

    /// As [`verify`], at a fraction of the cost for a token that was verified lately.
    pub fn verify(&self, token: &[u8], now: SystemTime) -> Result<Arc<Claims>, Refusal> {
        let Some(place) = Place::of(token) else {
            return verify(&self.issuers, token, now).map(Arc::new);
        };
        if let Some(claims) = self.lately.get(&place) {
            return claims.valid_at(seconds(now)).map(|()| claims);
        }
        let claims = Arc::new(verify(&self.issuers, token, now)?);
        self.lately.keep(&place, &claims, seconds(now));
        Ok(claims)
    }
}

/// Since 1970, as tokens count them (RFC 7519 section 2, `NumericDate`).
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
