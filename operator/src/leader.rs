//! Which replica may write to the cluster: a Lease, held by one and renewed while it lives.
//!
//! # Guarantees
//!
//! Whether a holder is gone is measured by this process alone: by how long the Lease did not change while we watched, never by comparing our clock with
//! the holder's. A leader stops (and its process with it) [`RENEW_DEADLINE`] after its last renewal, before anyone may take over after [`LEASE_DURATION`].
//!
//! # Errors
//!
//! [`Election::run`] ends with [`Lost`] when leadership is lost; the process must exit, so that nothing it started goes on writing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The name of the Lease.
pub const LEASE: &str = "fairlead-operator";
/// Annotation of the Lease: the pod IP of its holder.
const ADDRESS: &str = "fairlead.dev/address";

/// An unchanged Lease is up for grabs after this.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);
/// A leader that could not renew for this long gives up.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Between two looks, and between two renewals.
const INTERVAL: Duration = Duration::from_secs(2);
/// For the calls of one round.
const TIMEOUT: Duration = Duration::from_secs(4);

/// What the rest of the operator sees of the election.
#[derive(Clone, Debug)]
pub struct Leadership {
    /// True while this replica may write. It never goes back to false in a living process: on loss the process exits.
    pub is_leader: watch::Receiver<bool>,
    /// The pod IP of the present leader (without a port), also where that is this replica; `None` while nobody leads.
    pub address: watch::Receiver<Option<String>>,
}

/// Another replica leads, or may by now.
#[derive(Debug, thiserror::Error)]
#[error("leadership was lost: {0}; exiting, so that nothing goes on writing")]
pub struct Lost(String);

/// What a Lease says of its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    holder: Option<String>,
    renewed: Option<Timestamp>,
    duration: Duration,
}

/// A claim, and since when we see it unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Observation {
    claim: Claim,
    since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Write our name.
    Take,
    /// It is ours: say so again.
    Renew,
    /// Someone else's.
    Wait,
}

impl Observation {
    fn next(previous: Option<Self>, claim: Claim, now: Instant) -> Self {
        match previous {
            Some(previous) if previous.claim == claim => previous,
            _ => Self { claim, since: now },
        }
    }
}

fn decide(me: &str, observation: Option<&Observation>, now: Instant) -> Step {
    let Some(Observation { claim, since }) = observation else {
        return Step::Take;
    };
    match claim.holder.as_deref() {
        None | Some("") => Step::Take,
        Some(holder) if holder == me => Step::Renew,
        Some(_) if now.duration_since(*since) >= claim.duration => Step::Take,
        Some(_) => Step::Wait,
    }
}

/// One replica's part in the election.
pub struct Election {
    leases: Api<Lease>,
    name: String,
    address: IpAddr,
    is_leader: watch::Sender<bool>,
    leader_address: watch::Sender<Option<String>>,
}

enum Round {
    Ours,
    Theirs {
        address: Option<String>,
    },
    /// Someone wrote at the same time; the next round sees what.
    Contended,
}

impl Election {
    /// `name` is the pod's, `address` its IP.
    pub fn new(client: kube::Client, namespace: &str, name: &str, address: IpAddr) -> (Self, Leadership) {
        let (is_leader, leads) = watch::channel(false);
        let (leader_address, leader) = watch::channel(None);
        let leases = Api::namespaced(client, namespace);
        (
            Self { leases, name: name.to_owned(), address, is_leader, leader_address },
            Leadership { is_leader: leads, address: leader },
        )
    }

