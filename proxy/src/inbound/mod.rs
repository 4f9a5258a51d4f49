//! Connections to the application.

pub mod policy;

pub use self::policy::Workload;
