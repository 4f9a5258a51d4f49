//! What a token claims.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};

use super::{LEEWAY, Refusal};

/// A moment beyond which no token is meant to be valid, in seconds: a number of fractions is exact up to here.
const LATEST: f64 = 9_007_199_254_740_992.0;

/// What one claims, whom an issuer vouches for.
#[derive(Debug, PartialEq)]
pub struct Claims {
    said: Said,
    issuer: Arc<str>,
    forward: bool,
}

impl Claims {
    /// Whether `claim` is this text, a whole number or truth value that is written so, or a list that has such an element. `scope` is a list that is
    /// separated by spaces (RFC 8693 section 4.2). Numbers with fractions and objects are like nothing.
    pub fn has(&self, claim: &str, value: &str) -> bool {
        match self.said.members.0.get(claim) {
            None => false,
            Some(Claim::Text(text)) if claim == "scope" => text.split(' ').any(|scope| scope == value),
            Some(Claim::List(elements)) => elements.iter().any(|element| element.reads(value)),
            Some(single) => single.reads(value),
        }
    }

    /// As the policy names it, who vouches.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// For whom (`sub`), as the issuer says it: for logs, which escape and cut it.
    pub fn subject(&self) -> Option<&str> {
        self.said.text("sub")
    }

    /// Whether the application is to get the token.
    pub fn forward(&self) -> bool {
        self.forward
    }

    /// Whether it is valid at a time, in seconds since 1970.
    pub(super) fn valid_at(&self, now: u64) -> Result<(), Refusal> {
        self.said.valid_at(now)
    }

    /// How many there are, with the elements of lists. Each takes some sixty bytes, however short it is written.
    pub(super) fn values(&self) -> usize {
        self.said.members.0.values().map(Claim::values).sum()
    }
}

/// The same before anybody vouched.
#[derive(Debug, PartialEq)]
pub(super) struct Said {
    members: Members,
    expires: u64,
    /// The later of `nbf` and `iat`.
    begins: u64,
}

impl Said {
    pub(super) fn new(members: Members) -> Result<Self, Refusal> {
        let moment = |name| members.0.get(name).map(|claim| claim.moment().ok_or(Refusal::Malformed)).transpose();
        let expires = moment("exp")?.ok_or(Refusal::NoExpiry)?;
        let begins = moment("nbf")?.max(moment("iat")?).unwrap_or_default();
        Ok(Self { members, expires, begins })
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self.members.0.get(name) {
            Some(Claim::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// Whether `aud` is or has this (RFC 7519 section 4.1.3).
    pub(super) fn is_for(&self, audience: &str) -> bool {
        let is = |claim: &Claim| matches!(claim, Claim::Text(text) if **text == *audience);
        match self.members.0.get("aud") {
            Some(Claim::List(all)) => all.iter().any(is),
            one => one.is_some_and(is),
        }
    }

    pub(super) fn valid_at(&self, now: u64) -> Result<(), Refusal> {
        if now >= self.expires.saturating_add(LEEWAY) {
            Err(Refusal::Expired)
        } else if now.saturating_add(LEEWAY) < self.begins {
            Err(Refusal::NotYetValid)
        } else {
            Ok(())
        }
    }

    pub(super) fn by(self, issuer: Arc<str>, forward: bool) -> Claims {
        Claims { said: self, issuer, forward }
    }
}

/// Of an object in JSON, each once. Those of objects within it decide nothing, and may be there twice.
#[derive(Debug, PartialEq)]
pub(super) struct Members(pub(super) BTreeMap<Box<str>, Claim>);

impl Members {
    pub(super) fn parse(json: &[u8]) -> Result<Self, Refusal> {
        let members: Once = serde_json::from_slice(json).map_err(|_| Refusal::Malformed)?;
        members.0.map(Self).ok_or(Refusal::Duplicate)
    }
}

/// A value, as far as anything compares it.
#[derive(Debug, PartialEq)]
pub(super) enum Claim {
    Text(Box<str>),
    /// As it is written, in its one way.
    Whole(Box<str>),
    Fraction(f64),
    Truth(bool),
    List(Vec<Claim>),
    /// An object or null.
    Other,
}

impl Claim {
    fn reads(&self, value: &str) -> bool {
        match self {
            Self::Text(text) | Self::Whole(text) => **text == *value,
            Self::Truth(truth) => value == if *truth { "true" } else { "false" },
            Self::Fraction(_) | Self::List(_) | Self::Other => false,
        }
    }

    fn values(&self) -> usize {
        1 + if let Self::List(elements) = self { elements.iter().map(Self::values).sum() } else { 0 }
    }

    /// In seconds since 1970, whole ones.
    fn moment(&self) -> Option<u64> {
        match self {
            Self::Whole(seconds) => seconds.parse().ok(),
            Self::Fraction(seconds) if (0.0..LATEST).contains(seconds) => Some(*seconds as u64),
            _ => None,
        }
    }
}

/// The members of an object; `None`: one occurs twice.
struct Once(Option<BTreeMap<Box<str>, Claim>>);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Once;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Once, A::Error> {
                let mut members = BTreeMap::new();
                let mut once = true;
                while let Some((name, value)) = map.next_entry::<Box<str>, Claim>()? {
                    once &= members.insert(name, value).is_none();
                }
                Ok(Once(once.then_some(members)))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

impl<'de> Deserialize<'de> for Claim {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Claim;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_str<E>(self, text: &str) -> Result<Claim, E> {
                Ok(Claim::Text(text.into()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Claim, E> {
                Ok(Claim::Whole(number.to_string().into()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Claim, E> {
                Ok(Claim::Whole(number.to_string().into()))
            }

            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Claim, E> {
                if number.is_finite() { Ok(Claim::Fraction(number)) } else { Err(E::custom("no number")) }
            }

            fn visit_bool<E>(self, truth: bool) -> Result<Claim, E> {
                Ok(Claim::Truth(truth))
            }

            fn visit_unit<E>(self) -> Result<Claim, E> {
                Ok(Claim::Other)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Claim, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = seq.next_element()? {
                    elements.push(element);
                }
                Ok(Claim::List(elements))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claim, A::Error> {
                // Read, and not skipped: what is skipped is not held to be text and numbers.
                while map.next_entry::<Box<str>, Claim>()?.is_some() {}
                Ok(Claim::Other)
            }
        }
        deserializer.deserialize_any(Any)
    }
}
