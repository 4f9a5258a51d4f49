//! The reconciler against an API server in memory.
