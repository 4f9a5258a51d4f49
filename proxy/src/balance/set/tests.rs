use proptest::prelude::*;

use super::{
    super::{
        key::KeySource,
        ring::{self, Ring, mix},
    },
    choice::{ALWAYS, OVER_MEAN},
    *,
};

const SECOND: Duration = Duration::from_secs(1);

fn outliers(percent: u32) -> Outliers {
    Outliers {
        consecutive: 3,
        error_share: 500_000,
        min_requests: 20,
        base: 10 * SECOND,
        max: 60 * SECOND,
        max_ejected: percent * 10_000,
        probe: None,
    }
}

fn endpoints(count: usize) -> Vec<Arc<Endpoint>> {
    (0..count as u16)
        .map(|n| {
            let address = SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 80));
            Arc::new(Endpoint::new(address, None, "", "", Arc::default()))
        })
        .collect()
}

fn set(count: usize, algorithm: Algorithm, outliers: Option<Outliers>) -> EndpointSet {
    let behaviour = Behaviour { algorithm, outliers, ..Behaviour::default() };
    EndpointSet::new("set".into(), endpoints(count), behaviour, Arc::default())
}

fn shares(set: &EndpointSet, now: Instant) -> Vec<u32> {
    let mut counts = vec![0; set.endpoints.len()];
    for n in 0..1000 {
        let picked = set.pick(&[], None, mix(n), now).unwrap().endpoint;
        counts[set.endpoints.iter().position(|e| Arc::ptr_eq(e, picked)).unwrap()] += 1;
    }
    counts
}

fn fail(set: &EndpointSet, index: usize, times: usize, now: Instant) -> Option<Event> {
    (0..times).filter_map(|_| set.record(&set.endpoints[index], false, true, now)).last()
}

#[test]
fn without_a_preference_all_get_the_same() {
    let now = Instant::now();
    for algorithm in [Algorithm::PeakEwma, Algorithm::LeastRequest, Algorithm::RoundRobin, Algorithm::Random] {
        let name = format!("{algorithm:?}");
        let shares = shares(&set(4, algorithm, None), now);
        assert!(shares.iter().all(|n| (190..310).contains(n)), "{name} {shares:?}");
    }
    assert_eq!(shares(&set(4, Algorithm::RoundRobin, None), now), [250; 4]);
    assert!(set(0, Algorithm::Random, None).pick(&[], None, 1, now).is_none());
}

#[test]
fn a_slow_endpoint_gets_only_draws_against_itself_which_do_not_exist() {
    let now = Instant::now();
    let set = set(4, Algorithm::PeakEwma, None);
    for (index, endpoint) in set.endpoints.iter().enumerate() {
        let latency = if index == 2 { 200 } else { 2 };
        endpoint.load.observe(Duration::from_millis(latency), now);
    }
    let shares = shares(&set, now);
    assert_eq!(shares[2], 0, "{shares:?}");
}

#[test]
fn what_waits_counts_beside_latency() {
    let now = Instant::now();
    let set = set(2, Algorithm::PeakEwma, None);
    for endpoint in &set.endpoints {
        endpoint.load.observe(Duration::from_millis(2), now);
    }
    let _busy: Vec<_> = (0..3).map(|_| set.endpoints[0].load.begin()).collect();
    assert_eq!(shares(&set, now), [0, 1000]);
}

#[test]
fn a_pick_that_comes_while_another_looks_finds_endpoints() {
    let now = Instant::now();
    let set = set(3, Algorithm::Random, Some(outliers(50)));
    let _looking = set.shared.change.lock();
    assert!(set.pick(&[], None, 1, now).is_some());
}

#[test]
fn what_is_not_recorded_tries_nobody() {
    let set = set(4, Algorithm::RoundRobin, Some(outliers(50)));
    let mut now = Instant::now();
    fail(&set, 1, 3, now);
    now += 60 * SECOND;
    for n in 0..100 {
        let endpoint = set.pick_unrecorded(None, mix(n), now).unwrap();
        assert_ne!(endpoint.address, set.endpoints[1].address);
    }
    assert!(set.pick(&[], None, 1, now).unwrap().trial, "the trial is left to a request");
}

