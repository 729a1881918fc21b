//! What metric sources say, as the arithmetic takes it: thousandths of a unit.
//! How it is asked for is `sources`' business.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

/// One pod's value of a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    /// End of the time it was measured over.
    pub(crate) at: Timestamp,
    /// Length of that time.
    pub(crate) window: SignedDuration,
    /// Thousandths of the metric's unit.
    pub(crate) milli: i64,
}

/// Samples by the pod's name.
pub(crate) type Samples = BTreeMap<String, Sample>;

/// Why a metric could not be had. The text is upstream's and ends in
/// conditions and events.
#[derive(thiserror::Error, Clone, Debug, PartialEq)]
#[error("{words}")]
pub(crate) struct Unavailable {
    /// For people.
    pub(crate) words: String,
}

impl Unavailable {
    pub(crate) fn new(words: impl Into<String>) -> Self {
        Self { words: words.into() }
    }
}

/// What the source of one metric said.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    /// A value a pod: `Resource`, `ContainerResource`, `Pods`.
    Pods(Result<Samples, Unavailable>),
    /// One value, thousandths: `Object`.
    Value(Result<i64, Unavailable>),
    /// The values of all series, thousandths: `External`.
    Values(Result<Vec<i64>, Unavailable>),
    /// Nobody was asked: the metric's specification is not one that can be.
    Unasked,
}
