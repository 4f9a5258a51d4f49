//! With fetches that are made up, and time that is paused.

use std::io;
use std::time::Duration;

use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;
use crate::outbound;

fn source(name: &str) -> Source {
    Source { url: format!("https://{name}.example/keys"), roots: None }
}

fn sources<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<Source> {
    names.into_iter().map(source).collect()
}

/// What a made-up issuer publishes, and when it was asked.
#[derive(Debug, Default)]
struct Issuers {
    /// By URL; others fail.
    keys: Mutex<BTreeMap<String, &'static str>>,
    asked: Mutex<Vec<(String, Instant)>>,
    running: Mutex<(usize, usize)>,
    takes: Duration,
}

impl Issuers {
    fn publish(&self, name: &str, keys: Option<&'static str>) {
        let url = source(name).url;
        match keys {
            Some(keys) => self.keys.lock().insert(url, keys),
            None => self.keys.lock().remove(&url),
        };
    }

    async fn fetch(self: Arc<Self>, source: Source) -> Result<Arc<str>, FetchError> {
        self.asked.lock().push((source.url.clone(), Instant::now()));
        {
            let mut running = self.running.lock();
            running.0 += 1;
            running.1 = running.1.max(running.0);
        }
        tokio::time::sleep(self.takes).await;
        self.running.lock().0 -= 1;
        let keys = self.keys.lock().get(&source.url).copied();
        keys.map(Arc::from).ok_or_else(|| outbound::Error::Unreachable(io::Error::other("it is away")).into())
    }

    fn asked(&self, name: &str) -> usize {
        let url = source(name).url;
        self.asked.lock().iter().filter(|(asked, _)| *asked == url).count()
    }
}

struct Running {
    sets: Arc<KeySets>,
    issuers: Arc<Issuers>,
    metrics: Metrics,
    stop: CancellationToken,
}

fn run(issuers: Issuers) -> Running {
    let metrics = Metrics::default();
    let (sets, issuers) = (Arc::new(KeySets::new(metrics.clone())), Arc::new(issuers));
    let stop = CancellationToken::new();
    let (running, fetched_from, stopped) = (Arc::clone(&sets), Arc::clone(&issuers), stop.clone());
    tokio::spawn(async move {
        running.run(|source| Arc::clone(&fetched_from).fetch(source), || 0.5, stopped).await;
    });
    Running { sets, issuers, metrics, stop }
}

impl Running {
    fn of(&self, name: &str) -> Option<KeySet> {
        self.sets.follow().borrow().get(&source(name)).cloned()
    }

    fn keys(&self, name: &str) -> Option<String> {
        Some(self.of(name)?.fetched?.keys.to_string())
    }

    fn error(&self, name: &str) -> Option<String> {
        self.of(name)?.error
    }
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_wanted_is_fetched_and_renewed_and_what_is_not_is_forgotten() {
    let running = run(Issuers::default());
    running.issuers.publish("a", Some("one"));
    running.sets.want(sources(["a"]));
    seconds(1).await;
    assert_eq!(running.of("a").map(|set| set.error), Some(None));
    assert_eq!(running.keys("a").as_deref(), Some("one"));
    running.issuers.publish("a", Some("two"));
    seconds(298).await;
    assert_eq!((running.keys("a").as_deref(), running.issuers.asked("a")), (Some("one"), 1));
    seconds(2).await;
    assert_eq!((running.keys("a").as_deref(), running.issuers.asked("a")), (Some("two"), 2));
    running.sets.want(BTreeSet::new());
    seconds(1).await;
    assert_eq!(running.of("a"), None);
    seconds(1000).await;
    assert_eq!(running.issuers.asked("a"), 2);
    running.sets.want(sources(["a"]));
    seconds(1).await;
    assert_eq!(running.issuers.asked("a"), 3);
    running.stop.cancel();
    seconds(1000).await;
    assert_eq!(running.issuers.asked("a"), 3);
}

#[tokio::test(start_paused = true)]
async fn the_last_good_keys_stay_while_their_issuer_is_away() {
    let running = run(Issuers::default());
    running.issuers.publish("a", Some("one"));
    running.sets.want(sources(["a", "b"]));
    seconds(1).await;
    assert_eq!(
        running.of("b"),
        Some(KeySet {
            fetched: None,
            error: Some("https://b.example/keys leads to a host that cannot be connected to: it is away".into())
        })
    );
    running.issuers.publish("a", None);
    seconds(3600).await;
    assert_eq!(running.keys("a").as_deref(), Some("one"));
    assert_eq!(
        running.error("a").unwrap(),
        "https://a.example/keys leads to a host that cannot be connected to: it is away; the last good keys stay in force"
    );
    running.issuers.publish("a", Some("two"));
    running.issuers.publish("b", Some("b"));
    seconds(60).await;
    assert_eq!((running.keys("a").as_deref(), running.error("a")), (Some("two"), None));
    assert_eq!((running.keys("b").as_deref(), running.error("b")), (Some("b"), None));
    assert_eq!(running.metrics.count("ok"), 3);
    // An hour of a minute's retries, each between half a minute and one.
    let failed = running.metrics.count("unreachable");
    assert!((120..=200).contains(&failed), "{failed}");
}

#[tokio::test(start_paused = true)]
async fn only_news_wakes_those_who_follow() {
    let running = run(Issuers::default());
    running.issuers.publish("a", Some("one"));
    let mut follow = running.sets.follow();
    running.sets.want(sources(["a"]));
    seconds(1).await;
    let first = follow.borrow_and_update().get(&source("a")).cloned().unwrap().fetched.unwrap().at;
    seconds(3600).await;
    assert!(running.issuers.asked("a") > 10);
    assert!(!follow.has_changed().unwrap(), "the same keys again are no news");
    assert!(running.of("a").unwrap().fetched.unwrap().at > first, "but it is known that they were fetched");
    running.issuers.publish("a", None);
    seconds(400).await;
    assert!(follow.has_changed().unwrap());
    follow.mark_unchanged();
    seconds(3600).await;
    assert!(!follow.has_changed().unwrap(), "the same failure again is no news");
}

#[tokio::test(start_paused = true)]
async fn two_at_a_time_and_whoever_waits_for_longest_first() {
    let running = run(Issuers { takes: Duration::from_secs(10), ..Issuers::default() });
    let names: Vec<String> = (0..50).map(|number| format!("n{number:02}")).collect();
    running.issuers.publish("n49", Some("late"));
    running.sets.want(sources(names.iter().map(String::as_str)));
    seconds(252).await;
    assert_eq!(running.issuers.running.lock().1, AT_ONCE);
    assert_eq!(
        running.keys("n49").as_deref(),
        Some("late"),
        "those that fail again and again come after those that wait"
    );
    let first: Vec<_> = running.issuers.asked.lock().iter().take(50).map(|(url, _)| url.clone()).collect();
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 50);
}

