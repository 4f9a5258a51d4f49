//! Whole rotations, with proxies that do what proxies do, and a leader that dies.

use super::*;

/// A mesh of some proxies and one replica, and what must never happen to it.
pub(super) struct World {
    pub(super) api: FakeApi,
    said: Arc<Said>,
    keeper: Keeper,
    now: OffsetDateTime,
    pub(super) proxies: Vec<Proxy>,
    /// The newest number that anybody saw.
    sequence: u64,
    /// With it, another authority signs where it may.
    pub(super) requests: Option<Arc<Requests>>,
    /// Under which root it does.
    pub(super) theirs: Option<RootId>,
}

/// Keeps the newest bundle and a leaf.
#[derive(Clone)]
pub(super) struct Proxy {
    pub(super) away: bool,
    /// It does not renew its leaf.
    pub(super) bundle_only: bool,
    bundle: TrustBundle,
    pub(super) leaf: RootId,
}

impl World {
    pub(super) async fn new() -> Self {
        Self::over(FakeApi::default()).await
    }

    async fn over(api: FakeApi) -> Self {
        Self::with(api, None, None).await
    }

    /// Where an authority that signs under `theirs` is asked, if there is one.
    pub(super) async fn with(api: FakeApi, requests: Option<Arc<Requests>>, theirs: Option<RootId>) -> Self {
        let said = Arc::new(Said::default());
        let keeper = leader(&api, &said, requests.clone());
        let (proxies, sequence) = (Vec::new(), 0);
        let mut world = Self { api, said, keeper, now: now(), proxies, sequence, requests, theirs };
        let (authority, _) = world.keeper.settle(world.now).await.unwrap();
        let leaf = world.signed(&authority).unwrap();
        let proxy = Proxy { away: false, bundle_only: false, bundle: authority.trust_bundle().clone(), leaf };
        world.proxies = vec![proxy; 3];
        world.hear(&authority);
        world
    }

    /// The root of what is issued now; `None`: what the other authority signs is not taken.
    fn signed(&self, authority: &Authority) -> Option<RootId> {
        let roots = &authority.leaves().roots;
        match authority.intermediate() {
            Some(_) => Some(roots[0]),
            None => self.theirs.filter(|theirs| roots.contains(theirs)),
        }
    }

    /// One look, and what proxies make of its outcome.
    pub(super) async fn turn(&mut self) -> Result<Standing, KeeperError> {
        let (authority, standing) = self.keeper.settle(self.now).await?;
        let bundle = authority.trust_bundle();
        assert!(bundle.sequence >= self.sequence, "the number of the bundle went back");
        self.sequence = bundle.sequence;
        let signing = self.signed(&authority);
        for proxy in self.proxies.iter_mut().filter(|proxy| !proxy.away) {
            if bundle.sequence == proxy.bundle.sequence {
                assert_eq!(*bundle, proxy.bundle, "two bundles have one number");
            }
            proxy.bundle = bundle.clone();
            proxy.leaf = signing.filter(|_| !proxy.bundle_only).unwrap_or(proxy.leaf);
        }
        self.check();
        self.hear(&authority);
        self.now += Span::seconds(5);
        Ok(standing)
    }

    /// Any proxy can call any other.
    fn check(&self) {
        for server in &self.proxies {
            for client in &self.proxies {
                let trusted = client.bundle.roots.iter().any(|root| RootId::of(root) == server.leaf);
                assert!(trusted, "a proxy shows a leaf that another does not trust");
            }
        }
    }

    /// What the leader comes to know: proxies that are away say nothing.
    fn hear(&self, authority: &Authority) {
        let trust = |sequence, root| Some(Trust { sequence, leaf_roots: vec![root], leaf_not_before: 0 });
        let said = self.proxies.iter().enumerate().map(|(n, proxy)| {
            let said = (!proxy.away).then(|| trust(proxy.bundle.sequence, proxy.leaf)).flatten();
            (format!("shop/web-{n}"), said)
        });
        let sequence = authority.trust_bundle().sequence;
        let replicas =
            [("operator-1".to_owned(), trust(sequence, self.proxies.first().map_or(self.root(), |proxy| proxy.leaf)))]
                .into();
        let everyone = Everyone { proxies: said.collect(), replicas, config_maps: sequence, webhooks: sequence };
        *self.said.0.lock() = Some(everyone);
    }

    /// The process ends; another begins with nothing but what the API server has.
    pub(super) fn restart(&mut self) {
        *self.said.0.lock() = None;
        self.keeper = leader(&self.api, &self.said, self.requests.clone());
    }

