//! A small cluster built in code, and what proxies are told of it.

pub(crate) mod build;
mod canary;
mod destination;
mod locality;
mod origination;
mod peer_auth;
mod policy;
mod release;
mod scope;
mod subscription;
mod workload;
