//! Another authority signs: how its roots come to be trusted, follow each other, and go.

use super::super::super::authority::tests::serial;
use super::super::super::requests::tests::{Company, requests};
use super::rotation::World;
use super::user;
use super::*;

const ROOTS: &str = "/api/v1/namespaces/fairlead-system/configmaps/fairlead-roots";

fn company(seed: u8) -> Root {
    Root::new(&serial(seed), now()).unwrap().without_key()
}

fn list(api: &FakeApi, roots: &[&Root]) {
    let text: String = roots.iter().map(|root| root.certificate_pem()).collect();
    api.put(ROOTS, json!({"metadata": {}, "data": {"ca.crt": text}}));
}

fn has_key(api: &FakeApi) -> bool {
    let secret: Secret = serde_json::from_value(api.get(&path(ROOT_SECRET)).unwrap()).unwrap();
    secrets::root(&secret).unwrap().has_key()
}

async fn delegated(root: &Root) -> World {
    let api = FakeApi::default();
    list(&api, &[root]);
    let requests = requests(&api, false);
    World::with(api, Some(requests), Some(root.id())).await
}

#[tokio::test]
async fn a_new_mesh_has_no_key_of_its_own() {
    let root = company(10);
    let mut world = delegated(&root).await;
    let standing = world.turn().await.unwrap();
    assert_eq!(standing.signer, "ClusterIssuer company (cert-manager.io), asked by CertificateRequests");
    assert_eq!(standing.certificates.iter().map(|of| of.name).collect::<Vec<_>>(), ["root"]);
    assert!(standing.complaints.is_empty(), "{:?}", standing.complaints);
    assert!(!has_key(&world.api) && world.api.get(&path(ISSUER_SECRET)).is_none());
    world.assert_settled(root.id()).await;
    // A replica that does not lead sees the same.
    let mut follower = Keeper::new(
        world.api.client(),
        "fairlead-system",
        trust_domain(),
        Settings::default(),
        world.requests.clone(),
        watch::channel(false).1,
        Arc::new(Said::default()),
    );
    let (authority, _) = follower.settle(now()).await.unwrap();
    assert!(authority.intermediate().is_none());
    assert_eq!((roots(&authority).len(), authority.leaves().roots.as_slice()), (1, [root.id()].as_slice()));
}

#[tokio::test]
async fn without_a_list_of_roots_no_mesh_is_made() {
    let not_ca = super::super::super::material::pem(
        "CERTIFICATE",
        rcgen::CertificateParams::default().self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der(),
    );
    let (a, old) = (company(10), Root::new(&serial(1), now() - Span::days(4000)).unwrap());
    let three = [&a, &company(20), &company(30)].map(Root::certificate_pem).concat();
    for (text, why) in [
        (None, "it does not exist"),
        (Some(String::new()), "holds no certificate"),
        (Some("garbage".to_owned()), "holds no certificate"),
        (Some(a.certificate_pem()[..200].to_owned()), "ca.crt"),
        (Some(not_ca), "no authority's"),
        (Some(three), "more than 2"),
        (Some(old.certificate_pem()), "is not valid now"),
    ] {
        let api = FakeApi::default();
        if let Some(text) = &text {
            api.put(ROOTS, json!({"metadata": {}, "data": {"ca.crt": text}}));
        }
        let mut keeper = Keeper::new(
            api.client(),
            "fairlead-system",
            trust_domain(),
            Settings::default(),
            Some(requests(&api, false)),
            watch::channel(true).1,
            Arc::new(Said::default()),
        );
        let error = keeper.settle(now()).await.unwrap_err().to_string();
        assert!(error.starts_with("ConfigMap fairlead-system/fairlead-roots: ") && error.contains(why), "{error}");
        assert_eq!(api.writes(), 0);
        // One that runs goes on with what it has.
        let root = company(10);
        let mut world = delegated(&root).await;
        match &text {
            Some(text) => world.api.put(ROOTS, json!({"metadata": {}, "data": {"ca.crt": text}})),
            None => world.api.remove(ROOTS),
        }
        let standing = world.turn().await.unwrap();
        let [complaint] = standing.complaints.as_slice() else { panic!("{:?}", standing.complaints) };
        assert!(complaint.sentence.contains(why), "{}", complaint.sentence);
        world.assert_settled(root.id()).await;
    }
}

