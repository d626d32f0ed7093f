//! Metrics: one registry, one prefix, and what the kernel says about this process.
//!
//! A module keeps a struct of its series, made by a function that takes the [`Registry`] of [`Metrics::section`], and names
//! them `<noun>_<unit>`; the prefix makes it `kulprit_<section>_<noun>_<unit>`, and counters get `_total` at the end by
//! themselves. Label values come from closed sets: derive `EncodeLabelValue` on an enum or use [`ClosedName`], which no
//! error text and no VM name can become. The `process_*` series bear the names every dashboard knows.

mod process;

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelValue, EncodeMetric as _, LabelValueEncoder, text},
    metrics::{MetricType, gauge::ConstGauge, info::Info},
    registry::Registry,
};

use crate::{Clock, Readiness};

pub use process::{Process, ProcessError};

/// The content type of what [`Metrics::encode`] writes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Every series of this process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// The series every process has: `kulprit_build_info{program,version}` and `process_*`.
    #[must_use]
    pub fn new(program: &'static str, version: &'static str, clock: &Clock) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process::new(clock.now())));
        let labels = vec![("program", program), ("version", version)];
        registry.sub_registry_with_prefix("kulprit").register("build", "What runs here", Info::new(labels));
        Self { registry }
    }

    /// Where one part of the program registers its series: all get the prefix `kulprit_<noun>_`.
    pub fn section(&mut self, noun: &'static str) -> &mut Registry {
        self.registry.sub_registry_with_prefix("kulprit").sub_registry_with_prefix(noun)
    }

    /// Shows `kulprit_ready{program}`: 1 while nothing is missing, as `/ready` says it.
    pub fn show_ready(&mut self, program: &'static str, readiness: Readiness) {
        let shown = Ready { program: ClosedName(program), readiness };
        self.registry.sub_registry_with_prefix("kulprit").register_collector(Box::new(shown));
    }

    /// All series as OpenMetrics text; see [`CONTENT_TYPE`].
    #[must_use]
    pub fn encode(&self) -> String {
        let mut written = String::new();
        text::encode(&mut written, &self.registry).expect("writing to a String does not fail");
        written
    }
}

/// Whether `/ready` answers 200, asked when somebody asks.
#[derive(Debug)]
struct Ready {
    program: ClosedName,
    readiness: Readiness,
}

impl Collector for Ready {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "1 while nothing is missing that the program needs to serve, as /ready says it";
        let mut ready = encoder.encode_descriptor("ready", help, None, MetricType::Gauge)?;
        let is_ready = i64::from(self.readiness.missing().is_empty());
        ConstGauge::new(is_ready).encode(ready.encode_family(&[("program", self.program)])?)
    }
}

/// A label value known when the program was compiled: a probe, a task, a finding code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClosedName(pub &'static str);

impl EncodeLabelValue for ClosedName {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        EncodeLabelValue::encode(&self.0, encoder)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{
        encoding::EncodeLabelSet,
        metrics::{counter::Counter, family::Family},
    };

    use super::*;

    #[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
    struct Labels {
        probe: ClosedName,
    }

    #[test]
    fn series_carry_prefix_section_and_suffix() {
        let mut metrics = Metrics::new("kulprit-agent", "1.2.3", &Clock::kernel());
        let looks = Family::<Labels, Counter>::default();
        metrics.section("probe").register("looks", "Looks taken", looks.clone());
        looks.get_or_create(&Labels { probe: ClosedName("kvm") }).inc_by(3);
        let text = metrics.encode();
        assert!(text.contains("\nkulprit_probe_looks_total{probe=\"kvm\"} 3\n"), "{text}");
        assert!(text.contains("\nkulprit_build_info{program=\"kulprit-agent\",version=\"1.2.3\"} 1\n"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn two_parts_may_use_one_section() {
        let mut metrics = Metrics::new("x", "0", &Clock::kernel());
        for name in ["opened", "closed"] {
            metrics.section("spool").register(name, "..", Counter::<u64>::default());
        }
        let text = metrics.encode();
        assert!(
            text.contains("kulprit_spool_opened_total 0") && text.contains("kulprit_spool_closed_total 0"),
            "{text}"
        );
    }
}
