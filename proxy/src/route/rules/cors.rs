//! Cross-origin requests of browsers, by the Fetch standard.

use std::fmt::Write as _;

use fairlead_proxy_api::v1;
use http::{HeaderName, HeaderValue, header};

use crate::{http::Fields, route::RequestHead};

/// What pages of other origins may ask.
#[derive(Debug)]
pub struct Cors {
    any_origin: bool,
    origins: Vec<Origin>,
    /// `None`: all.
    methods: Option<HeaderValue>,
    /// `None`: all.
    headers: Option<HeaderValue>,
    expose: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
    credentials: bool,
}

/// Origins that are allowed.
#[derive(Debug, PartialEq, Eq)]
enum Origin {
    One(String),
    /// Of hosts below one: how it begins and how it ends.
    Below(String, String),
}

/// What one caller is told.
#[derive(Debug)]
pub struct Grant {
    /// `None`: the page may not read the answer.
    origin: Option<HeaderValue>,
    /// Whether another origin would have been told something else.
    varies: bool,
}

const WILDCARD: HeaderValue = HeaderValue::from_static("*");

impl Cors {
    /// From the operator's message.
    pub(super) fn new(message: v1::Cors) -> Result<Self, String> {
        let mut any_origin = false;
        let mut origins = Vec::new();
        for origin in message.allow_origins {
            match origin.split_once("://*.") {
                _ if origin == "*" => any_origin = true,
                Some((scheme, host)) => origins.push(Origin::Below(format!("{scheme}://"), format!(".{host}"))),
                None => origins.push(Origin::One(origin)),
            }
        }
        Ok(Self {
            any_origin,
            origins,
            methods: unless_all(&message.allow_methods)?,
            headers: unless_all(&message.allow_headers)?,
            expose: list(&message.expose_headers)?,
            max_age: message.max_age_s.map(HeaderValue::from),
            credentials: message.allow_credentials,
        })
    }

    /// What the caller is told; also one that is no page, because caches may keep the answer for those that are.
    pub fn grant(&self, head: &RequestHead<'_>) -> Grant {
        let origin = head.header(&header::ORIGIN).next();
        if self.any_origin && !self.credentials {
            return Grant { origin: origin.map(|_| WILDCARD), varies: false };
        }
        let allowed = origin.filter(|origin| self.any_origin || self.origins.iter().any(|known| known.is(origin)));
        Grant { origin: allowed.and_then(|origin| HeaderValue::from_bytes(origin).ok()), varies: true }
    }

    /// The answer to the question of a browser whether it may send a request; `None`: it is another request.
    pub fn preflight(&self, head: &RequestHead<'_>) -> Option<Fields> {
        let method = head.preflight()?;
        let grant = self.grant(head);
        let mut answer = Fields::default();
        if grant.origin.is_some() {
            // Behind * browsers do not send credentials, so what was asked for is named.
            let methods = self.methods.clone().or_else(|| HeaderValue::from_bytes(method).ok());
            let asked = head.header(&header::ACCESS_CONTROL_REQUEST_HEADERS).next();
            let headers = self.headers.clone().or_else(|| HeaderValue::from_bytes(asked?).ok());
            for (name, value) in [
                (header::ACCESS_CONTROL_ALLOW_METHODS, methods),
                (header::ACCESS_CONTROL_ALLOW_HEADERS, headers.filter(|headers| !headers.is_empty())),
                (header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone()),
            ] {
                if let Some(value) = value {
                    answer.insert(name, value);
                }
            }
        }
        self.permit(&grant, &mut answer);
        for name in [header::ACCESS_CONTROL_REQUEST_METHOD, header::ACCESS_CONTROL_REQUEST_HEADERS] {
            answer.append(header::VARY, HeaderValue::from(name));
        }
        Some(answer)
    }

    /// Puts the permission on an answer, in place of what the application may have said.
    pub fn decorate(&self, grant: &Grant, headers: &mut Fields) {
        for name in [
            header::ACCESS_CONTROL_ALLOW_ORIGIN,
            header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
        ] {
            headers.remove(&name);
        }
        self.permit(grant, headers);
        if let (Some(_), Some(expose)) = (&grant.origin, &self.expose) {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }

    fn permit(&self, grant: &Grant, headers: &mut Fields) {
        if grant.varies {
            headers.append(header::VARY, HeaderValue::from(header::ORIGIN));
        }
        if let Some(origin) = &grant.origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            if self.credentials {
                headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            }
        }
    }
}

impl Origin {
    fn is(&self, origin: &[u8]) -> bool {
        match self {
            Self::One(one) => origin == one.as_bytes(),
            Self::Below(scheme, host) => origin
                .strip_prefix(scheme.as_bytes())
                .and_then(|rest| rest.strip_suffix(host.as_bytes()))
                .is_some_and(|name| {
                    !name.is_empty() && name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
                }),
        }
    }
}

/// `None`: `*` is among them.
fn unless_all(names: &[String]) -> Result<Option<HeaderValue>, String> {
    if names.iter().any(|name| name == "*") {
        return Ok(None);
    }
    Ok(Some(list(names)?.unwrap_or(HeaderValue::from_static(""))))
}

