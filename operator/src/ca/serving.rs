//! The operator's own certificate: what webhooks and gRPC are served with, and what one replica shows to another. Issued by the authority that it
//! serves, and replaced in place.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::crypto::ring::sign::any_ecdsa_type;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::SpiffeId;
use super::authority::{Authority, CertifyError, MaterialError};
use super::csr;
use super::keeper::State;
use super::rotation::Trust;
use crate::telemetry::Condition;

/// How long after a failure to try again; twice as long after each further one, for the sake of an authority that is asked.
const RETRY: Duration = Duration::from_secs(5);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Present certificate and key; every handshake takes what is there at its time.
#[derive(Debug, Default)]
pub struct ServingCertificate {
    current: ArcSwapOption<CertifiedKey>,
    shown: watch::Sender<Option<Shown>>,
}

/// What others may know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Whom this replica trusts and what it shows: a rotation waits for all replicas.
    pub trust: Trust,
    /// When it ends.
    pub not_after: OffsetDateTime,
}

impl ServingCertificate {
    /// Whether there is one yet.
    pub fn is_present(&self) -> bool {
        self.current.load().is_some()
    }

    /// Follows the certificate; `None`: there is none yet.
    pub fn shown(&self) -> watch::Receiver<Option<Shown>> {
        self.shown.subscribe()
    }

    /// Replaces the certificate when the authority changes and at half of its life, until stopped. `condition` holds once there is one.
    pub async fn run(
        self: Arc<Self>,
        mut authority: watch::Receiver<State>,
        identity: SpiffeId,
        dns_names: Vec<String>,
        condition: Condition,
        stop: CancellationToken,
    ) {
        let mut retry = RETRY;
        loop {
            let present = authority.borrow_and_update().authority();
            let wait = if let Ok(present) = present {
                let renewed = self.renew(&present, &identity, &dns_names, OffsetDateTime::now_utc());
                match stop.run_until_cancelled(renewed).await {
                    None => return,
                    Some(Ok(half)) => {
                        condition.set(Ok(()));
                        retry = RETRY;
                        half
                    }
                    Some(Err(error)) => {
                        tracing::error!(%error, "cannot issue the operator's own certificate");
                        if !self.is_present() {
                            condition.set(Err(error.to_string()));
                        }
                        let next = (retry * 2).min(LAST_RETRY);
                        std::mem::replace(&mut retry, next)
                    }
                }
            } else {
                // The state's next change wakes us.
                Duration::MAX
            };
            tokio::select! {
                () = stop.cancelled() => return,
                changed = authority.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait) => (),
            }
        }
    }

    /// Returns half of the certificate's life.
    async fn renew(
        &self,
        authority: &Authority,
        identity: &SpiffeId,
        dns_names: &[String],
        now: OffsetDateTime,
    ) -> Result<Duration, CertifyError> {
        let key = KeyPair::generate().map_err(MaterialError::from)?;
        let request = request(&key, identity, dns_names).map_err(MaterialError::from)?;
        let leaf = authority.certify(&csr::read(&request)?, identity, dns_names, now).await?;
        let trust = Trust {
            sequence: authority.trust_bundle().sequence,
            leaf_roots: authority.roots_above(&leaf, now),
            leaf_not_before: leaf.not_before.unix_timestamp(),
        };
        let signing_key =
            any_ecdsa_type(&PrivatePkcs8KeyDer::from(key.serialized_der()).into()).map_err(|_| MaterialError::Key)?;
        let chain = leaf.chain.into_iter().map(CertificateDer::from).collect();
        self.current.store(Some(Arc::new(CertifiedKey::new(chain, signing_key))));
        self.shown.send_replace(Some(Shown { trust, not_after: leaf.not_after }));
        tracing::info!(ends = %leaf.not_after, "the operator's own certificate was issued");
        Ok((Duration::try_from(leaf.not_after - now).unwrap_or_default() / 2).max(RETRY))
    }
}

/// DER; what an authority that is asked gets to read.
fn request(key: &KeyPair, identity: &SpiffeId, dns_names: &[String]) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into()?)];
    for name in dns_names {
        params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
    }
    Ok(params.serialize_request(key)?.der().to_vec())
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.load_full()
    }
}

