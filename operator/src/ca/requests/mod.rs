//! Leaves that another authority signs, by way of cert-manager's `CertificateRequest`s: the operator decides who gets which identity, and an issuer of the user's
//! signs.
//!
//! # Expected flow
//!
//! [`Requests::certificate`] creates an object in the operator's namespace with the request of whoever holds the key, looks at it until it is decided,
//! judges what came back ([`answer`]), tells whoever waits, and then deletes the object.
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
//! Each is a sentence and a reason. While the API server is away, attempts pause for all; where it, a policy or the issuer refuses one pod, the next is asked for
//! all the same.

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
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

pub use self::answer::AnswerError;
use self::object::{CertificateRequest, LABEL, Verdict, bounded, is_leftover, resource, verdict};
pub use self::trouble::Metrics;
use self::trouble::Troubles;
use super::SpiffeId;
use super::authority::Leaf;
use super::csr::PublicKey;
use super::material::{BACKDATE, Validity};
use super::standing::Complaint;
use crate::settings::{CertificateRequests, IssuerRef};

/// For one call of the API server.
const TIMEOUT: Duration = Duration::from_secs(5);
/// From the question to its answer, whatever is slow in between. Proxies wait for half a minute, of which token and pod may have taken some: see the service.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
/// Between two looks: the first soon, since an issuer in the cluster signs at once, the later ones less often.
const FIRST_LOOK: Duration = Duration::from_millis(100);
const LAST_LOOK: Duration = Duration::from_secs(1);
/// Objects under way of one replica. Whoever comes beyond that waits for a moment, and is then asked to come again.
const MAX_UNDER_WAY: usize = 32;
/// After a call that failed nobody calls for so long, then twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// Nobody's clock is believed to differ by more than [`BACKDATE`]; the rest is for decisions that took their time.
const MAX_BACKDATE: time::Duration = time::Duration::minutes(BACKDATE.whole_minutes() + 1);
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
    /// The API server did not take it: it is away, or has no such kind.
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
    #[error(
        "{MAX_UNDER_WAY} CertificateRequests of this replica were under way, and no more are made: is the issuer slow, or certificateLifetime short for so many pods?"
    )]
    Busy,
    /// The API server, or a policy that it asks, does not let this one be made.
    #[error(
        "no CertificateRequest may be made for {0} ({1}): is the Role of install.yaml there, and which policy refuses it?"
    )]
    Forbidden(SpiffeId, String),
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
    #[error("{0} was asked to sign for {1}, but what it signed {2}; it is not used")]
    Answer(Box<IssuerRef>, SpiffeId, AnswerError),
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
            Self::Forbidden(..) => "RequestForbidden",
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
    /// From when to when the issuer can sign as it did last: it is told nowhere but in its chains.
    issuer_validity: Mutex<Option<Validity>>,
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

    /// How many failures an attempt that begins now has seen; an error where it is too early for one.
    fn begin(&self, now: Instant) -> Result<u32, RequestError> {
        self.left(now).map_or(Ok(self.failures), |left| Err(RequestError::Paused(left)))
    }

    /// Of attempts that were under way together the first counts: they failed of one thing.
    fn failed(&mut self, seen: u32, now: Instant) {
        if seen != self.failures {
            return;
        }
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
            issuer_validity: Mutex::default(),
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

    /// From when to when it can sign, as its last chain says: of what lies between a leaf and the root, what ends first. `None`: nothing was signed yet, or the root
    /// itself signs.
    pub(super) fn issuer_validity(&self) -> Option<Validity> {
        *self.issuer_validity.lock()
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
        let deadline = Instant::now() + PATIENCE;
        self.pause.lock().begin(Instant::now())?;
        let permit = timeout(TIMEOUT, Arc::clone(&self.under_way).acquire_owned()).await;
        let permit = permit.map_err(|_| RequestError::Busy)?.map_err(|_| RequestError::Stopping)?;
        let this = Arc::clone(self);
        let (tell, told) = oneshot::channel();
        tokio::spawn(async move {
            this.run(&ask, deadline, tell).await;
            drop(permit);
        });
        told.await.unwrap_or(Err(RequestError::Stopping))
    }

    /// Nobody waits for the deletion. Whoever asked may be gone before that as well.
    async fn run(&self, ask: &Ask, deadline: Instant, tell: oneshot::Sender<Result<Leaf, RequestError>>) {
        match self.make(ask).await {
            Ok(made) => {
                let signed = self.decided(&made.name_any(), &ask.identity, deadline).await;
                let _ = tell.send(signed.and_then(|pem| self.judge(&pem, ask)));
                self.delete(&made).await;
            }
            Err(error) => {
                let _ = tell.send(Err(error));
            }
        }
    }

    async fn make(&self, ask: &Ask) -> Result<CertificateRequest, RequestError> {
        let seen = self.pause.lock().begin(Instant::now())?;
        match timeout(TIMEOUT, self.api.create(&PostParams::default(), &object::of(ask, self.issuer()))).await {
            Ok(Ok(made)) => {
                *self.pause.lock() = Pause::default();
                Ok(made)
            }
            // Of this one alone, or so it may be: the next one is no burden to an API server that answers.
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 400 | 413 | 422) => {
                Err(RequestError::Invalid(ask.identity.clone(), bounded(&status.message)))
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
                Err(RequestError::Forbidden(ask.identity.clone(), bounded(&status.message)))
            }
            Ok(Err(error)) => Err(self.not_made(seen, &error.to_string())),
            // It may have been made all the same; then the sweep finds it.
            Err(_) => Err(self.not_made(seen, "no answer in time")),
        }
    }

    fn not_made(&self, seen: u32, error: &str) -> RequestError {
        self.pause.lock().failed(seen, Instant::now());
        RequestError::Api { action: "create", namespace: self.namespace.clone(), error: bounded(error) }
    }

    fn judge(&self, pem: &[u8], ask: &Ask) -> Result<Leaf, RequestError> {
        let now = OffsetDateTime::now_utc();
        let leaf = answer::check(pem, ask, now)
            .map_err(|error| RequestError::Answer(Box::new(self.issuer().clone()), ask.identity.clone(), error))?;
        *self.issuer_validity.lock() = answer::signer_validity(&leaf);
        if now - leaf.not_before > MAX_BACKDATE {
            self.troubles.note_backdated(self.issuer(), now - leaf.not_before, Instant::now());
        }
        Ok(leaf)
    }

    /// Looks until it is decided, or patience ends. An API server that is away for a moment is asked again.
    async fn decided(&self, name: &str, identity: &SpiffeId, deadline: Instant) -> Result<Vec<u8>, RequestError> {
        let (mut wait, mut last) = (FIRST_LOOK, "it was never seen".to_owned());
        while Instant::now() + wait < deadline {
            tokio::time::sleep(wait).await;
            let until = deadline.min(Instant::now() + TIMEOUT);
            match timeout_at(until, self.api.get_opt(name)).await {
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
            wait = (wait * 2).min(LAST_LOOK);
        }
        Err(RequestError::Timeout(identity.clone(), last))
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
