//! The proxy's own workload: how arriving traffic is treated.

use std::sync::Arc;

use fairlead_proxy_api::v1;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Programmed, Refused};
use crate::inbound::policy::{self, Current};

/// Swapped in place when the operator says something new. Until it has spoken, what is read is the default, which lets nobody in
/// unauthenticated; [`OwnWorkload::known`] tells when that is over, and the proxy is not ready before.
#[derive(Debug)]
pub struct OwnWorkload {
    current: Arc<Current>,
    programmed: Mutex<Programmed>,
    known: watch::Sender<bool>,
}

impl Default for OwnWorkload {
    fn default() -> Self {
        Self { current: Arc::default(), programmed: Mutex::default(), known: watch::Sender::new(false) }
    }
}

impl OwnWorkload {
    /// For the data path.
    pub fn handle(&self) -> Arc<Current> {
        self.current.clone()
    }

    /// Whether a first version is in use.
    pub fn known(&self) -> watch::Receiver<bool> {
        self.known.subscribe()
    }

    /// For `/config` and the next subscription.
    pub fn programmed(&self) -> Programmed {
        self.programmed.lock().clone()
    }

    /// Uses `workload` from now on, or says why not and keeps what it had.
    pub(super) fn apply(&self, version: &str, workload: v1::Workload) -> Result<(), String> {
        match policy::compile(Some(&self.current.load()), workload) {
            Ok(compiled) => {
                self.current.store(Arc::new(compiled));
                *self.programmed.lock() = Programmed { version: version.to_owned(), refused: None };
                self.known.send_replace(true);
                Ok(())
            }
            Err(reason) => {
                self.programmed.lock().refused = Some(Refused { version: version.to_owned(), reason: reason.clone() });
                Err(reason)
            }
        }
    }
}
