//! What built-in kinds say for themselves, one file a kind or a family that
//! shares its rules. The pipeline is not to be found here.

use std::sync::Arc;

use crate::resource::Conversion;
use crate::strategy::Strategy;

mod admissionregistration;
mod autoscaling;
mod batch;
mod config;
mod events;
mod facts;
mod namespace;
mod networking;
mod node;
mod pod;
mod rbac;
pub(crate) mod service;
mod storage;
mod workloads;

use facts::{Facts, Simple};

/// The strategy of a built-in resource. Kinds without functions of their own
/// are a row of facts.
pub(crate) fn strategy(group: &'static str, plural: &'static str) -> Arc<dyn Strategy> {
    let facts = Facts::of(group, plural);
    match (group, plural) {
        ("", "namespaces") => Arc::new(namespace::Namespace),
        ("", "nodes") => Arc::new(node::Node),
        ("", "pods") => Arc::new(pod::Pod),
        ("", "services") => Arc::new(service::Service),
        ("", "events") | ("events.k8s.io", "events") => Arc::new(events::Event),
        ("rbac.authorization.k8s.io", plural) => Arc::new(rbac::Rbac::new(plural, Simple(facts))),
        _ => Arc::new(Simple(facts)),
    }
}

/// How a served version differs from its hub; `None` if only in its name.
pub(crate) fn conversion(hub: &str, served: &str, kind: &str) -> Option<Conversion> {
    if hub == served {
        return None;
    }
    match kind {
        "HorizontalPodAutoscaler" => Some(autoscaling::V1),
        "Event" => Some(events::EVENTS_V1),
        _ => None,
    }
}
