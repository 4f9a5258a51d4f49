//! Releases by evidence.

pub mod bounds;
pub mod counts;
pub mod judge;
