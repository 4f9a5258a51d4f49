//! What a request must look like.

/// A kind of request: all that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// On the path without its query.
    pub path: Option<PathMatch>,
    /// On headers, all of them.
    pub headers: Vec<HeaderMatch>,
    /// Upper case, any of them; none: every method.
    pub methods: Vec<String>,
}

/// What a path must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// This path and no other.
    Exact(String),
    /// By whole path elements: `/a` matches `/a` and `/a/b`, not `/ab`.
    Prefix(String),
    /// The whole path matches; Rust regex syntax, known to compile.
    Regex(String),
}

/// What a header must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Lower case.
    pub name: String,
    /// What its value must be.
    pub value: StringMatch,
    /// The entry holds where the value does not match.
    pub not: bool,
}

/// What a value must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StringMatch {
    /// This value.
    Exact(String),
    /// It begins so.
    Prefix(String),
    /// The whole value matches; Rust regex syntax, known to compile.
    Regex(String),
    /// Any value.
    Present,
}
