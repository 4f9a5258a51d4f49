//! Watches of the cluster become the model.
