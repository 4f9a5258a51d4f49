//! Bookinfo, the application that Fairlead is shown and tested with.
//!
//! One binary plays every role, so that the whole sample is a single small image:
//!
//! ```text
//! productpage ──▶ details
//!      └────────▶ reviews v1 | v2 | v3 ──▶ ratings ──▶ redis (opaque TCP)
//! ```
//!
//! Beside these, [`echo`] speaks every protocol that a mesh must carry, [`load`] sends requests at a constant rate and
//! counts what comes back, and [`call`] sends a single request of any of the protocols. [`cli::Cli::run`] enters each.

pub mod bounded;
pub mod call;
pub mod cli;
pub mod client;
pub mod details;
pub mod echo;
pub mod fault;
pub mod grpc;
pub mod load;
pub mod page;
pub mod productpage;
pub mod ratings;
pub mod redis;
pub mod reviews;
pub mod server;
pub mod units;
