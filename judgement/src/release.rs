//! The evidence on a whole release: several criteria, several steps, one chance of error.
//!
//! **Rollback.** Each criterion has an e-process against "the canary is not worse", over all steps. Their mean is one too, whatever they have to do
//! with each other, and ever reaches `1 / α` with probability at most `α` if the canary is bad by none of them: the whole release has one
//! `α`, and neither steps nor looks nor criteria take a share of it beforehand. (Means of e-values: Vovk and Wang, arXiv:1912.06116, section 3.)
//!
//! **Promotion.** A step is passed when every criterion says so with the whole `α`. If the canary is too bad by one criterion in one step, the
//! release is promoted only if just that one was wrong: probability at most `α` (intersection–union; Berger 1982).

use serde::{Deserialize, Serialize};

use crate::block::{Block, Side};
use crate::comparison::Comparison;
use crate::limit::Limit;

/// Of the form in which evidence is kept. Evidence of another version is not read.
pub const FORM: u32 = 1;

/// Sums nothing; sources are random.
const NOBODY: u64 = 0;

/// Where estimates of what is still needed end: with more requests than this nobody wants to be told a number.
const MOST_REQUESTS: f64 = 1e8;

/// What a canary is measured by.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Criterion {
    /// Its share of bad requests may be so much above the running version's, from 0 to 1.
    Margin(f64),
    /// Its share of bad requests may be so much, whatever the running version's is.
    Max(f64),
}

/// What was counted of one criterion since the step began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Requests of the canary, and the bad ones.
    pub canary: (u64, u64),
    /// Of the running version.
    pub stable: (u64, u64),
}

/// By which criteria a step is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// All of them.
    All,
    /// Every [`Criterion::Max`] alone, where there is nothing to compare with.
    Limits,
}

impl By {
    fn counts(self, criterion: &Criterion) -> bool {
        self == Self::All || matches!(criterion, Criterion::Max(_))
    }
}

/// What the evidence says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Worse by the criterion of this place.
    Regressed(usize),
    /// Not worse by any.
    NonInferior,
    /// Neither can be said yet.
    Inconclusive,
}

/// The evidence on a release: all that its verdicts depend on. It is kept where the release's state is kept, and taken up again by the next
/// process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    form: u32,
    /// Names the step.
    step: i64,
    /// Who counted what is taken.
    source: Option<u64>,
    criteria: Vec<Kept>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    criterion: Criterion,
    /// What of this step's counters is in the evidence.
    taken: Tally,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Test {
    Margin(Comparison),
    Max(Limit),
}

impl Evidence {
    /// Of a release with so many steps, at the begin of the one by the name of `step`.
    pub fn new(criteria: &[Criterion], steps: u32, step: i64) -> Self {
        let kept = |&criterion: &Criterion| {
            let test = match criterion {
                Criterion::Margin(margin) => Test::Margin(Comparison::new(margin, steps)),
                Criterion::Max(max) => Test::Max(Limit::new(max, steps)),
            };
            Kept { criterion, taken: Tally::default(), test }
        };
        Self { form: FORM, step, source: None, criteria: criteria.iter().map(kept).collect() }
    }

    /// For a step that is under way: what was counted of it so far was looked at already, so evidence goes on from it.
    #[must_use]
    pub fn amid(self) -> Self {
        Self { source: Some(NOBODY), ..self }
    }

    /// Whether it is evidence on these criteria, in a form that is read here. If not, begin anew.
    pub fn is_about(&self, criteria: &[Criterion]) -> bool {
        self.form == FORM && self.criteria.iter().map(|kept| kept.criterion).eq(criteria.iter().copied())
    }

    /// Takes the counters of the step by this name, in the order of the criteria: cumulative since it began, so that nothing is counted
    /// twice. Says whether a verdict may have changed.
    ///
    /// Of a step that is judged [`By::Limits`] the other criteria are told nothing, as what is not comparable is no evidence for them.
    ///
    /// `source` names who sums the counters. Sums of two sources are not comparable: one that starts anew may know more than its predecessor
    /// took, or less, of callers that are gone. So where the source changes within a step, or a counter fell, what is there now is
    /// taken as known, and evidence goes on from it. Requests in between are lost, whatever came of them; none is counted twice.
    pub fn observe(&mut self, step: i64, source: u64, by: By, tallies: &[Tally]) -> bool {
        let begins = step != self.step;
        let known = begins || self.source.is_none_or(|before| before == source);
        self.source = Some(source);
        if !known {
            for (kept, tally) in self.criteria.iter_mut().zip(tallies) {
                kept.taken = *tally;
            }
            return false;
        }
        if begins {
            self.step = step;
            for kept in &mut self.criteria {
                kept.begin_step();
            }
        }
        // Each must see its own.
        let told = self.criteria.iter_mut().zip(tallies).filter(|(kept, _)| by.counts(&kept.criterion));
        told.fold(begins, |changed, (kept, tally)| kept.observe(tally) || changed)
    }

