//! One fetch: ask where the user says, and read what fits.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fairlead_identity::jwk::{self, KeySetError};
use http::{Request, header};

use super::source::Source;
use crate::outbound::{self, Location, Outbound};

/// For all of it, from the name to the last byte.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no new key set: a clause that goes on from the URL.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// There was no answer, or none that is read.
    #[error(transparent)]
    Outbound(#[from] outbound::Error),
    /// Not what proxies can verify tokens with.
    #[error("was answered with what {0}")]
    Keys(#[from] KeySetError),
}

impl FetchError {
    /// For metrics.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Outbound(error) => error.outcome(),
            Self::Keys(_) => "invalid_keys",
        }
    }
}

/// How key sets are fetched.
#[derive(Clone, Default)]
pub struct Fetcher {
    outbound: Outbound,
}

impl Fetcher {
    /// The set that is published there now.
    pub async fn fetch(&self, source: &Source) -> Result<Arc<str>, FetchError> {
        let location = Location::https(&source.url).map_err(outbound::Error::Url)?;
        let request = Request::get("/")
            .header(header::ACCEPT, "application/jwk-set+json, application/json")
            .body(Bytes::new())
            .map_err(|_| outbound::Error::Url("is malformed"))?;
        let body = self.outbound.body(&location, source.roots.as_deref(), request, jwk::MAX_SET, TIMEOUT).await?;
        let text = std::str::from_utf8(&body).map_err(|_| KeySetError::NotASet { line: 1, column: 0 })?;
        jwk::KeySet::parse(text)?;
        Ok(text.into())
    }
}

#[cfg(test)]
mod tests;
