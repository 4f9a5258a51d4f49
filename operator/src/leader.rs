//! Which replica may write to the cluster.

use tokio::sync::watch;

/// What the rest of the operator sees of the election.
#[derive(Clone, Debug)]
pub struct Leadership {
    /// True while this replica may write. It never goes back to false in a living process: on loss the process exits.
    pub is_leader: watch::Receiver<bool>,
    /// The pod IP of the present leader (without a port), also where that is this replica; `None` while nobody leads.
    pub address: watch::Receiver<Option<String>>,
}
