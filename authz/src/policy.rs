//! The decision.

use fairlead_identity::SpiffeId;

use crate::{
    header::Header,
    index::Index,
    path,
    pattern::HostPattern,
    request::{Caller, Request},
    rule::{Action, Claim, Effect, Grpc, Operation, Rule, Source},
};

/// The rules of a workload, ready to decide.
#[derive(Debug)]
pub struct Policy {
    trust_domain: String,
    denies: Rules,
    allows: Rules,
    audits: Rules,
    default: Effect,
}

/// What becomes of a connection or a request, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'a> {
    /// What becomes of it.
    pub effect: Effect,
    /// The rule that decided; `None`: none did, and this is the default.
    pub rule: Option<&'a str>,
}

/// Rules with one action.
#[derive(Debug, Default)]
struct Rules {
    rules: Vec<Compiled>,
    index: Index,
}

#[derive(Debug)]
struct Compiled {
    name: String,
    from: Vec<Source>,
    to: Vec<(Operation, Vec<Header>)>,
    when: Vec<Claim>,
}

/// Whether a rule has to hold for any reader of a request, or for every one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readers {
    Any,
    Every,
}

/// What is decided about. Bytes that are not HTTP have no request.
struct Question<'a, R> {
    trust_domain: &'a str,
    caller: &'a Caller,
    port: u16,
    request: Option<&'a R>,
    /// Its path, if everybody reads it alike: that is found out once, and not for each rule.
    clear: Option<&'a [u8]>,
}

impl Default for Policy {
    /// Lets everybody in: what holds where nobody wrote a rule.
    fn default() -> Self {
        let [denies, allows, audits] = Default::default();
        Self { trust_domain: String::new(), denies, allows, audits, default: Effect::Allow }
    }
}

impl Policy {
    /// Lets nobody in: what holds while nothing is known.
    pub fn closed() -> Self {
        Self { default: Effect::Deny, ..Self::default() }
    }

    /// `trust_domain` is the mesh's own. `default` is what becomes of that for which no rule holds; `None`: it is refused where there is an Allow
    /// rule, because somebody listed who may, and let in where there is none. The error is a sentence that names the rule.
    pub fn compile(
        trust_domain: &str,
        rules: impl IntoIterator<Item = Rule>,
        default: Option<Effect>,
    ) -> Result<Self, String> {
        let (mut denies, mut allows, mut audits) = (Vec::new(), Vec::new(), Vec::new());
        for rule in rules {
            match rule.action {
                Action::Deny => denies.push(rule),
                Action::Allow => allows.push(rule),
                Action::Audit => audits.push(rule),
            }
        }
        let implied = if allows.is_empty() { Effect::Allow } else { Effect::Deny };
        Ok(Self {
            trust_domain: trust_domain.to_owned(),
            denies: Rules::compile(trust_domain, denies)?,
            allows: Rules::compile(trust_domain, allows)?,
            audits: Rules::compile(trust_domain, audits)?,
            default: default.unwrap_or(implied),
        })
    }

    /// Whether nothing is refused, whatever comes.
    pub fn allows_all(&self) -> bool {
        self.denies.rules.is_empty() && self.default == Effect::Allow
    }

    /// Whether there is nothing to decide and nothing to record.
    pub fn is_empty(&self) -> bool {
        self.allows_all() && self.audits.rules.is_empty()
    }