fn list(names: &[String]) -> Result<Option<HeaderValue>, String> {
    let mut joined = String::new();
    for name in names {
        if name != "*" && name.parse::<HeaderName>().is_err() {
            return Err(format!("{name:?} is neither a method nor a header's name"));
        }
        let separator = if joined.is_empty() { "" } else { ", " };
        let _ = write!(joined, "{separator}{name}");
    }
    if joined.is_empty() { Ok(None) } else { HeaderValue::try_from(joined).map(Some).map_err(|e| e.to_string()) }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;

    fn cors(origins: &[&str], change: impl FnOnce(&mut v1::Cors)) -> Cors {
        let mut message = v1::Cors {
            allow_origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
            allow_methods: vec!["GET".into(), "PUT".into()],
            ..v1::Cors::default()
        };
        change(&mut message);
        Cors::new(message).unwrap()
    }

    fn map(lines: &[(&str, &str)]) -> Fields {
        lines
            .iter()
            .map(|(n, v)| (n.parse::<HeaderName>().unwrap(), v.parse::<HeaderValue>().unwrap()))
            .collect::<HeaderMap>()
            .into()
    }

    fn with<T>(method: &Method, lines: &[(&str, &str)], look: impl FnOnce(&RequestHead<'_>) -> T) -> T {
        look(&RequestHead::new(method, &"/".parse().unwrap(), &map(lines)))
    }

    fn allowed(cors: &Cors, origin: &str) -> Option<String> {
        let mut headers = Fields::default();
        with(&Method::GET, &[("origin", origin)], |head| cors.decorate(&cors.grant(head), &mut headers));
        headers.to_map().get("access-control-allow-origin").map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn origins_are_compared_whole_or_below_a_host() {
        let cors = cors(&["https://shop.example", "https://*.shop.example:8443"], |_| {});
        for (origin, expected) in [
            ("https://shop.example", true),
            ("http://shop.example", false),
            ("https://shop.example.evil", false),
            ("https://a.shop.example:8443", true),
            ("https://a.b.shop.example:8443", true),
            ("https://.shop.example:8443", false),
            ("https://evil.example/.shop.example:8443", false),
            ("https://a.shop.example", false),
            ("null", false),
        ] {
            assert_eq!(allowed(&cors, origin).is_some(), expected, "{origin}");
        }
    }

    #[test]
    fn all_origins_are_a_star_until_credentials_come_along() {
        assert_eq!(allowed(&cors(&["*"], |_| {}), "https://a.example").unwrap(), "*");
        let named = cors(&["*"], |message| message.allow_credentials = true);
        assert_eq!(allowed(&named, "https://a.example").unwrap(), "https://a.example");
    }

    #[test]
    fn what_the_application_says_is_replaced() {
        let cors = cors(&["https://a.example"], |message| message.expose_headers = vec!["x-count".into()]);
        let said =
            [("access-control-allow-origin", "*"), ("access-control-expose-headers", "x-secret"), ("vary", "Accept")];
        let mut headers = map(&said);
        with(&Method::GET, &[("origin", "https://a.example")], |head| cors.decorate(&cors.grant(head), &mut headers));
        let headers = headers.to_map();
        assert_eq!(headers["access-control-allow-origin"], "https://a.example");
        assert_eq!(headers["access-control-expose-headers"], "x-count");
        assert_eq!(headers.get_all("vary").iter().collect::<Vec<_>>(), ["Accept", "origin"]);
        let mut headers = map(&said);
        with(&Method::GET, &[("origin", "https://evil.example")], |head| {
            cors.decorate(&cors.grant(head), &mut headers);
        });
        let headers = headers.to_map();
        assert_eq!(headers.len(), 2, "only vary is left: {headers:?}");
    }

    #[test]
    fn a_preflight_is_told_what_may_be_sent() {
        let asks = [
            ("origin", "https://a.example"),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-one, x-two"),
        ];
        let some = cors(&["*"], |message| {
            message.allow_headers = vec!["x-one".into()];
            message.max_age_s = Some(60);
        });
        let answer = with(&Method::OPTIONS, &asks, |head| some.preflight(head)).unwrap().to_map();
        assert_eq!(answer["access-control-allow-origin"], "*");
        assert_eq!(answer["access-control-allow-methods"], "GET, PUT");
        assert_eq!(answer["access-control-allow-headers"], "x-one");
        assert_eq!(answer["access-control-max-age"], "60");
        let all = cors(&["*"], |message| {
            message.allow_methods = vec!["*".into()];
            message.allow_headers = vec!["*".into()];
            message.allow_credentials = true;
        });
        let answer = with(&Method::OPTIONS, &asks, |head| all.preflight(head)).unwrap().to_map();
        assert_eq!(answer["access-control-allow-methods"], "PUT");
        assert_eq!(answer["access-control-allow-headers"], "x-one, x-two");
        assert_eq!(answer["access-control-allow-credentials"], "true");
        assert!(with(&Method::GET, &asks, |head| all.preflight(head)).is_none());
        assert!(with(&Method::OPTIONS, &asks[..1], |head| all.preflight(head)).is_none());
    }

    #[test]
    fn a_preflight_of_a_stranger_is_told_nothing() {
        let cors = cors(&["https://a.example"], |_| {});
        let asks = [("origin", "https://evil.example"), ("access-control-request-method", "PUT")];
        let answer = with(&Method::OPTIONS, &asks, |head| cors.preflight(head)).unwrap().to_map();
        assert!(answer.keys().all(|name| *name == header::VARY), "{answer:?}");
    }
}