    /// Takes part until stopped; then a Lease that is ours is given back, so that the next leader need not wait.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Lost> {
        let mut observation = None;
        let mut renewed = Instant::now();
        while !stop.is_cancelled() {
            let started = Instant::now();
            let leading = *self.is_leader.borrow();
            match tokio::time::timeout(TIMEOUT, self.round(&mut observation)).await {
                Ok(Ok(Round::Ours)) => {
                    renewed = started;
                    if self.is_leader.send_if_modified(|leading| !std::mem::replace(leading, true)) {
                        tracing::info!("leading");
                    }
                    self.publish(Some(self.address.to_string()));
                }
                Ok(Ok(Round::Theirs { .. })) if leading => {
                    return Err(Lost("another replica took the Lease".to_owned()));
                }
                Ok(Ok(Round::Theirs { address })) => self.publish(address),
                Ok(Ok(Round::Contended)) => (),
                Ok(Err(error)) => tracing::warn!(%error, "Lease {LEASE} not read or written"),
                Err(_) => tracing::warn!("Lease {LEASE} not read or written in time"),
            }
            if leading && renewed.elapsed() >= RENEW_DEADLINE {
                return Err(Lost(format!("the Lease could not be renewed for {} s", renewed.elapsed().as_secs())));
            }
            tokio::select! {
                () = stop.cancelled() => (),
                () = tokio::time::sleep(INTERVAL) => (),
            }
        }
        if *self.is_leader.borrow() && !matches!(tokio::time::timeout(TIMEOUT, self.release()).await, Ok(Ok(()))) {
            tracing::warn!("Lease {LEASE} not given back; the next leader waits for it to expire");
        }
        Ok(())
    }

    async fn round(&self, observation: &mut Option<Observation>) -> Result<Round, kube::Error> {
        let lease = self.leases.get_opt(LEASE).await?;
        let now = Instant::now();
        *observation = lease.as_ref().map(|lease| Observation::next(observation.take(), claim(lease), now));
        let step = decide(&self.name, observation.as_ref(), now);
        if step == Step::Wait || (*self.is_leader.borrow() && step == Step::Take) {
            let address =
                lease.as_ref().and_then(|lease| lease.metadata.annotations.as_ref()?.get(ADDRESS)?.parse().ok());
            return Ok(Round::Theirs { address: address.map(|address: IpAddr| address.to_string()) });
        }
        let written = match lease {
            None => self.leases.create(&PostParams::default(), &self.claimed(Lease::default(), step)).await,
            Some(lease) => self.leases.replace(LEASE, &PostParams::default(), &self.claimed(lease, step)).await,
        };
        match written {
            Ok(_) => Ok(Round::Ours),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Round::Contended),
            Err(error) => Err(error),
        }
    }

    /// The Lease with our name and the time; its resource version is kept, so that a write of someone else makes ours fail.
    fn claimed(&self, mut lease: Lease, step: Step) -> Lease {
        let now = MicroTime(Timestamp::now());
        let metadata = ObjectMeta { name: Some(LEASE.to_owned()), ..std::mem::take(&mut lease.metadata) };
        let annotations = BTreeMap::from([(ADDRESS.to_owned(), self.address.to_string())]);
        lease.metadata = ObjectMeta {
            annotations: Some(metadata.annotations.into_iter().flatten().chain(annotations).collect()),
            ..metadata
        };
        let spec = lease.spec.get_or_insert_default();
        if step == Step::Take {
            spec.lease_transitions =
                Some(spec.lease_transitions.map_or(0, |transitions| transitions.saturating_add(1)));
            spec.acquire_time = Some(now.clone());
        }
        spec.holder_identity = Some(self.name.clone());
        spec.lease_duration_seconds = i32::try_from(LEASE_DURATION.as_secs()).ok();
        spec.renew_time = Some(now);
        lease
    }

    async fn release(&self) -> Result<(), kube::Error> {
        let Some(mut lease) = self.leases.get_opt(LEASE).await? else {
            return Ok(());
        };
        if lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) != Some(&self.name) {
            return Ok(());
        }
        lease.spec.get_or_insert_default().holder_identity = None;
        lease.metadata.annotations.get_or_insert_default().remove(ADDRESS);
        self.leases.replace(LEASE, &PostParams::default(), &lease).await.map(|_| ())
    }

    fn publish(&self, address: Option<String>) {
        self.leader_address.send_if_modified(|present| {
            let changed = *present != address;
            *present = address;
            changed
        });
    }
}