    /// What becomes of a request, or of a connection that is not HTTP (`None`), to `port` of the pod.
    ///
    /// Allocates nothing but to read what few requests have and a rule asks about: a path that servers read in several ways, a host that is not
    /// in lower case, several lines of one header.
    pub fn decide<R: Request>(&self, caller: &Caller, port: u16, request: Option<&R>) -> Decision<'_> {
        let question = self.question(caller, port, request);
        if let Some(rule) = self.denies.find(&question, Readers::Any) {
            return Decision { effect: Effect::Deny, rule: Some(rule) };
        }
        if self.default == Effect::Allow {
            return Decision { effect: Effect::Allow, rule: None };
        }
        let rule = self.allows.find(&question, Readers::Every);
        Decision { effect: if rule.is_some() { Effect::Allow } else { Effect::Deny }, rule }
    }

    /// The first Audit rule that holds.
    pub fn audits<R: Request>(&self, caller: &Caller, port: u16, request: Option<&R>) -> Option<&str> {
        if self.audits.rules.is_empty() {
            return None;
        }
        self.audits.find(&self.question(caller, port, request), Readers::Any)
    }

    fn question<'a, R: Request>(&'a self, caller: &'a Caller, port: u16, request: Option<&'a R>) -> Question<'a, R> {
        let clear = request.and_then(|request| path::clear(request.path()));
        Question { trust_domain: &self.trust_domain, caller, port, request, clear }
    }
}

impl<R: Request> Question<'_, R> {
    /// Whether `holds` is true of the path, as any reader takes it, or every one.
    fn path_is(&self, request: &R, readers: Readers, mut holds: impl FnMut(&[u8]) -> bool) -> bool {
        match (self.clear, readers) {
            (Some(reading), _) => holds(reading),
            (None, Readers::Any) => path::any_reading(request.path(), holds),
            (None, Readers::Every) => path::every_reading(request.path(), holds),
        }
    }
}

impl Rules {
    fn compile(trust_domain: &str, rules: Vec<Rule>) -> Result<Self, String> {
        let index = Index::new(trust_domain, &rules);
        let rules = rules.into_iter().map(Compiled::new).collect::<Result<_, _>>()?;
        Ok(Self { rules, index })
    }

    /// The name of a rule that holds. It is always the same of several.
    fn find<R: Request>(&self, question: &Question<'_, R>, readers: Readers) -> Option<&str> {
        if self.rules.is_empty() {
            return None;
        }
        let holds = |number: u32| {
            let rule = self.rules.get(number as usize)?;
            rule.holds(question, readers).then_some(rule.name.as_str())
        };
        let mut buckets = self.index.buckets(question.caller);
        if let Some(reading) = question.clear {
            return buckets.find_map(|bucket| bucket.of_path(reading).find_map(holds));
        }
        buckets.find_map(|bucket| match (question.request, readers) {
            // Whatever a rule asks of HTTP, it holds.
            (None, Readers::Any) => bucket.all().find_map(holds),
            (None, Readers::Every) => bucket.of_any_path().find_map(holds),
            (Some(request), Readers::Any) => {
                let mut found = None;
                let unclear = path::any_reading(request.path(), |reading| {
                    found = bucket.of_path(reading).find_map(holds);
                    found.is_some()
                });
                found.or_else(|| if unclear { bucket.all().find_map(holds) } else { None })
            }
            (Some(request), Readers::Every) => match path::plain(request.path()) {
                Some(reading) => bucket.of_path(&reading).find_map(holds),
                None => bucket.of_any_path().find_map(holds),
            },
        })
    }
}

impl Compiled {
    fn new(rule: Rule) -> Result<Self, String> {
        let Rule { name, action: _, from, to, when } = rule;
        let to = to.into_iter().map(|mut operation| {
            let headers = std::mem::take(&mut operation.headers);
            Ok((operation, headers.into_iter().map(Header::compile).collect::<Result<_, String>>()?))
        });
        let to = to.collect::<Result<_, String>>().map_err(|error| format!("rule {name}: {error}"))?;
        Ok(Self { name, from, to, when })
    }

    fn holds<R: Request>(&self, question: &Question<'_, R>, readers: Readers) -> bool {
        (self.from.is_empty() || self.from.iter().any(|source| source.holds(question)))
            && (self.to.is_empty() || self.to.iter().any(|(to, headers)| to.holds(headers, question, readers)))
            && self.when.iter().all(|claim| claim.holds(question, readers))
    }
}

