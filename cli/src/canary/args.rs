//! What `fairlead canary` takes.

use anyhow::ensure;
use clap::{Parser, Subcommand};
use fairlead_crds::Duration;

use crate::args::{Output, named};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Lists Canaries and where their releases stand.
    List(List),
    /// Shows a release as it goes on, until Ctrl-C or, with --wait, until it has ended.
    ///
    /// On a terminal it is redrawn in place; elsewhere it is one line per change.
    #[command(after_long_help = EXIT_CODES)]
    Watch(Watch),
    /// Lets the present step pass, which waits for a person's word.
    #[command(after_long_help = EXIT_CODES)]
    Approve(Asked),
    /// Rolls a release back. Its template counts as failed.
    #[command(after_long_help = EXIT_CODES)]
    Abort(Asked),
    /// Rolls the new version out without further evidence.
    #[command(after_long_help = EXIT_CODES)]
    Promote(Asked),
    /// Tries the template again that failed.
    #[command(after_long_help = EXIT_CODES)]
    Retry(Asked),
    /// Shows the last ten releases, newest first.
    History(History),
}

/// Of all that can wait.
const EXIT_CODES: &str = "Exit code without --wait: 0 it was done, 2 it was not.
Exit code with --wait:
  0  promoted: the new version is the running one
  1  rolled back, failed, aborted or superseded by another template, or the Canary was deleted
  2  no answer: it took longer than --timeout, was interrupted, or is not possible";

#[derive(Debug, Parser)]
pub(crate) struct List {
    /// Those of every namespace.
    #[arg(long, short = 'A')]
    pub(super) all_namespaces: bool,
    /// How to print them; without it, for people.
    #[arg(long, short, value_enum, value_name = "FORMAT")]
    pub(super) output: Option<Output>,
}

#[derive(Debug, Parser)]
pub(crate) struct History {
    #[command(flatten)]
    pub(super) name: Name,
    /// How to print it; without it, for people.
    #[arg(long, short, value_enum, value_name = "FORMAT")]
    pub(super) output: Option<Output>,
}

#[derive(Debug, Parser)]
pub(crate) struct Watch {
    #[command(flatten)]
    pub(super) name: Name,
    #[command(flatten)]
    pub(super) wait: Wait,
}

#[derive(Debug, Parser)]
pub(crate) struct Asked {
    #[command(flatten)]
    pub(super) name: Name,
    #[command(flatten)]
    pub(super) wait: Wait,
}

#[derive(Debug, Parser)]
pub(crate) struct Name {
    /// The Canary.
    #[arg(value_name = "[NAMESPACE/]NAME")]
    name: String,
}

#[derive(Debug, Parser)]
pub(crate) struct Wait {
    /// Goes on until the release has ended; then the exit code says how.
    #[arg(long)]
    wait: bool,
    /// How long --wait waits: 90s, 10m, 1h.
    #[arg(long, value_name = "DURATION", default_value = "1h", requires = "wait")]
    timeout: Duration,
}

impl Name {
    /// Namespace and name; `namespace` is that of names that have none.
    pub(super) fn parts(&self, namespace: &str) -> anyhow::Result<(String, String)> {
        let (namespace, name) = named("NAME", &self.name, namespace)?;
        // It goes into a path, and into a selector.
        let is_name =
            |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c));
        ensure!(is_name(&namespace) && is_name(&name), "NAME: {:?} is no name: write namespace/name", self.name);
        Ok((namespace, name))
    }
}

impl Wait {
    /// How long, if at all.
    pub(super) fn patience(&self) -> Option<std::time::Duration> {
        self.wait.then(|| self.timeout.as_std())
    }
}

/// `name` is how the command is called.
pub(crate) fn examples(name: &str) -> String {
    let canary = format!("{name} canary");
    format!(
        "Examples:
  # Which releases are under way?
  {canary} list -A

  # Look on, and let it pass the step that waits for a person
  {canary} watch bookinfo/reviews
  {canary} approve bookinfo/reviews

  # In a pipeline: succeeds when the new version is the running one
  kubectl apply -f deployment.yaml && {canary} watch reviews --wait --timeout 2h

  # Roll back now
  {canary} abort reviews"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_of_the_api() {
        let parts = |name: &str| Name { name: name.to_owned() }.parts("default");
        assert_eq!(parts("web").unwrap(), ("default".to_owned(), "web".to_owned()));
        assert_eq!(parts("shop/web-1").unwrap(), ("shop".to_owned(), "web-1".to_owned()));
        for name in ["", "a/b/c", "/a", "a,metadata.namespace=b", "a?b", "\u{1b}[2J"] {
            assert!(parts(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn who_does_not_wait_has_no_patience() {
        let wait = |wait| Wait { wait, timeout: "10m".parse().unwrap() };
        assert_eq!(wait(true).patience(), Some(std::time::Duration::from_secs(600)));
        assert_eq!(wait(false).patience(), None);
    }
}
