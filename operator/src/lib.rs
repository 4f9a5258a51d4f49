//! Fairlead's control plane, in layers; each imports only what stands above it.
//!
//! 1. [`model`]: what a proxy must know, as plain data.
//! 2. [`index`]: watches of the cluster become the model.
//! 3. The edges: [`inject`] and [`webhook`] (sidecars into pods), [`ca`] (identities), [`jwks`] (keys of those who vouch for users), [`config`]
//!    (the stream to proxies), [`canary`] (releases), [`status`] (what users read back), [`explain`] (what policy would decide); [`outbound`] asks for them
//!    what users name by URL.
//! 4. What carries them: [`settings`] (of the mesh), [`serve`] (TLS and connections), [`leader`] (who may write), [`telemetry`] (logs, metrics, health).
//!
//! `main.rs` wires these together and decides nothing.

pub mod model;

pub mod index;

pub mod inject;

pub mod webhook;

pub mod ca;

pub mod outbound;

pub mod jwks;

pub mod config;

pub mod canary;

pub mod status;

pub mod explain;

pub mod settings;

pub mod serve;

pub mod leader;

pub mod telemetry;

#[cfg(test)]
mod fake_api;
