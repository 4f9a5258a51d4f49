//! Whether a request that failed is made again, as far as its route decides it. Budget, deadline and body decide besides.

use std::time::Duration;

use fairlead_proxy_api::v1;
use http::{Method, StatusCode};

/// When a request is made again after it failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How many times more at most.
    pub attempts: u32,
    /// After 502, 503, 504, or no answer.
    pub gateway_errors: bool,
    /// After any 5xx.
    pub server_errors: bool,
    /// After a gRPC status that says "try again", whatever the method.
    pub grpc: bool,
    /// Methods that may be made again besides the idempotent ones.
    pub methods: Vec<Method>,
    /// The pause before the second try; doubled for each further one.
    pub base: Duration,
    /// Where doubling ends.
    pub max: Duration,
}

/// What came of a try that may have done something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried {
    /// An answer; with a gRPC status if that is the whole answer.
    Answered(StatusCode, Option<u8>),
    /// The connection ended before.
    Broke,
    /// The time for one try did.
    Late,
}

impl Retry {
    /// Whether a failure of this request could be followed by another try, so that its body has to be kept.
    pub fn concerns(&self, method: &Method, grpc: bool) -> bool {
        self.repeatable(method) || (grpc && self.grpc)
    }

    /// Whether another try follows.
    pub fn follows(&self, tried: Tried, method: &Method, grpc: bool) -> bool {
        let repeatable = self.repeatable(method);
        let call = grpc && self.grpc;
        match tried {
            // UNAVAILABLE, RESOURCE_EXHAUSTED: the server says that it did not do it, or not now.
            Tried::Answered(_, Some(14 | 8)) if call => true,
            Tried::Answered(status, _) => {
                repeatable
                    && ((self.server_errors && status.is_server_error())
                        || (self.gateway_errors && matches!(status.as_u16(), 502..=504)))
            }
            // What the caller would be told is UNAVAILABLE as well.
            Tried::Broke => call || (repeatable && self.gateway_errors),
            Tried::Late => (call || repeatable) && self.gateway_errors,
        }
    }

    fn repeatable(&self, method: &Method) -> bool {
        method.is_idempotent() || self.methods.contains(method)
    }
}

impl TryFrom<v1::Retry> for Retry {
    type Error = String;

    fn try_from(message: v1::Retry) -> Result<Self, String> {
        let methods = message
            .methods
            .into_iter()
            .map(|method| method.parse().map_err(|_| format!("retry: {method:?} is not a method")))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            attempts: message.attempts,
            gateway_errors: message.gateway_errors,
            server_errors: message.server_errors,
            grpc: message.grpc,
            methods,
            base: Duration::from_millis(message.backoff_base_ms),
            max: Duration::from_millis(message.backoff_max_ms),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry(change: impl FnOnce(&mut v1::Retry)) -> Retry {
        let mut message = v1::Retry { attempts: 2, gateway_errors: true, ..v1::Retry::default() };
        change(&mut message);
        message.try_into().unwrap()
    }

    fn answered(status: u16) -> Tried {
        Tried::Answered(StatusCode::from_u16(status).unwrap(), None)
    }

    #[test]
    fn what_may_not_be_done_twice_is_not_unless_it_is_named() {
        let careful = retry(|_| {});
        let named = retry(|r| r.methods = vec!["POST".into()]);
        for tried in [answered(503), Tried::Broke, Tried::Late] {
            assert!(careful.follows(tried, &Method::PUT, false));
            assert!(!careful.follows(tried, &Method::POST, false));
            assert!(named.follows(tried, &Method::POST, false));
            assert!(!named.follows(tried, &Method::PATCH, false));
        }
        assert!(!careful.concerns(&Method::POST, true) && careful.concerns(&Method::GET, false));
    }

    #[test]
    fn only_the_failures_that_were_asked_for() {
        let gateway = retry(|_| {});
        let server = retry(|r| r.server_errors = true);
        for (status, by_gateway, by_server) in [
            (200, false, false),
            (404, false, false),
            (429, false, false),
            (500, false, true),
            (502, true, true),
            (504, true, true),
        ] {
            assert_eq!(gateway.follows(answered(status), &Method::GET, false), by_gateway, "{status}");
            assert_eq!(server.follows(answered(status), &Method::GET, false), by_server, "{status}");
        }
        let grpc = retry(|r| (r.gateway_errors, r.grpc) = (false, true));
        assert!(!grpc.follows(Tried::Broke, &Method::GET, false));
    }

    #[test]
    fn a_call_of_grpc_is_made_again_where_its_status_says_so() {
        let grpc = retry(|r| (r.gateway_errors, r.grpc) = (false, true));
        let status = |status| Tried::Answered(StatusCode::OK, Some(status));
        for (code, again) in [(0, false), (4, false), (8, true), (13, false), (14, true)] {
            assert_eq!(grpc.follows(status(code), &Method::POST, true), again, "{code}");
            assert!(!grpc.follows(status(code), &Method::POST, false), "not a call");
        }
        assert!(grpc.follows(Tried::Broke, &Method::POST, true));
        assert!(!grpc.follows(Tried::Late, &Method::POST, true));
    }
}
