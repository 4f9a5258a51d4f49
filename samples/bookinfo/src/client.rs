//! How one role calls another: pooled HTTP/1, bounded in time and size, carrying on what the caller sent along.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

/// What a person waits for at most; the page then shows an error in the place of the part.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Below the idle timeout of any server, so that a pooled connection is rarely closed under a request.
const IDLE: Duration = Duration::from_secs(4);
/// Answers of the sample are a few hundred bytes.
const MAX_BODY: usize = 256 * 1024;

/// Header that names the person who is signed in.
pub const END_USER: HeaderName = HeaderName::from_static("end-user");

/// Headers that every role hands on: the person, and the usual ones of tracing, without which a trace falls apart.
const HANDED_ON: [HeaderName; 11] = [
    END_USER,
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("baggage"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("b3"),
    HeaderName::from_static("x-b3-traceid"),
    HeaderName::from_static("x-b3-spanid"),
    HeaderName::from_static("x-b3-parentspanid"),
    HeaderName::from_static("x-b3-sampled"),
    HeaderName::from_static("x-b3-flags"),
];

/// The part of a request's headers that goes along to the next service.
pub fn handed_on(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for name in HANDED_ON {
        for value in headers.get_all(&name) {
            kept.append(name.clone(), value.clone());
        }
    }
    kept
}

/// A client for other roles. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Client {
    pool: Pool<HttpConnector, Empty<Bytes>>,
}

/// An answer that came, of whatever status.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// Why there is no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The base address and the path do not make an address.
    #[error("{base} and {path} do not make an address")]
    Address {
        /// The base.
        base: Uri,
        /// The path.
        path: String,
    },
    /// Nobody answered, or the connection broke.
    #[error("{url} did not answer: {cause}")]
    NoAnswer {
        /// The address that was called.
        url: Uri,
        /// What happened.
        cause: String,
    },
    /// The answer took too long.
    #[error("{url} did not answer within {TIMEOUT:?}")]
    Late {
        /// The address that was called.
        url: Uri,
    },
    /// An answer with a status other than 2xx.
    #[error("{url} answered {status}: {body}")]
    Status {
        /// The address that was called.
        url: Uri,
        /// The status.
        status: StatusCode,
        /// The first 200 characters of the body.
        body: String,
    },
    /// The body is not what was expected.
    #[error("{url} answered with unexpected JSON: {cause}")]
    Json {
        /// The address that was called.
        url: Uri,
        /// What the parser said.
        cause: serde_json::Error,
    },
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

impl Client {
    /// A client without connections yet.
    pub fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(1)));
        let pool = Pool::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(32)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Self { pool }
    }

    /// Gets `path` below `base` and reads the JSON of a 2xx answer; returns it with the answer's headers.
    ///
    /// # Errors
    /// One [`CallError`] for each way that this fails.
    pub async fn get_json<T: serde::de::DeserializeOwned>(
        &self,
        base: &Uri,
        path: &str,
        headers: HeaderMap,
    ) -> Result<(T, HeaderMap), CallError> {
        let url: Uri = format!("{}{path}", base.to_string().trim_end_matches('/'))
            .parse()
            .map_err(|_| CallError::Address { base: base.clone(), path: path.to_owned() })?;
        let answer = tokio::time::timeout(TIMEOUT, self.get(&url, headers))
            .await
            .map_err(|_| CallError::Late { url: url.clone() })??;
        if !answer.status.is_success() {
            let body = String::from_utf8_lossy(&answer.body).chars().take(200).collect();
            return Err(CallError::Status { url, status: answer.status, body });
        }
        match serde_json::from_slice(&answer.body) {
            Ok(value) => Ok((value, answer.headers)),
            Err(cause) => Err(CallError::Json { url, cause }),
        }
    }

    async fn get(&self, url: &Uri, headers: HeaderMap) -> Result<Answer, CallError> {
        let no_answer = |cause: String| CallError::NoAnswer { url: url.clone(), cause };
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = url.clone();
        *request.headers_mut() = headers;
        let (head, body) =
            self.pool.request(request).await.map_err(|error| no_answer(with_sources(&error)))?.into_parts();
        let body = Limited::new(body, MAX_BODY).collect().await.map_err(|error| no_answer(error.to_string()))?;
        Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
    }
}

/// An error with its causes in one line: hyper keeps the useful part in the causes.
pub fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_person_and_trace_go_along() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("end-user", "jason"), ("traceparent", "00-1-2-01"), ("cookie", "user=jason"), ("authorization", "x")]
        {
            headers.insert(HeaderName::from_static(name), value.parse().unwrap());
        }
        let kept = handed_on(&headers);
        assert_eq!(kept.len(), 2);
        assert_eq!(kept[END_USER], "jason");
        assert_eq!(kept["traceparent"], "00-1-2-01");
    }
}