#[test]
fn fewer_requests_in_flight_win() {
    let set = set(2, Algorithm::LeastRequest, None);
    let _busy = set.endpoints[0].load.begin();
    assert_eq!(shares(&set, Instant::now()), [0, 1000]);
}

#[test]
fn who_just_failed_is_avoided_while_there_is_another() {
    let now = Instant::now();
    for algorithm in [Algorithm::PeakEwma, Algorithm::RoundRobin, Algorithm::Hash(KeySource::SourceIp, Ring::default())]
    {
        let set = set(3, algorithm, None);
        let failed: Vec<_> = set.endpoints[..2].iter().map(|e| e.address).collect();
        for n in 0..200 {
            assert_eq!(set.pick(&failed, None, mix(n), now).unwrap().endpoint.address, set.endpoints[2].address);
        }
        let all: Vec<_> = set.endpoints.iter().map(|e| e.address).collect();
        assert!(set.pick(&all, None, 1, now).is_some());
    }
}

#[test]
fn one_that_comes_gets_its_share_slowly() {
    let now = Instant::now();
    let behaviour = Behaviour { algorithm: Algorithm::Random, slow_start: 30 * SECOND, ..Behaviour::default() };
    let set = EndpointSet::new("set".into(), endpoints(4), behaviour, Arc::default());
    let at = now + 100 * SECOND;
    set.endpoints[1].health.back(at);
    let begun = shares(&set, at)[1];
    assert!((5..80).contains(&begun), "{begun}");
    let half = shares(&set, at + 15 * SECOND)[1];
    assert!(half > begun && half < 220, "{half}");
    assert!(shares(&set, at + 30 * SECOND)[1] > 190);
}

#[test]
fn an_outlier_is_left_out_until_it_answers_on_trial() {
    let set = set(4, Algorithm::PeakEwma, Some(outliers(50)));
    let mut now = Instant::now();
    assert_eq!(fail(&set, 1, 3, now), Some(Event::Ejected(Cause::Consecutive)));
    assert_eq!(shares(&set, now)[1], 0);
    now += 10 * SECOND;
    let picked = set.pick(&[], None, 1, now).unwrap();
    assert!(picked.trial && picked.endpoint.address == set.endpoints[1].address);
    assert_eq!(shares(&set, now)[1], 0, "one at a time");
    assert_eq!(set.record(&set.endpoints[1], false, false, now), None, "one that was under way means nothing");
    assert_eq!(set.record(&set.endpoints[1], true, true, now), Some(Event::Ejected(Cause::Trial)));
    now += 10 * SECOND;
    assert_eq!(shares(&set, now)[1], 0, "twice as long");
    now += 10 * SECOND;
    assert!(set.pick(&[], None, 1, now).unwrap().trial);
    assert_eq!(set.record(&set.endpoints[1], true, false, now), Some(Event::Returned));
    assert!(shares(&set, now)[1] > 0);
}

#[test]
fn a_lone_endpoint_is_never_left_out() {
    let now = Instant::now();
    let set = set(1, Algorithm::PeakEwma, Some(outliers(50)));
    assert_eq!(fail(&set, 0, 3, now), Some(Event::Kept));
    assert_eq!(shares(&set, now), [1000]);
}

#[test]
fn where_none_is_left_all_are_used() {
    let now = Instant::now();
    let set = set(2, Algorithm::PeakEwma, Some(outliers(100)));
    fail(&set, 0, 3, now);
    fail(&set, 1, 3, now);
    assert_eq!(set.ejected().count(), 2);
    assert!(shares(&set, now).iter().all(|n| *n > 0));
}