impl ResolvesClientCert for ServingCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.current.load_full()
    }

    fn has_certs(&self) -> bool {
        self.is_present()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use futures::executor::block_on;

    use super::super::authority::Serial;
    use super::super::authority::tests::{authority, identity, now};
    use super::super::requests::tests::{Company, requests};
    use super::*;
    use crate::fake_api::FakeApi;

    /// A certificate of `authority` that is valid now.
    pub(crate) fn serving(authority: &Authority, identity: &SpiffeId, dns_names: &[&str]) -> Arc<ServingCertificate> {
        let names: Vec<String> = dns_names.iter().map(|name| (*name).to_owned()).collect();
        let serving = ServingCertificate::default();
        block_on(serving.renew(authority, identity, &names, OffsetDateTime::now_utc())).unwrap();
        Arc::new(serving)
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_replaced_at_half_life_and_when_the_authority_changes() {
        let (sender, state) = watch::channel(State::Starting);
        let (serving, stop) = (Arc::new(ServingCertificate::default()), CancellationToken::new());
        let readiness = crate::telemetry::Readiness::default();
        let running = tokio::spawn(Arc::clone(&serving).run(
            state,
            identity(),
            vec!["fairlead-operator.fairlead-system.svc".to_owned()],
            readiness.condition("serving certificate"),
            stop.clone(),
        ));
        let leaf = || serving.current.load_full().map(|key| key.cert[0].to_vec());
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(leaf(), None);
        assert_eq!(readiness.missing().len(), 1);

        let now = OffsetDateTime::now_utc();
        let fresh = || {
            let root = super::super::authority::Root::new(&Serial::random().unwrap(), now).unwrap();
            let intermediate = root.new_intermediate(&Serial::random().unwrap(), now).unwrap();
            State::Ready(Arc::new(Authority::new(&root, intermediate)))
        };
        sender.send(fresh()).unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let first = leaf().unwrap();
        assert!(readiness.missing().is_empty());
        tokio::time::sleep(Duration::from_secs(12 * 3600)).await;
        let second = leaf().unwrap();
        assert_ne!(first, second);
        sender.send(State::Broken("x".to_owned())).unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(leaf().unwrap(), second, "what is served outlives a Secret that broke");
        sender.send(fresh()).unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_ne!(leaf().unwrap(), second);
        stop.cancel();
        running.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn another_authority_signs_the_operators_own_as_well_and_what_is_there_outlives_its_absence() {
        let (api, company) = (FakeApi::default(), Arc::new(Company::new()));
        company.serve(&api);
        let bundle = |sequence| crate::ca::TrustBundle {
            sequence,
            roots: vec![company.root.certificate().to_vec()],
            foreign: crate::ca::foreign::Foreign::new(),
        };
        let requests = requests(&api, false);
        let state = |sequence| {
            let authority = Authority::by_requests(Arc::clone(&requests), &[&company.root], bundle(sequence));
            State::Ready(Arc::new(authority))
        };
        let (sender, states) = watch::channel(state(1));
        let (serving, stop) = (Arc::new(ServingCertificate::default()), CancellationToken::new());
        let readiness = crate::telemetry::Readiness::default();
        let names = vec!["fairlead-operator.fairlead-system.svc".to_owned(), "fairlead-operator".to_owned()];
        let condition = readiness.condition("serving certificate");
        api.set_down(true);
        tokio::spawn(Arc::clone(&serving).run(states, identity(), names.clone(), condition, stop.clone()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(readiness.missing()[0].contains("cannot create a CertificateRequest"), "{:?}", readiness.missing());
        api.set_down(false);
        tokio::time::sleep(LAST_RETRY).await;
        assert!(readiness.missing().is_empty());
        let shown = serving.shown().borrow().clone().unwrap();
        assert_eq!((shown.trust.sequence, shown.trust.leaf_roots), (1, vec![company.root.id()]));
        let leaf = || serving.current.load_full().unwrap().cert[0].to_vec();
        let first = leaf();
        let (_, parsed) = x509_parser::parse_x509_certificate(&first).unwrap();
        let stated = &parsed.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(stated.len(), 1 + names.len());

        api.set_down(true);
        sender.send(state(2)).unwrap();
        tokio::time::sleep(LAST_RETRY * 10).await;
        assert_eq!(leaf(), first);
        api.set_down(false);
        tokio::time::sleep(LAST_RETRY * 2).await;
        assert_ne!(leaf(), first);
        assert_eq!(serving.shown().borrow().as_ref().unwrap().trust.sequence, 2);
        stop.cancel();
    }

    #[test]
    fn half_of_a_life_of_minutes_is_minutes() {
        let serving = ServingCertificate::default();
        let half = |authority: &Authority, at| block_on(serving.renew(authority, &identity(), &[], at)).unwrap();
        let minutes = authority().lasting(Duration::from_secs(600));
        assert_eq!(half(&minutes, now()), Duration::from_secs(300));
        // Cut short by the intermediate, and then never in a tight loop.
        let end = minutes.intermediate().unwrap().validity.not_after;
        assert_eq!(half(&minutes, end - time::Duration::minutes(2)), Duration::from_secs(60));
        assert_eq!(half(&minutes, end - time::Duration::seconds(1)), RETRY);
    }

    #[test]
    fn an_expired_authority_leaves_the_old_certificate() {
        let serving = ServingCertificate::default();
        let late = authority().intermediate().unwrap().validity.not_after;
        assert!(block_on(serving.renew(&authority(), &identity(), &[], late)).is_err());
        assert!(!serving.is_present());
    }
}
