//! Connections of the application.
