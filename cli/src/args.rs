//! What the command takes.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use clap::{ArgGroup, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use fairlead_operator_api::{Caller, Pair, Question, Request, Target};

use crate::canary;

/// Under which `kubectl fairlead` finds it.
const PLUGIN: &str = "kubectl-fairlead";
/// Under any other name.
const PROGRAM: &str = "fairlead";

/// Asks a Fairlead mesh what it would do, and whether it is well.
#[derive(Debug, Parser)]
#[command(name = "fairlead", version)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
    /// How the user calls it.
    #[arg(skip = PROGRAM)]
    pub(crate) program: &'static str,
}

/// Which cluster, as kubectl takes it.
#[derive(Debug, Parser)]
pub(crate) struct ClusterArgs {
    /// The kubeconfig; without it, $KUBECONFIG, or ~/.kube/config.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig; without it, the current one.
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// The namespace of names that have none; without it, the context's. check looks at this one alone.
    #[arg(long, short, global = true, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// Where the operator runs.
    #[arg(long, global = true, value_name = "NAME", default_value = "fairlead-system")]
    pub(crate) operator_namespace: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Who may do what.
    Authz {
        #[command(subcommand)]
        command: Authz,
    },
    /// Where releases stand, how they ended, and what a person wants of one.
    Canary {
        #[command(subcommand)]
        command: canary::args::Command,
    },
    /// Says whether the mesh is well: the operator, what it says of policies and releases, and pods without a sidecar.
    ///
    /// Exit code: 0 nothing is wrong, 1 something is, 2 it could not be looked at.
    Check,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Authz {
    /// Says whether a caller may do something, and by which rule: the operator decides with the code that proxies decide with.
    ///
    /// Exit code: 0 every pod lets it in, 1 one refuses it, 2 there is no answer.
    Explain(Box<Explain>),
}

#[derive(Debug, Parser)]
#[command(group = ArgGroup::new("caller").required(true).args(["from", "from_plain"]))]
#[command(group = ArgGroup::new("request").args(["get", "post", "method", "grpc"]))]
pub(crate) struct Explain {
    /// Who calls: a service account, as namespace/name, or a whole SPIFFE ID.
    #[arg(long, value_name = "ACCOUNT")]
    from: Option<String>,
    /// A caller without a sidecar, who proves nothing.
    #[arg(long)]
    from_plain: bool,
    /// Where the call comes from; needed only where a rule looks at addresses.
    #[arg(long, value_name = "IP")]
    from_address: Option<IpAddr>,
    /// Whom it calls: a Service, a Deployment or a pod. The port is the Service's, or else the pods'; needed only where there are several.
    #[arg(long, value_name = "[NAMESPACE/]NAME[:PORT]")]
    to: String,
    /// A GET of this path. Without any request the question is about bytes that are not HTTP.
    #[arg(long, value_name = "PATH")]
    get: Option<String>,
    /// A POST to this path.
    #[arg(long, value_name = "PATH")]
    post: Option<String>,
    /// Another method; needs --path.
    #[arg(long, value_name = "METHOD", requires = "path")]
    method: Option<String>,
    /// The path of --method.
    #[arg(long, value_name = "PATH", requires = "method")]
    path: Option<String>,
    /// A call of gRPC.
    #[arg(long, value_name = "SERVICE/METHOD")]
    grpc: Option<String>,
    /// The host that the request is for; needed only where a rule looks at it.
    #[arg(long, value_name = "HOST", requires = "request")]
    host: Option<String>,
    /// A header of the request. May stand several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair, requires = "request")]
    header: Vec<Pair>,
    /// A claim of the request's token, as if it were verified; iss says whose token it is. May stand several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair, requires = "request")]
    claim: Vec<Pair>,
    /// How to print the answer; without it, for people.
    #[arg(long, short, value_enum, value_name = "FORMAT")]
    pub(crate) output: Option<Output>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For programs.
    Json,
}

/// Ends the process with help or with what is wrong.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Args {
    try_parse(words).unwrap_or_else(|error| error.exit())
}

fn try_parse(words: impl IntoIterator<Item = OsString>) -> Result<Args, clap::Error> {
    let words: Vec<OsString> = words.into_iter().collect();
    let name = called(words.first());
    let matches = Args::command()
        .bin_name(name)
        .after_help(format!("Examples:\n  {name} check\n  {name} authz explain --help\n  {name} canary --help"))
        .mut_subcommand("canary", |canary| canary.after_help(canary::args::examples(name)))
        .mut_subcommand("authz", |authz| authz.mut_subcommand("explain", |explain| explain.after_help(examples(name))))
        .try_get_matches_from(words)?;
    Ok(Args { program: name, ..Args::from_arg_matches(&matches)? })
}