#[tokio::test]
async fn a_mesh_with_a_root_of_its_own_goes_over_by_the_phases_and_its_key_goes() {
    for abort in [false, true] {
        let mut world = World::new().await;
        let (own, root) = (world.root(), company(10));
        list(&world.api, &[&root]);
        world.theirs = Some(root.id());
        world.restart_with(Some(requests(&world.api, false)));
        world.reach(Phase::Publishing).await;
        assert_eq!(world.proxies[0].leaf, own, "the former signs until everybody trusts both");
        let standing = world.reach(Phase::Signing).await;
        world.proxies[2].away = true;
        assert!(standing.signer.contains("ClusterIssuer"), "{}", standing.signer);
        for _ in 0..10 {
            assert_eq!(world.turn().await.unwrap().phase, Phase::Signing);
        }
        assert_eq!(world.proxies[0].leaf, root.id());
        if abort {
            annotate(&world.api, ROOT_SECRET, ABORT_ROTATION, "1");
        }
        world.proxies[2].away = false;
        world.reach(Phase::Settled).await;
        world.assert_settled(if abort { own } else { root.id() }).await;
        assert_eq!(has_key(&world.api), abort);
    }
}

#[tokio::test]
async fn a_second_root_is_trusted_before_the_issuer_may_sign_under_it_and_the_first_until_nobody_shows_it() {
    let (first, second) = (company(10), company(20));
    let mut world = delegated(&first).await;
    list(&world.api, &[&first, &second]);
    world.proxies[1].away = true;
    // Somebody is in a hurry: until everybody trusts the second, what is signed under it is not taken.
    world.theirs = Some(second.id());
    let standing = world.reach(Phase::Publishing).await;
    assert!(standing.sequence > u64::try_from(now().unix_timestamp()).unwrap() - 200);
    for _ in 0..10 {
        let standing = world.turn().await.unwrap();
        assert_eq!((standing.phase, standing.waiting.unwrap().proxies), (Phase::Publishing, vec!["shop/web-1".into()]));
        assert_eq!(world.proxies[0].leaf, first.id());
    }
    world.proxies[1].away = false;
    world.theirs = Some(first.id());
    world.reach(Phase::Signing).await;
    // The issuer is the user's to change, and until then what it signs under the first is as good.
    for _ in 0..10 {
        let standing = world.turn().await.unwrap();
        assert_eq!(standing.phase, Phase::Signing);
        assert!(standing.waiting.unwrap().others.iter().any(|other| other.contains("issuer")));
        assert_eq!(world.proxies[0].leaf, first.id());
    }
    world.theirs = Some(second.id());
    world.reach(Phase::Dropping).await;
    world.reach(Phase::Settled).await;
    // Both are still listed: it does not go back, and the first may go from the list at any time.
    world.assert_settled(second.id()).await;
    list(&world.api, &[&second]);
    world.assert_settled(second.id()).await;
}

#[tokio::test]
async fn a_root_that_takes_the_others_place_in_the_list_comes_by_the_same_phases() {
    let (first, second) = (company(10), company(20));
    let mut world = delegated(&first).await;
    list(&world.api, &[&second]);
    world.reach(Phase::Publishing).await;
    world.reach(Phase::Signing).await;
    for _ in 0..10 {
        assert_eq!(world.turn().await.unwrap().phase, Phase::Signing, "somebody shows the first");
    }
    world.theirs = Some(second.id());
    world.reach(Phase::Settled).await;
    world.assert_settled(second.id()).await;

    // And back, if the issuer goes back.
    list(&world.api, &[&first]);
    world.reach(Phase::Signing).await;
    annotate(&world.api, ROOT_SECRET, ABORT_ROTATION, "1");
    world.reach(Phase::Settled).await;
    world.assert_settled(second.id()).await;
}

#[tokio::test]
async fn a_mesh_comes_back_to_a_root_of_its_own() {
    let root = company(10);
    let mut world = delegated(&root).await;
    // Taking the setting away alone leaves nobody who could sign.
    world.restart_with(None);
    let error = world.turn().await.unwrap_err().to_string();
    assert!(error.contains("bring back Secret fairlead-ca, or certificateRequests"), "{error}");
    // Nobody has to ask for it: that the issuer is phased out says it.
    world.restart_with(Some(requests(&world.api, true)));
    world.reach(Phase::Publishing).await;
    assert_eq!(world.proxies[0].leaf, root.id());
    world.reach(Phase::Settled).await;
    let own = world.root();
    assert!(own != root.id() && has_key(&world.api));
    world.assert_settled(own).await;
    world.restart_with(None);
    world.turn().await.unwrap();
    world.assert_settled(own).await;

    // And over once more, with an intermediate that is left from before.
    world.restart_with(Some(requests(&world.api, false)));
    world.reach(Phase::Signing).await;
    world.reach(Phase::Settled).await;
    world.assert_settled(root.id()).await;
    world.restart_with(Some(requests(&world.api, true)));
    world.reach(Phase::Signing).await;
    world.reach(Phase::Settled).await;
    assert!(has_key(&world.api));
}

