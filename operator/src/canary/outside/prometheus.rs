//! What is asked of Prometheus, and what its answers mean.

use serde::Deserialize;
use serde_json::Value;

use super::about::Names;

/// Bytes of an answer: one number needs a few hundred, and a result that is more than one number is an error anyway.
pub(super) const MAX_ANSWER: usize = 64 * 1024;

/// Why a query says no number. Nothing of the answer is repeated but how many results there were.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum QueryError {
    #[error("the query cannot be asked: {0} has characters that no name has")]
    Name(&'static str),
    #[error("what answers is no Prometheus: its API has another form")]
    Form,
    #[error("Prometheus says that the query failed")]
    Failed,
    #[error("the query has no result")]
    Empty,
    #[error("the query has {0} results: aggregate it to one")]
    Several(usize),
    #[error("the query's result is {0}, not a number")]
    NotANumber(&'static str),
}

impl QueryError {
    /// For metrics.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Self::Name(_) => "invalid_name",
            Self::Form => "invalid_answer",
            Self::Failed => "failed",
            Self::Empty => "no_result",
            Self::Several(_) => "several_results",
            Self::NotANumber(_) => "not_a_number",
        }
    }
}

/// The query with names in the place of placeholders. In one pass, and of characters that end no string, so that a name stays a name.
pub(super) fn filled(query: &str, names: &Names) -> Result<String, QueryError> {
    let values = [
        ("{{namespace}}", &names.namespace),
        ("{{workload}}", &names.workload),
        ("{{canary}}", &names.canary),
        ("{{revision}}", &names.revision),
    ];
    let mut filled = String::with_capacity(query.len());
    let mut rest = query;
    while let Some(at) = rest.find("{{") {
        let (before, from) = rest.split_at(at);
        filled.push_str(before);
        if let Some((placeholder, value)) = values.iter().find(|(placeholder, _)| from.starts_with(placeholder)) {
            if !value.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.')) {
                return Err(QueryError::Name(placeholder));
            }
            filled.push_str(value);
            rest = from.split_at(placeholder.len()).1;
        } else {
            filled.push('{');
            rest = from.split_at(1).1;
        }
    }
    filled.push_str(rest);
    Ok(filled)
}

#[derive(Deserialize)]
struct Answer {
    status: String,
    data: Option<Data>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    result_type: String,
    result: Value,
}

/// The number in an answer of /api/v1/query.
pub(super) fn number(answer: &[u8]) -> Result<f64, QueryError> {
    let answer: Answer = serde_json::from_slice(answer).map_err(|_| QueryError::Form)?;
    match (answer.status.as_str(), answer.data) {
        ("success", Some(data)) => of(&data),
        ("error", _) => Err(QueryError::Failed),
        _ => Err(QueryError::Form),
    }
}

fn of(data: &Data) -> Result<f64, QueryError> {
    match data.result_type.as_str() {
        "scalar" => sample(&data.result),
        "vector" => match data.result.as_array().ok_or(QueryError::Form)?.as_slice() {
            [] => Err(QueryError::Empty),
            [one] if one.get("histogram").is_some() => Err(QueryError::NotANumber("a histogram")),
            [one] => sample(one.get("value").ok_or(QueryError::Form)?),
            several => Err(QueryError::Several(several.len())),
        },
        "matrix" => Err(QueryError::NotANumber("a range of samples")),
        "string" => Err(QueryError::NotANumber("a text")),
        _ => Err(QueryError::Form),
    }
}

