//! Why this proxy answered a request itself.

use http::StatusCode;

/// Every cause for which the proxy answers instead of an endpoint: the value of the `fairlead-proxy` response header, the word in logs
/// and the `reason` label of metrics. There are no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The request breaks the rules of its protocol in a way that two servers may read differently.
    MalformedRequest,
    /// The caller came in plain, and policy demands authentication since.
    PlaintextRefused,
    /// The rules of the workload do not allow it.
    PolicyDenied,
    /// The request carries a token that is not valid.
    TokenRefused,
    /// The route's backend refers to something that does not exist.
    UnresolvedBackend,
    /// The chosen backend has no ready endpoint, or every weight is 0.
    NoEndpoints,
    /// No endpoint could be connected to; nothing of the request was sent.
    ConnectFailure,
    /// The endpoint closed the connection before it answered.
    UpstreamReset,
    /// The route's request timeout passed, or that of one try, or the deadline that came with the request.
    RequestTimeout,
    /// Nothing of request or response moved for as long as the route allows.
    IdleTimeout,
    /// As much is under way as the limits of the endpoint set allow.
    Overload,
    /// The caller is over a rate limit of the Service.
    RateLimited,
    /// The head of the request has more or longer lines than the proxy reads.
    HeadTooLarge,
    /// The target of the request is longer than the proxy reads.
    TargetTooLong,
    /// The head of the request did not come in time.
    HeadTimeout,
    /// The body of the request came too slowly, or not at all.
    BodyTimeout,
    /// The route redirects.
    Redirect,
    /// The route responds.
    Respond,
    /// The route says what pages of other origins may ask, and a browser asked.
    CorsPreflight,
    /// The route has requests fail on purpose.
    FaultAbort,
}

impl Reason {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 20] = [
        Self::MalformedRequest,
        Self::PlaintextRefused,
        Self::PolicyDenied,
        Self::TokenRefused,
        Self::UnresolvedBackend,
        Self::NoEndpoints,
        Self::ConnectFailure,
        Self::UpstreamReset,
        Self::RequestTimeout,
        Self::IdleTimeout,
        Self::Overload,
        Self::RateLimited,
        Self::HeadTooLarge,
        Self::TargetTooLong,
        Self::HeadTimeout,
        Self::BodyTimeout,
        Self::Redirect,
        Self::Respond,
        Self::CorsPreflight,
        Self::FaultAbort,
    ];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MalformedRequest => "malformed-request",
            Self::PlaintextRefused => "plaintext-refused",
            Self::PolicyDenied => "policy-denied",
            Self::TokenRefused => "token-refused",
            Self::UnresolvedBackend => "unresolved-backend",
            Self::NoEndpoints => "no-endpoints",
            Self::ConnectFailure => "connect-failure",
            Self::UpstreamReset => "upstream-reset",
            Self::RequestTimeout => "request-timeout",
            Self::IdleTimeout => "idle-timeout",
            Self::Overload => "overload",
            Self::RateLimited => "rate-limited",
            Self::HeadTooLarge => "head-too-large",
            Self::TargetTooLong => "target-too-long",
            Self::HeadTimeout => "head-timeout",
            Self::BodyTimeout => "body-timeout",
            Self::Redirect => "redirect",
            Self::Respond => "respond",
            Self::CorsPreflight => "cors-preflight",
            Self::FaultAbort => "fault-abort",
        }
    }

    /// The reason of this word.
    pub fn parse(word: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str().as_bytes() == word)
    }

    /// What the caller gets, where no route says another status.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::MalformedRequest => StatusCode::BAD_REQUEST,
            Self::PlaintextRefused | Self::PolicyDenied => StatusCode::FORBIDDEN,
            Self::TokenRefused => StatusCode::UNAUTHORIZED,
            // The Gateway API asks for 500 here.
            Self::UnresolvedBackend => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NoEndpoints | Self::ConnectFailure | Self::Overload | Self::FaultAbort => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::UpstreamReset => StatusCode::BAD_GATEWAY,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::RequestTimeout | Self::IdleTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadTimeout | Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Redirect => StatusCode::FOUND,
            Self::Respond => StatusCode::OK,
            Self::CorsPreflight => StatusCode::NO_CONTENT,
        }
    }

    /// Whether the connection that the request came over carries no other.
    pub(super) const fn ends_connection(self) -> bool {
        matches!(
            self,
            Self::MalformedRequest
                | Self::PlaintextRefused
                | Self::HeadTooLarge
                | Self::TargetTooLong
                | Self::HeadTimeout
                | Self::BodyTimeout
        )
    }

    /// What a gRPC caller gets: a code of the gRPC specification.
    pub const fn grpc_status(self) -> u8 {
        match self {
            // INTERNAL
            Self::MalformedRequest
            | Self::HeadTooLarge
            | Self::TargetTooLong
            | Self::HeadTimeout
            | Self::BodyTimeout => 13,
            // UNAUTHENTICATED
            Self::PlaintextRefused | Self::TokenRefused => 16,
            // PERMISSION_DENIED
            Self::PolicyDenied => 7,
            // DEADLINE_EXCEEDED
            Self::RequestTimeout | Self::IdleTimeout => 4,
            // RESOURCE_EXHAUSTED
            Self::Overload | Self::RateLimited => 8,
            // UNAVAILABLE
            Self::UnresolvedBackend
            | Self::NoEndpoints
            | Self::ConnectFailure
            | Self::UpstreamReset
            | Self::FaultAbort => 14,
            // UNKNOWN
            Self::Redirect | Self::Respond | Self::CorsPreflight => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_in_the_order_of_its_discriminants() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            assert_eq!(Reason::parse(reason.as_str().as_bytes()), Some(reason));
        }
    }

    #[test]
    fn the_page_about_reasons_says_what_is_so() {
        let page = include_str!("../../../docs/reasons.md");
        let rows: Vec<Vec<&str>> = page
            .lines()
            .filter(|line| line.starts_with("| `"))
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
            .collect();
        let told: Vec<&[&str]> = rows.iter().map(|row| &row[..3]).collect();
        let so: Vec<[String; 3]> = Reason::ALL
            .into_iter()
            .map(|r| [format!("`{}`", r.as_str()), r.status().as_u16().to_string(), r.grpc_status().to_string()])
            .collect();
        assert_eq!(told, so, "docs/reasons.md has a row for each reason, in this order");
        assert!(rows.iter().all(|row| row.len() == 5 && row.iter().all(|cell| !cell.is_empty())), "{rows:?}");
    }
}
