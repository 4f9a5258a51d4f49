//! `Identity.Certify`: a pod's token and public key in, its certificate out.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fairlead_proxy_api::TOKEN_AUDIENCE;
use fairlead_proxy_api::v1::identity_server::{Identity, IdentityServer};
use fairlead_proxy_api::v1::{self, CertifyRequest, CertifyResponse};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::{Api, PostParams};
use time::OffsetDateTime;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::authority::CertifyError;
use super::keeper::State;
use super::limit::RateLimit;
use super::token::{Claims, Refusal, admit, claims};
use super::{PeerAddress, Pods, SpiffeId, TrustBundle, csr, requests};

/// A certificate request and a token, in bytes; each has a limit of its own below this. What is larger is not read.
const MAX_MESSAGE: usize = 64 * 1024;
/// A projected token has about 1,200 bytes.
const MAX_TOKEN: usize = 16 * 1024;
/// For one token review.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);
/// Reviews that are asked of the API server at a time.
const MAX_REVIEWS: usize = 64;
/// The index hears of a pod, and the kubelet reports its address, about when the proxy starts: so long we wait for them.
const POD_PATIENCE: Duration = Duration::from_secs(3);
const POD_INTERVAL: Duration = Duration::from_millis(50);
/// What a proxy waits for an answer. For a leaf that another authority signs there is enough left of it after permit, review and pod.
const PROXY_PATIENCE: Duration = Duration::from_secs(30);
const _: () = assert!(
    REVIEW_TIMEOUT.as_secs() * 2 + POD_PATIENCE.as_secs() + requests::PATIENCE.as_secs() < PROXY_PATIENCE.as_secs()
);
/// A pod asks at its start and at half of its certificate's life, which is a minute away at the least; one that crashes in a loop must not keep the API
/// server busy.
const POD_BURST: u32 = 10;
const POD_REFILL: Duration = Duration::from_secs(6);
/// Of an address whose token was not looked at yet.
const ADDRESS_BURST: u32 = 30;
const ADDRESS_REFILL: Duration = Duration::from_secs(1);

/// Asks whether a token is authentic.
pub trait Reviewer: Send + Sync + 'static {
    /// The error is a sentence without the token.
    fn review(&self, token: &str) -> impl Future<Output = Result<TokenReviewStatus, String>> + Send;
}

/// Asks the API server.
pub struct ApiReviewer(Api<TokenReview>);

impl ApiReviewer {
    /// Needs the permission to create token reviews.
    pub fn new(client: kube::Client) -> Self {
        Self(Api::all(client))
    }
}

impl Reviewer for ApiReviewer {
    async fn review(&self, token: &str) -> Result<TokenReviewStatus, String> {
        let review = TokenReview {
            spec: TokenReviewSpec { audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]), token: Some(token.to_owned()) },
            ..TokenReview::default()
        };
        match tokio::time::timeout(REVIEW_TIMEOUT, self.0.create(&PostParams::default(), &review)).await {
            Ok(Ok(review)) => {
                review.status.ok_or_else(|| "the API server reviewed the token without an answer".to_owned())
            }
            Ok(Err(error)) => Err(format!("the API server did not review the token: {error}")),
            Err(_) => Err("the API server did not review the token in time".to_owned()),
        }
    }
}

/// The service; see the contract for its errors.
pub struct IdentityService<R> {
    trust_domain: String,
    authority: watch::Receiver<State>,
    reviewer: R,
    pods: Arc<dyn Pods>,
    reviews: Semaphore,
    by_address: RateLimit<IpAddr>,
    by_pod: RateLimit<String>,
}

