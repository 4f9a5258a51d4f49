//! libFuzzer's way in: `FAIRLEAD_FUZZ` names one of [`fairlead_proxy::fuzz::TARGETS`], the arguments are libFuzzer's.

#![no_main]

use std::sync::OnceLock;

use fairlead_proxy::fuzz::{self, Target};

static TARGET: OnceLock<&'static Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let target = TARGET.get_or_init(|| {
        let name = std::env::var("FAIRLEAD_FUZZ").unwrap_or_default();
        fuzz::TARGETS.iter().find(|target| target.name == name).expect("FAIRLEAD_FUZZ names a target")
    });
    (target.run)(bytes);
});