#[tokio::test(start_paused = true)]
async fn those_that_come_too_late_are_told_and_take_nothing_from_the_others() {
    let running = run(Issuers::default());
    let names: Vec<String> = (0..MAX_SETS).map(|number| format!("n{number:03}")).collect();
    for name in &names {
        running.issuers.publish(name, Some("keys"));
    }
    running.issuers.publish("a", Some("keys"));
    running.sets.want(sources(names.iter().map(String::as_str)));
    seconds(1).await;
    // Its name comes before all others, its wish does not.
    running.sets.want(sources(names.iter().map(String::as_str).chain(["a"])));
    seconds(1).await;
    assert_eq!((running.keys("a"), running.error("a").as_deref()), (None, Some(TOO_MANY)));
    assert!(names.iter().all(|name| running.keys(name).is_some()));
    assert_eq!(running.issuers.asked("a"), 0);
    running.sets.want(sources(names[1..].iter().map(String::as_str).chain(["a"])));
    seconds(1).await;
    assert_eq!(running.keys("a").as_deref(), Some("keys"));
}

/// Lines that are written while a guard of it lives.
#[derive(Clone, Debug, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_line_is_logged_when_the_outcome_changes_and_not_for_each_retry() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let running = run(Issuers::default());
    running.sets.want(sources(["a"]));
    for keys in [None, Some("one"), Some("two"), None, Some("three")] {
        running.issuers.publish("a", keys);
        seconds(3600).await;
    }
    let text = String::from_utf8(lines.0.lock().clone()).unwrap();
    let of_ours: Vec<_> = text.lines().filter(|line| line.contains("a.example")).collect();
    assert_eq!(of_ours.len(), 4, "{text}");
    assert!(of_ours[0].contains("WARN") && of_ours[0].contains("trying again") && of_ours[0].contains("kept=false"));
    assert!(of_ours[1].contains("INFO"));
    assert!(of_ours[2].contains("WARN") && of_ours[2].contains("kept=true"));
    assert!(of_ours[3].contains("INFO"));
}

proptest! {
    #[test]
    fn who_is_in_stays_in_as_long_as_it_is_wanted(turns in prop::collection::vec(prop::collection::btree_set(0..150_u32, 0..150), 1..5)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let _entered = runtime.enter();
        let mut kept = BTreeMap::new();
        for wanted in turns {
            let wanted: BTreeSet<_> = wanted.iter().map(|number| source(&number.to_string())).collect();
            let before: BTreeSet<_> = kept.keys().cloned().collect();
            let over: BTreeSet<_> = reconcile(&mut kept, &wanted).into_iter().collect();
            let now: BTreeSet<_> = kept.keys().cloned().collect();
            prop_assert!(before.intersection(&wanted).all(|source| now.contains(source)));
            prop_assert!(now.is_disjoint(&over) && now.len() <= MAX_SETS);
            prop_assert_eq!(&now | &over, wanted);
            prop_assert!(over.is_empty() || now.len() == MAX_SETS);
        }
    }
}
