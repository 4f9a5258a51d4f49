//! Which of many rules can concern a request at all: by its caller, then by its path.
//!
//! An index only chooses candidates, which are then asked in full; where it cannot tell, it chooses all. So a mistake here that chooses too
//! many costs time alone, and tests hold it against asking every rule.

use std::collections::BTreeSet;

use fairlead_identity::SpiffeId;
use foldhash::HashMap;

use crate::{
    pattern::TextPattern,
    request::Caller,
    rule::{Operation, Rule, Source},
};

/// Rules by whom they concern.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// By the whole identity.
    accounts: HashMap<Box<str>, Bucket>,
    /// By namespace, of whatever trust domain.
    namespaces: HashMap<Box<str>, Bucket>,
    /// Of callers that proved nothing.
    plain: Bucket,
    /// Of all others.
    anyone: Bucket,
}

/// Rules of one kind of caller, by the paths that they ask for: a tree of whole path elements. A rule hangs at the last element that its
/// pattern names in full; one that asks for no path, or only for its end, hangs at the root.
#[derive(Debug)]
pub(crate) struct Bucket {
    rules: Vec<u32>,
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    rules: Vec<u32>,
    children: HashMap<Box<[u8]>, u32>,
}

/// Whom a source can be.
enum Key {
    Accounts(Vec<String>),
    Namespaces(Vec<String>),
    Plain,
    Anyone,
}

impl Index {
    /// Of rules by their places in a list.
    pub(crate) fn new<'a>(trust_domain: &str, rules: impl IntoIterator<Item = &'a Rule>) -> Self {
        let mut index = Self::default();
        for (number, rule) in (0..).zip(rules) {
            let keys: Vec<Key> = rule.from.iter().map(|source| key(trust_domain, source)).collect();
            if keys.is_empty() || keys.iter().any(|key| matches!(key, Key::Anyone)) {
                index.anyone.add(number, &rule.to);
                continue;
            }
            // A rule may name one of them twice.
            let (mut accounts, mut namespaces) = (BTreeSet::new(), BTreeSet::new());
            let mut plain = false;
            for key in keys {
                match key {
                    Key::Accounts(names) => accounts.extend(names),
                    Key::Namespaces(names) => namespaces.extend(names),
                    Key::Plain | Key::Anyone => plain = true,
                }
            }
            for account in accounts {
                index.accounts.entry(account.into()).or_default().add(number, &rule.to);
            }
            for namespace in namespaces {
                index.namespaces.entry(namespace.into()).or_default().add(number, &rule.to);
            }
            if plain {
                index.plain.add(number, &rule.to);
            }
        }
        index
    }

    /// Where rules that can concern `caller` are.
    pub(crate) fn buckets(&self, caller: &Caller) -> impl Iterator<Item = &Bucket> {
        let known = caller.identity.as_ref();
        let account = known.and_then(|identity| self.accounts.get(identity.as_str()));
        let namespace = known.and_then(|identity| self.namespaces.get(identity.namespace()));
        let plain = known.is_none().then_some(&self.plain);
        [account, namespace, plain, Some(&self.anyone)].into_iter().flatten()
    }
}

fn key(trust_domain: &str, source: &Source) -> Key {
    let Source { namespaces, service_accounts, identities, cidrs: _, unauthenticated } = source;
    if !service_accounts.is_empty() {
        let identity = |account: &String| {
            let (namespace, name) = account.split_once('/')?;
            SpiffeId::new(trust_domain, namespace, name).ok().map(|identity| identity.as_str().to_owned())
        };
        return Key::Accounts(service_accounts.iter().filter_map(identity).collect());
    }
    if !identities.is_empty() && identities.iter().all(|i| i.namespace().is_some() && i.service_account().is_some()) {
        return Key::Accounts(identities.iter().map(ToString::to_string).collect());
    }
    if !namespaces.is_empty() {
        return Key::Namespaces(namespaces.clone());
    }
    let of_identities: Option<Vec<String>> =
        identities.iter().map(|identity| identity.namespace().map(str::to_owned)).collect();
    match of_identities {
        Some(namespaces) if !namespaces.is_empty() => Key::Namespaces(namespaces),
        _ if *unauthenticated => Key::Plain,
        _ => Key::Anyone,
    }
}

impl Default for Bucket {
    fn default() -> Self {
        Self { rules: Vec::new(), nodes: vec![Node::default()] }
    }
}

impl Bucket {
    fn add(&mut self, rule: u32, to: &[Operation]) {
        self.rules.push(rule);
        let mut at = BTreeSet::new();
        for operation in to {
            if operation.paths.is_empty() {
                at.insert(self.node_of_call(operation));
            }
            at.extend(operation.paths.iter().map(|path| self.node_of(path)));
        }
        if to.is_empty() {
            at.insert(0);
        }
        for node in at {
            self.nodes[node as usize].rules.push(rule);
        }
    }

    fn node_of_call(&mut self, operation: &Operation) -> u32 {
        match &operation.grpc {
            Some(grpc) if !grpc.service.is_empty() => self.node(format!("/{}/", grpc.service).as_bytes()),
            _ => 0,
        }
    }

    fn node_of(&mut self, path: &TextPattern) -> u32 {
        match path {
            // Its end may belong to a longer element.
            TextPattern::Prefix(prefix) => self.node(prefix.as_bytes()),
            TextPattern::Exact(exact) => self.node(format!("{exact}/").as_bytes()),
            TextPattern::Suffix(_) => 0,
        }
    }

    /// The node of the elements of `path` that a slash ends.
    fn node(&mut self, path: &[u8]) -> u32 {
        let mut node = 0;
        for element in elements(path) {
            let fresh = self.nodes.len() as u32;
            let next = *self.nodes[node as usize].children.entry(element.into()).or_insert(fresh);
            if next == fresh {
                self.nodes.push(Node::default());
            }
            node = next;
        }
        node
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = u32> {
        self.rules.iter().copied()
    }

    /// Those that ask for no path.
    pub(crate) fn of_any_path(&self) -> impl Iterator<Item = u32> {
        self.nodes[0].rules.iter().copied()
    }

    /// Those that `path`, read as it is, can be meant by.
    pub(crate) fn of_path(&self, path: &[u8]) -> impl Iterator<Item = u32> {
        let mut node = Some(&self.nodes[0]);
        let mut rest = elements(path).chain(last(path));
        std::iter::from_fn(move || {
            let here = node?;
            node = rest.next().and_then(|element| here.children.get(element)).map(|next| &self.nodes[*next as usize]);
            Some(here.rules.iter().copied())
        })
        .flatten()
    }
}

/// What slashes end.
fn elements(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split_inclusive(|byte| *byte == b'/').filter_map(|element| element.strip_suffix(b"/"))
}

/// What follows the last slash.
fn last(path: &[u8]) -> Option<&[u8]> {
    path.rsplit(|byte| *byte == b'/').next()
}