    /// The same with other settings.
    pub(super) fn restart_with(&mut self, requests: Option<Arc<Requests>>) {
        self.requests = requests;
        self.restart();
    }

    /// Until this phase.
    pub(super) async fn reach(&mut self, phase: Phase) -> Standing {
        for _ in 0..100 {
            let standing = self.turn().await.unwrap();
            if standing.phase == phase {
                return standing;
            }
        }
        panic!("{} is never reached", phase.name());
    }

    pub(super) fn root(&self) -> RootId {
        let secret: Secret = serde_json::from_value(self.api.get(&path(ROOT_SECRET)).unwrap()).unwrap();
        secrets::root(&secret).unwrap().id()
    }

    /// Nothing is left of a rotation, and all have come to `root`.
    pub(super) async fn assert_settled(&mut self, root: RootId) {
        for _ in 0..3 {
            let standing = self.turn().await.unwrap();
            assert_eq!((standing.phase, standing.waiting), (Phase::Settled, None));
        }
        assert_eq!(self.root(), root);
        assert!(self.api.get(&path(NEXT_ROOT_SECRET)).is_none(), "the Secret of the other root is left");
        for proxy in &self.proxies {
            let roots: Vec<_> = proxy.bundle.roots.iter().map(|root| RootId::of(root)).collect();
            assert_eq!((roots.as_slice(), proxy.leaf), ([root].as_slice(), root));
        }
        let writes = self.api.writes();
        self.turn().await.unwrap();
        assert_eq!(self.api.writes(), writes, "it comes to rest");
    }
}

fn leader(api: &FakeApi, said: &Arc<Said>, requests: Option<Arc<Requests>>) -> Keeper {
    Keeper::new(
        api.client(),
        "fairlead-system",
        trust_domain(),
        Settings::default(),
        requests,
        watch::channel(true).1,
        Arc::clone(said) as Arc<dyn Fleet>,
    )
}

#[tokio::test]
async fn a_root_that_is_asked_for_takes_the_place_of_the_other_and_is_not_asked_for_twice() {
    let mut world = World::new().await;
    let before = world.root();
    annotate(&world.api, ROOT_SECRET, ROTATE_ROOT, "today");
    for phase in [Phase::Publishing, Phase::Signing, Phase::Dropping, Phase::Settled] {
        world.reach(phase).await;
    }
    let after = world.root();
    assert_ne!(before, after);
    world.assert_settled(after).await;
}

#[tokio::test]
async fn half_of_a_roots_life_rotates_it() {
    let mut world = World::new().await;
    let before = world.root();
    world.now = now() + Span::days(1826);
    // Between the look that renews the intermediate and the next one, proxies are none of this test's business.
    world.reach(Phase::Publishing).await;
    world.reach(Phase::Settled).await;
    let after = world.root();
    assert_ne!(before, after);
    world.assert_settled(after).await;
}

#[tokio::test]
async fn a_proxy_that_is_away_holds_the_phase_and_is_named() {
    let mut world = World::new().await;
    world.proxies[1].away = true;
    annotate(&world.api, ROOT_SECRET, ROTATE_ROOT, "1");
    world.reach(Phase::Publishing).await;
    for _ in 0..50 {
        let standing = world.turn().await.unwrap();
        assert_eq!(standing.phase, Phase::Publishing);
        let waiting = standing.waiting.unwrap();
        assert_eq!((waiting.proxies.as_slice(), waiting.proxy_count), (["shop/web-1".to_owned()].as_slice(), 1));
    }
    world.proxies[1].away = false;
    world.reach(Phase::Signing).await;
    world.proxies[2].away = true;
    for _ in 0..50 {
        assert_eq!(world.turn().await.unwrap().phase, Phase::Signing);
    }
    world.proxies[2].away = false;
    world.reach(Phase::Settled).await;
    let root = world.root();
    world.assert_settled(root).await;
}

#[tokio::test]
async fn an_abort_brings_the_old_root_back_from_either_phase() {
    for phase in [Phase::Publishing, Phase::Signing] {
        let mut world = World::new().await;
        let before = world.root();
        annotate(&world.api, ROOT_SECRET, ROTATE_ROOT, "1");
        world.reach(phase).await;
        world.turn().await.unwrap();
        annotate(&world.api, ROOT_SECRET, ABORT_ROTATION, "1");
        let settled = world.reach(Phase::Settled).await;
        assert!(settled.aborted);
        world.assert_settled(before).await;
        // It goes again when it is asked for again.
        annotate(&world.api, ROOT_SECRET, ROTATE_ROOT, "2");
        world.reach(Phase::Dropping).await;
        world.reach(Phase::Settled).await;
        assert_ne!(world.root(), before);
    }
}

