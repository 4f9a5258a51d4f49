//! The decision in every phase.

use super::*;

const A: [u8; 1] = [1];
const B: [u8; 1] = [2];
const C: [u8; 1] = [3];
const SINCE: i64 = 1_800_000_000;
const NOW: i64 = SINCE + 3600;

type Spoil = fn(&mut Everyone);

fn id(root: [u8; 1]) -> RootId {
    RootId::of(&root)
}

fn record(phase: Phase) -> Record {
    let next = phase.trusts_both().then(|| id(B).to_string());
    Record { phase, since: SINCE, sequence: 7, next, request: "1".into(), ..Record::default() }
}

fn sight(record: &Record) -> Sight<'_> {
    let settled = !record.phase.trusts_both();
    let signing = if record.phase == Phase::Dropping { B } else { A };
    Sight {
        record,
        root: id(signing),
        due: false,
        root_signs: true,
        next: (!settled).then(|| id(B)),
        next_signs: true,
        offered: None,
        refusal: None,
        signing: Some(id(signing)),
        rotate: "1",
        abort: "",
        now: NOW,
    }
}

/// What somebody said; `None` would be silence.
#[allow(clippy::unnecessary_wraps, reason = "it stands where silence may")]
fn trust(sequence: u64, root: [u8; 1]) -> Option<Trust> {
    Some(Trust { sequence, leaf_roots: vec![id(root)], leaf_not_before: 0 })
}

/// Two proxies and a replica that came so far.
fn everyone(sequence: u64, root: [u8; 1]) -> Everyone {
    let all = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), trust(sequence, root))).collect();
    Everyone {
        proxies: all(&["shop/a", "shop/b"]),
        replicas: all(&["operator-1"]),
        config_maps: sequence,
        webhooks: sequence,
    }
}

