//! A configuration file as the agent reads it: good, or one line that says where it is wrong.
#![no_main]

// The agent is large; the part of it that says what its file may hold is taken as it is.
#[allow(dead_code, reason = "the agent uses all of it")]
#[path = "../../../agent/src/probes/config.rs"]
mod config;

use std::path::Path;

use config::ProbeConfig;
use kulprit_daemon::config::{HumanDuration, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(error) = parse::<ProbeConfig>(text, Path::new("kulprit.yaml")) {
        let line = error.to_string();
        assert!(!line.contains('\n'), "{line:?} is not one line");
    }
    if let Ok(duration) = text.parse::<HumanDuration>() {
        assert_eq!(duration.to_string().parse(), Ok(duration));
    }
});
