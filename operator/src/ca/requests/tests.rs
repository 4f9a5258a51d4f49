//! Requests against an API server in memory, on which a function plays cert-manager.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType, SerialNumber,
};
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use time::Duration as Span;

use super::*;
use crate::ca::authority::tests::identity;
use crate::ca::authority::{Intermediate, Root, Serial, pem};
use crate::ca::csr;
use crate::fake_api::FakeApi;

/// Where requests are made.
pub(in crate::ca) const REQUESTS: &str = "/apis/cert-manager.io/v1/namespaces/fairlead-system/certificaterequests";
const NAMES: [&str; 2] = ["fairlead-operator.fairlead-system.svc", "fairlead-operator.fairlead-system"];

type Spoil = Arc<dyn Fn(&mut CertificateParams) + Send + Sync>;

/// A user's authority.
pub(in crate::ca) struct Company {
    pub(in crate::ca) root: Root,
    intermediate: Intermediate,
}

impl Company {
    pub(in crate::ca) fn new() -> Self {
        let (now, serial) = (OffsetDateTime::now_utc(), || Serial::random().unwrap());
        let root = Root::new(&serial(), now).unwrap();
        let intermediate = root.new_intermediate(&serial(), now).unwrap();
        Self { root, intermediate }
    }

    /// What it makes of a request; `spoil` is what a bad one does, `key` another key.
    fn sign(&self, object: &Value, spoil: impl Fn(&mut CertificateParams), key: Option<PublicKey>) -> String {
        let request = STANDARD.decode(object["spec"]["request"].as_str().unwrap()).unwrap();
        let request = CertificateSigningRequestDer::from_pem_slice(&request).unwrap();
        let asked = rcgen::CertificateSigningRequestParams::from_der(&request).unwrap().params;
        let seconds: i64 = object["spec"]["duration"].as_str().unwrap().trim_end_matches('s').parse().unwrap();
        let now = OffsetDateTime::now_utc();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.serial_number = Some(SerialNumber::from_slice(Serial::random().unwrap().as_bytes()));
        params.subject_alt_names = asked.subject_alt_names;
        (params.not_before, params.not_after) = (now, now + Span::seconds(seconds));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        spoil(&mut params);
        let key = key.unwrap_or_else(|| *csr::read(&request).unwrap().public_key());
        let leaf = params.signed_by(&key, self.intermediate.issuer()).unwrap();
        format!("{}{}", pem("CERTIFICATE", leaf.der()), self.intermediate.chain_pem())
    }

    /// Approves and signs whatever is asked for.
    pub(in crate::ca) fn serve(self: &Arc<Self>, api: &FakeApi) {
        let this = Arc::clone(self);
        api.on_create(REQUESTS, move |object| object["status"] = signed(&this.sign(object, |_| (), None)));
    }
}

fn signed(chain: &str) -> Value {
    json!({
        "conditions": [
            {"type": "Approved", "status": "True", "reason": "cert-manager.io", "message": ""},
            {"type": "Ready", "status": "True", "reason": "Issued", "message": ""},
        ],
        "certificate": STANDARD.encode(chain),
    })
}

pub(in crate::ca) fn requests(api: &FakeApi, phase_out: bool) -> Arc<Requests> {
    let issuer = IssuerRef { group: "cert-manager.io".into(), kind: "ClusterIssuer".into(), name: "company".into() };
    let settings = CertificateRequests { issuer, phase_out };
    Requests::new(api.client(), "fairlead-system", settings, Metrics::default())
}

fn ask_with(company: &Company, dns_names: &[&str]) -> Ask {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(identity().as_str().try_into().unwrap())];
    params.subject_alt_names.extend(dns_names.iter().map(|name| SanType::DnsName((*name).try_into().unwrap())));
    let request = params.serialize_request(&key).unwrap();
    Ask {
        public_key: *csr::read(request.der()).unwrap().public_key(),
        csr: request.der().to_vec(),
        identity: identity(),
        dns_names: dns_names.iter().map(|name| (*name).to_owned()).collect(),
        lifetime: Duration::from_secs(3600),
        roots: vec![company.root.certificate().clone()],
    }
}

fn ask(company: &Company) -> Ask {
    ask_with(company, &[])
}

/// Nobody waits for the deletion.
async fn assert_nothing_is_left(api: &FakeApi) {
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(api.names(REQUESTS), Vec::<String>::new(), "an object is left");
}

