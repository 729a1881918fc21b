//! Counters of requests, under upstream's stable names.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Labels of `apiserver_request_total`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    pub(crate) code: u16,
    pub(crate) component: &'static str,
    pub(crate) dry_run: &'static str,
    pub(crate) group: String,
    pub(crate) resource: String,
    pub(crate) scope: &'static str,
    pub(crate) subresource: String,
    pub(crate) verb: &'static str,
    pub(crate) version: String,
}

/// Labels of `apiserver_request_duration_seconds`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(crate) struct DurationLabels {
    pub(crate) component: &'static str,
    pub(crate) group: String,
    pub(crate) resource: String,
    pub(crate) scope: &'static str,
    pub(crate) verb: &'static str,
    pub(crate) version: String,
}

/// The server's metrics.
pub(crate) struct Metrics {
    registry: Registry,
    /// Answers by request and code.
    pub(crate) requests: Family<RequestLabels, Counter>,
    /// Seconds to the head of the answer.
    pub(crate) durations: Family<DurationLabels, Histogram>,
}

/// Upper bounds of request durations, seconds (upstream 1.36).
const BUCKETS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0,
];

impl Metrics {
    /// All at zero.
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let requests = Family::<RequestLabels, Counter>::default();
        let durations = Family::<DurationLabels, Histogram>::new_with_constructor(|| Histogram::new(BUCKETS));
        registry.register("apiserver_request", "Counter of apiserver requests", requests.clone());
        registry.register(
            "apiserver_request_duration_seconds",
            "Response latency distribution in seconds",
            durations.clone(),
        );
        Self { registry, requests, durations }
    }

    /// The text exposition.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        match prometheus_client::encoding::text::encode(&mut out, &self.registry) {
            Ok(()) => out,
            Err(_) => String::new(),
        }
    }
}
