//! Roots and intermediates of the user's.

use super::rotation::World;
use super::*;

pub(super) fn of_user(intermediate: &Intermediate, root: &Root) -> Secret {
    secrets::new(USER_SECRET, secrets::intermediate_data(intermediate, root))
}

/// A root that stays with the user, and an intermediate below it.
pub(super) fn theirs(seed: u8, at: OffsetDateTime) -> (Root, Intermediate) {
    let root = Root::new(&super::super::super::authority::tests::serial(seed), at).unwrap();
    let intermediate = root.new_intermediate(&super::super::super::authority::tests::serial(seed + 1), at).unwrap();
    (root, intermediate)
}

fn stored(api: &FakeApi, name: &str) -> Secret {
    serde_json::from_value(api.get(&path(name)).unwrap()).unwrap()
}

#[tokio::test]
async fn a_new_mesh_takes_the_users_intermediate_and_never_needs_the_roots_key() {
    let api = FakeApi::default();
    let (root, intermediate) = theirs(10, now());
    put(&api, USER_SECRET, &of_user(&intermediate, &root));
    let (authority, standing) = settle(&api, now()).await.unwrap();
    assert_eq!(roots(&authority), [root.certificate().to_vec()]);
    assert_eq!(authority.intermediate().unwrap().chain(), intermediate.chain());
    assert!(standing.complaints.is_empty());
    assert!(!secrets::root(&stored(&api, ROOT_SECRET)).unwrap().has_key());
    assert_eq!(stored(&api, ROOT_SECRET).data.unwrap()["tls.key"].0, b"", "the field is there, as its type demands");

    // What cert-manager renews is taken up; the root is the same, so nothing is rotated.
    let renewed = root.new_intermediate(&Serial::random().unwrap(), now() + Span::days(50)).unwrap();
    put(&api, USER_SECRET, &of_user(&renewed, &root));
    let (authority, standing) = settle(&api, now() + Span::days(50)).await.unwrap();
    assert_eq!(authority.intermediate().unwrap().chain(), renewed.chain());
    assert_eq!((standing.phase, roots(&authority).len()), (Phase::Settled, 1));
}

#[tokio::test]
async fn a_root_of_the_users_with_its_key_signs_intermediates_here() {
    let api = FakeApi::default();
    let (root, _) = theirs(10, now());
    for with_ca in [true, false] {
        let mut data = secrets::root_data(&root);
        if with_ca {
            data.insert("ca.crt".into(), data["tls.crt"].clone());
        }
        put(&api, USER_SECRET, &secrets::new(USER_SECRET, data));
        let (authority, _) = settle(&api, now()).await.unwrap();
        assert_eq!(roots(&authority), [root.certificate().to_vec()]);
    }
}

#[tokio::test]
async fn a_mesh_moves_to_the_users_root_by_the_same_phases() {
    let mut world = World::new().await;
    let own = world.root();
    let (root, intermediate) = theirs(10, now());
    put(&world.api, USER_SECRET, &of_user(&intermediate, &root));
    world.reach(Phase::Publishing).await;
    world.reach(Phase::Signing).await;
    world.reach(Phase::Settled).await;
    assert_eq!(world.root(), root.id());
    assert_ne!(world.root(), own);
    world.assert_settled(root.id()).await;

    // Their next root, with leaves of the former in use until everybody trusts both.
    let (next, below) = theirs(20, now());
    put(&world.api, USER_SECRET, &of_user(&below, &next));
    world.proxies[0].away = true;
    world.reach(Phase::Publishing).await;
    for _ in 0..20 {
        assert_eq!(world.turn().await.unwrap().phase, Phase::Publishing);
    }
    assert_eq!(world.proxies[1].leaf, root.id(), "the intermediate of the former root goes on signing");
    world.proxies[0].away = false;
    world.reach(Phase::Settled).await;
    world.assert_settled(next.id()).await;

    // Without it the mesh goes on, and comes back to a root of its own when it is asked to.
    world.api.remove(&path(USER_SECRET));
    world.turn().await.unwrap();
    assert_eq!(world.root(), next.id());
    annotate(&world.api, ROOT_SECRET, ROTATE_ROOT, "own");
    world.reach(Phase::Dropping).await;
    world.reach(Phase::Settled).await;
    assert!(secrets::root(&stored(&world.api, ROOT_SECRET)).unwrap().has_key());
}

#[tokio::test]
async fn what_cannot_be_used_is_complained_of_and_changes_nothing() {
    let ((root, intermediate), (other_root, other)) = (theirs(10, now()), theirs(20, now()));
    let good = secrets::intermediate_data(&intermediate, &root);
    let with = |key: &str, value: Vec<u8>| {
        let mut data = good.clone();
        data.insert(key.to_owned(), ByteString(value));
        secrets::new(USER_SECRET, data)
    };
    let mut without_ca = good.clone();
    without_ca.remove("ca.crt");
    let late = theirs(30, now() + Span::days(1));
    let cases = [
        ("a torn write", with("tls.crt", intermediate.chain_pem().into_bytes()[..200].to_vec()), "tls.crt is not"),
        ("another's key", with("tls.key", other.key_pem().into_bytes()), "tls.key does not belong to tls.crt"),
        ("another's root", with("ca.crt", other_root.certificate_pem().into_bytes()), "not signed by the root"),
        ("garbage as a root", with("ca.crt", b"garbage".to_vec()), "ca.crt is not one certificate"),
        ("no root", secrets::new(USER_SECRET, without_ca), "ca.crt is not one certificate"),
        ("from tomorrow", of_user(&late.1, &late.0), "check this machine's clock"),
    ];
    for (what, secret, sentence) in cases {
        let mut world = World::new().await;
        let before = world.root();
        put(&world.api, USER_SECRET, &secret);
        let standing = world.turn().await.unwrap();
        let [complaint] = standing.complaints.as_slice() else { panic!("{what}: {:?}", standing.complaints) };
        assert_eq!((complaint.reason, complaint.secret), ("Unusable", USER_SECRET), "{what}");
        assert!(complaint.sentence.contains(sentence), "{what}: {}", complaint.sentence);
        world.assert_settled(before).await;
    }
}