fn recorded(step: Step) -> Record {
    match step {
        Step::Record(record) | Step::Adopt(record) => record,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_settled_mesh_rests_until_it_is_asked_or_it_is_time() {
    let record = record(Phase::Settled);
    let rest = sight(&record);
    assert_eq!(decide(&rest, None), Step::Rest);
    assert_eq!(decide(&Sight { rotate: "2", ..rest.clone() }, None), Step::Make);
    assert_eq!(decide(&Sight { due: true, ..rest.clone() }, None), Step::Make);
    assert_eq!(decide(&Sight { offered: Some(id(C)), ..rest.clone() }, None), Step::Make);
    assert_eq!(
        decide(&Sight { offered: Some(id(A)), refusal: Some("theirs"), due: true, ..rest.clone() }, None),
        Step::Rest
    );
    assert_eq!(
        decide(&Sight { rotate: "", ..rest.clone() }, None),
        Step::Rest,
        "an annotation that was removed asks for nothing"
    );

    // Made: it is numbered and published, and the request is not acted on again.
    let made = Sight { rotate: "2", next: Some(id(B)), ..rest.clone() };
    let publishing = recorded(decide(&made, None));
    assert_eq!((publishing.phase, publishing.since, publishing.request.as_str()), (Phase::Publishing, NOW, "2"));
    assert!(publishing.sequence > 7);
    assert_eq!(publishing.next, Some(id(B).to_string()));

    // What an earlier rotation left behind goes away.
    for left in [A, B] {
        assert_eq!(decide(&Sight { next: Some(id(left)), ..rest.clone() }, None), Step::Discard);
    }
    // The user changed their mind before it was published.
    let other = Sight { next: Some(id(B)), offered: Some(id(C)), ..rest };
    assert_eq!(decide(&other, None), Step::Make);
}

#[test]
fn after_an_abort_only_a_request_begins_again() {
    let record = Record { aborted: true, ..record(Phase::Settled) };
    assert_eq!(decide(&Sight { due: true, ..sight(&record) }, None), Step::Rest);
    assert_eq!(decide(&Sight { offered: Some(id(C)), ..sight(&record) }, None), Step::Rest);
    let asked = Sight { rotate: "2", next: Some(id(B)), ..sight(&record) };
    assert!(!recorded(decide(&asked, None)).aborted);
}

#[test]
fn after_an_abort_another_root_than_the_one_given_up_is_gone_to() {
    let given_up =
        recorded(decide(&Sight { abort: "now", next: Some(id(B)), ..sight(&record(Phase::Publishing)) }, None));
    assert!(given_up.aborted && given_up.given_up.is_some());
    assert_eq!(decide(&Sight { offered: Some(id(B)), ..sight(&given_up) }, None), Step::Rest);
    assert_eq!(decide(&Sight { due: true, ..sight(&given_up) }, None), Step::Rest);
    assert_eq!(decide(&Sight { offered: Some(id(C)), ..sight(&given_up) }, None), Step::Make);
}

#[test]
fn a_request_that_cannot_be_acted_on_is_heard_once_and_says_why() {
    let record = record(Phase::Settled);
    // The root is the user's; or what the user wants cannot be read.
    for offered in [Some(id(A)), None] {
        let sight = Sight { rotate: "2", offered, refusal: Some("not yours"), ..sight(&record) };
        let heard = recorded(decide(&sight, None));
        assert_eq!((heard.phase, heard.sequence, heard.request.as_str()), (Phase::Settled, 7, "2"));
        assert_eq!(heard.refused, "not yours");
        assert_eq!(decide(&Sight { record: &heard, ..sight.clone() }, None), Step::Rest);
        // Nor is one of our own made because it is time.
        assert_eq!(decide(&Sight { record: &heard, due: true, ..sight }, None), Step::Rest);
        // The next one is acted on, and nothing is left of the former.
        let next = Sight { rotate: "3", next: Some(id(B)), ..self::sight(&heard) };
        assert_eq!(recorded(decide(&next, None)).refused, "");
    }
}

#[test]
fn a_root_that_cannot_be_read_is_not_replaced_by_one_of_our_own() {
    let record = record(Phase::Publishing);
    let lost = Sight { next: None, ..sight(&record) };
    assert_eq!(decide(&lost, None), Step::Make);
    let unknown = Sight { refusal: Some("it is not PEM"), ..lost.clone() };
    assert!(matches!(decide(&unknown, None), Step::Wait(_)));
    assert_eq!(decide(&Sight { offered: Some(id(B)), ..lost }, None), Step::Make);
}

#[test]
fn both_are_trusted_by_everybody_before_the_new_one_signs() {
    let record = record(Phase::Publishing);
    let sight = sight(&record);
    let signing = recorded(decide(&sight, Some(&everyone(7, A))));
    assert_eq!((signing.phase, signing.sequence), (Phase::Signing, 7), "what is trusted does not change");

    let behind: [(&str, Spoil); 6] = [
        ("a proxy", |all| *all.proxies.get_mut("shop/b").unwrap() = trust(6, A)),
        ("a proxy that is away", |all| *all.proxies.get_mut("shop/b").unwrap() = None),
        ("a replica", |all| *all.replicas.get_mut("operator-1").unwrap() = trust(6, A)),
        ("a replica of which nothing was heard", |all| *all.replicas.get_mut("operator-1").unwrap() = None),
        ("ConfigMaps", |all| all.config_maps = 6),
        ("webhooks", |all| all.webhooks = 6),
    ];
    for (who, spoil) in behind {
        let mut all = everyone(7, A);
        spoil(&mut all);
        let Step::Wait(waiting) = decide(&sight, Some(&all)) else { panic!("{who} holds the phase") };
        let named = waiting.proxies == ["shop/b"] || waiting.replicas == ["operator-1"] || waiting.others.len() == 1;
        assert!(named, "{who}: {waiting:?}");
    }
    assert!(matches!(decide(&sight, None), Step::Wait(_)), "a leader that has not listed the cluster");
    let early = Sight { now: SINCE + MIN_PHASE - 1, ..sight };
    assert!(matches!(decide(&early, Some(&everyone(7, A))), Step::Wait(_)));
}

#[test]
fn names_are_bounded_and_the_number_is_not() {
    let record = record(Phase::Publishing);
    let proxies = (0..100).map(|n| (format!("shop/{n:03}"), None)).collect();
    let Step::Wait(waiting) = decide(&sight(&record), Some(&Everyone { proxies, ..everyone(7, A) })) else { panic!() };
    assert_eq!((waiting.proxies.len(), waiting.proxy_count), (MAX_NAMES, 100));
}

#[test]
fn a_root_that_was_lost_or_replaced_before_anything_was_signed_is_published_anew() {
    let record = record(Phase::Publishing);
    let all = everyone(7, A);
    assert_eq!(decide(&Sight { next: None, ..sight(&record) }, Some(&all)), Step::Make);
    let anew = recorded(decide(&Sight { next: Some(id(C)), ..sight(&record) }, Some(&all)));
    assert!(anew.sequence > 7 && anew.next == Some(id(C).to_string()) && anew.since == NOW);
    assert_eq!(decide(&Sight { offered: Some(id(C)), ..sight(&record) }, Some(&all)), Step::Make);
}

#[test]
fn the_old_root_goes_when_nobody_shows_a_leaf_under_it() {
    let record = record(Phase::Signing);
    let before = sight(&record);
    assert_eq!(decide(&before, Some(&everyone(7, A))), Step::Sign { by_next: true });
    let signs = Sight { signing: Some(id(B)), ..before };
    let mut all = everyone(7, B);
    let Step::Adopt(dropping) = decide(&signs, Some(&all)) else { panic!("all have leaves under B") };
    assert_eq!((dropping.phase, dropping.next.clone()), (Phase::Dropping, None));
    assert!(dropping.sequence > 7);

    *all.proxies.get_mut("shop/a").unwrap() = trust(7, A);
    let Step::Wait(waiting) = decide(&signs, Some(&all)) else { panic!("one does not") };
    assert_eq!(waiting.proxies, ["shop/a"]);
    // One whose chain leads to both, as a cross-signed one does, need not wait.
    all.proxies.get_mut("shop/a").unwrap().as_mut().unwrap().leaf_roots.push(id(B));
    assert!(matches!(decide(&signs, Some(&all)), Step::Adopt(_)));
    *all.replicas.get_mut("operator-1").unwrap() = trust(7, A);
    assert!(matches!(decide(&signs, Some(&all)), Step::Wait(_)), "the operator itself");

    // The user took the intermediate away that was to sign.
    let unable = Sight { next_signs: false, ..sight(&record) };
    let Step::Wait(waiting) = decide(&unable, Some(&everyone(7, A))) else { panic!() };
    assert!(waiting.others[0].contains("fairlead-ca"));
}

#[test]
fn the_end_is_told_when_everybody_has_dropped_the_old_root() {
    let record = record(Phase::Dropping);
    assert!(matches!(decide(&sight(&record), Some(&everyone(6, B))), Step::Wait(_)));
    let settled = recorded(decide(&sight(&record), Some(&everyone(7, B))));
    assert_eq!((settled.phase, settled.sequence), (Phase::Settled, 7));
    // Nothing else begins before that, and there is nothing left to abort.
    assert!(matches!(decide(&Sight { rotate: "2", ..sight(&record) }, Some(&everyone(6, B))), Step::Wait(_)));
    let heard = recorded(decide(&Sight { abort: "x", ..sight(&record) }, None));
    assert_eq!((heard.phase, heard.abort.as_str(), heard.aborted), (Phase::Dropping, "x", false));
}

#[test]
fn an_abort_goes_back_at_once_or_by_way_of_leaves_under_the_old_root() {
    let publishing = record(Phase::Publishing);
    let settled = recorded(decide(&Sight { abort: "x", ..sight(&publishing) }, None));
    assert_eq!((settled.phase, settled.next.clone(), settled.aborted), (Phase::Settled, None, true));
    assert!(settled.sequence > 7, "a bundle without B is another one");

    let signing = record(Phase::Signing);
    let aborting = recorded(decide(&Sight { abort: "x", signing: Some(id(B)), ..sight(&signing) }, None));
    assert_eq!((aborting.phase, aborting.sequence), (Phase::Aborting, 7));
    let mut back = Sight { abort: "x", signing: Some(id(B)), ..sight(&aborting) };
    back.now = aborting.since + MIN_PHASE;
    assert_eq!(decide(&back, Some(&everyone(7, B))), Step::Sign { by_next: false });
    let back = Sight { signing: Some(id(A)), ..back };
    assert!(matches!(decide(&back, Some(&everyone(7, B))), Step::Wait(_)));
    let settled = recorded(decide(&back, Some(&everyone(7, A))));
    assert_eq!((settled.phase, settled.aborted), (Phase::Settled, true));
    assert!(settled.sequence > 7);
}

#[test]
fn the_number_of_the_bundle_grows_also_when_the_clock_went_back() {
    let record = Record { sequence: u64::try_from(NOW).unwrap() + 500, ..record(Phase::Publishing) };
    let settled = recorded(decide(&Sight { abort: "x", ..sight(&record) }, None));
    assert_eq!(settled.sequence, record.sequence + 1);
}

#[test]
fn a_record_survives_its_spelling_and_fields_of_other_versions() {
    let record = Record { aborted: true, ..record(Phase::Signing) };
    let text = serde_json::to_string(&record).unwrap();
    assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
    let newer = text.replacen('{', "{\"later\": 1, ", 1);
    assert_eq!(serde_json::from_str::<Record>(&newer).unwrap(), record);
    assert_eq!(serde_json::from_str::<Record>("{}").unwrap(), Record::default());
    assert!(serde_json::from_str::<Record>(r#"{"phase": "Dancing"}"#).is_err());
}
