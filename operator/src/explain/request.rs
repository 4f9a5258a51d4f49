//! A request as rules look at it.

use fairlead_authz::is_grpc_type;
use fairlead_operator_api::{self as api, Pair};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, header};

/// More than rules can ask for, and than proxies take.
const MAX_PAIRS: usize = 100;
/// As proxies have it for a whole head, in bytes.
const MAX_LENGTH: usize = 64 * 1024;

/// A request that a proxy would take.
#[derive(Clone, Debug)]
pub(super) struct Request {
    method: String,
    path: String,
    pub(super) host: Option<String>,
    headers: Vec<(HeaderName, String)>,
    pub(super) claims: Vec<Pair>,
}

impl Request {
    /// The error is a sentence.
    pub(super) fn parse(request: &api::Request) -> Result<Self, String> {
        let api::Request { method, path, host, headers, claims, grpc } = request;
        let texts = [method, path].into_iter().chain(host);
        let pairs = headers.iter().chain(claims).flat_map(|pair| [&pair.name, &pair.value]);
        if headers.len() + claims.len() > MAX_PAIRS || texts.chain(pairs).map(String::len).sum::<usize>() > MAX_LENGTH {
            return Err(format!("no proxy takes more than {MAX_PAIRS} headers or {MAX_LENGTH} bytes of them"));
        }
        Method::from_bytes(method.as_bytes()).map_err(|_| format!("{method:?} is no method"))?;
        let malformed = || format!("{path:?} is no path: it begins with a slash, and proxies answer 400 to others");
        let parsed: PathAndQuery = path.parse().map_err(|_| malformed())?;
        // A fragment is not sent.
        if path.contains('#') || !(path.starts_with('/') || path == "*") {
            return Err(malformed());
        }
        if let Some(host) = host
            && (host.is_empty() || host.parse::<http::uri::Authority>().is_err())
        {
            return Err(format!("{host:?} is no host"));
        }
        let mut named = Vec::new();
        for Pair { name, value } in headers {
            let known: HeaderName = name.parse().map_err(|_| format!("{name:?} is no header"))?;
            if known == header::HOST {
                return Err("the host has a place of its own: say it there (--host)".to_owned());
            }
            HeaderValue::from_str(value).map_err(|_| format!("header {name}: {value:?} cannot be sent"))?;
            named.push((known, value.clone()));
        }
        if *grpc && !named.iter().any(|(name, _)| *name == header::CONTENT_TYPE) {
            named.push((header::CONTENT_TYPE, "application/grpc".to_owned()));
        }
        Ok(Self {
            method: method.clone(),
            path: parsed.path().to_owned(),
            host: host.clone(),
            headers: named,
            claims: claims.clone(),
        })
    }

    /// The issuer of its token, if it says whose it is.
    pub(super) fn issuer(&self) -> Option<&str> {
        self.claims.iter().find(|claim| claim.name == "iss").map(|claim| claim.value.as_str())
    }
}

/// The same for this host, with these claims believed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) request: &'a Request,
    pub(super) host: Option<&'a str>,
    pub(super) claims: &'a [Pair],
}

impl fairlead_authz::Request for Asked<'_> {
    fn method(&self) -> &str {
        &self.request.method
    }

    fn path(&self) -> &str {
        &self.request.path
    }

    fn is_grpc(&self) -> bool {
        self.header(&header::CONTENT_TYPE).any(is_grpc_type)
    }

    fn hosts(&self) -> impl Iterator<Item = &[u8]> {
        self.host.map(str::as_bytes).into_iter()
    }

    fn header(&self, name: &HeaderName) -> impl Iterator<Item = &[u8]> {
        self.request.headers.iter().filter(move |(own, _)| own == name).map(|(_, value)| value.as_bytes())
    }

    fn has_claim(&self, name: &str, value: &str) -> bool {
        self.claims.iter().filter(|claim| claim.name == name).any(|claim| match name {
            // A list that is separated by spaces (RFC 8693 section 4.2).
            "scope" => claim.value.split(' ').any(|scope| scope == value),
            _ => claim.value == value,
        })
    }
}
