//! The labels of namespaces.
