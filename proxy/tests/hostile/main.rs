//! Peers that mean harm. Whatever one of them does, other clients are served, and memory stays within what was planned for.
//!
//! Everything is said over sockets, byte by byte where it matters, so that these tests hold for whatever parses beneath. Each attack is
//! tried on both sides of the path: as the pod's own application, and as a plain caller from outside; `upstream` has the application itself
//! attack.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "tests")]

#[allow(dead_code, reason = "shared with the tests of the data path, which use all of it")]
#[path = "../data_path/support.rs"]
mod support;

mod bystander;
mod frames;
mod http1;
mod http2;
mod slow;
mod smuggling;
mod upstream;