#[tokio::test]
async fn a_mesh_goes_from_an_issuer_to_an_intermediate_of_the_users() {
    let root = company(10);
    let mut world = delegated(&root).await;
    let (theirs, intermediate) = user::theirs(30, now());
    put(&world.api, USER_SECRET, &user::of_user(&intermediate, &theirs));
    world.restart_with(Some(requests(&world.api, true)));
    for phase in [Phase::Publishing, Phase::Signing, Phase::Settled] {
        world.reach(phase).await;
    }
    world.assert_settled(theirs.id()).await;
    world.restart_with(None);
    world.turn().await.unwrap();
    world.assert_settled(theirs.id()).await;
}

#[tokio::test]
async fn leaves_are_renewed_once_for_each_request() {
    let root = company(10);
    let mut world = delegated(&root).await;
    world.turn().await.unwrap();
    let since = |authority: &Authority| authority.leaves().since;
    let settle = async |at| settle_with(&world.api, at).await;
    assert_eq!(since(&settle(now()).await), OffsetDateTime::UNIX_EPOCH);
    annotate(&world.api, ROOT_SECRET, ROTATE_LEAVES, "1");
    let asked = now() + Span::hours(1);
    // Leaves that the issuer signed before this moment begin before it, whether it backdates or not.
    assert_eq!(since(&settle(asked).await), asked + BACKDATE);
    assert_eq!(since(&settle(asked + Span::hours(1)).await), asked + BACKDATE);
}

async fn settle_with(api: &FakeApi, at: OffsetDateTime) -> Authority {
    let leads = watch::channel(true).1;
    let (requests, said) = (Some(requests(api, false)), Arc::new(Said::default()));
    let mut keeper =
        Keeper::new(api.client(), "fairlead-system", trust_domain(), Settings::default(), requests, leads, said);
    keeper.settle(at).await.unwrap().0
}

#[tokio::test]
async fn a_secret_of_the_users_beside_it_is_complained_of_and_ignored() {
    let root = company(10);
    let mut world = delegated(&root).await;
    let (other, intermediate) = parts();
    put(&world.api, USER_SECRET, &secrets::new(USER_SECRET, secrets::intermediate_data(&intermediate, &other)));
    let standing = world.turn().await.unwrap();
    let [complaint] = standing.complaints.as_slice() else { panic!("{:?}", standing.complaints) };
    assert_eq!((complaint.reason, complaint.secret), ("Ignored", USER_SECRET));
    world.assert_settled(root.id()).await;
}

/// The leader dies right after the write of this number, on the way from its own root to another authority's; says whether there was such a write.
async fn dies_after(write: usize) -> bool {
    let mut world = World::new().await;
    let root = company(10);
    list(&world.api, &[&root]);
    world.theirs = Some(root.id());
    world.restart_with(Some(requests(&world.api, false)));
    world.api.die_after(world.api.writes() + write);
    let mut died = false;
    for _ in 0..200 {
        match world.turn().await {
            Ok(standing) if standing.phase == Phase::Settled && world.root() == root.id() => break,
            Ok(_) => {}
            Err(KeeperError::Api { .. } | KeeperError::Maps { .. }) => {
                assert!(!std::mem::replace(&mut died, true), "it dies once");
                world.api.revive();
                world.restart();
            }
            Err(error) => panic!("after write {write}: {error}"),
        }
    }
    world.assert_settled(root.id()).await;
    died
}

#[tokio::test]
async fn a_leader_may_die_after_any_write() {
    let mut writes = 0;
    while dies_after(writes + 1).await {
        writes += 1;
    }
    assert!(writes >= 5, "{writes} writes were tried");
}

fn reasons(standing: &Standing) -> Vec<(&'static str, &'static str)> {
    standing.complaints.iter().map(|complaint| (complaint.reason, complaint.secret)).collect()
}

