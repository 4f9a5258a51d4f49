//! Whether a request is one that a route speaks of.

use http::{HeaderName, header};
use regex::bytes::Regex;

use super::RequestHead;

/// All that is set must hold.
#[derive(Debug, Default)]
pub struct Match {
    /// `None`: every path.
    pub path: Option<PathMatch>,
    /// All of them.
    pub headers: Vec<HeaderMatch>,
    /// Any of them; none: every method.
    pub methods: Vec<String>,
}

/// What the path, without its query, must be.
#[derive(Debug)]
pub enum PathMatch {
    /// Byte for byte.
    Exact(String),
    /// By whole elements, as in the Gateway API: `/a` matches `/a`, `/a/` and `/a/b`, not `/ab`. Kept without its trailing slash.
    Prefix(String),
    /// Of the whole path.
    Regex(Regex),
}

/// What a header must be.
#[derive(Debug)]
pub struct HeaderMatch {
    /// `host` also stands for the `:authority` of HTTP/2.
    pub name: HeaderName,
    /// Compared with the value; several lines of one name count as one value joined by commas, as RFC 9110 section 5.3 reads them.
    pub value: ValueMatch,
    /// Holds where the value does not match, so also where the header is absent.
    pub not: bool,
}

/// What a value must be.
#[derive(Debug)]
pub enum ValueMatch {
    /// Byte for byte.
    Exact(Vec<u8>),
    /// Begins with these bytes.
    Prefix(Vec<u8>),
    /// Of the whole value.
    Regex(Regex),
    /// Anything.
    Present,
}

impl Match {
    /// Whether all that is set holds.
    pub fn matches(&self, head: &RequestHead<'_>) -> bool {
        (self.methods.is_empty() || self.methods.iter().any(|method| method == head.method()))
            && self.path.as_ref().is_none_or(|path| path.matches(head.path()))
            && self.headers.iter().all(|header| header.matches(head))
    }
}

impl PathMatch {
    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == exact,
            Self::Prefix(prefix) => {
                path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::Regex(regex) => regex.is_match(path.as_bytes()),
        }
    }
}

impl HeaderMatch {
    fn matches(&self, head: &RequestHead<'_>) -> bool {
        let mut lines = head.header(&self.name);
        let holds = match (lines.next(), lines.next()) {
            (None, _) if self.name == header::HOST => {
                head.authority().is_some_and(|authority| self.value.matches(authority.as_bytes()))
            }
            (None, _) => false,
            (Some(one), None) => self.value.matches(one),
            (Some(first), Some(second)) => {
                let mut joined = first.to_vec();
                for line in std::iter::once(second).chain(lines) {
                    joined.push(b',');
                    joined.extend_from_slice(line);
                }
                self.value.matches(&joined)
            }
        };
        holds != self.not
    }
}

impl ValueMatch {
    fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => value == exact.as_slice(),
            Self::Prefix(prefix) => value.starts_with(prefix),
            Self::Regex(regex) => regex.is_match(value),
            Self::Present => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;

    fn regex(pattern: &str) -> Regex {
        Regex::new(&format!("^(?:{pattern})$")).unwrap()
    }

    fn holds(entry: &Match, method: &Method, uri: &str, headers: &[(&str, &str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        entry.matches(&RequestHead::new(method, &uri.parse().unwrap(), &map))
    }

    fn path(path: PathMatch) -> Match {
        Match { path: Some(path), ..Match::default() }
    }

    fn header(name: &str, value: ValueMatch, not: bool) -> Match {
        Match {
            headers: vec![HeaderMatch { name: HeaderName::try_from(name).unwrap(), value, not }],
            ..Match::default()
        }
    }

    #[test]
    fn a_prefix_matches_whole_path_elements_only() {
        let entry = path(PathMatch::Prefix("/a".into()));
        for (uri, expected) in
            [("/a", true), ("/a/", true), ("/a/b", true), ("/a?x=1", true), ("/ab", false), ("/", false), ("/A", false)]
        {
            assert_eq!(holds(&entry, &Method::GET, uri, &[]), expected, "{uri}");
        }
        let everything = path(PathMatch::Prefix(String::new()));
        assert!(holds(&everything, &Method::GET, "/whatever", &[]));
    }

    #[test]
    fn exact_and_regex_look_at_the_whole_path_without_its_query() {
        let exact = path(PathMatch::Exact("/reviews/1".into()));
        assert!(holds(&exact, &Method::GET, "/reviews/1?full", &[]));
        assert!(!holds(&exact, &Method::GET, "/reviews/1/", &[]));
        let pattern = path(PathMatch::Regex(regex("/reviews/[0-9]+")));
        assert!(holds(&pattern, &Method::GET, "/reviews/17", &[]));
        assert!(!holds(&pattern, &Method::GET, "/reviews/17x", &[]));
    }

    #[test]
    fn every_part_of_an_entry_must_hold() {
        let entry = Match {
            path: Some(PathMatch::Prefix("/reviews".into())),
            headers: vec![HeaderMatch {
                name: "end-user".parse().unwrap(),
                value: ValueMatch::Exact(b"jason".to_vec()),
                not: false,
            }],
            methods: vec!["GET".into()],
        };
        let jason = [("end-user", "jason")];
        assert!(holds(&entry, &Method::GET, "/reviews/1", &jason));
        assert!(!holds(&entry, &Method::POST, "/reviews/1", &jason));
        assert!(!holds(&entry, &Method::GET, "/ratings/1", &jason));
        assert!(!holds(&entry, &Method::GET, "/reviews/1", &[("end-user", "jasonx")]));
    }

    #[test]
    fn not_turns_a_header_around_and_holds_where_it_is_absent() {
        let entry = header("env", ValueMatch::Exact(b"staging".to_vec()), true);
        assert!(holds(&entry, &Method::GET, "/", &[]));
        assert!(holds(&entry, &Method::GET, "/", &[("env", "prod")]));
        assert!(!holds(&entry, &Method::GET, "/", &[("env", "staging")]));
    }

    #[test]
    fn repeated_headers_are_one_value_joined_by_commas() {
        let lines = [("x", "a"), ("x", "b")];
        let joined = header("x", ValueMatch::Exact(b"a,b".to_vec()), false);
        assert!(holds(&joined, &Method::GET, "/", &lines));
        let one = header("x", ValueMatch::Exact(b"b".to_vec()), false);
        assert!(!holds(&one, &Method::GET, "/", &lines));
        let present = header("x", ValueMatch::Present, false);
        assert!(holds(&present, &Method::GET, "/", &lines));
    }

    #[test]
    fn host_stands_for_the_authority_too() {
        let entry = header("host", ValueMatch::Exact(b"reviews:9080".to_vec()), false);
        assert!(holds(&entry, &Method::GET, "http://reviews:9080/", &[]));
        assert!(holds(&entry, &Method::GET, "/", &[("host", "reviews:9080")]));
        assert!(!holds(&entry, &Method::GET, "http://ratings:9080/", &[]));
    }
}
