//! Whose tokens this pod believes, and what that of a request claims.

use std::{sync::Arc, time::SystemTime};

use fairlead_proxy_api::v1;
use http::header;

use crate::{
    http::Fields,
    jwt::{self, Claims, Issuer, Issuers, Refusal},
};

/// Those who vouch for users.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    enforced: Trusted,
    /// Named by policies that are only rehearsed.
    rehearsed: Trusted,
}

#[derive(Debug, Default)]
struct Trusted {
    /// What they were made of.
    messages: Vec<v1::JwtIssuer>,
    issuers: Arc<Issuers>,
}

/// What the token of a request claims.
#[derive(Clone, Debug, Default)]
pub(super) struct Claimed {
    /// `None`: there is no token, or nobody is believed.
    pub(super) enforced: Option<Arc<Claims>>,
    /// By those whose policies are only rehearsed.
    pub(super) rehearsed: Option<Arc<Claims>>,
}

impl Tokens {
    /// Keys that are not there yet stay those of `previous`. The error is a sentence.
    pub(super) fn compile(previous: Option<&Self>, messages: Vec<v1::JwtIssuer>) -> Result<Self, String> {
        let (rehearsed, enforced) = messages.into_iter().partition(|issuer| issuer.rehearsed);
        Ok(Self {
            enforced: Trusted::compile(previous.map(|tokens| &tokens.enforced), enforced)?,
            rehearsed: Trusted::compile(previous.map(|tokens| &tokens.rehearsed), rehearsed)?,
        })
    }

    /// What the token among `headers` claims, or why it is refused. One that is not meant for the application is taken out.
    pub(super) fn read(&self, headers: &mut Fields) -> Result<Claimed, Refusal> {
        if self.enforced.messages.is_empty() && self.rehearsed.messages.is_empty() {
            return Ok(Claimed::default());
        }
        let Some(token) = jwt::bearer(headers.get_all(&header::AUTHORIZATION)) else {
            return Ok(Claimed::default());
        };
        let now = SystemTime::now();
        let vouched = |by: &Trusted| token.and_then(|token| by.issuers.verify(token, now));
        // Where nobody is believed yet, nobody is refused either.
        let enforced = if self.enforced.messages.is_empty() { None } else { Some(vouched(&self.enforced)?) };
        let claimed = Claimed { enforced, rehearsed: vouched(&self.rehearsed).ok() };
        if claimed.enforced.as_ref().is_some_and(|claims| !claims.forward()) {
            headers.remove(&header::AUTHORIZATION);
        }
        Ok(claimed)
    }
}

impl Trusted {
    fn compile(previous: Option<&Self>, mut messages: Vec<v1::JwtIssuer>) -> Result<Self, String> {
        for message in messages.iter_mut().filter(|message| message.jwks.is_empty()) {
            let known = previous.and_then(|p| p.messages.iter().find(|known| known.issuer == message.issuer));
            message.jwks = known.map_or_else(String::new, |known| known.jwks.clone());
        }
        if let Some(previous) = previous.filter(|previous| previous.messages == messages) {
            // With what they vouched for lately.
            return Ok(Self { messages, issuers: Arc::clone(&previous.issuers) });
        }
        let issuers = messages
            .iter()
            .filter(|message| !message.jwks.is_empty())
            .map(|message| Issuer::compile(&message.issuer, &message.audiences, &message.jwks, message.forward));
        let issuers = Issuers::new(issuers.collect::<Result<_, _>>()?);
        Ok(Self { messages, issuers: Arc::new(issuers) })
    }
}