/// Runs a rotation with a leader that dies right after the write of this number; says whether there was such a write.
async fn dies_after(write: usize, abort: bool) -> bool {
    let mut world = World::new().await;
    let before = world.root();
    let first = world.api.writes();
    annotate(&world.api, ROOT_SECRET, ROTATE_ROOT, "1");
    world.api.die_after(first + write);
    let mut died = false;
    let mut aborted = false;
    let mut phases = Vec::new();
    for _ in 0..200 {
        match world.turn().await {
            Ok(standing) => {
                if phases.last() != Some(&standing.phase) {
                    phases.push(standing.phase);
                }
                let signing = standing.phase == Phase::Signing;
                if abort && signing && !aborted {
                    annotate(&world.api, ROOT_SECRET, ABORT_ROTATION, "1");
                    aborted = true;
                }
                let moved = if abort { aborted && standing.aborted } else { world.root() != before };
                if moved && standing.phase == Phase::Settled && world.api.get(&path(NEXT_ROOT_SECRET)).is_none() {
                    break;
                }
            }
            Err(KeeperError::Api { .. }) => {
                assert!(!std::mem::replace(&mut died, true), "it dies once");
                world.api.revive();
                world.restart();
            }
            Err(error) => panic!("after write {write}: {error}"),
        }
    }
    let root = world.root();
    assert_eq!(root == before, abort, "after write {write}, by way of {phases:?}");
    world.assert_settled(root).await;
    died
}

#[tokio::test]
async fn a_leader_may_die_after_any_write() {
    for abort in [false, true] {
        let mut writes = 0;
        while dies_after(writes + 1, abort).await {
            writes += 1;
        }
        // The root that comes, four records and an intermediate, and the deletion; an abort signs twice.
        assert!(writes >= 6, "{writes} writes were tried (abort: {abort})");
    }
}

#[tokio::test]
async fn a_replica_that_does_not_lead_follows_and_moves_nothing() {
    let mut world = World::new().await;
    annotate(&world.api, ROOT_SECRET, ROTATE_ROOT, "1");
    let mut follower = keeper(&world.api);
    let (_, standing) = follower.settle(world.now).await.unwrap();
    assert_eq!(standing.phase, Phase::Settled);
    for phase in [Phase::Publishing, Phase::Signing, Phase::Dropping] {
        world.reach(phase).await;
        let writes = world.api.writes();
        let (authority, standing) = follower.settle(world.now).await.unwrap();
        assert_eq!((standing.phase, world.api.writes()), (phase, writes));
        assert_eq!(*authority.trust_bundle(), world.proxies[0].bundle);
    }
}

#[tokio::test]
async fn a_lost_root_in_the_middle_comes_from_memory_or_is_given_up_by_an_abort() {
    let mut world = World::new().await;
    let before = world.root();
    annotate(&world.api, ROOT_SECRET, ROTATE_ROOT, "1");
    world.reach(Phase::Signing).await;
    for proxy in &mut world.proxies {
        proxy.away = true;
    }
    world.turn().await.unwrap();
    world.api.remove(&path(NEXT_ROOT_SECRET));
    world.turn().await.unwrap();
    assert!(world.api.get(&path(NEXT_ROOT_SECRET)).is_some());
    world.api.remove(&path(NEXT_ROOT_SECRET));
    world.restart();
    let error = world.turn().await.unwrap_err().to_string();
    assert!(error.contains("fairlead-root-next is missing in the middle of a rotation"), "{error}");
    annotate(&world.api, ROOT_SECRET, ABORT_ROTATION, "1");
    for proxy in &mut world.proxies {
        proxy.away = false;
    }
    // That some could not call each other for a while is what was lost.
    let mut standing = world.keeper.settle(world.now).await.unwrap();
    for _ in 0..100 {
        let root = standing.0.leaves().roots[0];
        for proxy in &mut world.proxies {
            *proxy = Proxy { away: false, bundle_only: false, bundle: standing.0.trust_bundle().clone(), leaf: root };
        }
        world.hear(&standing.0);
        world.now += Span::seconds(5);
        standing = world.keeper.settle(world.now).await.unwrap();
        if standing.1.phase == Phase::Settled {
            break;
        }
    }
    assert_eq!(world.root(), before);
    world.sequence = standing.0.trust_bundle().sequence;
    world.turn().await.unwrap();
    world.assert_settled(before).await;
}

