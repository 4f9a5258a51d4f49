//! What one decision costs, by how many rules there are: `cargo run --release --package fairlead-authz --example decide`.
//!
//! Printed is the best of several runs, because a busy machine only ever makes a run slower; with `--json` all of them, for `make bench`.
//!
//! Allocations are not counted here: a counting allocator needs `unsafe`, which the workspace forbids. `valgrind` on this program counts as many
//! of them whatever [`RUNS`] is: making the rules allocates, deciding does not.

use std::hint::black_box;
use std::net::IpAddr;
use std::time::Instant;

use fairlead_authz::{Action, Caller, Effect, Operation, Policy, Request, Rule, Source};
use fairlead_identity::SpiffeId;
use http::HeaderName;

const TRUST_DOMAIN: &str = "cluster.local";
/// Decisions of a run: some milliseconds, so that the clock costs nothing.
const DECISIONS: u32 = 20_000;
const RUNS: usize = 25;
/// They differ, or the processor would learn the one there is.
const QUESTIONS: usize = 64;
/// How many rules, and what a decision may take then, in nanoseconds.
const SIZES: [(usize, f64); 3] = [(10, 300.0), (1_000, 500.0), (10_000, 1_000.0)];

struct Get(String);

impl Request for Get {
    fn method(&self) -> &'static str {
        "GET"
    }

    fn path(&self) -> &str {
        &self.0
    }

    fn is_grpc(&self) -> bool {
        false
    }

    fn hosts(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(&b"ratings"[..])
    }

    fn header(&self, _: &HeaderName) -> impl Iterator<Item = &[u8]> {
        std::iter::empty()
    }

    fn has_claim(&self, _: &str, _: &str) -> bool {
        false
    }
}

fn caller(account: &str) -> Result<Caller, String> {
    let identity = SpiffeId::new(TRUST_DOMAIN, "shop", account).map_err(|error| error.to_string())?;
    Ok(Caller { identity: Some(identity), address: IpAddr::from([10, 0, 0, 1]) })
}

fn rule(number: usize, account: &str, path: &str) -> Result<Rule, String> {
    Ok(Rule {
        name: format!("shop/ratings/{number}"),
        action: if number % 4 == 3 { Action::Deny } else { Action::Allow },
        from: vec![Source { service_accounts: vec![format!("shop/{account}")], ..Source::default() }],
        to: vec![Operation { methods: vec!["GET".to_owned()], paths: vec![path.parse()?], ..Operation::default() }],
        when: Vec::new(),
    })
}

/// Rules, and what is decided by them.
struct Case {
    policy: Policy,
    questions: Vec<(Caller, Get)>,
}

/// Every rule has an account of its own.
fn accounts(count: usize) -> Result<Case, String> {
    let rules = (0..count).map(|n| rule(n, &format!("account-{n}"), "/ratings/*")).collect::<Result<Vec<_>, _>>()?;
    let question = |n| Ok((caller(&format!("account-{n}"))?, Get(format!("/ratings/{n}"))));
    Case::new(rules, allowed(count).map(question))
}

/// All rules are about one account, and every one about a path of its own.
fn paths(count: usize) -> Result<Case, String> {
    let rules = (0..count).map(|n| rule(n, "front", &format!("/ratings/{n}/*"))).collect::<Result<Vec<_>, _>>()?;
    let question = |n| Ok((caller("front")?, Get(format!("/ratings/{n}/stars"))));
    Case::new(rules, allowed(count).map(question))
}

/// Numbers of rules that allow, all over the list.
fn allowed(count: usize) -> impl Iterator<Item = usize> {
    (0..QUESTIONS).map(move |n| n * 7_919 % count).map(|n| if n % 4 == 3 { n - 1 } else { n })
}

impl Case {
    fn new(rules: Vec<Rule>, questions: impl Iterator<Item = Result<(Caller, Get), String>>) -> Result<Self, String> {
        let policy = Policy::compile(TRUST_DOMAIN, rules, None)?;
        let questions = questions.collect::<Result<Vec<_>, _>>()?;
        let allows =
            |(caller, request): &(Caller, Get)| policy.decide(caller, 9080, Some(request)).effect == Effect::Allow;
        if !questions.iter().all(allows) {
            return Err("what is to be allowed is not, so nothing would be measured".to_owned());
        }
        Ok(Self { policy, questions })
    }

    /// Nanoseconds of one decision, by run.
    #[allow(clippy::disallowed_methods, reason = "there is no runtime here whose clock could be paused")]
    fn measure(&self) -> Vec<f64> {
        let run = |_| {
            let began = Instant::now();
            for (caller, request) in self.questions.iter().cycle().take(DECISIONS as usize) {
                black_box(self.policy.decide(black_box(caller), 9080, Some(black_box(request))));
            }
            began.elapsed().as_secs_f64() * 1e9 / f64::from(DECISIONS)
        };
        (0..RUNS).map(run).collect()
    }
}

type Build = fn(usize) -> Result<Case, String>;

fn main() -> Result<(), String> {
    let json = std::env::args().any(|argument| argument == "--json");
    let kinds: [(&str, Build); 2] = [("of different accounts", accounts), ("of one account, different paths", paths)];
    for (size, goal) in SIZES {
        for (kind, build) in kinds {
            let runs = build(size)?.measure();
            if json {
                println!(r#"{{"rules":{size},"kind":"{kind}","atMost":{goal},"runs":{runs:?}}}"#);
            } else {
                let best = runs.into_iter().fold(f64::INFINITY, f64::min);
                let verdict = if best <= goal { "met" } else { "MISSED" };
                println!("{size:>6} rules {kind:<32} {best:>7.1} ns   at most {goal:>5} ns   {verdict}");
            }
        }
    }
    Ok(())
}