#[tokio::test(start_paused = true)]
async fn what_the_issuer_signed_is_taken_and_the_object_goes() {
    let (api, company) = (FakeApi::default(), Arc::new(Company::new()));
    let seen = Arc::new(Mutex::new(Value::Null));
    let (of, signer) = (Arc::clone(&seen), Arc::clone(&company));
    api.on_create(REQUESTS, move |object| {
        *of.lock() = object.clone();
        object["status"] = signed(&signer.sign(object, |_| (), None));
    });
    let leaf = requests(&api, false).certificate(ask(&company)).await.unwrap();
    assert_eq!(leaf.chain.len(), 2, "the root is left out");
    let claims = fairlead_identity::leaf::claims(&leaf.chain[0].as_slice().into()).unwrap();
    assert_eq!(claims.identity, identity());
    assert_eq!((leaf.not_after - leaf.not_before).whole_seconds(), 3600);
    assert_nothing_is_left(&api).await;

    let object = seen.lock().clone();
    assert_eq!(object["metadata"]["generateName"], "fairlead-");
    assert_eq!(object["metadata"]["labels"]["fairlead.dev/certificate-request"], "leaf");
    assert_eq!(object["metadata"]["annotations"]["fairlead.dev/identity"], identity().as_str());
    let spec = &object["spec"];
    assert_eq!((&spec["isCA"], &spec["duration"]), (&json!(false), &json!("3600s")));
    assert_eq!(spec["usages"], json!(["digital signature", "server auth", "client auth"]));
    assert_eq!(spec["issuerRef"], json!({"group": "cert-manager.io", "kind": "ClusterIssuer", "name": "company"}));

    company.serve(&api);
    requests(&api, false).certificate(ask_with(&company, &NAMES)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_what_was_asked_for_is_not_used() {
    let (company, other) = (Arc::new(Company::new()), Arc::new(Company::new()));
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let admin = "spiffe://cluster.local/ns/kube-system/sa/admin";
    let cases: Vec<(&str, Spoil, &str)> = vec![
        ("another URI as well", Arc::new(move |p| p.subject_alt_names.push(uri(admin))), "exactly one URI name"),
        ("another's", Arc::new(move |p| p.subject_alt_names = vec![uri(admin)]), "is for spiffe://cluster.local/ns/k"),
        (
            "a DNS name",
            Arc::new(|p| p.subject_alt_names.push(SanType::DnsName("kubernetes.default".try_into().unwrap()))),
            "these alone",
        ),
        ("an address", Arc::new(|p| p.subject_alt_names.push(SanType::IpAddress([10, 0, 0, 1].into()))), "these alone"),
        ("no name", Arc::new(|p| p.subject_alt_names.clear()), "exactly one URI name"),
        ("an authority", Arc::new(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), "an authority's"),
        ("may sign", Arc::new(|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)), "an authority's"),
        ("no usage", Arc::new(|p| p.key_usages.clear()), "key usage"),
        ("server alone", Arc::new(|p| p.extended_key_usages.truncate(1)), "extended key usages"),
        (
            "code too",
            Arc::new(|p| p.extended_key_usages.push(ExtendedKeyUsagePurpose::CodeSigning)),
            "extended key usages",
        ),
        ("longer", Arc::new(|p| p.not_after += Span::hours(1)), "later than was asked for"),
        (
            "over",
            Arc::new(|p| (p.not_before, p.not_after) = (p.not_before - Span::days(2), p.not_before - Span::days(1))),
            "less than a minute",
        ),
        ("nearly over", Arc::new(|p| p.not_after = p.not_before + Span::seconds(30)), "less than a minute"),
        ("not yet", Arc::new(|p| p.not_before += Span::minutes(5)), "in the future"),
        ("two fifths over", Arc::new(|p| p.not_before -= Span::seconds(2401)), "renewed at once, again and again"),
    ];
    for (name, spoil, why) in cases {
        let (api, signer) = (FakeApi::default(), Arc::clone(&company));
        api.on_create(REQUESTS, move |object| {
            object["status"] = signed(&signer.sign(object, |params| spoil(params), None));
        });
        let requests = requests(&api, false);
        let refused = requests.certificate(ask(&company)).await.unwrap_err();
        let sentence = refused.to_string();
        assert!(refused.reason() == "AnswerRefused" && sentence.contains(why), "{name}: {sentence}");
        assert!(sentence.starts_with("ClusterIssuer company (cert-manager.io) was asked"), "{name}: {sentence}");
        let [complaint] = &requests.complaints()[..] else { panic!("{name}") };
        assert_eq!(complaint.reason, "AnswerRefused");
        assert_nothing_is_left(&api).await;
    }

    // Another key, another authority, and what is nothing at all.
    let answered = async |chain: Box<dyn Fn(&Value) -> String + Send + Sync>| {
        let api = FakeApi::default();
        api.on_create(REQUESTS, move |object| object["status"] = signed(&chain(object)));
        requests(&api, false).certificate(ask(&company)).await.unwrap_err().to_string()
    };
    let stranger = PublicKey::from_raw(KeyPair::generate().unwrap().public_key_raw()).unwrap();
    let signer = Arc::clone(&company);
    let refused = answered(Box::new(move |object| signer.sign(object, |_| (), Some(stranger)))).await;
    assert!(refused.contains("is for another key"), "{refused}");
    let foreign = Arc::clone(&other);
    let refused = answered(Box::new(move |object| foreign.sign(object, |_| (), None))).await;
    assert!(refused.contains("does not lead to the roots"), "{refused}");
    let signer = Arc::clone(&company);
    let refused = answered(Box::new(move |object| {
        let chain = signer.sign(object, |_| (), None);
        chain[..chain.find("-----END").unwrap()].to_owned()
    }))
    .await;
    assert!(refused.contains("not a chain"), "{refused}");
    let signer = Arc::clone(&company);
    let refused = answered(Box::new(move |object| {
        signer.sign(object, |_| (), None) + &signer.intermediate.chain_pem().repeat(3)
    }))
    .await;
    assert!(refused.contains("has more than"), "{refused}");
}

#[tokio::test]
async fn a_chain_that_ends_before_its_leaf_is_not_used() {
    let company = Company::new();
    let ask = Ask { lifetime: Duration::from_secs(30 * 24 * 3600), ..ask(&company) };
    let object = serde_json::to_value(object::of(
        &ask,
        &IssuerRef { group: "cert-manager.io".into(), kind: "Issuer".into(), name: "a".into() },
    ))
    .unwrap();
    let chain = company.sign(&object, |_| (), None);
    let late = OffsetDateTime::now_utc() + Span::days(1);
    answer::check(chain.as_bytes(), &ask, late).unwrap();
    let ends = company.intermediate.validity.not_after;
    let chain = company.sign(&object, |params| params.not_after = ends + Span::seconds(1), None);
    let refused = answer::check(chain.as_bytes(), &ask, ends - Span::days(20));
    assert_eq!(refused, Err(AnswerError::Outlives(ends)));
}

#[tokio::test(start_paused = true)]
async fn what_is_decided_against_us_is_told_in_its_own_word() {
    let company = Company::new();
    let condition = |type_: &str, status: &str, reason: &str| json!({"conditions": [{"type": type_, "status": status, "reason": reason, "message": "since I say so"}]});
    for (status, reason) in [
        (condition("Denied", "True", "policy"), "RequestDenied"),
        (condition("Ready", "False", "Failed"), "RequestFailed"),
        (condition("InvalidRequest", "True", "x"), "RequestInvalid"),
        (condition("Ready", "False", "Pending"), "RequestTimeout"),
    ] {
        let api = FakeApi::default();
        api.on_create(REQUESTS, move |object| object["status"] = status.clone());
        let begun = Instant::now();
        let requests = requests(&api, false);
        let refused = requests.certificate(ask(&company)).await.unwrap_err();
        assert_eq!((refused.reason(), refused.to_string().contains("since I say so")), (reason, true), "{refused}");
        assert!(begun.elapsed() < PATIENCE + TIMEOUT);
        assert_nothing_is_left(&api).await;
        // One pod that is refused does not keep the next one from being asked for.
        let again = requests.certificate(ask(&company)).await.unwrap_err();
        assert_eq!(again.reason(), reason);
    }
    // Nobody decides.
    let api = FakeApi::default();
    let refused = requests(&api, false).certificate(ask(&company)).await.unwrap_err();
    assert!(refused.to_string().ends_with("was not decided within 15s: nobody approved it"), "{refused}");
    assert_nothing_is_left(&api).await;
}

#[tokio::test(start_paused = true)]
async fn a_decision_that_takes_seconds_is_waited_for() {
    let (api, company) = (FakeApi::default(), Company::new());
    let requests = requests(&api, false);
    let decide = async {
        tokio::time::sleep(Duration::from_secs(7)).await;
        let [name] = &api.names(REQUESTS)[..] else { panic!("one object") };
        let path = format!("{REQUESTS}/{name}");
        let mut object = api.get(&path).unwrap();
        object["status"] = signed(&company.sign(&object, |_| (), None));
        api.put(&path, object);
    };
    let (outcome, ()) = tokio::join!(requests.certificate(ask(&company)), decide);
    outcome.unwrap();
    assert_nothing_is_left(&api).await;
}

#[tokio::test(start_paused = true)]
async fn an_api_that_is_away_is_left_alone_for_growing_pauses_and_found_again() {
    let (api, company) = (FakeApi::default(), Arc::new(Company::new()));
    company.serve(&api);
    let requests = requests(&api, false);
    api.set_down(true);
    assert_eq!(requests.certificate(ask(&company)).await.unwrap_err().reason(), "RequestNotMade");
    assert_eq!(requests.certificate(ask(&company)).await.unwrap_err(), RequestError::Paused(FIRST_PAUSE));
    tokio::time::advance(FIRST_PAUSE).await;
    assert_eq!(requests.certificate(ask(&company)).await.unwrap_err().reason(), "RequestNotMade");
    assert_eq!(requests.certificate(ask(&company)).await.unwrap_err(), RequestError::Paused(FIRST_PAUSE * 2));
    for _ in 0..20 {
        tokio::time::advance(LAST_PAUSE).await;
        assert_eq!(requests.certificate(ask(&company)).await.unwrap_err().reason(), "RequestNotMade");
    }
    api.set_down(false);
    tokio::time::advance(LAST_PAUSE).await;
    requests.certificate(ask(&company)).await.unwrap();
    requests.certificate(ask(&company)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn pods_that_fail_together_are_one_step_of_the_pause() {
    let (api, company) = (FakeApi::default(), Arc::new(Company::new()));
    company.serve(&api);
    let requests = requests(&api, false);
    api.set_down(true);
    let asked = (0..20).map(|_| requests.certificate(ask(&company)));
    let failed = futures::future::join_all(asked).await;
    assert!(failed.iter().all(|outcome| outcome.as_ref().unwrap_err().reason() == "RequestNotMade"), "{failed:?}");
    assert_eq!(requests.certificate(ask(&company)).await.unwrap_err(), RequestError::Paused(FIRST_PAUSE));
    api.set_down(false);
    tokio::time::advance(FIRST_PAUSE).await;
    requests.certificate(ask(&company)).await.unwrap();
}

/// Requests to an API server that answers each method so, or never.
fn requests_to(answer: impl Fn(&http::Method) -> Option<(u16, Value)> + Clone + Send + 'static) -> Arc<Requests> {
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let answer = answer.clone();
        async move {
            match answer(request.method()) {
                Some((code, body)) => {
                    let body = kube::client::Body::from(body.to_string().into_bytes());
                    Ok::<_, std::convert::Infallible>(http::Response::builder().status(code).body(body).unwrap())
                }
                None => std::future::pending().await,
            }
        }
    });
    let issuer = IssuerRef { group: "cert-manager.io".into(), kind: "Issuer".into(), name: "a".into() };
    let settings = CertificateRequests { issuer, phase_out: false };
    Requests::new(kube::Client::new(service, "default"), "fairlead-system", settings, Metrics::default())
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_a_policy_refuses_keeps_no_other_from_being_asked_for() {
    let company = Company::new();
    for (code, reason) in [(403, "RequestForbidden"), (413, "RequestInvalid"), (422, "RequestInvalid")] {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
            "reason": "Forbidden", "message": "admission webhook \"policy\" denied the request",
        });
        let requests = requests_to(move |_| Some((code, status.clone())));
        for _ in 0..3 {
            let refused = requests.certificate(ask(&company)).await.unwrap_err();
            assert_eq!((refused.reason(), refused.to_string().contains("\"policy\" denied")), (reason, true));
        }
        let [complaint] = &requests.complaints()[..] else { panic!("{code}") };
        assert_eq!(complaint.reason, reason);
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_is_answered_in_time_whatever_hangs() {
    let company = Company::new();
    let made = |status: Value| {
        json!({
            "apiVersion": "cert-manager.io/v1", "kind": "CertificateRequest", "metadata": {"name": "a"},
            "spec": {}, "status": status,
        })
    };
    // Looks hang; the deletion hangs.
    let denied = json!({"conditions": [{"type": "Denied", "status": "True", "reason": "no", "message": "no"}]});
    for (look, longest, reason) in
        [(None, PATIENCE, "RequestTimeout"), (Some((200, made(denied))), FIRST_LOOK, "RequestDenied")]
    {
        let created = made(json!({}));
        let requests = requests_to(move |method| match *method {
            http::Method::POST => Some((201, created.clone())),
            http::Method::GET => look.clone(),
            _ => None,
        });
        let begun = Instant::now();
        assert_eq!(requests.certificate(ask(&company)).await.unwrap_err().reason(), reason);
        assert!(begun.elapsed() <= longest + Duration::from_millis(10), "{reason}: {:?}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_begins_certificates_long_ago_is_named_and_until_when_it_can_sign_is_known() {
    let (api, company) = (FakeApi::default(), Arc::new(Company::new()));
    let requests = requests(&api, false);
    assert_eq!(requests.issuer_validity(), None);
    for (by, complaints) in [(120, 0), (2390, 1)] {
        let signer = Arc::clone(&company);
        api.on_create(REQUESTS, move |object| {
            object["status"] = signed(&signer.sign(object, |params| params.not_before -= Span::seconds(by), None));
        });
        requests.certificate(ask(&company)).await.unwrap();
        let told = requests.complaints();
        assert_eq!(told.len(), complaints, "{told:?}");
        let names_it = |told: &Complaint| told.reason == "Backdated" && told.sentence.contains("company");
        assert!(told.iter().all(names_it), "{told:?}");
        assert_eq!(requests.issuer_validity(), Some(company.intermediate.validity));
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_are_under_way_than_the_bound_and_who_gives_up_leaves_nothing() {
    let (api, company) = (FakeApi::default(), Company::new());
    let requests = requests(&api, false);
    let waiting: Vec<_> = (0..2 * MAX_UNDER_WAY)
        .map(|_| {
            let (requests, ask) = (Arc::clone(&requests), ask(&company));
            tokio::spawn(async move { requests.certificate(ask).await.unwrap_err().reason() })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(api.names(REQUESTS).len(), MAX_UNDER_WAY);
    let mut reasons = Vec::new();
    for one in waiting {
        reasons.push(one.await.unwrap());
    }
    let busy = reasons.iter().filter(|reason| **reason == "Busy").count();
    assert_eq!((busy, reasons.len() - busy), (MAX_UNDER_WAY, MAX_UNDER_WAY));
    let told: Vec<_> = requests.complaints().iter().map(|complaint| complaint.reason).collect();
    assert_eq!(told, ["Busy", "RequestTimeout"]);

    // The proxy hangs up.
    let one = tokio::time::timeout(Duration::from_secs(1), requests.certificate(ask(&company))).await;
    assert!(one.is_err() && api.names(REQUESTS).len() == 1);
    tokio::time::sleep(PATIENCE + LAST_LOOK).await;
    assert_nothing_is_left(&api).await;
}

#[tokio::test(start_paused = true)]
async fn what_an_operator_that_died_left_behind_is_collected_by_label_and_age() {
    let (api, company) = (FakeApi::default(), Company::new());
    let now = OffsetDateTime::now_utc();
    let requests = requests(&api, false);
    // It dies between its write and everything else.
    api.die_after(1);
    requests.certificate(ask(&company)).await.unwrap_err();
    api.revive();
    let [left] = &api.names(REQUESTS)[..] else { panic!("one is left") };
    let at = |name: &str, age: Span, label: bool| {
        let made = k8s_openapi::jiff::Timestamp::from_second((now - age).unix_timestamp()).unwrap().to_string();
        let path = format!("{REQUESTS}/{name}");
        let mut object = api.get(&format!("{REQUESTS}/{left}")).unwrap();
        object["metadata"]["creationTimestamp"] = json!(made);
        if !label {
            object["metadata"]["labels"] = json!({});
        }
        api.put(&path, object);
    };
    at("others", Span::days(1), false);
    at("young", Span::minutes(4), true);
    at(left, Span::minutes(6), true);
    assert_eq!(requests.sweep_once(now).await, Ok(1));
    assert_eq!(api.names(REQUESTS), ["others", "young"]);
    assert_eq!(requests.sweep_once(now).await, Ok(0));
    api.set_down(true);
    assert!(requests.sweep_once(now).await.is_err());
}