/// How the user calls it.
fn called(program: Option<&OsString>) -> &'static str {
    let name = program.and_then(|path| Path::new(path).file_stem());
    if name.is_some_and(|name| name == PLUGIN) { "kubectl fairlead" } else { PROGRAM }
}

fn examples(name: &str) -> String {
    let explain = format!("{name} authz explain");
    format!(
        "Examples:
  # May the product page read ratings, and by which rule?
  {explain} --from bookinfo/productpage --to bookinfo/ratings --get /ratings/1

  # Who has no sidecar?
  {explain} --from-plain --from-address 10.0.0.7 --to bookinfo/ratings:9080 --get /ratings/1

  # A call of gRPC with a token that says so
  {explain} -n shop --from front --to cart --grpc shop.Cart/Add --claim groups=dev --claim iss=https://issuer

  # Bytes that are not HTTP, for a script
  {explain} --from shop/cart --to shop/redis -o json && echo may"
    )
}

fn pair(text: &str) -> Result<Pair, String> {
    let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("write name=value")?;
    Ok(Pair { name: name.to_owned(), value: value.to_owned() })
}

impl Explain {
    /// `namespace` is that of names that have none.
    pub(crate) fn question(&self, namespace: &str) -> anyhow::Result<Question> {
        let from = match &self.from {
            None => Caller::Plain,
            Some(identity) if identity.starts_with("spiffe://") => Caller::Identity(identity.clone()),
            Some(account) => {
                let (namespace, name) = named("--from", account, namespace)?;
                Caller::ServiceAccount { namespace, name }
            }
        };
        let (to, port) = match self.to.rsplit_once(':') {
            None => (self.to.as_str(), None),
            Some((to, port)) => {
                let number = port.parse().ok().filter(|port| *port != 0);
                (to, Some(number.with_context(|| format!("--to: {port:?} is no port"))?))
            }
        };
        let (namespace, name) = named("--to", to, namespace)?;
        let to = Target { namespace, name, port };
        Ok(Question { from, address: self.from_address, to, request: self.request()? })
    }

    fn request(&self) -> anyhow::Result<Option<Request>> {
        let grpc = self.grpc.as_ref().map(|call| {
            let call = call.trim_start_matches('/');
            let is_call = call
                .split_once('/')
                .is_some_and(|(service, method)| !service.is_empty() && !method.is_empty() && !method.contains('/'));
            ensure!(is_call, "--grpc: write the service with its package, and the method: shop.Cart/Add");
            Ok(format!("/{call}"))
        });
        let (method, path) = match (&self.get, &self.post, &self.method, &self.path, grpc) {
            (Some(path), ..) => ("GET", path.clone()),
            (_, Some(path), ..) => ("POST", path.clone()),
            (_, _, Some(method), Some(path), _) => (method.as_str(), path.clone()),
            (.., Some(call)) => ("POST", call?),
            _ => return Ok(None),
        };
        Ok(Some(Request {
            method: method.to_owned(),
            path,
            host: self.host.clone(),
            headers: self.header.clone(),
            claims: self.claim.clone(),
            grpc: self.grpc.is_some(),
        }))
    }
}

