//! A release from the first write to the last.
