//! Matches as proxies will compile them.

use fairlead_crds::{HeaderMatchType, PathMatchType, RouteMatch};
use regex::RegexBuilder;

use crate::model::{HeaderMatch, Match, PathMatch, StringMatch};

/// The compiled size of one expression, bytes. Proxies compile what passed here, so the limit is a proxy's memory; expressions that
/// people write need some kilobytes.
const MAX_REGEX_SIZE: usize = 256 * 1024;

pub(super) fn parse(m: RouteMatch) -> Result<Match, String> {
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
    let mut headers = Vec::with_capacity(m.headers.len());
    for header in m.headers {
        let name = header.name.to_ascii_lowercase();
        let at = format!("header {name}");
        let value = || {
            let value = header.value.clone();
            value.ok_or_else(|| format!("{at}: type {:?} needs a value", header.type_))
        };
        let value = match header.type_ {
            HeaderMatchType::Exact => StringMatch::Exact(value()?),
            HeaderMatchType::Prefix => StringMatch::Prefix(value()?),
            HeaderMatchType::RegularExpression => StringMatch::Regex(expression(&at, value()?)?),
            HeaderMatchType::Present => StringMatch::Present,
        };
        headers.push(HeaderMatch { name, value, not: header.not });
    }
    let methods = m.methods.into_iter().map(|m| m.as_str().to_owned()).collect();
    Ok(Match { path, headers, methods })
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
