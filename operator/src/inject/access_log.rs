//! Which requests sidecars write into their logs.

use std::str::FromStr;

/// `off`, `failures`, `all`, or a percentage; checked here, so that a mistake stops the operator and not every sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog(String);

/// Why a text is none of these.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of off, failures, all, or a percentage from 0% to 100% (of what did not fail)")]
pub struct Unknown(String);

impl FromStr for AccessLog {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        let percent = || text.strip_suffix('%').and_then(|percent| percent.parse::<f64>().ok());
        if ["off", "failures", "all"].contains(&text) || percent().is_some_and(|p| (0.0..=100.0).contains(&p)) {
            return Ok(Self(text.to_owned()));
        }
        Err(Unknown(text.to_owned()))
    }
}

impl AccessLog {
    /// As the sidecar takes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_sidecar_would_not_understand_is_refused() {
        for good in ["off", "failures", "all", "0%", "0.5%", "100%"] {
            assert_eq!(good.parse::<AccessLog>().unwrap().as_str(), good);
        }
        for bad in ["", "on", "1", "101%", "-1%", "NaN%", "%"] {
            assert!(bad.parse::<AccessLog>().is_err(), "{bad}");
        }
    }
}