#[tokio::test]
async fn a_mesh_goes_from_an_intermediate_of_the_users_to_an_issuer() {
    let api = FakeApi::default();
    let (theirs, intermediate) = user::theirs(30, now());
    put(&api, USER_SECRET, &user::of_user(&intermediate, &theirs));
    let mut world = World::with(api, None, None).await;
    world.turn().await.unwrap();
    world.assert_settled(theirs.id()).await;
    let root = company(10);
    list(&world.api, &[&root]);
    world.theirs = Some(root.id());
    world.restart_with(Some(requests(&world.api, false)));

    // Until everybody trusts the issuer's root the user's intermediate signs, and is renewed.
    world.proxies[0].away = true;
    world.reach(Phase::Publishing).await;
    let renewed = theirs.new_intermediate(&Serial::random().unwrap(), now()).unwrap();
    put(&world.api, USER_SECRET, &user::of_user(&renewed, &theirs));
    let standing = world.turn().await.unwrap();
    assert_eq!((standing.phase, reasons(&standing)), (Phase::Publishing, vec![]));
    let stored: Secret = serde_json::from_value(world.api.get(&path(ISSUER_SECRET)).unwrap()).unwrap();
    assert_eq!(secrets::intermediate(&stored).unwrap().chain(), renewed.chain());
    put(&world.api, USER_SECRET, &secrets::new(USER_SECRET, std::collections::BTreeMap::new()));
    assert_eq!(reasons(&world.turn().await.unwrap()), [("Unusable", USER_SECRET)]);
    put(&world.api, USER_SECRET, &user::of_user(&renewed, &theirs));

    // Then the issuer signs under its own root and no other: whoever shows the former is asked to renew.
    world.proxies[0].away = false;
    world.reach(Phase::Publishing).await;
    world.proxies[0].bundle_only = true;
    let standing = world.reach(Phase::Signing).await;
    let waiting = standing.waiting.unwrap();
    assert!(!waiting.others.iter().any(|other| other.contains("issuer")), "{waiting:?}");
    assert_eq!(settle_with(&world.api, now()).await.leaves().roots, [root.id()]);
    world.proxies[0].bundle_only = false;
    world.reach(Phase::Settled).await;
    let standing = world.turn().await.unwrap();
    assert_eq!(reasons(&standing), [("Ignored", USER_SECRET)], "{:?}", standing.complaints);
    world.assert_settled(root.id()).await;
}

#[tokio::test]
async fn keys_of_the_time_before_that_everybody_goes_on_believing_are_complained_of() {
    let mut world = World::new().await;
    let own = world.root();
    let stored: Secret = serde_json::from_value(world.api.get(&path(ROOT_SECRET)).unwrap()).unwrap();
    let root = secrets::root(&stored).unwrap();
    // The issuer has the very root: it takes over at once.
    list(&world.api, &[&root]);
    world.theirs = Some(own);
    world.restart_with(Some(requests(&world.api, false)));
    let standing = world.turn().await.unwrap();
    assert_eq!(reasons(&standing), [("KeyLeft", ROOT_SECRET), ("KeyLeft", ISSUER_SECRET)]);
    for complaint in &standing.complaints {
        assert!(complaint.sentence.contains("rotate the root to be rid of that key"), "{}", complaint.sentence);
    }
    let below = root.new_intermediate(&Serial::random().unwrap(), now()).unwrap();
    put(&world.api, USER_SECRET, &user::of_user(&below, &root));
    let standing = world.turn().await.unwrap();
    assert!(reasons(&standing).contains(&("KeyLeft", USER_SECRET)), "{:?}", standing.complaints);
    world.api.remove(&path(USER_SECRET));
    world.api.remove(&path(ISSUER_SECRET));
    assert_eq!(reasons(&world.turn().await.unwrap()), [("KeyLeft", ROOT_SECRET)]);

    // Another root is what the sentence asks for.
    let next = company(10);
    list(&world.api, &[&root, &next]);
    world.reach(Phase::Publishing).await;
    world.theirs = Some(next.id());
    world.reach(Phase::Settled).await;
    assert_eq!(reasons(&world.turn().await.unwrap()), []);
    assert!(!has_key(&world.api));
}

