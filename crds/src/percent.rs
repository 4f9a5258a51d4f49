//! Percentages: numbers from 0 to 100, decimals allowed.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A part of a hundred. Always finite and within 0–100.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Percent(f64);

/// A number that is no percentage.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{0} is not a percentage: write a number from 0 to 100")]
pub struct OutOfRange(f64);

impl Percent {
    /// Nothing.
    pub const ZERO: Self = Self(0.0);

    /// For the defaults in this crate, which are whole.
    pub(crate) const fn whole(percent: u8) -> Self {
        assert!(percent <= 100);
        Self(percent as f64)
    }

    /// 0.5 %, the one default that is not whole.
    pub(crate) const fn half() -> Self {
        Self(0.5)
    }

    /// The number as a user writes it: 5 is 5 %.
    pub const fn value(self) -> f64 {
        self.0
    }

    /// As a share of one: 5 % is 0.05.
    pub fn fraction(self) -> f64 {
        self.0 / 100.0
    }
}

impl TryFrom<f64> for Percent {
    type Error = OutOfRange;

    fn try_from(value: f64) -> Result<Self, OutOfRange> {
        if (0.0..=100.0).contains(&value) { Ok(Self(value)) } else { Err(OutOfRange(value)) }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // `5`, not `5.0`: what is read back looks like what was written.
        if self.0.fract() == 0.0 { serializer.serialize_u8(self.0 as u8) } else { serializer.serialize_f64(self.0) }
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        f64::deserialize(deserializer)?.try_into().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Percent {
    fn schema_name() -> Cow<'static, str> {
        "Percent".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "number", "minimum": 0, "maximum": 100})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_stay_whole_and_decimals_stay() {
        for text in ["0", "5", "100", "0.5", "99.99"] {
            let percent: Percent = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&percent).unwrap(), text);
            assert_eq!(percent.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_share_is_refused() {
        for text in ["-1", "100.01", "1e9", "\"5\""] {
            assert!(serde_json::from_str::<Percent>(text).is_err(), "{text} was taken");
        }
        assert!(Percent::try_from(f64::NAN).is_err());
    }
}
