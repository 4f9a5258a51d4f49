//! Leaves that another authority signs, by way of cert-manager's `CertificateRequest`s: the operator decides who gets which identity, and an issuer of the user's
//! signs.
//!
//! # Expected flow
//!
//! [`Requests::certificate`] creates an object in the operator's namespace with the request of whoever holds the key, looks at it until it is decided,
//! deletes it, and judges what came back ([`answer`]).
//!
//! # Guarantees
//!
//! What is passed on was compared with what its owner gets ([`Csr::asks_exactly`](super::csr::Csr::asks_exactly), called by the authority): the issuer believes what it reads.
//! What comes back is passed on only if it is what was asked for and leads to the roots that the mesh trusts. Objects under way, and how long each is waited
//! for, are bounded. An object is deleted whatever became of it, also where the caller is gone.
//!
//! # Assumptions
//!
//! Who may write `CertificateRequest`s' status is the issuer: an answer is judged as a stranger's, but what an issuer signs under the mesh's roots without
//! being asked, nobody here sees.
//!
//! # Caveats
//!
//! An operator that dies between creation and deletion leaves an object; [`Requests::sweep`] of the leader deletes it minutes later.
//!
//! # Errors
//!
//! Each is a sentence and a reason. While the API cannot be written, attempts pause for all; an issuer that refuses one pod is asked again for the next.

mod answer;
mod object;
mod trouble;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, PostParams, Preconditions};
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

pub use self::answer::AnswerError;
use self::object::{CertificateRequest, LABEL, Verdict, bounded, is_leftover, resource, verdict};
pub use self::trouble::Metrics;
use self::trouble::Troubles;
use super::SpiffeId;
use super::authority::Leaf;
use super::csr::PublicKey;
use super::standing::Complaint;
use crate::settings::{CertificateRequests, IssuerRef};

/// For one call of the API server.
const TIMEOUT: Duration = Duration::from_secs(5);
/// For a decision. Proxies wait for half a minute, of which token and pod may have taken some.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two looks: the first soon, since an issuer in the cluster signs at once, the later ones less often.
const FIRST_LOOK: Duration = Duration::from_millis(100);
const LAST_LOOK: Duration = Duration::from_secs(1);
/// Objects under way of one replica. Whoever comes beyond that waits for a moment, and is then asked to come again.
const MAX_UNDER_WAY: usize = 32;
/// After a call that failed nobody calls for so long, then twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// Between two sweeps, and how much one takes.
const SWEEP: Duration = Duration::from_secs(60);
const SWEPT: u32 = 500;

/// One certificate that is wanted.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    /// DER; it asks for what stands below, and for nothing else.
    pub(super) csr: Vec<u8>,
    /// The key in it.
    pub(super) public_key: PublicKey,
    pub(super) identity: SpiffeId,
    /// Of the operator's own; a workload has none.
    pub(super) dns_names: Vec<String>,
    pub(super) lifetime: Duration,
    /// What the answer must lead to, DER.
    pub(super) roots: Vec<CertificateDer<'static>>,
}

/// Why there is no certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The API server did not take it: away, no permission, or no such kind.
    #[error("cannot {action} a CertificateRequest in {namespace} ({error}): is cert-manager installed?")]
    Api {
        /// What was tried.
        action: &'static str,
        /// Where.
        namespace: String,
        /// What was answered.
        error: String,
    },
    /// Just now, and it is too early to try again.
    #[error("no CertificateRequest is made, since the last one failed; the next attempt is in {0:?}")]
    Paused(Duration),
    /// More than [`MAX_UNDER_WAY`].
    #[error("too many CertificateRequests are under way; try again")]
    Busy,
    /// An approver said no.
    #[error("the CertificateRequest for {0} was denied: {1}")]
    Denied(SpiffeId, String),
    /// It makes no sense to the issuer.
    #[error("the CertificateRequest for {0} is invalid: {1}")]
    Invalid(SpiffeId, String),
    /// The issuer gave up.
    #[error("the issuer failed to sign for {0}: {1}")]
    Failed(SpiffeId, String),
    /// Nobody decided.
    #[error("the CertificateRequest for {0} was not decided within {PATIENCE:?}: {1}")]
    Timeout(SpiffeId, String),
    /// Somebody else deleted it.
    #[error("the CertificateRequest for {0} was deleted by somebody else before it was decided")]
    Gone(SpiffeId),
    /// What came back is not what was asked for.
    #[error("the issuer was asked to sign for {0}, but what it signed {1}; it is not used")]
    Answer(SpiffeId, AnswerError),
    /// The operator is ending.
    #[error("the operator is stopping")]
    Stopping,
}

