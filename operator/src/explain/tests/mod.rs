//! Answers case by case ([`cases`]), over the API ([`api`]), and against what a proxy makes of what it is sent ([`proxy`]).

mod api;
mod cases;
mod proxy;

use fairlead_operator_api::{Answer, Caller, Group, Pair, Question, Request, Target};
use serde_json::{Value, json};

use super::explain;
use crate::index::Index;
use crate::index::tests::build::*;

/// May the account `front` GET this path of the Service `web`?
fn question(path: &str) -> Question {
    Question {
        from: account("front"),
        address: None,
        to: to("web"),
        request: Some(Request { method: "GET".into(), path: path.into(), ..Request::default() }),
    }
}

fn account(name: &str) -> Caller {
    Caller::ServiceAccount { namespace: NS.into(), name: name.into() }
}

fn to(name: &str) -> Target {
    Target { namespace: NS.into(), name: name.into(), port: None }
}

fn pair(name: &str, value: &str) -> Pair {
    Pair { name: name.into(), value: value.into() }
}

fn answer(index: &Index, question: &Question) -> Answer {
    explain(index, question).unwrap()
}

/// Of pods that are all alike.
fn only(index: &Index, question: &Question) -> Group {
    let mut groups = answer(index, question).groups;
    assert_eq!(groups.len(), 1, "{groups:?}");
    groups.remove(0)
}

/// The verdict, the rule and the reason.
fn said(group: &Group) -> (String, Option<&str>, &str) {
    (format!("{:?}", group.outcome.verdict), group.outcome.rule.as_deref(), group.outcome.because.as_str())
}

fn unanswered(index: &Index, question: &Question) -> String {
    explain(index, question).unwrap_err().to_string()
}

#[allow(clippy::needless_pass_by_value, reason = "reads as the literals that they are")]
fn rules(rules: Value) -> Value {
    json!({"selector": {"matchLabels": {"app": "web"}}, "rules": rules})
}

fn readers() -> Value {
    rules(json!([{
        "name": "readers", "action": "Allow",
        "from": [{"serviceAccounts": ["shop/front"]}], "to": [{"methods": ["GET"], "paths": ["/items/*"]}],
    }]))
}
