//! Cookies that keep users with a backend.

use std::fmt::Write as _;

use http::HeaderValue;

use crate::route::{Split, Target};

/// A cookie and what its values stand for.
#[derive(Debug)]
pub struct Stickiness {
    /// The cookie's name.
    pub cookie: String,
    parts: Vec<Part>,
    // Into `parts`.
    choice: Split<usize>,
}

/// What one value stands for.
#[derive(Debug)]
pub struct Part {
    value: String,
    /// What gives a user the value.
    pub set_cookie: HeaderValue,
    /// Where its requests go.
    pub split: Split,
}

impl Stickiness {
    /// From values and the backends that each stands for.
    pub(super) fn new(
        cookie: String,
        max_age_s: Option<u64>,
        parts: Vec<(String, Vec<(u32, Target)>)>,
    ) -> Result<Self, String> {
        let weights: Vec<u64> =
            parts.iter().map(|(_, targets)| targets.iter().map(|(weight, _)| u64::from(*weight)).sum()).collect();
        let mut compiled = Vec::with_capacity(parts.len());
        for (value, targets) in parts {
            // Scripts have no use for it, and other sites' requests need not carry it.
            let mut text = format!("{cookie}={value}; Path=/; HttpOnly; SameSite=Lax");
            if let Some(seconds) = max_age_s {
                let _ = write!(text, "; Max-Age={seconds}");
            }
            let set_cookie = HeaderValue::try_from(text).map_err(|_| format!("{cookie:?} is not a cookie's name"))?;
            compiled.push(Part { value, set_cookie, split: Split::new(targets) });
        }
        let weights = weights.into_iter().map(|weight| u32::try_from(weight).unwrap_or(u32::MAX));
        Ok(Self {
            cookie,
            parts: compiled,
            choice: Split::new(weights.enumerate().map(|(index, weight)| (weight, index))),
        })
    }

    /// The part that a cookie's value stands for. A value that nobody gave out stands for none, nor does one whose backends are given no
    /// requests any more.
    pub fn known(&self, value: &[u8]) -> Option<&Part> {
        self.parts.iter().find(|part| part.value.as_bytes() == value && !part.split.is_empty())
    }

    /// The part for a user who has no value yet; `None` where every weight is 0.
    pub fn choose(&self, random: u64) -> Option<&Part> {
        self.choice.choose(random).and_then(|index| self.parts.get(*index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sticky(weights: [u32; 3]) -> Stickiness {
        let parts = vec![
            ("aa".to_owned(), vec![(weights[0], Target::Set(0)), (weights[1], Target::Set(1))]),
            ("bb".to_owned(), vec![(weights[2], Target::Set(2))]),
        ];
        Stickiness::new("c".into(), Some(3600), parts).unwrap()
    }

    #[test]
    fn a_value_keeps_its_user_among_its_own_backends() {
        let sticky = sticky([1, 1, 2]);
        for random in 0..10 {
            assert_ne!(sticky.known(b"aa").unwrap().split.choose(random), Some(&Target::Set(2)));
            assert_eq!(sticky.known(b"bb").unwrap().split.choose(random), Some(&Target::Set(2)));
        }
        assert!(sticky.known(b"cc").is_none());
        assert!(sticky.known(b"").is_none());
    }

    #[test]
    fn who_has_no_value_is_shared_out_by_weight_and_told_its_own() {
        let sticky = sticky([1, 1, 2]);
        let cookies: Vec<_> =
            (0..4).map(|random| sticky.choose(random).unwrap().set_cookie.to_str().unwrap().to_owned()).collect();
        assert_eq!(cookies.iter().filter(|cookie| cookie.starts_with("c=aa; ")).count(), 2);
        assert_eq!(cookies[3], "c=bb; Path=/; HttpOnly; SameSite=Lax; Max-Age=3600");
    }

    #[test]
    fn a_backend_that_gets_nothing_any_more_lets_its_users_go() {
        let sticky = sticky([1, 0, 0]);
        assert!(sticky.known(b"bb").is_none());
        assert!((0..9).all(|random| sticky.choose(random).unwrap().value == "aa"));
    }
}
