//! Handshakes as they happen between proxies, and the cases of an auditor that must fail in them.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use fairlead_identity::{
    leaf::{LeafError, claims},
    verifier,
};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
    string::Ia5String,
};
use rustls::{
    ClientConnection, ServerConnection,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName},
};

use super::{
    testing::{Authority, DAY, domain, id},
    *,
};

const REVIEWS: &str = "spiffe://cluster.local/ns/bookinfo/sa/reviews";
const RATINGS: &str = "spiffe://cluster.local/ns/bookinfo/sa/ratings";

fn identity(authority: &Authority, uri: &str) -> Identity {
    Identity::new(domain(), authority.leaf(uri), authority.bundle(1)).unwrap()
}

/// Runs a handshake in memory; both ends, or the first error and whose it was.
fn handshake(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> Result<(ClientConnection, ServerConnection), (&'static str, rustls::Error)> {
    let name = ServerName::try_from("ignored.example").unwrap();
    let mut client = ClientConnection::new(client, name).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets().map_err(|e| ("server", e))?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        if !wire.is_empty() {
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets().map_err(|e| ("client", e))?;
        }
    }
    Ok((client, server))
}

#[test]
fn two_workloads_prove_themselves_to_each_other() {
    let authority = Authority::new();
    let (reviews, ratings) = (identity(&authority, REVIEWS), identity(&authority, RATINGS));
    let config = reviews.client_config(&id(RATINGS), Alpn::Http1).unwrap();
    let (client, server) = handshake(config, ratings.server_config()).unwrap();
    let seen = peer(server.peer_certificates()).unwrap();
    assert_eq!(seen.identity, id(REVIEWS));
    assert_eq!(seen.not_after, reviews.leaf().claims().not_after);
    assert_eq!(peer(client.peer_certificates()).unwrap().identity, id(RATINGS));
    assert_eq!(Alpn::from_name(server.alpn_protocol().unwrap()), Some(Alpn::Http1));
    assert_eq!(server.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
}

#[test]
fn a_server_with_another_identity_is_refused() {
    let authority = Authority::new();
    let reviews = identity(&authority, REVIEWS);
    let impostor = identity(&authority, "spiffe://cluster.local/ns/evil/sa/ratings");
    let config = reviews.client_config(&id(RATINGS), Alpn::Tcp).unwrap();
    let (side, error) = handshake(config, impostor.server_config()).unwrap_err();
    assert_eq!(side, "client");
    assert!(verifier::reason(&error).contains("expected spiffe://cluster.local/ns/bookinfo/sa/ratings"));
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let authority = Authority::new();
    let ratings = identity(&authority, RATINGS);
    let anonymous = tls::client(None, authority.bundle(1).trusted(&domain()), id(RATINGS), Alpn::Http1.name()).unwrap();
    let (side, error) = handshake(Arc::new(anonymous), ratings.server_config()).unwrap_err();
    assert_eq!(side, "server");
    assert_eq!(error, rustls::Error::NoCertificatesPresented);
}

#[test]
fn another_mesh_is_refused_on_both_sides() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (reviews, foreign) = (identity(&ours, REVIEWS), identity(&theirs, RATINGS));
    let config = reviews.client_config(&id(RATINGS), Alpn::Http1).unwrap();
    assert_eq!(handshake(config, foreign.server_config()).unwrap_err().0, "client");

    // A foreign client that trusts us still has to convince us.
    let foreign = theirs.leaf(REVIEWS);
    let config = tls::client(
        Some(foreign.certified().clone()),
        ours.bundle(1).trusted(&domain()),
        id(RATINGS),
        Alpn::Http1.name(),
    )
    .unwrap();
    let ratings = identity(&ours, RATINGS);
    let (side, error) = handshake(Arc::new(config), ratings.server_config()).unwrap_err();
    assert_eq!(side, "server");
    assert_eq!(error, rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer));
}

