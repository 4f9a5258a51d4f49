//! The trust bundle as a ConfigMap in every namespace that has sidecars: it is how a proxy knows the operator before it has a certificate.

/// The name of the ConfigMap.
pub const TRUST_BUNDLE_NAME: &str = "fairlead-trust-bundle";
/// Its key: the roots, PEM.
pub const TRUST_BUNDLE_KEY: &str = "ca.crt";