impl RequestError {
    /// One word, for metrics and Events.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Api { .. } => "RequestNotMade",
            Self::Paused(_) => "Paused",
            Self::Busy => "Busy",
            Self::Denied(..) => "RequestDenied",
            Self::Invalid(..) => "RequestInvalid",
            Self::Failed(..) => "RequestFailed",
            Self::Timeout(..) => "RequestTimeout",
            Self::Gone(_) => "RequestDeleted",
            Self::Answer(..) => "AnswerRefused",
            Self::Stopping => "Stopping",
        }
    }
}

/// See the head of this file. Clones of the `Arc` share bounds and troubles.
pub struct Requests {
    api: Api<CertificateRequest>,
    namespace: String,
    settings: CertificateRequests,
    under_way: Arc<Semaphore>,
    pause: Mutex<Pause>,
    troubles: Troubles,
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Since when calls fail.
#[derive(Debug, Default)]
struct Pause {
    failures: u32,
    until: Option<Instant>,
}

impl Pause {
    fn left(&self, now: Instant) -> Option<Duration> {
        self.until.and_then(|until| until.checked_duration_since(now)).filter(|left| !left.is_zero())
    }

    fn failed(&mut self, now: Instant) {
        let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(self.failures)).min(LAST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.until = Some(now + pause);
    }
}

impl Requests {
    /// In the operator's namespace.
    pub fn new(client: kube::Client, namespace: &str, settings: CertificateRequests, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self {
            api: Api::namespaced_with(client, namespace, &resource()),
            namespace: namespace.to_owned(),
            settings,
            under_way: Arc::new(Semaphore::new(MAX_UNDER_WAY)),
            pause: Mutex::default(),
            troubles: Troubles::new(metrics),
        })
    }

    /// Who signs.
    pub(super) fn issuer(&self) -> &IssuerRef {
        &self.settings.issuer
    }

    /// Whether the mesh is to leave this issuer.
    pub(super) fn is_phased_out(&self) -> bool {
        self.settings.phase_out
    }

    /// What went wrong lately, for people.
    pub(super) fn complaints(&self) -> Vec<Complaint> {
        self.troubles.complaints(Instant::now())
    }

    /// Gets it, or says why not. An object that was created is deleted also if the caller does not wait for the outcome.
    pub(super) async fn certificate(self: &Arc<Self>, ask: Ask) -> Result<Leaf, RequestError> {
        let outcome = self.start(ask).await;
        self.troubles.note(outcome.as_ref().err(), Instant::now());
        outcome
    }

    async fn start(self: &Arc<Self>, ask: Ask) -> Result<Leaf, RequestError> {
        if let Some(left) = self.pause.lock().left(Instant::now()) {
            return Err(RequestError::Paused(left));
        }
        let permit = timeout(TIMEOUT, Arc::clone(&self.under_way).acquire_owned()).await;
        let permit = permit.map_err(|_| RequestError::Busy)?.map_err(|_| RequestError::Stopping)?;
        let this = Arc::clone(self);
        let done = tokio::spawn(async move {
            let outcome = this.run(&ask).await;
            drop(permit);
            outcome
        });
        done.await.unwrap_or(Err(RequestError::Stopping))
    }