#[tokio::test]
async fn the_issuers_own_certificate_is_told_and_its_end_complained_of() {
    let (api, company) = (FakeApi::default(), Arc::new(Company::new()));
    company.serve(&api);
    list(&api, &[&company.root]);
    let requests = requests(&api, false);
    let mut keeper = Keeper::new(
        api.client(),
        "fairlead-system",
        trust_domain(),
        Settings::default(),
        Some(Arc::clone(&requests)),
        watch::channel(true).1,
        Arc::new(Said::default()),
    );
    let begun = OffsetDateTime::now_utc();
    let names = |standing: &Standing| standing.certificates.iter().map(|of| of.name).collect::<Vec<_>>();
    let (authority, standing) = keeper.settle(begun).await.unwrap();
    assert_eq!(names(&standing), ["root"]);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = vec![rcgen::SanType::URI(identity().as_str().try_into().unwrap())];
    let request = params.serialize_request(&key).unwrap();
    let csr = super::super::super::csr::read(request.der()).unwrap();
    authority.certify(&csr, &identity(), &[], begun).await.unwrap();

    let (_, standing) = keeper.settle(begun).await.unwrap();
    assert_eq!((names(&standing), reasons(&standing)), (vec!["root", "issuer"], vec![]));
    assert_eq!(Some(standing.certificates[1].validity), requests.issuer_validity());
    let (_, late) = keeper.settle(begun + Span::days(64)).await.unwrap();
    let [complaint] = late.complaints.as_slice() else { panic!("{:?}", late.complaints) };
    assert_eq!(complaint.reason, "Expiring");
    assert!(complaint.sentence.starts_with("the issuer ends at"), "{}", complaint.sentence);
    assert!(complaint.sentence.contains("ClusterIssuer company (cert-manager.io)"), "{}", complaint.sentence);
    // Its root is the user's to renew as well, whoever has its key.
    let (_, later) = keeper.settle(begun + Span::days(3000)).await.unwrap();
    assert!(later.complaints.iter().any(|complaint| complaint.sentence.contains("ConfigMap fairlead-roots")));
}

#[tokio::test]
async fn a_request_for_another_root_that_the_issuer_does_not_have_says_why_it_is_not_acted_on() {
    let root = company(10);
    let mut world = delegated(&root).await;
    for (number, text, why) in [
        ("1", Some(root.certificate_pem()), "put its next one below it in ConfigMap fairlead-system/fairlead-roots"),
        ("2", None, "fairlead-roots: it does not exist"),
        ("3", Some("garbage".to_owned()), "fairlead-roots: ca.crt holds no certificate"),
    ] {
        match &text {
            Some(text) => world.api.put(ROOTS, json!({"metadata": {}, "data": {"ca.crt": text}})),
            None => world.api.remove(ROOTS),
        }
        annotate(&world.api, ROOT_SECRET, ROTATE_ROOT, number);
        let standing = world.turn().await.unwrap();
        let refused: Vec<_> = standing.complaints.iter().filter(|one| one.reason == "RotationRefused").collect();
        let [refused] = refused.as_slice() else { panic!("{:?}", standing.complaints) };
        assert!(refused.secret == ROOT_SECRET && refused.sentence.contains(why), "{}", refused.sentence);
        assert!(world.api.get(&path(NEXT_ROOT_SECRET)).is_none(), "a root was made");
        world.assert_settled(root.id()).await;
        // Whoever leads next, and whoever does not, says the same.
        world.restart();
        assert!(reasons(&world.turn().await.unwrap()).contains(&("RotationRefused", ROOT_SECRET)));
    }
    // It is not acted on later, and nothing is said when it is taken back.
    list(&world.api, &[&root]);
    world.assert_settled(root.id()).await;
    annotate(&world.api, ROOT_SECRET, ROTATE_ROOT, "");
    assert_eq!(reasons(&world.turn().await.unwrap()), []);
}

#[tokio::test]
async fn a_key_that_is_left_does_not_hide_that_nobody_signs() {
    let mut world = World::new().await;
    let theirs = Root::new(&serial(10), now()).unwrap();
    list(&world.api, &[&theirs]);
    world.theirs = Some(theirs.id());
    world.restart_with(Some(requests(&world.api, false)));
    world.reach(Phase::Signing).await;
    world.reach(Phase::Settled).await;
    assert!(world.api.get(&path(ISSUER_SECRET)).is_some());
    world.restart_with(None);
    let error = world.turn().await.unwrap_err().to_string();
    assert!(error.contains("(what Secret fairlead-issuer holds is of another root): bring back Secret"), "{error}");
    // What the sentence asks for is enough.
    let intermediate = theirs.new_intermediate(&Serial::random().unwrap(), now()).unwrap();
    put(&world.api, USER_SECRET, &user::of_user(&intermediate, &theirs));
    world.turn().await.unwrap();
    world.assert_settled(theirs.id()).await;
}
