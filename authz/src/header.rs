//! Values of headers, and the ways in which servers read them.
//!
//! Several lines of one name are one list (RFC 9110 section 5.3); some servers take the first of them, some the last, some split lines at
//! commas. [`may_match`] holds if any of that does, [`matches`] only for one line, which all read alike.

use http::HeaderName;
use regex::bytes::{Regex, RegexBuilder};

use crate::{request::Request, rule};

/// Bytes that one compiled pattern may take; the operator checks patterns with the same limit, so a proxy refuses only what a broken one
/// sends.
const REGEX_SIZE: usize = 256 * 1024;

/// What the value of a header must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValuePattern {
    /// This value.
    Exact(String),
    /// It begins so.
    Prefix(String),
    /// The whole value matches; Rust regex syntax.
    Regex(String),
    /// Any value.
    Present,
}

/// An expression of whole values. It has to be one by itself, so that `a)|(b` is no way out of that. The error is a sentence.
pub fn whole(pattern: &str) -> Result<Regex, String> {
    let compile = |text: &str| RegexBuilder::new(text).size_limit(REGEX_SIZE).build();
    compile(pattern)
        .and_then(|_| compile(&format!("^(?:{pattern})$")))
        .map_err(|error| format!("the pattern {pattern:?} does not compile: {error}"))
}

/// A [`rule::Header`], ready to be asked.
#[derive(Debug)]
pub(crate) struct Header {
    name: HeaderName,
    value: Value,
    not: bool,
}

#[derive(Debug)]
enum Value {
    Exact(String),
    Prefix(String),
    Regex(Regex),
    Present,
}

impl Header {
    /// The error is a sentence.
    pub(crate) fn compile(header: rule::Header) -> Result<Self, String> {
        let rule::Header { name, value, not } = header;
        let name: HeaderName = name.parse().map_err(|_| format!("{name:?} is no header"))?;
        if name == http::header::HOST {
            return Err("the host is not compared as a header, which servers read in many ways: use hosts".to_owned());
        }
        let value = match value {
            ValuePattern::Exact(exact) => Value::Exact(exact),
            ValuePattern::Prefix(prefix) => Value::Prefix(prefix),
            ValuePattern::Present => Value::Present,
            ValuePattern::Regex(pattern) => Value::Regex(whole(&pattern)?),
        };
        Ok(Self { name, value, not })
    }

    /// Whether it holds for any reader.
    pub(crate) fn may_hold(&self, request: &impl Request) -> bool {
        if self.not { !self.matches(request) } else { self.may_match(request) }
    }

    /// Whether it holds for every reader.
    pub(crate) fn holds(&self, request: &impl Request) -> bool {
        if self.not { !self.may_match(request) } else { self.matches(request) }
    }

    fn matches(&self, request: &impl Request) -> bool {
        let mut lines = request.header(&self.name);
        match (lines.next(), lines.next()) {
            (Some(line), None) => self.value.is(line),
            _ => false,
        }
    }

    fn may_match(&self, request: &impl Request) -> bool {
        let mut several = false;
        for (at, line) in request.header(&self.name).enumerate() {
            several = at > 0;
            if self.value.is(line) || line.split(|byte| *byte == b',').any(|part| self.value.is(part.trim_ascii())) {
                return true;
            }
        }
        // A list that came in several lines, which nobody does without need.
        several && {
            let lines: Vec<&[u8]> = request.header(&self.name).collect();
            self.value.is(&lines.join(&b","[..])) || self.value.is(&lines.join(&b", "[..]))
        }
    }
}

impl Value {
    fn is(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => value == exact.as_bytes(),
            Self::Prefix(prefix) => value.starts_with(prefix.as_bytes()),
            Self::Regex(regex) => regex.is_match(value),
            Self::Present => true,
        }
    }
}