#[tokio::test]
async fn a_record_that_somebody_removed_is_told_from_the_secrets() {
    let mut world = World::new().await;
    annotate(&world.api, ROOT_SECRET, ROTATE_ROOT, "1");
    world.reach(Phase::Signing).await;
    world.turn().await.unwrap();
    let mut secret = world.api.get(&path(ROOT_SECRET)).unwrap();
    secret["metadata"]["annotations"] = json!({});
    world.api.put(&path(ROOT_SECRET), secret);
    let before = world.root();
    world.now += Span::days(1);
    world.reach(Phase::Signing).await;
    world.reach(Phase::Settled).await;
    let after = world.root();
    assert_ne!(before, after);
    world.assert_settled(after).await;
}

#[tokio::test]
async fn roots_of_another_mesh_are_numbered_with_ours_and_survive_a_rotation() {
    let mut world = World::new().await;
    let before = world.proxies[0].bundle.sequence;
    let other = parts().0;
    let map = "/api/v1/namespaces/fairlead-system/configmaps/other";
    let labels = json!({"fairlead.dev/trust-domain": "other.example"});
    world.api.put(map, json!({"metadata": {"labels": labels}, "data": {"ca.crt": other.certificate_pem()}}));
    world.turn().await.unwrap();
    let bundle = world.proxies[0].bundle.clone();
    assert!(bundle.sequence > before);
    assert_eq!(bundle.foreign["other.example"], [other.certificate().to_vec()]);
    assert_eq!(bundle.roots.len(), 1, "they are never among our own");

    annotate(&world.api, ROOT_SECRET, ROTATE_ROOT, "1");
    world.reach(Phase::Dropping).await;
    world.reach(Phase::Settled).await;
    assert_eq!(world.proxies[0].bundle.foreign, bundle.foreign);
    let (follower, _) = keeper(&world.api).settle(world.now).await.unwrap();
    assert_eq!(*follower.trust_bundle(), world.proxies[0].bundle, "a replica that does not lead publishes the same");

    world.api.remove(map);
    world.turn().await.unwrap();
    assert!(world.proxies[0].bundle.foreign.is_empty());
}

/// Something that happens to a mesh.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Turn,
    Away(usize),
    Back(usize),
    Rotate,
    Abort,
    Kill,
    /// Right after the next write.
    Die,
}

fn happenings() -> impl proptest::strategy::Strategy<Value = Vec<Happening>> {
    use proptest::prelude::*;
    let one = prop_oneof![
        8 => Just(Happening::Turn),
        1 => (0..3_usize).prop_map(Happening::Away),
        2 => (0..3_usize).prop_map(Happening::Back),
        1 => Just(Happening::Rotate),
        1 => Just(Happening::Abort),
        1 => Just(Happening::Kill),
        1 => Just(Happening::Die),
    ];
    proptest::collection::vec(one, 0..60)
}

async fn live_through(happenings: Vec<Happening>) {
    let mut world = World::new().await;
    for (number, happening) in happenings.into_iter().enumerate() {
        match happening {
            Happening::Turn => world.turn_or_revive().await,
            Happening::Away(proxy) => world.proxies[proxy].away = true,
            Happening::Back(proxy) => world.proxies[proxy].away = false,
            Happening::Rotate => annotate(&world.api, ROOT_SECRET, ROTATE_ROOT, &number.to_string()),
            Happening::Abort => annotate(&world.api, ROOT_SECRET, ABORT_ROTATION, &number.to_string()),
            Happening::Kill => world.restart(),
            Happening::Die => world.api.die_after(world.api.writes() + 1),
        }
    }
    for proxy in &mut world.proxies {
        proxy.away = false;
    }
    for _ in 0..60 {
        world.turn_or_revive().await;
    }
    let root = world.root();
    world.assert_settled(root).await;
}

impl World {
    /// A process that died is followed by another.
    async fn turn_or_revive(&mut self) {
        match self.turn().await {
            Ok(_) => {}
            Err(KeeperError::Api { .. } | KeeperError::Maps { .. }) => {
                self.api.revive();
                self.restart();
            }
            Err(error) => panic!("{error}"),
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]

    /// The world asserts it at each turn: every proxy trusts what every other shows, and no two bundles have one number.
    #[test]
    fn whatever_happens_proxies_can_call_each_other_and_it_comes_to_an_end(all in happenings()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(live_through(all));
    }
}
