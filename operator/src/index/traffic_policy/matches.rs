//! Matches as proxies will compile them.

use fairlead_crds::{PathMatchType, RouteMatch, ValueMatchType};
use regex::RegexBuilder;

use crate::model::{GrpcMatch, HeaderMatch, Match, ObjectName, PathMatch, SourceMatch, StringMatch};

/// The compiled size of one expression, bytes. Proxies compile what passed here, so the limit is a proxy's memory; expressions that
/// people write need some kilobytes.
const MAX_REGEX_SIZE: usize = 256 * 1024;

pub(in crate::index) fn parse(m: RouteMatch) -> Result<Match, String> {
    let path = m
        .path
        .map(|path| {
            Ok::<_, String>(match path.type_ {
                PathMatchType::Exact => PathMatch::Exact(path.value),
                PathMatchType::PathPrefix => PathMatch::Prefix(path.value),
                PathMatchType::RegularExpression => PathMatch::Regex(expression("path.value", path.value)?),
            })
        })
        .transpose()?;
    let headers = m.headers.into_iter().map(|h| {
        let name = h.name.to_ascii_lowercase();
        named(&format!("header {name}"), name, h.type_, h.value, h.not)
    });
    let query_params = m.query_params.into_iter().map(|p| {
        let at = format!("queryParam {}", p.name);
        named(&at, p.name, p.type_, p.value, p.not)
    });
    let cookies = m.cookies.into_iter().map(|c| {
        let at = format!("cookie {}", c.name);
        named(&at, c.name, c.type_, c.value, c.not)
    });
    Ok(Match {
        path,
        headers: headers.collect::<Result<_, _>>()?,
        query_params: query_params.collect::<Result<_, _>>()?,
        cookies: cookies.collect::<Result<_, _>>()?,
        methods: m.methods.into_iter().map(|m| m.as_str().to_owned()).collect(),
        grpc: m.grpc.map(|grpc| GrpcMatch {
            service: grpc.service.unwrap_or_default(),
            method: grpc.method.unwrap_or_default(),
        }),
        source: m.source.map(source).transpose()?,
    })
}

fn named(
    at: &str,
    name: String,
    type_: ValueMatchType,
    value: Option<String>,
    not: bool,
) -> Result<HeaderMatch, String> {
    let needed = |value: Option<String>| value.ok_or_else(|| format!("{at}: type {type_:?} needs a value"));
    let value = match type_ {
        ValueMatchType::Exact => StringMatch::Exact(needed(value)?),
        ValueMatchType::Prefix => StringMatch::Prefix(needed(value)?),
        ValueMatchType::RegularExpression => StringMatch::Regex(expression(at, needed(value)?)?),
        ValueMatchType::Present => StringMatch::Present,
    };
    Ok(HeaderMatch { name, value, not })
}

fn source(source: fairlead_crds::SourceMatch) -> Result<SourceMatch, String> {
    let account = |account: String| match account.split_once('/') {
        Some((namespace, name)) => Ok(ObjectName::new(namespace, name)),
        None => Err(format!("source: {account:?} is no service account: write namespace/name")),
    };
    Ok(SourceMatch {
        namespaces: source.namespaces,
        service_accounts: source.service_accounts.into_iter().map(account).collect::<Result<_, _>>()?,
        labels: source.labels,
    })
}

/// Checks an expression as proxies will compile it: of the whole value. By itself as well, so that `a)(b` is no way out of that, and
/// mistakes are told in the user's own words.
fn expression(at: &str, expression: String) -> Result<String, String> {
    let compile = |text: &str| RegexBuilder::new(text).size_limit(MAX_REGEX_SIZE).build();
    match compile(&expression).and_then(|_| compile(&format!("^(?:{expression})$"))) {
        Ok(_) => Ok(expression),
        // The crate draws a picture over several lines; its last line is the sentence.
        Err(error) => {
            let text = error.to_string();
            let sentence = text.lines().last().unwrap_or_default();
            let sentence = sentence.trim_start_matches("error: ");
            Err(format!("{at}: {expression:?} is no regular expression that can be used: {sentence}"))
        }
    }
}