    async fn run(&self, ask: &Ask) -> Result<Leaf, RequestError> {
        let made =
            match timeout(TIMEOUT, self.api.create(&PostParams::default(), &object::of(ask, self.issuer()))).await {
                Ok(Ok(made)) => made,
                // Of this one alone.
                Ok(Err(kube::Error::Api(status))) if matches!(status.code, 400 | 422) => {
                    return Err(RequestError::Invalid(ask.identity.clone(), bounded(&status.message)));
                }
                Ok(Err(error)) => return Err(self.not_made("create", &error.to_string())),
                // It may have been made all the same; then the sweep finds it.
                Err(_) => return Err(self.not_made("create", "no answer in time")),
            };
        *self.pause.lock() = Pause::default();
        let signed = self.decided(&made.name_any(), &ask.identity).await;
        self.delete(&made).await;
        let leaf = answer::check(&signed?, ask, OffsetDateTime::now_utc());
        leaf.map_err(|error| RequestError::Answer(ask.identity.clone(), error))
    }

    fn not_made(&self, action: &'static str, error: &str) -> RequestError {
        self.pause.lock().failed(Instant::now());
        RequestError::Api { action, namespace: self.namespace.clone(), error: bounded(error) }
    }

    /// Looks until it is decided, or patience ends. An API server that is away for a moment is asked again.
    async fn decided(&self, name: &str, identity: &SpiffeId) -> Result<Vec<u8>, RequestError> {
        let deadline = Instant::now() + PATIENCE;
        let (mut wait, mut last) = (FIRST_LOOK, "it was never seen".to_owned());
        loop {
            tokio::time::sleep(wait).await;
            match timeout(TIMEOUT, self.api.get_opt(name)).await {
                Ok(Ok(Some(request))) => match verdict(&request) {
                    Verdict::Signed(pem) => return Ok(pem),
                    Verdict::Denied(why) => return Err(RequestError::Denied(identity.clone(), why)),
                    Verdict::Invalid(why) => return Err(RequestError::Invalid(identity.clone(), why)),
                    Verdict::Failed(why) => return Err(RequestError::Failed(identity.clone(), why)),
                    Verdict::Pending(so_far) => last = so_far,
                },
                Ok(Ok(None)) => return Err(RequestError::Gone(identity.clone())),
                Ok(Err(error)) => last = bounded(&error.to_string()),
                Err(_) => "the API server did not answer in time".clone_into(&mut last),
            }
            if Instant::now() >= deadline {
                return Err(RequestError::Timeout(identity.clone(), last));
            }
            wait = (wait * 2).min(LAST_LOOK);
        }
    }

    /// The very object that was read; what fails is left to the sweep.
    async fn delete(&self, request: &CertificateRequest) {
        let preconditions = Preconditions { uid: request.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match timeout(TIMEOUT, self.api.delete(&request.name_any(), &params)).await {
            Ok(Ok(_)) => (),
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => (),
            Ok(Err(error)) => tracing::debug!(%error, "a CertificateRequest was not deleted; the next sweep does it"),
            Err(_) => tracing::debug!("a CertificateRequest was not deleted in time; the next sweep does it"),
        }
    }

    /// Deletes what a replica that died left behind, every minute, until it is dropped. For the leader alone.
    pub async fn sweep(self: Arc<Self>) {
        loop {
            match self.sweep_once(OffsetDateTime::now_utc()).await {
                Ok(0) => (),
                Ok(found) => tracing::info!(found, "CertificateRequests that nobody waits for were deleted"),
                Err(error) => tracing::debug!(error, "CertificateRequests were not looked through"),
            }
            tokio::time::sleep(SWEEP).await;
        }
    }

    async fn sweep_once(&self, now: OffsetDateTime) -> Result<usize, String> {
        let ours = ListParams::default().labels(&format!("{LABEL}=leaf")).limit(SWEPT);
        let listed = timeout(TIMEOUT, self.api.list(&ours)).await.map_err(|_| "no answer in time".to_owned())?;
        let listed = listed.map_err(|error| error.to_string())?;
        let left: Vec<_> = listed.items.iter().filter(|request| is_leftover(request, now.unix_timestamp())).collect();
        for request in &left {
            self.delete(request).await;
        }
        Ok(left.len())
    }
}

#[cfg(test)]
pub(super) mod tests;