impl<R: Reviewer> IdentityService<R> {
    /// Certificates are for identities of `trust_domain`.
    pub fn new(trust_domain: &str, authority: watch::Receiver<State>, reviewer: R, pods: Arc<dyn Pods>) -> Self {
        Self {
            trust_domain: trust_domain.to_owned(),
            authority,
            reviewer,
            pods,
            reviews: Semaphore::new(MAX_REVIEWS),
            by_address: RateLimit::new(ADDRESS_BURST, ADDRESS_REFILL),
            by_pod: RateLimit::new(POD_BURST, POD_REFILL),
        }
    }

    /// As a service of a gRPC server, which reads nothing larger than a request can be.
    pub fn into_server(self) -> IdentityServer<Self> {
        IdentityServer::new(self).max_decoding_message_size(MAX_MESSAGE)
    }

    async fn certify(&self, source: IpAddr, request: CertifyRequest) -> Result<CertifyResponse, Status> {
        if !self.by_address.allow(source) {
            return Err(Status::resource_exhausted("too many certificate requests from this address; try again later"));
        }
        let csr = csr::read(&request.csr).map_err(|error| Status::invalid_argument(error.to_string()))?;
        if request.token.is_empty()
            || request.token.len() > MAX_TOKEN
            || !request.token.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err(Status::unauthenticated("the token is not a service-account token"));
        }
        let authority = self.authority.borrow().authority().map_err(Status::unavailable)?;

        let claims = claims(&self.review(&request.token).await?).map_err(|refusal| status(&refusal))?;
        if !self.by_pod.allow(claims.pod_uid.clone()) {
            return Err(Status::resource_exhausted("too many certificate requests of this pod; try again later"));
        }
        self.admit(&claims, source).await.map_err(|refusal| status(&refusal))?;
        let identity = SpiffeId::new(&self.trust_domain, &claims.namespace, &claims.service_account)
            .map_err(|error| Status::permission_denied(error.to_string()))?;

        let issued = authority.certify(&csr, &identity, &[], OffsetDateTime::now_utc()).await;
        let leaf = issued.map_err(|error| match error {
            CertifyError::Csr(_) => Status::invalid_argument(error.to_string()),
            CertifyError::Material(_) | CertifyError::Request(_) => Status::unavailable(error.to_string()),
        })?;
        tracing::info!(%identity, namespace = claims.namespace, pod = claims.pod_name, ends = %leaf.not_after, "certificate issued");
        Ok(CertifyResponse { chain: leaf.chain, trust_bundle: Some(authority.trust_bundle().clone().into()) })
    }

    async fn review(&self, token: &str) -> Result<TokenReviewStatus, Status> {
        let _permit = tokio::time::timeout(REVIEW_TIMEOUT, self.reviews.acquire())
            .await
            .ok()
            .and_then(Result::ok)
            .ok_or_else(|| Status::unavailable("too many token reviews are under way; try again"))?;
        self.reviewer.review(token).await.map_err(|error| {
            tracing::warn!(error, "no certificate: token not reviewed");
            Status::unavailable(error)
        })
    }

    /// What the index may only be late with is waited for.
    async fn admit(&self, claims: &Claims, source: IpAddr) -> Result<(), Refusal> {
        let deadline = Instant::now() + POD_PATIENCE;
        loop {
            let pod = self.pods.find(&claims.namespace, &claims.pod_name);
            match admit(claims, pod.as_ref(), source) {
                Err(Refusal::UnknownPod(_) | Refusal::OtherPod(_) | Refusal::NoAddressYet(_))
                    if Instant::now() < deadline =>
                {
                    tokio::time::sleep(POD_INTERVAL).await;
                }
                outcome => return outcome,
            }
        }
    }
}

#[tonic::async_trait]
impl<R: Reviewer> Identity for IdentityService<R> {
    async fn certify(&self, request: Request<CertifyRequest>) -> Result<Response<CertifyResponse>, Status> {
        let Some(PeerAddress(source)) = request.extensions().get::<PeerAddress>().copied() else {
            return Err(Status::internal("the connection has no address"));
        };
        let source = source.ip().to_canonical();
        let outcome = self.certify(source, request.into_inner()).await;
        if let Err(refusal) = &outcome {
            tracing::warn!(%source, code = ?refusal.code(), reason = refusal.message(), "certificate refused");
        }
        outcome.map(Response::new)
    }
}

