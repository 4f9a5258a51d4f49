//! Lists of ports, as annotations give them: `22,8000-8080`.

use std::{fmt, ops::RangeInclusive, str::FromStr};

/// Each range is a rule that a new connection may run through; nobody lists more by hand.
const MAX_RANGES: usize = 64;

/// Why a list does not parse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortsError {
    /// Not a port or range.
    #[error("{0:?} is not a port (1 to 65535) or a range such as 8000-8080")]
    Entry(String),
    /// A range that ends before it begins.
    #[error("the range {0} ends before it begins")]
    Backwards(String),
    /// Over the bound.
    #[error("a list of ports has at most {MAX_RANGES} entries")]
    TooMany,
}

/// Ports, as ascending ranges that do not touch each other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PortRanges(Vec<RangeInclusive<u16>>);

impl PortRanges {
    /// Of single ports.
    pub fn of(ports: impl IntoIterator<Item = u16>) -> Self {
        Self::merge(ports.into_iter().map(|port| port..=port).collect())
    }

    /// These and those.
    #[must_use]
    pub fn and(&self, more: &Self) -> Self {
        Self::merge(self.0.iter().chain(&more.0).cloned().collect())
    }

    /// Ascending.
    pub fn iter(&self) -> impl Iterator<Item = &RangeInclusive<u16>> {
        self.0.iter()
    }

    fn merge(mut ranges: Vec<RangeInclusive<u16>>) -> Self {
        ranges.sort_unstable_by_key(|range| *range.start());
        let mut merged: Vec<RangeInclusive<u16>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if *range.start() <= last.end().saturating_add(1) => {
                    *last = *last.start()..=*last.end().max(range.end());
                }
                _ => merged.push(range),
            }
        }
        Self(merged)
    }
}

impl FromStr for PortRanges {
    type Err = PortsError;

    fn from_str(text: &str) -> Result<Self, PortsError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        if text.split(',').count() > MAX_RANGES {
            return Err(PortsError::TooMany);
        }
        text.split(',')
            .map(|entry| {
                let bad = || PortsError::Entry(entry.chars().take(40).collect());
                let (start, end) = entry.split_once('-').unwrap_or((entry, entry));
                let start = port(start).ok_or_else(bad)?;
                let end = port(end).ok_or_else(bad)?;
                if start > end {
                    return Err(PortsError::Backwards(entry.to_owned()));
                }
                Ok(start..=end)
            })
            .collect::<Result<_, _>>()
            .map(Self::merge)
    }
}

/// One spelling per port: digits alone, no zero in front.
fn port(text: &str) -> Option<u16> {
    let plain = !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

impl fmt::Display for PortRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{}", range.start())?;
            if range.start() != range.end() {
                write!(f, "-{}", range.end())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_parse_and_overlaps_merge() {
        for (text, expected) in [
            ("", ""),
            ("22", "22"),
            ("8000-8080,22", "22,8000-8080"),
            ("1,2,3", "1-3"),
            ("5-10,7-8,9-20", "5-20"),
            ("65535,65534-65535", "65534-65535"),
            ("1-65535", "1-65535"),
        ] {
            assert_eq!(text.parse::<PortRanges>().unwrap().to_string(), expected);
        }
        let ports = PortRanges::of([15001, 15000, 15020]);
        assert_eq!(ports.to_string(), "15000-15001,15020");
        assert_eq!(ports.and(&"80".parse().unwrap()).to_string(), "80,15000-15001,15020");
    }

    #[test]
    fn whatever_else_an_annotation_holds_is_refused_by_name() {
        for text in [
            "0",
            "65536",
            "-1",
            "+80",
            "080",
            " 80",
            "80 ",
            "80, 81",
            "80,",
            ",",
            "1-",
            "-",
            "1-2-3",
            "0x50",
            "http",
            "80;accept",
            "80\n81",
            "$(id)",
            "\u{0668}\u{0660}",
            "1e3",
            "80\0",
        ] {
            let error = text.parse::<PortRanges>().unwrap_err();
            assert!(matches!(error, PortsError::Entry(_)), "{text:?}: {error}");
        }
        assert_eq!("9-8".parse::<PortRanges>(), Err(PortsError::Backwards("9-8".into())));
        let many = vec!["1"; 65].join(",");
        assert_eq!(many.parse::<PortRanges>(), Err(PortsError::TooMany));
    }
}