fn claim(lease: &Lease) -> Claim {
    let LeaseSpec { holder_identity, renew_time, lease_duration_seconds, .. } = lease.spec.clone().unwrap_or_default();
    // A holder that states no sensible duration is treated like one of us.
    let duration = lease_duration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
        .filter(|seconds| (1..=3600).contains(seconds));
    Claim {
        holder: holder_identity,
        renewed: renew_time.map(|time| time.0),
        duration: duration.map_or(LEASE_DURATION, Duration::from_secs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_api::FakeApi;

    const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/fairlead-system/leases/fairlead-operator";

    fn held(by: &str, second: i64) -> Claim {
        Claim {
            holder: Some(by.to_owned()),
            renewed: Some(Timestamp::from_second(second).unwrap()),
            duration: LEASE_DURATION,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_expires_by_our_own_clock_since_it_last_changed() {
        let start = Instant::now();
        assert_eq!(decide("me", None, start), Step::Take);
        // The holder's clock is a year ahead, or behind: it does not matter.
        let first = Observation::next(None, held("other", 0), start);
        assert_eq!(decide("me", Some(&first), start), Step::Wait);
        tokio::time::advance(Duration::from_secs(14)).await;
        let same = Observation::next(Some(first.clone()), held("other", 0), Instant::now());
        assert_eq!(same, first);
        assert_eq!(decide("me", Some(&same), Instant::now()), Step::Wait);
        let renewed = Observation::next(Some(same), held("other", 2), Instant::now());
        tokio::time::advance(Duration::from_secs(14)).await;
        assert_eq!(decide("me", Some(&renewed), Instant::now()), Step::Wait);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(decide("me", Some(&renewed), Instant::now()), Step::Take);
        assert_eq!(decide("other", Some(&renewed), Instant::now()), Step::Renew);
        let released = Observation::next(None, Claim { holder: None, ..held("", 0) }, Instant::now());
        assert_eq!(decide("me", Some(&released), Instant::now()), Step::Take);
    }

    fn candidate(api: &FakeApi, name: &str, address: &str) -> (Election, Leadership) {
        Election::new(api.client(), "fairlead-system", name, address.parse().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn one_leads_the_other_follows_and_takes_over_at_once_when_it_stops() {
        let api = FakeApi::default();
        let ((one, one_sees), (two, two_sees)) =
            (candidate(&api, "one", "10.0.0.1"), candidate(&api, "two", "10.0.0.2"));
        let (stop_one, stop_two) = (CancellationToken::new(), CancellationToken::new());
        let one = tokio::spawn(one.run(stop_one.clone()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let two = tokio::spawn(two.run(stop_two.clone()));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(*one_sees.is_leader.borrow() && !*two_sees.is_leader.borrow());
        assert_eq!(two_sees.address.borrow().as_deref(), Some("10.0.0.1"));
        assert_eq!(one_sees.address.borrow().as_deref(), Some("10.0.0.1"));

        stop_one.cancel();
        one.await.unwrap().unwrap();
        tokio::time::sleep(INTERVAL * 2).await;
        assert!(*two_sees.is_leader.borrow());
        assert_eq!(two_sees.address.borrow().as_deref(), Some("10.0.0.2"));
        stop_two.cancel();
        two.await.unwrap().unwrap();
        assert!(api.get(PATH).unwrap()["spec"]["holderIdentity"].is_null());
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_leader_is_followed_after_the_duration() {
        let api = FakeApi::default();
        let (one, one_sees) = candidate(&api, "one", "10.0.0.1");
        let one = tokio::spawn(one.run(CancellationToken::new()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(*one_sees.is_leader.borrow());
        one.abort();
        let (two, two_sees) = candidate(&api, "two", "10.0.0.2");
        let _two = tokio::spawn(two.run(CancellationToken::new()));
        tokio::time::sleep(LEASE_DURATION.saturating_sub(INTERVAL)).await;
        assert!(!*two_sees.is_leader.borrow());
        tokio::time::sleep(INTERVAL * 2).await;
        assert!(*two_sees.is_leader.borrow());
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_cannot_renew_gives_up_before_anyone_may_follow() {
        let api = FakeApi::default();
        let (one, one_sees) = candidate(&api, "one", "10.0.0.1");
        let one = tokio::spawn(one.run(CancellationToken::new()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(*one_sees.is_leader.borrow());
        api.set_down(true);
        let start = Instant::now();
        assert!(one.await.unwrap().is_err());
        assert!(start.elapsed() < LEASE_DURATION);
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_whose_lease_was_taken_gives_up() {
        let api = FakeApi::default();
        let (one, _) = candidate(&api, "one", "10.0.0.1");
        let one = tokio::spawn(one.run(CancellationToken::new()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut lease = api.get(PATH).unwrap();
        lease["spec"]["holderIdentity"] = "two".into();
        api.put(PATH, lease);
        assert!(one.await.unwrap().unwrap_err().to_string().contains("another replica"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_restarted_container_goes_on_with_its_own_lease() {
        let api = FakeApi::default();
        let (one, _) = candidate(&api, "one", "10.0.0.1");
        let one = tokio::spawn(one.run(CancellationToken::new()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        one.abort();
        let (again, sees) = candidate(&api, "one", "10.0.0.1");
        let _again = tokio::spawn(again.run(CancellationToken::new()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(*sees.is_leader.borrow());
    }
}
