//! Sidecars into pods: the decision and the patch.
