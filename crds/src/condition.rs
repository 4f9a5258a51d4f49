//! Conditions: the three that every kind carries, and how they are kept from changing without cause.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The longest message that the schema takes; longer ones are cut, so that a quoted error cannot make a status unwritable.
const MAX_MESSAGE: usize = 1024;

/// What a condition is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionType {
    /// The object is valid and in force. False: why not, and what was kept instead.
    Accepted,
    /// Everything that it names exists.
    ResolvedRefs,
    /// The proxies apply it: `12/12 proxies`.
    Programmed,
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What to say under a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// `None` is `Unknown`.
    pub status: Option<bool>,
    /// `CamelCase`, for programs.
    pub reason: &'static str,
    /// One sentence for people; where something is wrong, with what to do about it.
    pub message: String,
}

impl Fact {
    /// A condition that holds.
    pub fn holds(reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: Some(true), reason, message: message.into() }
    }

    /// A condition that does not hold.
    pub fn fails(reason: &'static str, message: impl Into<String>) -> Self {
        Self { status: Some(false), reason, message: message.into() }
    }
}

/// Puts `fact` into `conditions`. The transition time changes only where the status flips, so that writing the same twice is no
/// change at all. Answers whether anything changed.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    type_: ConditionType,
    fact: &Fact,
    observed_generation: Option<i64>,
    now: &Time,
) -> bool {
    let type_ = type_.to_string();
    let status = match fact.status {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let known = conditions.iter_mut().find(|condition| condition.type_ == type_);
    let last_transition_time = match &known {
        Some(known) if known.status == status => known.last_transition_time.clone(),
        _ => now.clone(),
    };
    let next = Condition {
        type_,
        status: status.to_owned(),
        reason: fact.reason.to_owned(),
        message: fact.message.chars().take(MAX_MESSAGE).collect(),
        observed_generation,
        last_transition_time,
    };
    match known {
        Some(known) if *known == next => return false,
        Some(known) => *known = next,
        None => conditions.push(next),
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(seconds).unwrap())
    }

    #[test]
    fn the_same_twice_is_no_change() {
        let mut conditions = Vec::new();
        let fact = || Fact::holds("Accepted", "valid");
        assert!(set_condition(&mut conditions, ConditionType::Accepted, &fact(), Some(1), &at(1)));
        assert!(!set_condition(&mut conditions, ConditionType::Accepted, &fact(), Some(1), &at(2)));
        assert_eq!(conditions[0].last_transition_time, at(1));
    }

    #[test]
    fn the_time_moves_only_when_the_status_flips() {
        let mut conditions = Vec::new();
        let programmed = ConditionType::Programmed;
        set_condition(&mut conditions, programmed, &Fact::fails("Pending", "1/2 proxies"), Some(1), &at(1));
        assert!(set_condition(&mut conditions, programmed, &Fact::fails("Pending", "1/3 proxies"), Some(1), &at(2)));
        assert_eq!(conditions[0].last_transition_time, at(1));
        assert!(set_condition(&mut conditions, programmed, &Fact::holds("Programmed", "3/3 proxies"), Some(1), &at(3)));
        assert_eq!(conditions[0].last_transition_time, at(3));
        assert_eq!(conditions.len(), 1);
    }

    #[test]
    fn a_long_message_is_cut() {
        let mut conditions = Vec::new();
        let fact = Fact::fails("Invalid", "é".repeat(5000));
        set_condition(&mut conditions, ConditionType::Accepted, &fact, None, &at(1));
        assert_eq!(conditions[0].message.chars().count(), MAX_MESSAGE);
    }
}
