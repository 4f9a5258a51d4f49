//! Listeners: TLS, limits on connections, graceful stop.
