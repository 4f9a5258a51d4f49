//! Durations as the Gateway API writes them (GEP-2257): `5s`, `250ms`, `1h30m`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What the schema demands, and what [`Duration::from_str`] parses.
const PATTERN: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";

/// Four parts of five digits and a unit of two.
const MAX_LENGTH: usize = 28;

/// A span of time with a resolution of one millisecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(std::time::Duration);

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a duration: write up to four whole numbers (of at most 5 digits), each with a unit h, m, s or ms, such as 5s or 1m30s"
)]
pub struct ParseDurationError(String);

impl Duration {
    /// The longest that can be built this way is 49 days, well within what can be written.
    pub const fn from_millis(millis: u32) -> Self {
        Self(std::time::Duration::from_millis(millis as u64))
    }

    /// For timers.
    pub const fn as_std(self) -> std::time::Duration {
        self.0
    }
}

impl From<Duration> for std::time::Duration {
    fn from(duration: Duration) -> Self {
        duration.0
    }
}

impl FromStr for Duration {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The text goes into the error, hence into status: bounded like everything that a user writes.
        let refused = || ParseDurationError(text.chars().take(MAX_LENGTH).collect());
        let mut rest = text;
        let mut total = 0u64;
        let mut parts = 0;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            if digits == 0 || digits > 5 || parts == 4 {
                return Err(refused());
            }
            let number: u64 = rest[..digits].parse().map_err(|_| refused())?;
            rest = &rest[digits..];
            let (unit, millis) = if rest.starts_with("ms") {
                (2, 1)
            } else {
                match rest.as_bytes().first() {
                    Some(b'h') => (1, 3_600_000),
                    Some(b'm') => (1, 60_000),
                    Some(b's') => (1, 1_000),
                    _ => return Err(refused()),
                }
            };
            rest = &rest[unit..];
            total += number * millis;
            parts += 1;
        }
        if parts == 0 {
            return Err(refused());
        }
        Ok(Self(std::time::Duration::from_millis(total)))
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        if millis == 0 {
            return f.write_str("0s");
        }
        let parts = [
            (millis / 3_600_000, "h"),
            (millis / 60_000 % 60, "m"),
            (millis / 1_000 % 60, "s"),
            (millis % 1_000, "ms"),
        ];
        for (number, unit) in parts {
            if number > 0 {
                write!(f, "{number}{unit}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": PATTERN, "maxLength": MAX_LENGTH})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_gateway_api_allows() {
        for (text, millis) in [
            ("0s", 0),
            ("5s", 5_000),
            ("250ms", 250),
            ("1m", 60_000),
            ("1h30m", 5_400_000),
            ("1h1m1s1ms", 3_661_001),
            ("99999h", 359_996_400_000),
        ] {
            assert_eq!(text.parse::<Duration>().unwrap().as_std().as_millis(), millis, "{text}");
        }
    }

    #[test]
    fn refuses_everything_else() {
        for text in ["", "5", "s", "-5s", "1.5s", "5 s", "100000s", "1d", "5S", "1h1h1h1h1h", "1s ", "٣s", "1us"] {
            assert!(text.parse::<Duration>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn is_written_in_a_form_that_is_read_back() {
        for text in ["0s", "5s", "250ms", "1h30m", "1m30s", "99999h59m59s999ms"] {
            let duration: Duration = text.parse().unwrap();
            assert_eq!(duration.to_string(), text);
            assert_eq!(serde_json::to_value(duration).unwrap(), serde_json::json!(text));
        }
        assert_eq!("90s".parse::<Duration>().unwrap().to_string(), "1m30s");
    }

    #[test]
    fn an_error_quotes_a_bounded_part_of_the_text() {
        let error = "9".repeat(10_000).parse::<Duration>().unwrap_err();
        assert!(error.to_string().len() < 300, "{error}");
    }
}