#[test]
fn two_meshes_trust_each_other_and_neither_speaks_for_the_other() {
    const CALLER: &str = "spiffe://other.example/ns/shop/sa/cart";
    let (ours, theirs) = (Authority::new(), Authority::new());
    let other = TrustDomain::parse("other.example").unwrap();
    let knowing = |own: &Authority, domain: &TrustDomain, foreign: &Authority| {
        let foreign = v1::ForeignBundle { trust_domain: domain.to_string(), roots: vec![foreign.root_der()] };
        TrustBundle::from_proto(v1::TrustBundle { foreign: vec![foreign], ..own.bundle(1).to_proto() }).unwrap()
    };
    let ratings = Identity::new(domain(), ours.leaf(RATINGS), knowing(&ours, &other, &theirs)).unwrap();
    let cart = Identity::new(other.clone(), theirs.leaf(CALLER), knowing(&theirs, &domain(), &ours)).unwrap();
    let config = cart.client_config(&id(RATINGS), Alpn::Http1).unwrap();
    let (_, server) = handshake(config, ratings.server_config()).unwrap();
    assert_eq!(peer(server.peer_certificates()).unwrap().identity, id(CALLER));
    // What is kept over a restart is the same.
    let again = TrustBundle::from_proto(ratings.bundle().to_proto()).unwrap();
    assert_eq!(again.to_proto(), ratings.bundle().to_proto());

    // Their root vouches for nobody of ours, ours for nobody of theirs, and neither for a third mesh.
    for (authority, claimed) in [(&theirs, REVIEWS), (&ours, CALLER), (&theirs, "spiffe://third.example/ns/a/sa/b")] {
        let leaf = authority.leaf(claimed);
        let trusted = knowing(&ours, &other, &theirs).trusted(&domain());
        let config = tls::client(Some(leaf.certified().clone()), trusted, id(RATINGS), Alpn::Http1.name());
        let (side, error) = handshake(Arc::new(config.unwrap()), ratings.server_config()).unwrap_err();
        assert_eq!(side, "server", "{claimed}");
        assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{claimed}: {error}");
    }
    // Nor is a server believed that says to be of our mesh.
    let impostor = Identity::new(domain(), theirs.leaf(RATINGS), theirs.bundle(1)).unwrap();
    let reviews = Identity::new(domain(), ours.leaf(REVIEWS), knowing(&ours, &other, &theirs)).unwrap();
    let config = reviews.client_config(&id(RATINGS), Alpn::Http1).unwrap();
    assert_eq!(handshake(config, impostor.server_config()).unwrap_err().0, "client");
    // Roots that are said to be another's are not taken for our own domain.
    let confused = knowing(&ours, &domain(), &theirs);
    let ratings = Identity::new(domain(), ours.leaf(RATINGS), confused).unwrap();
    let forged = Identity::new(domain(), theirs.leaf(REVIEWS), ours.bundle(1)).unwrap();
    let config = forged.client_config(&id(RATINGS), Alpn::Http1).unwrap();
    assert_eq!(handshake(config, ratings.server_config()).unwrap_err().0, "server");
}

#[test]
fn a_cross_signed_chain_leads_where_its_roots_are_trusted_and_nowhere_else() {
    let (old, new, stranger) = (Authority::new(), Authority::new(), Authority::new());
    let key = KeyPair::generate().unwrap();
    let crossed = old.cross_signed(&new, &key, REVIEWS);
    let verdict = |authority: &Authority| {
        let (now, usage) = (rustls::pki_types::UnixTime::now(), webpki::KeyUsage::client_auth());
        verifier::verify_chain(authority.bundle(1).anchors(), &crossed[0], &crossed[1..], now, usage)
    };
    verdict(&old).unwrap();
    verdict(&new).unwrap();
    let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
    assert_eq!(verdict(&stranger), Err(unknown.clone()), "that somebody cross-signed it makes no stranger trust it");

    // The proxy says both roots, so that a rotation between the two need not wait for another leaf.
    let both = TrustBundle::new(2, vec![old.root_der().into(), new.root_der().into()]).unwrap();
    let der = PrivatePkcs8KeyDer::from(key.serialize_der());
    let leaf = Leaf::new(&id(REVIEWS), der, crossed, &both, SystemTime::now()).unwrap();
    assert_eq!(leaf.roots_in(&both, SystemTime::now()).len(), 2);
    assert_eq!(leaf.roots_in(&new.bundle(1), SystemTime::now()).len(), 1);
    // Over a connection: whoever trusts neither root refuses it.
    let refusing = identity(&stranger, RATINGS).server_config();
    let trusted = stranger.bundle(1).trusted(&domain());
    let client = tls::client(Some(leaf.certified().clone()), trusted, id(RATINGS), Alpn::Http1.name()).unwrap();
    let refused = handshake(Arc::new(client), refusing).map(drop);
    assert_eq!(refused, Err(("server", unknown)));
}

