//! Certificates issued in a second by one core: everything that `Identity.Certify` does, but the token review, which is the API server's work.
//!
//! `cargo bench -p fairlead-operator --bench issuance` prints one line of JSON: `certificates_per_second` of each of five rounds. The goal is 2,000.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use fairlead_operator::ca::authority::{Authority, Root, Serial};
use fairlead_operator::ca::keeper::State;
use fairlead_operator::ca::service::{IdentityService, Reviewer};
use fairlead_operator::ca::{PeerAddress, PodInfo, Pods};
use fairlead_proxy_api::TOKEN_AUDIENCE;
use fairlead_proxy_api::v1::CertifyRequest;
use fairlead_proxy_api::v1::identity_server::Identity as _;
use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};
use rcgen::{CertificateParams, KeyPair};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::Instant;

/// Pods that ask, one after the other; each may ask ten times at once.
const PODS: u32 = 2_000;
const ROUNDS: u32 = 5;

/// Believes every token, which is the number of its pod.
struct Believing;

impl Reviewer for Believing {
    async fn review(&self, token: &str) -> Result<TokenReviewStatus, String> {
        let extra = [("pod-name", format!("pod-{token}")), ("pod-uid", format!("uid-{token}"))];
        let extra = extra.map(|(key, value)| (format!("authentication.kubernetes.io/{key}"), vec![value]));
        let user = UserInfo {
            username: Some("system:serviceaccount:bench:default".to_owned()),
            extra: Some(extra.into()),
            ..UserInfo::default()
        };
        Ok(TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]),
            user: Some(user),
            error: None,
        })
    }
}

/// A pod for each number, at an address made of it.
struct Numbered;

impl Pods for Numbered {
    fn find(&self, _: &str, name: &str) -> Option<PodInfo> {
        let number = name.strip_prefix("pod-")?.parse().ok()?;
        let (uid, service_account) = (format!("uid-{number}"), "default".to_owned());
        Some(PodInfo { uid, service_account, ips: vec![address(number)], terminating: false })
    }
}

fn address(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 | number).into()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let now = OffsetDateTime::now_utc();
    let root = Root::new(&Serial::random()?, now)?;
    let intermediate = root.new_intermediate(&Serial::random()?, now)?;
    let state = watch::channel(State::Ready(Arc::new(Authority::new(&root, intermediate)))).1;
    let service = IdentityService::new("cluster.local", state, Believing, Arc::new(Numbered));
    let mut requests = Vec::new();
    for _ in 0..PODS {
        let request = CertificateParams::default().serialize_request(&KeyPair::generate()?)?;
        requests.push(request.der().to_vec());
    }
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        for (number, csr) in (0..).zip(&requests) {
            let mut request = tonic::Request::new(CertifyRequest { csr: csr.clone(), token: format!("{number}") });
            request.extensions_mut().insert(PeerAddress((address(number), 40_000).into()));
            service.certify(request).await?;
        }
        rates.push(f64::from(PODS) / begun.elapsed().as_secs_f64());
    }
    println!("{}", serde_json::json!({"certificates_per_second": rates}));
    Ok(())
}
