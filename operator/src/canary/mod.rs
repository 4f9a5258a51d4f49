//! Releases by evidence.