/// What our server makes of a client with this chain.
fn judged(authority: &Authority, uri: &str, change: impl FnOnce(&mut CertificateParams)) -> Result<(), rustls::Error> {
    let now = SystemTime::now();
    let validity = (now - Duration::from_secs(120), now + DAY);
    let key = KeyPair::generate().unwrap();
    let chain = authority.sign(&key, uri, validity, change);
    judge_chain(authority, &key, chain)
}

fn judge_chain(authority: &Authority, key: &KeyPair, chain: Vec<CertificateDer<'static>>) -> Result<(), rustls::Error> {
    let certified = rustls::sign::CertifiedKey::from_der(
        chain,
        PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        &tls::PROVIDER,
    )
    .unwrap();
    let client =
        tls::client(Some(Arc::new(certified)), authority.bundle(1).trusted(&domain()), id(RATINGS), Alpn::Http1.name())
            .unwrap();
    let server = identity(authority, RATINGS).server_config();
    handshake(Arc::new(client), server).map(drop).map_err(|(side, error)| {
        assert_eq!(side, "server");
        error
    })
}

fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

/// Makes a good certificate bad.
type Spoil = fn(&mut CertificateParams);

#[test]
fn only_a_proper_leaf_with_one_identity_of_this_mesh_is_a_client() {
    let authority = Authority::new();
    judged(&authority, REVIEWS, |_| {}).unwrap();
    judged(&authority, REVIEWS, |params| {
        params.subject_alt_names.push(SanType::DnsName("operator.svc".try_into().unwrap()));
    })
    .unwrap();

    let cases: [(&str, Spoil, &str); 9] = [
        ("two URI names", |p| p.subject_alt_names.push(uri(RATINGS)), "exactly one URI"),
        ("no URI name", |p| p.subject_alt_names = vec![SanType::DnsName("a.b".try_into().unwrap())], "exactly one URI"),
        ("no name at all", |p| p.subject_alt_names.clear(), "exactly one URI"),
        (
            "another trust domain",
            |p| p.subject_alt_names = vec![uri("spiffe://other.example/ns/a/sa/b")],
            "not of this trust domain",
        ),
        ("not an identity", |p| p.subject_alt_names = vec![uri("spiffe://cluster.local/ns/../sa/b")], "DNS label"),
        ("an authority", |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), ""),
        ("may sign certificates", |p| p.key_usages.push(KeyUsagePurpose::KeyCertSign), "authority"),
        ("server alone", |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth], ""),
        ("no purposes", |p| p.extended_key_usages.clear(), "key usage"),
    ];
    for (name, spoil, reason) in cases {
        let error = judged(&authority, REVIEWS, spoil).expect_err(name);
        assert!(
            matches!(error, rustls::Error::InvalidCertificate(_)) && verifier::reason(&error).contains(reason),
            "{name}: {error}"
        );
    }
}

#[test]
fn a_uri_name_that_is_not_text_is_counted_not_skipped() {
    let authority = Authority::new();
    // GeneralNames { [6] REVIEWS, [6] 0xff 0xfe }
    let mut names = vec![0x86, REVIEWS.len() as u8];
    names.extend_from_slice(REVIEWS.as_bytes());
    names.extend_from_slice(&[0x86, 2, 0xff, 0xfe]);
    let mut content = vec![0x30, names.len() as u8];
    content.extend_from_slice(&names);
    let error = judged(&authority, REVIEWS, |params| {
        params.subject_alt_names.clear();
        params.custom_extensions.push(rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 17], content));
    })
    .unwrap_err();
    assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error}");
}

#[test]
fn time_is_checked_along_the_chain() {
    let now = SystemTime::now();
    let hour = Duration::from_secs(3600);
    let authority = Authority::new();
    for validity in [(now - 2 * hour, now - hour), (now + hour, now + 2 * hour)] {
        let key = KeyPair::generate().unwrap();
        let chain = authority.sign(&key, REVIEWS, validity, |_| {});
        judge_chain(&authority, &key, chain).unwrap_err();
    }
    let expired = Authority::with_intermediate(|params| {
        params.not_before = (now - 2 * hour).into();
        params.not_after = (now - hour).into();
    });
    let key = KeyPair::generate().unwrap();
    let chain = expired.sign(&key, REVIEWS, (now - hour, now + hour), |_| {});
    let error = verifier::verify_chain(
        expired.bundle(1).anchors(),
        &chain[0],
        &chain[1..],
        rustls::pki_types::UnixTime::now(),
        webpki::KeyUsage::client_auth(),
    )
    .unwrap_err();
    assert!(error.to_string().contains("expired"), "{error}");
}

