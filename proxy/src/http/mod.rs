//! What both directions share about HTTP.

mod reason;

pub use self::reason::Reason;