    /// The verdict on the present step, with this chance of a wrong rollback, and of a wrong promotion, in the whole release. By no criterion at all
    /// nothing can be said.
    pub fn verdict(&self, error: f64, by: By) -> Verdict {
        let error = if error > 0.0 { error.min(1.0) } else { f64::MIN_POSITIVE };
        let enough = -error.ln();
        let against: Vec<f64> = self.criteria.iter().map(|kept| kept.test.for_bad()).collect();
        let mean = crate::capital::sum_of_logs(&against) - (against.len().max(1) as f64).ln();
        if mean >= enough {
            let worst = (0..against.len()).max_by(|&a, &b| against[a].total_cmp(&against[b]));
            return Verdict::Regressed(worst.unwrap_or(0));
        }
        let mut judging = self.criteria.iter().filter(|kept| by.counts(&kept.criterion)).peekable();
        if judging.peek().is_some() && judging.all(|kept| kept.test.for_good() >= enough) {
            return Verdict::NonInferior;
        }
        Verdict::Inconclusive
    }

    /// The criterion, by its place, on which least speaks for the canary: what an inconclusive verdict waits for.
    pub fn weakest(&self, by: By) -> Option<usize> {
        let judging = self.criteria.iter().enumerate().filter(|(_, kept)| by.counts(&kept.criterion));
        judging.min_by(|(_, a), (_, b)| a.test.for_good().total_cmp(&b.test.for_good())).map(|(place, _)| place)
    }

    /// How many more requests of the canary bring a verdict if both sides go on as in this step; two digits, because it is an estimate.
    /// `None`: at these rates no number does. A canary that got nothing yet is taken to be as good as can be.
    pub fn still_needed(&self, error: f64, by: By) -> Option<u64> {
        let mut future = self.clone();
        let rates: Vec<Block> = self.criteria.iter().map(|kept| kept.test.per_canary_request()).collect();
        let begun = self.criteria.iter().map(|kept| kept.test.canary_requests()).fold(0.0, f64::max);
        let mut more = 0.0;
        // The steps grow, so that there are few hundred of them.
        while more < MOST_REQUESTS {
            let step = ((begun + more) / 32.0).max(1.0);
            more += step;
            let told = future.criteria.iter_mut().zip(&rates).filter(|(kept, _)| by.counts(&kept.criterion));
            for (kept, rate) in told {
                kept.test.observe(&rate.times(step));
            }
            if future.verdict(error, by) != Verdict::Inconclusive {
                let unit = 10f64.powf((more.log10().floor() - 1.0).max(0.0));
                return Some(((more / unit).ceil() * unit) as u64);
            }
        }
        None
    }
}

impl Kept {
    fn begin_step(&mut self) {
        self.taken = Tally::default();
        match &mut self.test {
            Test::Margin(comparison) => comparison.begin_step(),
            Test::Max(limit) => limit.begin_step(),
        }
    }

    fn observe(&mut self, tally: &Tally) -> bool {
        let since = |now: (u64, u64), before: (u64, u64)| {
            let requests = now.0.checked_sub(before.0)?;
            let bad = now.1.checked_sub(before.1)?;
            (bad <= requests).then(|| Side::counted(requests, bad))
        };
        let canary = since(tally.canary, self.taken.canary);
        let stable = since(tally.stable, self.taken.stable);
        self.taken = *tally;
        match (canary, stable) {
            (Some(canary), Some(stable)) => self.test.observe(&Block { canary, stable }),
            _ => false,
        }
    }
}

impl Test {
    fn observe(&mut self, block: &Block) -> bool {
        match self {
            Self::Margin(comparison) => comparison.observe(block),
            Self::Max(limit) => limit.observe(&block.canary),
        }
    }

    fn for_good(&self) -> f64 {
        match self {
            Self::Margin(comparison) => comparison.for_good(),
            Self::Max(limit) => limit.for_good(),
        }
    }

    fn for_bad(&self) -> f64 {
        match self {
            Self::Margin(comparison) => comparison.for_bad(),
            Self::Max(limit) => limit.for_bad(),
        }
    }

    fn counted(&self) -> Block {
        match self {
            Self::Margin(comparison) => comparison.counted(),
            Self::Max(limit) => Block { canary: limit.counted(), stable: Side::default() },
        }
    }

    fn canary_requests(&self) -> f64 {
        self.counted().canary.requests
    }

    /// What comes with one request of the canary.
    fn per_canary_request(&self) -> Block {
        let counted = self.counted();
        if counted.canary.requests > 0.0 {
            return counted.times(counted.canary.requests.recip());
        }
        let stable = Side { requests: 1.0, bad: counted.stable.bad / counted.stable.requests.max(1.0) };
        Block { canary: Side { requests: 1.0, bad: 0.0 }, stable }
    }
}
