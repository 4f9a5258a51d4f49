//! One simulated release, judged.

use fairlead_judgement::{By, Criterion, Evidence, Tally, Verdict};

use crate::row::Looks;
use crate::traffic::{Setting, Traffic};

/// What may fail more on the canary.
pub(crate) const MARGIN: f64 = 0.005;
/// One minus the confidence of the release.
pub(crate) const ERROR: f64 = 0.01;
/// The weights that a Canary has by default.
pub(crate) const STEPS: [f64; 5] = [0.01, 0.05, 0.1, 0.25, 0.5];

/// How it ended.
pub(crate) struct End {
    /// Inconclusive: it was looked at for as long as was allowed.
    pub(crate) verdict: Verdict,
    /// Requests of the canary until then.
    pub(crate) requests: f64,
    /// How much likelier what happened were if the canary were worse by just the margin (in the last step).
    pub(crate) at_margin: f64,
}

/// One step, looked at after each request or each second until there is a verdict, for so many requests of the canary at most.
pub(crate) fn step(setting: Setting, looks: Looks, seed: u64, most: f64) -> End {
    let mut traffic = Traffic::new(setting, seed);
    let mut evidence = Evidence::new(&[Criterion::Margin(MARGIN)], 1, 0);
    follow(&mut traffic, setting.weight, looks, &mut evidence, 0, most)
}

/// A whole release. `late`: the canary is worse in its last step only. `most` for each step.
pub(crate) fn release(setting: Setting, late: bool, seed: u64, most: f64) -> End {
    let mut evidence = Evidence::new(&[Criterion::Margin(MARGIN)], STEPS.len() as u32, 0);
    let mut requests = 0.0;
    for (index, weight) in (0..).zip(STEPS) {
        let good = late && weight < STEPS[STEPS.len() - 1];
        let setting = Setting { weight, worse: if good { 0.0 } else { setting.worse }, ..setting };
        // No two steps share a seed.
        let mut traffic = Traffic::new(setting, seed * 100 + index);
        let end = follow(&mut traffic, weight, Looks::Request, &mut evidence, index.cast_signed(), most);
        requests += end.requests;
        if end.verdict != Verdict::NonInferior {
            return End { requests, ..end };
        }
    }
    End { verdict: Verdict::NonInferior, requests, at_margin: 0.0 }
}

/// Looks at a step until there is a verdict.
fn follow(traffic: &mut Traffic, weight: f64, looks: Looks, evidence: &mut Evidence, step: i64, most: f64) -> End {
    let mut tally = Tally::default();
    let mut second = 1.0;
    evidence.observe(step, 0, By::All, &[tally]);
    while (tally.canary.0 as f64) < most {
        let (stable, canary) = traffic.run();
        let (mut requests, mut bad) = (stable.requests as u64, stable.bad as u64);
        let mut looked = 0;
        while requests > 0 {
            // Between two requests of the canary evidence changes when the first of the running version comes, or the few that were missing. So
            // the rest of a long run is taken together; where runs are short, each request is looked at.
            let count = if looks == Looks::Second || (looked > 0 && weight < 0.2) { requests } else { 1 };
            let failed = bad.min(count);
            (requests, bad, looked) = (requests - count, bad - failed, looked + 1);
            tally.stable = (tally.stable.0 + count, tally.stable.1 + failed);
            if looks != Looks::Second
                && let Some(end) = look(evidence, step, &tally, traffic)
            {
                return end;
            }
        }
        tally.canary = (tally.canary.0 + 1, tally.canary.1 + canary.bad as u64);
        if looks == Looks::Second && traffic.now() < second {
            continue;
        }
        second = traffic.now().floor() + 1.0;
        if let Some(end) = look(evidence, step, &tally, traffic) {
            return end;
        }
    }
    End { verdict: Verdict::Inconclusive, requests: tally.canary.0 as f64, at_margin: traffic.ln_at_margin().exp() }
}

fn look(evidence: &mut Evidence, step: i64, tally: &Tally, traffic: &Traffic) -> Option<End> {
    if !evidence.observe(step, 0, By::All, &[*tally]) {
        return None;
    }
    let verdict = evidence.verdict(ERROR, By::All);
    let end = || End { verdict, requests: tally.canary.0 as f64, at_margin: traffic.ln_at_margin().exp() };
    (verdict != Verdict::Inconclusive).then(end)
}