#[test]
fn the_next_version_knows_who_is_left_out() {
    let now = Instant::now();
    let before = set(4, Algorithm::PeakEwma, Some(outliers(50)));
    let behaviour = Behaviour { outliers: Some(outliers(50)), ..Behaviour::default() };
    let after = EndpointSet::new("set".into(), before.endpoints[..3].to_vec(), behaviour, before.shared());
    shares(&after, now);
    // A request of before ends.
    fail(&before, 1, 3, now);
    assert_eq!(shares(&after, now)[1], 0);
}

#[test]
fn the_same_key_goes_to_the_same_endpoint_until_that_has_more_than_its_part() {
    let now = Instant::now();
    let all = endpoints(8);
    let ring = Ring::new(all.iter().map(|e| e.address));
    let behaviour = Behaviour { algorithm: Algorithm::Hash(KeySource::SourceIp, ring), ..Behaviour::default() };
    let set = EndpointSet::new("set".into(), all, behaviour, Arc::default());
    let of = |key: &str, n| set.pick(&[], Some(ring::key(key.as_bytes())), n, now).unwrap().endpoint;
    let home = of("user-7", 1);
    assert!((0..50).all(|n| Arc::ptr_eq(of("user-7", n), home)));
    let mut busy = Vec::new();
    for n in 0..400 {
        let endpoint = of("user-7", n);
        busy.push(endpoint.load.begin());
        let bound = (f64::from(ALWAYS)).max((busy.len() as f64) / 8.0 * OVER_MEAN + 1.0);
        assert!(f64::from(endpoint.load.in_flight()) <= bound + 1.0, "{n}");
    }
    let used = set.endpoints.iter().filter(|e| e.load.in_flight() > 0).count();
    assert!(used >= 6, "the rest went on along the circle, not to {used}");
    drop(busy);
    assert!(Arc::ptr_eq(of("user-7", 1), home));
}

#[test]
fn who_is_found_unhealthy_gets_nothing_until_all_are_or_nobody_is_asked_any_more() {
    let now = Instant::now();
    let check = || crate::balance::health::Check {
        path: PathAndQuery::from_static("/"),
        interval: SECOND,
        timeout: SECOND,
        unhealthy: 1,
        healthy: 1,
    };
    let behaviour = Behaviour { algorithm: Algorithm::Random, check: Some(check()), ..Behaviour::default() };
    let set = EndpointSet::new("set".into(), endpoints(4), behaviour, Arc::default());
    for index in 0..3 {
        assert_eq!(set.record_check(&set.endpoints[index], false, now), Some(Event::Unhealthy));
    }
    assert_eq!(shares(&set, now), [0, 0, 0, 1000], "the bound on ejections is none on these");
    set.record_check(&set.endpoints[3], false, now);
    assert!(shares(&set, now).iter().all(|share| *share > 0));
    assert_eq!(set.record_check(&set.endpoints[2], true, now), Some(Event::Healthy));
    assert_eq!(shares(&set, now), [0, 0, 1000, 0]);

    let unasked = Behaviour { algorithm: Algorithm::Random, ..Behaviour::default() };
    let after = EndpointSet::new("set".into(), set.endpoints.clone(), unasked, set.shared());
    assert!(shares(&after, now).iter().all(|share| *share > 0));
}

/// Endpoints at these levels, of which 70 % have to be well.
fn spilling(levels: &[u32], algorithm: Algorithm) -> EndpointSet {
    let place = |(n, level): (u8, &u32)| {
        let address = SocketAddr::from(([10, 0, 0, n], 80));
        Arc::new(Endpoint::new(address, None, "", "", Arc::default()).at_level(*level))
    };
    let spill = Some(Spill { min_healthy: 700_000, unready: Vec::new() });
    let behaviour = Behaviour { algorithm, outliers: Some(outliers(100)), spill, ..Behaviour::default() };
    EndpointSet::new("set".into(), (0..).zip(levels).map(place).collect(), behaviour, Arc::default())
}