#[tokio::test]
async fn a_request_for_another_root_than_the_users_says_why_it_is_not_acted_on() {
    let api = FakeApi::default();
    let (root, intermediate) = theirs(10, now());
    let good = of_user(&intermediate, &root);
    put(&api, USER_SECRET, &good);
    let mut world = World::with(api, None, None).await;
    world.turn().await.unwrap();
    let torn = secrets::new(USER_SECRET, std::collections::BTreeMap::new());
    for (number, secret, why) in [
        ("1", &good, "put another one into Secret fairlead-system/fairlead-ca"),
        ("2", &torn, "Secret fairlead-system/fairlead-ca cannot be used"),
    ] {
        put(&world.api, USER_SECRET, secret);
        annotate(&world.api, ROOT_SECRET, ROTATE_ROOT, number);
        let standing = world.turn().await.unwrap();
        let refused = standing.complaints.iter().find(|complaint| complaint.reason == "RotationRefused").unwrap();
        assert!(refused.sentence.contains(why), "{}", refused.sentence);
        world.assert_settled(root.id()).await;
    }
    // Without the Secret there is a root of the mesh's own, when it is asked for again.
    world.api.remove(&path(USER_SECRET));
    world.assert_settled(root.id()).await;
    annotate(&world.api, ROOT_SECRET, ROTATE_ROOT, "3");
    let standing = world.reach(Phase::Publishing).await;
    assert_eq!(standing.complaints, []);
    world.reach(Phase::Settled).await;
    assert_ne!(world.root(), root.id());
}

#[tokio::test]
async fn what_to_do_about_an_intermediate_depends_on_whose_root_it_is() {
    let (root, intermediate) = theirs(10, now());
    let api = FakeApi::default();
    put(&api, USER_SECRET, &of_user(&intermediate, &root));
    settle(&api, now()).await.unwrap();
    let over = settle(&api, now() + INTERMEDIATE_LIFETIME).await.unwrap_err().to_string();
    api.put(&path(ISSUER_SECRET), json!({"data": {"tls.crt": "", "tls.key": ""}}));
    let damaged = settle(&api, now()).await.unwrap_err().to_string();
    for error in [over, damaged] {
        assert!(error.contains("put an intermediate below the same root, whose key is not here, into"), "{error}");
        assert!(!error.contains("makes a new one"), "{error}");
    }
    // What the sentence asks for is enough.
    api.remove(&path(ISSUER_SECRET));
    settle(&api, now()).await.unwrap();
}

#[tokio::test]
async fn an_intermediate_that_goes_away_before_it_signs_holds_the_rotation() {
    let mut world = World::new().await;
    let before = world.root();
    let (root, intermediate) = theirs(10, now());
    put(&world.api, USER_SECRET, &of_user(&intermediate, &root));
    world.reach(Phase::Publishing).await;
    world.api.remove(&path(USER_SECRET));
    world.reach(Phase::Signing).await;
    let waiting = world.turn().await.unwrap().waiting.unwrap();
    assert!(waiting.others[0].contains("fairlead-ca"), "{waiting:?}");
    assert_eq!(world.proxies[0].leaf, before);
    annotate(&world.api, ROOT_SECRET, ABORT_ROTATION, "1");
    world.reach(Phase::Settled).await;
    world.assert_settled(before).await;
}

/// The root once more, with its key and name, as some tools renew it: what the one verifies, the other verifies as well.
fn issued_again(root: &Root) -> Root {
    let key = rcgen::KeyPair::from_pem(&root.key_pem().unwrap()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_der(root.certificate(), &key).unwrap();
    let mut params = rcgen::CertificateParams::default();
    let (_, parsed) = x509_parser::parse_x509_certificate(root.certificate()).unwrap();
    let name = parsed.subject().iter_common_name().next().unwrap().as_str().unwrap().to_owned();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "fairlead.dev");
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(1));
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    (params.not_before, params.not_after) = (now() - BACKDATE, now() + Span::days(4000));
    let again = params.signed_by(&key, &issuer).unwrap();
    let pem = super::super::super::material::pem("CERTIFICATE", again.der());
    Root::parse(pem.as_bytes(), None).unwrap()
}

#[tokio::test]
async fn a_root_that_was_issued_again_with_its_key_takes_the_place_of_the_former() {
    let mut world = World::new().await;
    let (root, intermediate) = theirs(10, now());
    put(&world.api, USER_SECRET, &of_user(&intermediate, &root));
    world.reach(Phase::Dropping).await;
    world.reach(Phase::Settled).await;
    let again = issued_again(&root);
    assert_ne!(again.id(), root.id());
    intermediate.check_under(&again).unwrap();
    put(&world.api, USER_SECRET, &of_user(&intermediate, &again));
    world.reach(Phase::Dropping).await;
    world.reach(Phase::Settled).await;
    world.assert_settled(again.id()).await;
}
