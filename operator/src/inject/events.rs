//! Tells the owner of a pod why the pod has no sidecar, or will not start with it.
