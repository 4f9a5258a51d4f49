//! What happens to the requests of a route on their way.

/// What happens to the requests of a route on their way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// On the way to the endpoint.
    pub request_headers: HeaderChanges,
    /// On the way back.
    pub response_headers: HeaderChanges,
    /// Of the target.
    pub rewrite: Option<Rewrite>,
    /// Instead of an endpoint's.
    pub answer: Option<Answer>,
    /// What pages of other origins may ask.
    pub cors: Option<Cors>,
    /// Made on purpose.
    pub fault: Option<Fault>,
    /// Keeps users with a backend.
    pub stickiness: Option<Stickiness>,
}

/// Changes of headers, in this order. Names are in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    /// Lines that go.
    pub remove: Vec<String>,
    /// Names and their only values.
    pub set: Vec<(String, String)>,
    /// Lines that come.
    pub add: Vec<(String, String)>,
}

/// Changes of a request's target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// Without the query.
    pub path: Option<PathChange>,
    /// With its port, if it has one; empty: the caller's.
    pub host: String,
}

/// Another path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// In place of the prefix that matched.
    Prefix(String),
    /// In place of all of it.
    Full(String),
}

/// An answer without an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Sends the caller elsewhere.
    Redirect(Redirect),
    /// Says it all.
    Respond {
        /// 200–599.
        status: u16,
        /// May be empty.
        body: String,
    },
}

/// Where a caller is sent. What is empty stays as the caller wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redirect {
    /// http or https.
    pub scheme: String,
    /// Without a port.
    pub host: String,
    /// 0: that of the scheme, or the caller's.
    pub port: u16,
    /// Without the query.
    pub path: Option<PathChange>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// What pages of other origins may ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors {
    /// As users write them.
    pub allow_origins: Vec<String>,
    /// Upper case, or `*`.
    pub allow_methods: Vec<String>,
    /// Lower case, or `*`.
    pub allow_headers: Vec<String>,
    /// Lower case, or `*`.
    pub expose_headers: Vec<String>,
    /// Seconds.
    pub max_age_s: Option<u64>,
    /// Whether cookies may come along.
    pub allow_credentials: bool,
}

/// Faults; shares of requests in millionths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// Of requests that wait.
    pub delay_share: u32,
    /// How long.
    pub delay_ms: u64,
    /// Of requests that fail.
    pub abort_share: u32,
    /// 400–599.
    pub abort_status: u16,
    /// 0: what stands for the status.
    pub abort_grpc_status: u8,
}

/// A cookie that names a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stickiness {
    /// The cookie's name.
    pub cookie: String,
    /// Seconds; `None`: until the browser is closed.
    pub max_age_s: Option<u64>,
}