pub(crate) fn named(flag: &str, text: &str, namespace: &str) -> anyhow::Result<(String, String)> {
    let (namespace, name) = text.split_once('/').unwrap_or((namespace, text));
    let is_name = !namespace.is_empty() && !name.is_empty() && !name.contains('/');
    ensure!(is_name, "{flag}: {text:?} is no name: write namespace/name");
    Ok((namespace.to_owned(), name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Args, clap::Error> {
        try_parse(line.split(' ').map(OsString::from))
    }

    fn asked(line: &str) -> anyhow::Result<Question> {
        let Command::Authz { command: Authz::Explain(explain) } = parsed(line)?.command else { panic!("{line}") };
        explain.question("default")
    }

    fn refused(line: &str) -> String {
        asked(line).unwrap_err().to_string()
    }

    #[test]
    fn the_line_of_the_manual_is_the_question_that_it_looks_like() {
        let question = asked(
            "fairlead authz explain --from bookinfo/productpage --to bookinfo/ratings --get /ratings/1 --header a=b=c --claim groups=dev",
        );
        let expected = Question {
            from: Caller::ServiceAccount { namespace: "bookinfo".into(), name: "productpage".into() },
            address: None,
            to: Target { namespace: "bookinfo".into(), name: "ratings".into(), port: None },
            request: Some(Request {
                method: "GET".into(),
                path: "/ratings/1".into(),
                headers: vec![Pair { name: "a".into(), value: "b=c".into() }],
                claims: vec![Pair { name: "groups".into(), value: "dev".into() }],
                ..Request::default()
            }),
        };
        assert_eq!(question.unwrap(), expected);
    }

    #[test]
    fn names_without_a_namespace_are_of_the_contexts() {
        let question = asked("fairlead authz explain --from-plain --from-address 10.0.0.1 --to web:80").unwrap();
        assert_eq!(question.from, Caller::Plain);
        assert_eq!((question.to.namespace.as_str(), question.to.port), ("default", Some(80)));
        assert_eq!(question.request, None);
        let identity = "spiffe://other.example/ns/a/sa/b";
        let question = asked(&format!("fairlead authz explain --from {identity} --to a/b --grpc p.S/M")).unwrap();
        assert_eq!(question.from, Caller::Identity(identity.into()));
        let request = question.request.unwrap();
        assert_eq!((request.method.as_str(), request.path.as_str(), request.grpc), ("POST", "/p.S/M", true));
    }

    #[test]
    fn what_makes_no_question_is_refused() {
        for (line, why) in [
            ("--to a/b", "required"),
            ("--from a/b --from-plain --to a/b", "cannot be used with"),
            ("--from a/b --to a/b --get /x --post /x", "cannot be used with"),
            ("--from a/b --to a/b --method PUT", "--path"),
            ("--from a/b --to a/b --path /x", "--method"),
            ("--from a/b --to a/b --header x=y", "required"),
            ("--from a/b --to a/b --get / --claim x", "name=value"),
            ("--from a/b/c --to a/b", "--from"),
            ("--from a/b --to a/b:0", "no port"),
            ("--from a/b --to a/b:http", "no port"),
            ("--from a/b --to /b", "--to"),
            ("--from a/b --to a/b --grpc Cart", "--grpc"),
        ] {
            let said = refused(&format!("fairlead authz explain {line}"));
            assert!(said.contains(why), "{line}: {said}");
        }
    }

    #[test]
    fn help_speaks_of_the_name_that_it_is_called_by() {
        for (program, name) in [("/usr/bin/fairlead", "fairlead"), ("/usr/bin/kubectl-fairlead", "kubectl fairlead")] {
            let help = parsed(&format!("{program} authz explain --help")).unwrap_err().to_string();
            assert!(help.contains(&format!("Usage: {name} authz explain")), "{help}");
            assert!(help.contains(&format!("  {name} authz explain --from bookinfo/productpage")), "{help}");
        }
        Args::command().debug_assert();
    }

    #[test]
    fn what_a_canary_is_asked_is_parsed_under_either_name() {
        for (program, name) in [("fairlead", "fairlead"), ("kubectl-fairlead", "kubectl fairlead")] {
            let args = parsed(&format!("{program} canary watch shop/web --wait --timeout 90s")).unwrap();
            assert_eq!(args.program, name);
            assert!(matches!(args.command, Command::Canary { command: canary::args::Command::Watch(_) }));
            let help = parsed(&format!("{program} canary --help")).unwrap_err().to_string();
            assert!(help.contains(&format!("\n  {name} canary watch bookinfo/reviews\n")), "{help}");
            let help = parsed(&format!("{program} canary watch --help")).unwrap_err().to_string();
            assert!(help.contains("1  rolled back, failed, aborted or superseded"), "{help}");
        }
        for line in ["list -A -o json", "history a/b", "approve a", "abort a --wait", "promote -n b a", "retry a"] {
            parsed(&format!("fairlead canary {line}")).unwrap();
        }
        for (line, why) in [
            ("watch", "NAME"),
            ("watch a --timeout 5m", "--wait"),
            ("watch a --wait --timeout 5", "is not a duration"),
            ("list a", "unexpected argument"),
            ("pause a", "unrecognized subcommand"),
        ] {
            let said = parsed(&format!("fairlead canary {line}")).unwrap_err().to_string();
            assert!(said.contains(why), "{line}: {said}");
        }
    }
}