/// A time, and a number written as a text because JSON has neither NaN nor infinity.
fn sample(sample: &Value) -> Result<f64, QueryError> {
    let number = sample.get(1).and_then(Value::as_str).ok_or(QueryError::Form)?;
    let number: f64 = number.parse().map_err(|_| QueryError::Form)?;
    if number.is_nan() {
        Err(QueryError::NotANumber("NaN"))
    } else if number.is_infinite() {
        Err(QueryError::NotANumber("infinity"))
    } else {
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names() -> Names {
        Names {
            namespace: "shop".into(),
            workload: "reviews".into(),
            canary: "reviews-canary".into(),
            revision: "5d8f".into(),
        }
    }

    #[test]
    fn placeholders_are_names() {
        for (query, expected) in [
            ("sum(rate(x[1m]))", "sum(rate(x[1m]))"),
            (
                r#"a{namespace="{{namespace}}",d=~"{{workload}}|{{canary}}"} / b{r="{{revision}}"}"#,
                r#"a{namespace="shop",d=~"reviews|reviews-canary"} / b{r="5d8f"}"#,
            ),
            ("{{{canary}}}", "{reviews-canary}"),
            ("{{ canary }} {{other}} {{", "{{ canary }} {{other}} {{"),
            ("{{canary}", "{{canary}"),
            ("é{{canary}}é", "éreviews-canaryé"),
        ] {
            assert_eq!(filled(query, &names()).unwrap(), expected);
        }
        for name in ["a\"} or vector(1)", "{{canary}}", "a b", "ä", "a\\"] {
            let names = Names { workload: name.into(), ..names() };
            assert_eq!(filled("{{workload}}", &names), Err(QueryError::Name("{{workload}}")), "{name}");
            assert!(filled("{{canary}}", &names).is_ok(), "who is not asked for does no harm");
        }
    }

    #[test]
    fn one_number_is_an_answer() {
        let vector =
            |result: &str| format!(r#"{{"status":"success","data":{{"resultType":"vector","result":{result}}}}}"#);
        let sample =
            |number: &str| vector(&format!(r#"[{{"metric":{{"a":"b"}},"value":[1435781451.781,"{number}"]}}]"#));
        let data = |kind: &str, result: &str| {
            format!(r#"{{"status":"success","data":{{"resultType":"{kind}","result":{result}}}}}"#)
        };
        for (answer, expected) in [
            (sample("1.5"), Ok(1.5)),
            (sample("-2e-3"), Ok(-0.002)),
            (data("scalar", r#"[1435781451.781,"7"]"#), Ok(7.0)),
            (
                r#"{"status":"success","warnings":["s3cr3t"],"data":{"resultType":"scalar","result":[1,"7"],"stats":{}}}"#.into(),
                Ok(7.0),
            ),
            (vector("[]"), Err("the query has no result")),
            (vector("[{},{},{}]"), Err("the query has 3 results: aggregate it to one")),
            (sample("NaN"), Err("the query's result is NaN, not a number")),
            (sample("+Inf"), Err("the query's result is infinity, not a number")),
            (sample("-Inf"), Err("the query's result is infinity, not a number")),
            (vector(r#"[{"histogram":[1,{"count":"s3cr3t"}]}]"#), Err("the query's result is a histogram, not a number")),
            (data("matrix", "[]"), Err("the query's result is a range of samples, not a number")),
            (data("string", r#"[1,"s3cr3t"]"#), Err("the query's result is a text, not a number")),
            (data("s3cr3t", "[]"), Err("what answers is no Prometheus: its API has another form")),
            (sample("s3cr3t"), Err("what answers is no Prometheus: its API has another form")),
            (vector("{}"), Err("what answers is no Prometheus: its API has another form")),
            (vector("[1]"), Err("what answers is no Prometheus: its API has another form")),
            (data("scalar", "[1,7]"), Err("what answers is no Prometheus: its API has another form")),
            (r#"{"status":"success"}"#.into(), Err("what answers is no Prometheus: its API has another form")),
            (r#"{"status":"error","error":"s3cr3t"}"#.into(), Err("Prometheus says that the query failed")),
            ("s3cr3t".into(), Err("what answers is no Prometheus: its API has another form")),
            (String::new(), Err("what answers is no Prometheus: its API has another form")),
        ] {
            let found = number(answer.as_bytes()).map_err(|error| error.to_string());
            assert_eq!(found, expected.map_err(str::to_owned), "{answer}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_fail(answer in r#"[\[\]{}":,a-z0-9]{0,60}"#) {
            let _ = number(answer.as_bytes());
        }

        #[test]
        fn no_query_makes_it_fail(query in "([{}]|canary|é|\"){0,12}") {
            let _ = filled(&query, &names());
        }
    }
}
