//! Fairlead on a real Kubernetes: the embedded cluster, and what is built, tried and measured on it. The binary of
//! this crate is what the Makefile calls; its modules are what the end-to-end tests use.

pub mod bench;
pub mod cluster;
pub mod command;
pub mod demo;
#[cfg(test)]
mod documentation;
pub mod durations;
pub mod fuzz;
pub mod images;
pub mod kit;
pub mod prerequisites;
pub mod progress;
pub mod suite;