impl Source {
    fn holds<R>(&self, question: &Question<'_, R>) -> bool {
        let Self { namespaces, service_accounts, identities, cidrs, unauthenticated } = self;
        let proved = match &question.caller.identity {
            None => namespaces.is_empty() && service_accounts.is_empty() && identities.is_empty(),
            Some(_) if *unauthenticated => false,
            Some(identity) => {
                let own = identity.trust_domain() == question.trust_domain;
                (namespaces.is_empty() || own && namespaces.iter().any(|name| name == identity.namespace()))
                    && (service_accounts.is_empty() || own && service_accounts.iter().any(|name| is(name, identity)))
                    && (identities.is_empty() || identities.iter().any(|pattern| pattern.matches(identity)))
            }
        };
        proved && (cidrs.is_empty() || cidrs.iter().any(|cidr| cidr.contains(&question.caller.address)))
    }
}

/// Whether the account of this `namespace/name` bears it.
fn is(account: &str, identity: &SpiffeId) -> bool {
    account.split_once('/') == Some((identity.namespace(), identity.service_account()))
}

impl Operation {
    fn holds<R: Request>(&self, headers: &[Header], question: &Question<'_, R>, readers: Readers) -> bool {
        let Self { ports, methods, paths, hosts, headers: _, grpc } = self;
        if !(ports.is_empty() || ports.contains(&question.port)) {
            return false;
        }
        let asks =
            !(methods.is_empty() && paths.is_empty() && hosts.is_empty() && headers.is_empty()) || grpc.is_some();
        let Some(request) = question.request else { return !asks || readers == Readers::Any };
        (methods.is_empty() || methods.iter().any(|method| is_method(method, request, readers)))
            && (paths.is_empty()
                || paths.iter().any(|path| question.path_is(request, readers, |reading| path.matches(reading))))
            && (hosts.is_empty() || is_host(hosts, request, readers))
            && headers.iter().all(|header| match readers {
                Readers::Any => header.may_hold(request),
                Readers::Every => header.holds(request),
            })
            && grpc.as_ref().is_none_or(|grpc| is_call(grpc, question, request, readers))
    }
}

fn is_method(method: &str, request: &impl Request, readers: Readers) -> bool {
    match readers {
        // Some servers take lower case for it.
        Readers::Any => method.eq_ignore_ascii_case(request.method()),
        Readers::Every => method == request.method(),
    }
}

/// A request that names no host is for none of them.
fn is_host(patterns: &[HostPattern], request: &impl Request, readers: Readers) -> bool {
    let mut hosts = request.hosts().peekable();
    match readers {
        Readers::Any => hosts.any(|host| patterns.iter().any(|pattern| pattern.may_match(host))),
        Readers::Every => {
            hosts.peek().is_some() && hosts.all(|host| patterns.iter().any(|pattern| pattern.matches(host)))
        }
    }
}

/// The path of a call is `/package.Service/Method`, and its content type says that it is one, which not all servers look at.
fn is_call<R: Request>(grpc: &Grpc, question: &Question<'_, R>, request: &R, readers: Readers) -> bool {
    let Grpc { service, method } = grpc;
    let names = |reading: &[u8]| {
        let mut elements = reading.strip_prefix(b"/").into_iter().flat_map(|call| call.splitn(2, |byte| *byte == b'/'));
        let (Some(of), Some(named)) = (elements.next(), elements.next()) else { return false };
        (service.is_empty() || service.as_bytes() == of) && (method.is_empty() || method.as_bytes() == named)
    };
    match readers {
        Readers::Any if service.is_empty() && method.is_empty() => request.is_grpc(),
        Readers::Any => question.path_is(request, readers, names),
        Readers::Every => request.is_grpc() && question.path_is(request, readers, names),
    }
}

impl Claim {
    fn holds<R: Request>(&self, question: &Question<'_, R>, readers: Readers) -> bool {
        match question.request {
            None => readers == Readers::Any,
            Some(request) => self.values.iter().any(|value| request.has_claim(&self.name, value)),
        }
    }
}