#[test]
fn an_intermediate_does_not_pass_as_a_leaf() {
    let authority = Authority::new();
    let key = KeyPair::generate().unwrap();
    let now = SystemTime::now();
    let chain = authority.sign(&key, REVIEWS, (now - DAY, now + DAY), |_| {});
    assert_eq!(claims(&chain[1]), Err(LeafError::Authority));
    let mut trailing = chain[0].to_vec();
    trailing.push(0);
    assert_eq!(claims(&CertificateDer::from(trailing)), Err(LeafError::Trailing));
}

#[test]
fn a_new_bundle_applies_to_the_next_handshake_and_an_old_one_never() {
    let (old, new) = (Authority::new(), Authority::new());
    let (reviews, ratings) = (identity(&old, REVIEWS), identity(&old, RATINGS));
    let dial = || handshake(reviews.client_config(&id(RATINGS), Alpn::Http1).unwrap(), ratings.server_config());
    dial().unwrap();
    let both = TrustBundle::new(2, vec![old.root_der().into(), new.root_der().into()]).unwrap();
    assert!(ratings.install_bundle(both).unwrap());
    dial().unwrap();
    assert!(ratings.install_bundle(new.bundle(3)).unwrap());
    assert_eq!(dial().unwrap_err().0, "server");
    assert!(!ratings.install_bundle(old.bundle(3)).unwrap());
    assert!(!ratings.install_bundle(old.bundle(1)).unwrap());
    assert_eq!(dial().unwrap_err().0, "server");
}

#[test]
fn no_session_is_resumed() {
    let authority = Authority::new();
    let (reviews, ratings) = (identity(&authority, REVIEWS), identity(&authority, RATINGS));
    for _ in 0..2 {
        let config = reviews.client_config(&id(RATINGS), Alpn::Http2).unwrap();
        let (client, _) = handshake(config, ratings.server_config()).unwrap();
        assert_eq!(client.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}

#[test]
fn client_configurations_are_reused_and_bounded() {
    let authority = Authority::new();
    let reviews = identity(&authority, REVIEWS);
    let first = reviews.client_config(&id(RATINGS), Alpn::Http1).unwrap();
    let again = reviews.client_config(&id(RATINGS), Alpn::Http1).unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    for n in 0..2 * MAX_CLIENT_CONFIGS {
        let peer = id(&format!("spiffe://cluster.local/ns/a/sa/n{n}"));
        reviews.client_config(&peer, Alpn::Http1).unwrap();
    }
    assert_eq!(reviews.current.load().clients.lock().len(), MAX_CLIENT_CONFIGS);
}

#[test]
fn what_was_issued_must_be_ours() {
    let (authority, other) = (Authority::new(), Authority::new());
    let now = SystemTime::now();
    let validity = (now - DAY, now + DAY);
    let (key, stranger) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let der = || PrivatePkcs8KeyDer::from(key.serialize_der());
    let take = |chain, bundle: &TrustBundle| Leaf::new(&id(REVIEWS), der(), chain, bundle, now);
    let good = || authority.sign(&key, REVIEWS, validity, |_| {});

    take(good(), &authority.bundle(1)).unwrap();
    let error = take(good(), &other.bundle(1)).unwrap_err();
    assert!(matches!(error, leaf::IssuedError::Verify(_)), "{error}");
    let chain = authority.sign(&key, RATINGS, validity, |_| {});
    let error = take(chain, &authority.bundle(1)).unwrap_err();
    assert!(matches!(error, leaf::IssuedError::Identity { .. }), "{error}");
    let chain = authority.sign(&stranger, REVIEWS, validity, |_| {});
    let error = take(chain, &authority.bundle(1)).unwrap_err();
    assert!(matches!(error, leaf::IssuedError::Key(_)), "{error}");
    let error = take(Vec::new(), &authority.bundle(1)).unwrap_err();
    assert!(matches!(error, leaf::IssuedError::Chain(0)), "{error}");
}
