//! Gauges whose series come and go: all of them are replaced at once, so that no scrape sees half of them, and none stays behind.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder},
    metrics::{MetricType, gauge::ConstGauge},
};

/// What a gauge shows now, by its labels; clones share it.
#[derive(Debug)]
pub struct Now<L>(Arc<RwLock<BTreeMap<L, f64>>>);

impl<L> Clone for Now<L> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<L> Default for Now<L> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<L: Ord> Now<L> {
    /// Shows these series and no others.
    pub fn replace(&self, series: BTreeMap<L, f64>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = series;
    }
}

impl<L: EncodeLabelSet + fmt::Debug + Send + Sync + 'static> EncodeMetric for Now<L> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (labels, value) in self.0.read().unwrap_or_else(PoisonError::into_inner).iter() {
            ConstGauge::new(*value).encode(encoder.encode_family(labels)?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}