#[test]
fn the_near_get_all_and_of_what_they_cannot_take_the_next_get_their_part() {
    let now = Instant::now();
    for algorithm in [Algorithm::PeakEwma, Algorithm::LeastRequest, Algorithm::RoundRobin, Algorithm::Random] {
        let set = spilling(&[1, 0, 0, 0, 0, 1], algorithm);
        let near = |set: &EndpointSet| shares(set, now)[1..5].iter().sum::<u32>();
        assert_eq!(near(&set), 1000);
        fail(&set, 1, 3, now);
        assert_eq!(near(&set), 1000, "three of four are enough");
        fail(&set, 2, 3, now);
        fail(&set, 3, 3, now);
        // A quarter is well, which is 36 % of what is needed.
        assert!((300..420).contains(&near(&set)), "{}", near(&set));
        fail(&set, 4, 3, now);
        assert_eq!(near(&set), 0);
        fail(&set, 0, 3, now);
        fail(&set, 5, 3, now);
        assert!(shares(&set, now).iter().all(|share| *share > 90), "with nobody well, all are used");
    }
}

#[test]
fn another_try_goes_far_where_all_that_are_near_have_failed() {
    let now = Instant::now();
    let set = spilling(&[0, 0, 1], Algorithm::PeakEwma);
    let failed: Vec<_> = set.endpoints[..2].iter().map(|e| e.address).collect();
    for n in 0..100 {
        assert_eq!(set.pick(&failed, None, mix(n), now).unwrap().endpoint.address, set.endpoints[2].address);
    }
}

#[test]
fn keys_stay_near_and_where_they_are() {
    let now = Instant::now();
    let levels = [0, 0, 0, 1, 1, 1];
    let ring = Ring::new(spilling(&levels, Algorithm::Random).endpoints.iter().map(|e| e.address));
    let set = spilling(&levels, Algorithm::Hash(KeySource::SourceIp, ring));
    let of = |key: u64| set.pick(&[], Some(ring::key(&key.to_be_bytes())), key, now).unwrap().endpoint.address;
    let before: Vec<_> = (0..200).map(of).collect();
    assert!(before.iter().all(|address| set.endpoints[..3].iter().any(|e| e.address == *address)));
    fail(&set, 0, 3, now);
    let gone = set.endpoints[0].address;
    // Two of three are 95 % of what is needed.
    let moved = (0..200).filter(|key| before[*key as usize] != gone && of(*key) != before[*key as usize]).count();
    assert!(moved < 30, "{moved}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever fails, and whoever goes: no more are left out than may be; and all return once they are well.
    #[test]
    fn never_more_than_may_be_and_never_for_ever(
        count in 1_usize..12,
        percent in 0_u32..=100,
        steps in prop::collection::vec((0_u64..4000, any::<u16>(), any::<u64>(), 0_u8..40), 1..300),
    ) {
        let mut now = Instant::now();
        let mut set = set(count, Algorithm::PeakEwma, Some(outliers(percent)));
        for (millis, broken, random, change) in steps {
            now += Duration::from_millis(millis);
            if change == 0 && set.endpoints.len() > 1 {
                let rest = set.endpoints[1..].to_vec();
                let behaviour = Behaviour { outliers: Some(outliers(percent)), ..Behaviour::default() };
                set = EndpointSet::new("set".into(), rest, behaviour, set.shared());
            }
            let picked = set.pick(&[], None, random, now).unwrap();
            let place = set.endpoints.iter().position(|e| Arc::ptr_eq(e, picked.endpoint)).unwrap();
            let (endpoint, trial) = (picked.endpoint.clone(), picked.trial);
            set.record(&endpoint, trial, broken >> place & 1 == 1, now);
            set.pick(&[], None, random, now);
            prop_assert!(set.ejected().count() * 100 <= set.endpoints.len() * percent as usize);
        }
        for n in 0..1400 {
            now += SECOND / 10;
            let picked = set.pick(&[], None, mix(n), now).unwrap();
            let (endpoint, trial) = (picked.endpoint.clone(), picked.trial);
            set.record(&endpoint, trial, false, now);
        }
        prop_assert_eq!(set.ejected().count(), 0);
    }
}
