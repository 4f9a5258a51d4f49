//! The command line: one subcommand per role. [`Cli::run`] is what `main` calls.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{call, details, echo, load, productpage, ratings, redis, reviews};

const EXAMPLE: &str = "\
The whole application on one machine, each command in a terminal of its own:

  fairlead-bookinfo redis --health-listen 127.0.0.1:9084
  fairlead-bookinfo ratings --listen 127.0.0.1:9083 --redis 127.0.0.1:6379
  fairlead-bookinfo details --listen 127.0.0.1:9081
  fairlead-bookinfo reviews --listen 127.0.0.1:9082 --version v3 \\
      --ratings-url http://127.0.0.1:9083
  fairlead-bookinfo productpage --listen 127.0.0.1:9080 \\
      --details-url http://127.0.0.1:9081 --reviews-url http://127.0.0.1:9082

Then open http://127.0.0.1:9080/productpage.

A minute of load, with an account by version at the end:

  fairlead-bookinfo load --url http://127.0.0.1:9082/reviews/0 --rate 100 --duration 1m";

/// Bookinfo, the sample application of Fairlead: one binary, many roles.
#[derive(Debug, Parser)]
#[command(name = "fairlead-bookinfo", version, after_help = EXAMPLE, max_term_width = 100)]
pub struct Cli {
    /// The role to play.
    #[command(subcommand)]
    pub role: Role,
}

/// What one process does.
#[derive(Debug, Subcommand)]
pub enum Role {
    /// Serve the page that a person opens, composed from details and reviews.
    Productpage(productpage::Args),
    /// Serve facts about the book as JSON.
    Details(details::Args),
    /// Serve reviews as JSON: v1 without stars, v2 with black stars, v3 with red ones.
    Reviews(reviews::Args),
    /// Serve the stars that reviewers gave, read from Redis.
    Ratings(ratings::Args),
    /// Serve GET, SET and PING of the Redis protocol from memory, filled with the sample's ratings.
    Redis(redis::Args),
    /// Serve every protocol that end-to-end tests need: HTTP/1, h2c, WebSocket, gRPC, TCP, server-first TCP.
    Echo(echo::Args),
    /// Send GET requests at a constant rate; print progress and a summary as lines of JSON.
    Load(load::Args),
    /// Send one request, print the answer. Exit code 0: 2xx or a complete echo; 1: another answer; 3: no answer.
    Call(call::Args),
}

impl Cli {
    /// Plays the role until it is done or told to stop by SIGTERM.
    ///
    /// # Errors
    /// What kept the role from starting or finishing, such as an address in use or a peer that did not answer.
    pub async fn run(self) -> Result<ExitCode> {
        match self.role {
            Role::Productpage(args) => productpage::run(args).await,
            Role::Details(args) => details::run(args).await,
            Role::Reviews(args) => reviews::run(args).await,
            Role::Ratings(args) => ratings::run(args).await,
            Role::Redis(args) => redis::run(args).await,
            Role::Echo(args) => echo::run(args).await,
            Role::Load(args) => return load::run(args).await,
            Role::Call(args) => return call::run(args).await,
        }?;
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_faulty_reviews_is_asked_for_by_flags() {
        let cli = Cli::try_parse_from([
            "fairlead-bookinfo",
            "reviews",
            "--version",
            "v3",
            "--error-rate",
            "20",
            "--latency",
            "300ms",
        ])
        .unwrap();
        let Role::Reviews(args) = cli.role else { panic!("expected the reviews role") };
        assert_eq!(args.version, reviews::Version::V3);
        assert!(args.fault.fails(0.19) && !args.fault.fails(0.21));
    }

    #[test]
    fn a_call_takes_a_url_or_a_protocol() {
        for line in [
            "fairlead-bookinfo call http://a/b --header end-user=jason",
            "fairlead-bookinfo call ws ws://a/ws hello",
            "fairlead-bookinfo call grpc http://a:1 --messages 3",
            "fairlead-bookinfo call tcp a:1 --server-first",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
        assert!(Cli::try_parse_from(["fairlead-bookinfo", "call"]).is_err());
    }
}
