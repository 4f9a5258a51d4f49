//! The configuration stream to proxies.
