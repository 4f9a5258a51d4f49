//! See the README.
pub mod backoff;
pub mod identity;
