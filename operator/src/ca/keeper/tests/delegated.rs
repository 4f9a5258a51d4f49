//! Another authority signs: how its roots come to be trusted, follow each other, and go.

use super::super::super::authority::tests::serial;
use super::super::super::requests::tests::requests;
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
