//! Fairlead's sidecar, in the order a byte meets it:
//!
//! [`accept`] (listeners, workers, detection) → [`identity`] (TLS) → [`inbound`] / [`outbound`] → [`http`] / [`tcp`] → [`balance`]
//! (endpoints, pools). Beside the path: [`route`] (what the operator said, compiled), [`jwt`] (tokens of users) and
//! [`telemetry`].

pub mod accept;
pub mod admin;
pub mod backoff;
pub mod balance;
pub mod capture;
pub mod config;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod health;
pub mod http;
pub mod identity;
pub mod inbound;
pub mod jwt;
mod news;
pub mod outbound;
pub mod route;
pub mod tcp;
pub mod telemetry;
