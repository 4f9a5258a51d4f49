//! What a proxy must know, as plain data: no kube, no tonic.