impl From<TrustBundle> for v1::TrustBundle {
    fn from(bundle: TrustBundle) -> Self {
        let foreign = bundle.foreign.into_iter();
        let foreign = foreign.map(|(trust_domain, roots)| v1::ForeignBundle { trust_domain, roots }).collect();
        Self { sequence: bundle.sequence, roots: bundle.roots, foreign }
    }
}

fn status(refusal: &Refusal) -> Status {
    let sentence = refusal.to_string();
    match refusal {
        Refusal::Token(_) => Status::unauthenticated(sentence),
        Refusal::NoAddressYet(_) => Status::unavailable(sentence),
        _ => Status::permission_denied(sentence),
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use rcgen::{CertificateParams, KeyPair};
    use tonic::Code;

    use super::super::PodInfo;
    use super::super::authority::{Authority, Root, Serial};
    use super::super::requests::tests::{Company, requests};
    use super::super::token::tests::{good, pod};
    use super::*;
    use crate::fake_api::FakeApi;

    struct Fixed(Result<TokenReviewStatus, String>);

    impl Reviewer for Fixed {
        async fn review(&self, _: &str) -> Result<TokenReviewStatus, String> {
            self.0.clone()
        }
    }

    #[derive(Default)]
    struct Known(Mutex<Option<PodInfo>>);

    impl Pods for Known {
        fn find(&self, namespace: &str, name: &str) -> Option<PodInfo> {
            assert_eq!((namespace, name), ("bookinfo", "reviews-1"));
            self.0.lock().clone()
        }
    }

    fn ready() -> State {
        let now = OffsetDateTime::now_utc();
        let root = Root::new(&Serial::random().unwrap(), now).unwrap();
        let intermediate = root.new_intermediate(&Serial::random().unwrap(), now).unwrap();
        State::Ready(Arc::new(Authority::new(&root, intermediate)))
    }

    fn service(
        state: State,
        review: Result<TokenReviewStatus, String>,
        pod: Option<PodInfo>,
    ) -> (IdentityService<Fixed>, Arc<Known>) {
        let pods = Arc::new(Known(Mutex::new(pod)));
        let service = IdentityService::new(
            "cluster.local",
            watch::channel(state).1,
            Fixed(review),
            Arc::clone(&pods) as Arc<dyn Pods>,
        );
        (service, pods)
    }

    fn request() -> CertifyRequest {
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
        CertifyRequest { csr, token: "a.b.c".to_owned() }
    }

    async fn call(service: &IdentityService<Fixed>, request: CertifyRequest) -> Result<CertifyResponse, Status> {
        call_from(service, "10.1.0.7:40000", request).await
    }

    async fn call_from<R: Reviewer>(
        service: &IdentityService<R>,
        address: &str,
        request: CertifyRequest,
    ) -> Result<CertifyResponse, Status> {
        let mut request = Request::new(request);
        request.extensions_mut().insert(PeerAddress(address.parse().unwrap()));
        Identity::certify(service, request).await.map(Response::into_inner)
    }

    #[tokio::test]
    async fn a_message_over_the_limit_is_not_read() {
        let (service, _) = service(ready(), Ok(good()), Some(pod()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        // What `serve` does: the address of the pod.
        let located = tower::ServiceBuilder::new().map_request(|mut request: http::Request<_>| {
            request.extensions_mut().insert(PeerAddress("10.1.0.7:40000".parse().unwrap()));
            request
        });
        let server = tonic::transport::Server::builder().layer(located).add_service(service.into_server());
        let serving = tokio::spawn(server.serve_with_incoming(incoming));
        let channel = tonic::transport::Channel::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        let mut client = fairlead_proxy_api::v1::identity_client::IdentityClient::new(channel);
        client.certify(request()).await.unwrap();
        let token = "a".repeat(MAX_TOKEN + 1);
        let refused = client.certify(CertifyRequest { token, ..request() }).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "read, and too long for a token");
        let token = "a".repeat(MAX_MESSAGE);
        let refused = client.certify(CertifyRequest { token, ..request() }).await.unwrap_err();
        assert_eq!(refused.code(), Code::OutOfRange);
        client.certify(request()).await.unwrap();
        serving.abort();
    }

    /// Counts, and answers after a second.
    struct Slow(std::sync::atomic::AtomicU32);

    impl Reviewer for Slow {
        async fn review(&self, _: &str) -> Result<TokenReviewStatus, String> {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(good())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_floods_costs_few_reviews_and_keeps_nobody_waiting() {
        let pods = Arc::new(Known(Mutex::new(Some(pod()))));
        let slow = Slow(std::sync::atomic::AtomicU32::new(0));
        let service = IdentityService::new("cluster.local", watch::channel(ready()).1, slow, pods as Arc<dyn Pods>);
        let service = Arc::new(service);
        let flood: Vec<_> = (0..500)
            .map(|_| {
                let service = Arc::clone(&service);
                tokio::spawn(async move { call_from(&*service, "10.1.0.66:1", request()).await.unwrap_err().code() })
            })
            .collect();
        tokio::task::yield_now().await;
        let begun = Instant::now();
        call_from(&*service, "10.1.0.7:40000", request()).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(2), "a pod waits behind the flood: {:?}", begun.elapsed());
        let mut codes = Vec::new();
        for one in flood {
            codes.push(one.await.unwrap());
        }
        let turned_away = codes.iter().filter(|code| **code == Code::ResourceExhausted).count();
        // The others were reviewed, and are not at the pod's address.
        let reviews = service.reviewer.0.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(reviews, ADDRESS_BURST + 1);
        assert!(turned_away >= 500 - ADDRESS_BURST as usize, "{turned_away}");
        assert!(codes.iter().all(|code| matches!(code, Code::ResourceExhausted | Code::PermissionDenied)));
    }

    #[tokio::test]
    async fn a_pod_gets_the_identity_of_its_service_account() {
        let (service, _) = service(ready(), Ok(good()), Some(pod()));
        let response = call(&service, request()).await.unwrap();
        assert_eq!(response.chain.len(), 2);
        assert_eq!(response.trust_bundle.unwrap().roots.len(), 1);
        let claims = fairlead_identity::leaf::claims(&response.chain[0].as_slice().into()).unwrap();
        assert_eq!(claims.identity.as_str(), "spiffe://cluster.local/ns/bookinfo/sa/reviews");
    }

    #[tokio::test(start_paused = true)]
    async fn each_refusal_has_its_code() {
        let code = async |state: State,
                          review: Result<TokenReviewStatus, String>,
                          pod: Option<PodInfo>,
                          request: CertifyRequest| {
            call(&service(state, review, pod).0, request).await.unwrap_err().code()
        };
        assert_eq!(code(State::Starting, Ok(good()), Some(pod()), request()).await, Code::Unavailable);
        assert_eq!(code(State::Broken("x".to_owned()), Ok(good()), Some(pod()), request()).await, Code::Unavailable);
        assert_eq!(code(ready(), Err("away".to_owned()), Some(pod()), request()).await, Code::Unavailable);
        assert_eq!(
            code(ready(), Ok(TokenReviewStatus::default()), Some(pod()), request()).await,
            Code::Unauthenticated
        );
        assert_eq!(code(ready(), Ok(good()), None, request()).await, Code::PermissionDenied);
        assert_eq!(
            code(ready(), Ok(good()), Some(PodInfo { terminating: true, ..pod() }), request()).await,
            Code::PermissionDenied
        );
        assert_eq!(
            code(ready(), Ok(good()), Some(PodInfo { ips: vec![], ..pod() }), request()).await,
            Code::Unavailable
        );
        assert_eq!(
            code(ready(), Ok(good()), Some(pod()), CertifyRequest { csr: vec![], ..request() }).await,
            Code::InvalidArgument
        );
        for token in [String::new(), "a b".to_owned(), "a".repeat(MAX_TOKEN + 1)] {
            assert_eq!(
                code(ready(), Ok(good()), Some(pod()), CertifyRequest { token, ..request() }).await,
                Code::Unauthenticated
            );
        }
    }

    /// A service whose leaves another authority signs.
    fn delegated(api: &FakeApi, company: &Arc<Company>) -> IdentityService<Fixed> {
        company.serve(api);
        let bundle = TrustBundle {
            sequence: 7,
            roots: vec![company.root.certificate().to_vec()],
            foreign: super::super::foreign::Foreign::new(),
        };
        let authority = Authority::by_requests(requests(api, false), &[&company.root], bundle);
        service(State::Ready(Arc::new(authority)), Ok(good()), Some(pod())).0
    }

    #[tokio::test(start_paused = true)]
    async fn another_authority_is_asked_for_a_pods_identity_and_for_nothing_else() {
        let (api, company) = (FakeApi::default(), Arc::new(Company::new()));
        let service = delegated(&api, &company);
        let key = KeyPair::generate().unwrap();
        let own = |account: &str| SpiffeId::new("cluster.local", "bookinfo", account).unwrap();
        let with = |csr: Vec<u8>| CertifyRequest { csr, ..request() };
        let of = |account: &str| with(fairlead_proxy::identity::certify::request(&own(account), &key).unwrap());
        let response = call(&service, of("reviews")).await.unwrap();
        let claims = fairlead_identity::leaf::claims(&response.chain[0].as_slice().into()).unwrap();
        assert_eq!(claims.identity, own("reviews"));
        assert_eq!(response.trust_bundle.unwrap().sequence, 7);
        assert_eq!(api.writes(), 2, "one object, which is gone");

        // Refused before anything is created.
        let mut greedy = CertificateParams::new(vec!["kubernetes.default.svc".to_owned()]).unwrap();
        greedy.distinguished_name = rcgen::DistinguishedName::new();
        let uri = |id: &SpiffeId| rcgen::SanType::URI(id.as_str().try_into().unwrap());
        greedy.subject_alt_names.insert(0, uri(&own("reviews")));
        let greedy = greedy.serialize_request(&key).unwrap().der().to_vec();
        for (name, csr) in
            [("somebody else", of("ratings")), ("more names", with(greedy)), ("older version", request())]
        {
            let refused = call(&service, csr).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{name}");
            assert!(refused.message().contains(name), "{}", refused.message());
        }
        assert_eq!(api.writes(), 2);

        api.set_down(true);
        assert_eq!(call(&service, of("reviews")).await.unwrap_err().code(), Code::Unavailable);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_the_index_hears_of_a_moment_later_is_waited_for() {
        let (service, pods) = service(ready(), Ok(good()), None);
        let appear = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            *pods.0.lock() = Some(PodInfo { ips: vec![], ..pod() });
            tokio::time::sleep(Duration::from_secs(1)).await;
            *pods.0.lock() = Some(pod());
        };
        let (response, ()) = tokio::join!(call(&service, request()), appear);
        assert!(response.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_asks_in_a_loop_is_slowed_down() {
        let (service, _) = service(ready(), Ok(good()), Some(pod()));
        let mut granted = 0;
        for _ in 0..20 {
            match call(&service, request()).await {
                Ok(_) => granted += 1,
                Err(refusal) => assert_eq!(refusal.code(), Code::ResourceExhausted),
            }
        }
        assert_eq!(granted, POD_BURST);
    }
}
