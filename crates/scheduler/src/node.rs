//! A node reduced to what decisions depend on. Where the node stands in the
//! snapshot is not known here.

use std::sync::Arc;

use api::selector::Labels;
use api::types::api::core::v1 as core;

use crate::resources::Allocatable;

/// What decisions read of a node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeFacts {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// `spec.taints`, in their order.
    pub taints: Vec<Taint>,
    /// `status.allocatable`.
    pub allocatable: Allocatable,
    /// Names of images on the node with their size in bytes.
    pub images: Vec<(Arc<str>, i64)>,
}

/// A taint; its value takes part in matching, its time does not.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Empty if absent.
    pub value: String,
    /// Effect.
    pub effect: Effect,
}

/// What a taint does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Effect {
    /// No new pod.
    NoSchedule,
    /// Rather no new pod.
    PreferNoSchedule,
    /// No pod at all.
    NoExecute,
    /// Unknown to us; matches only tolerations of every effect.
    Other,
}

impl Effect {
    /// From its API name.
    pub fn parse(text: &str) -> Self {
        match text {
            "NoSchedule" => Self::NoSchedule,
            "PreferNoSchedule" => Self::PreferNoSchedule,
            "NoExecute" => Self::NoExecute,
            _ => Self::Other,
        }
    }

    /// True if a pod that does not tolerate it may not come.
    pub fn forbids_scheduling(self) -> bool {
        matches!(self, Self::NoSchedule | Self::NoExecute)
    }
}

impl NodeFacts {
    /// From the API object.
    pub fn new(node: &core::Node) -> Self {
        let spec = node.spec.as_ref();
        let status = node.status.as_ref();
        let taints = spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        let images = status.iter().flat_map(|status| status.images.iter().flatten());
        Self {
            name: node.metadata.name.as_deref().unwrap_or_default().into(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            unschedulable: spec.and_then(|spec| spec.unschedulable).unwrap_or(false),
            taints: taints
                .map(|taint| Taint {
                    key: taint.key.clone(),
                    value: taint.value.clone().unwrap_or_default(),
                    effect: Effect::parse(&taint.effect),
                })
                .collect(),
            allocatable: Allocatable::from_texts(status.and_then(|status| status.allocatable.as_ref())),
            images: images
                .flat_map(|image| {
                    image.names.iter().flatten().map(|name| (name.as_str().into(), image.size_bytes.unwrap_or(0)))
                })
                .collect(),
        }
    }
}
