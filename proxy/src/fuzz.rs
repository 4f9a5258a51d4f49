//! What strangers send, as a fuzzer makes it up: each target takes bytes, and panics where what must hold of them does not.
//!
//! `make fuzz` runs them under libFuzzer (`proxy/fuzz`), which looks for bytes that reach new code. The seeds that it begins with are in
//! `proxy/fuzz/corpus`; a test runs them through here, so they hold without libFuzzer as well.

use crate::{accept, config, http::h1, jwt, route};

/// Something that reads what strangers send.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// As `make fuzz TARGET=` and the folder of seeds have it.
    pub name: &'static str,
    /// Tries one input.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 7] = [
    Target { name: "detection", run: accept::fuzz::detection },
    Target { name: "request", run: h1::fuzz::requests },
    Target { name: "answer", run: h1::fuzz::answers },
    Target { name: "path", run: route::fuzz::paths },
    Target { name: "matching", run: route::fuzz::matching },
    Target { name: "configuration", run: config::fuzz::configuration },
    Target { name: "token", run: jwt::fuzz::tokens },
];

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn every_seed_holds() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        for target in TARGETS {
            let seeds: Vec<_> =
                fs::read_dir(corpus.join(target.name)).unwrap().map(|seed| seed.unwrap().path()).collect();
            assert!(!seeds.is_empty(), "{} has no seeds", target.name);
            for seed in seeds {
                println!("{}", seed.display());
                (target.run)(&fs::read(&seed).unwrap());
            }
        }
    }
}
