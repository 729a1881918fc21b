//! What happened in the cluster, as far as it can make a waiting pod fit.
//! Which event helps which pod is the plugins' knowledge.

use std::sync::Arc;

use crate::node::NodeFacts;
use crate::objects::StorageChange;
use crate::pod::Class;
use crate::resources::Usage;

/// A pod of an event.
#[derive(Clone, Debug)]
pub struct EventPod {
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// Its class.
    pub class: Class,
    /// What it takes.
    pub usage: Arc<Usage>,
    /// On a node, or about to be (bound, assumed or nominated).
    pub has_place: bool,
}

/// Something that may help a pod.
#[derive(Clone, Debug)]
pub enum Event {
    /// A node came.
    NodeAdded(Arc<NodeFacts>),
    /// A node changed.
    NodeUpdated {
        /// Before.
        old: Arc<NodeFacts>,
        /// After.
        new: Arc<NodeFacts>,
    },
    /// A node went.
    NodeDeleted(Arc<NodeFacts>),
    /// A pod got a node.
    PodAdded(EventPod),
    /// A pod changed in labels, requests, tolerations or gates.
    PodUpdated {
        /// Before.
        old: EventPod,
        /// After.
        new: EventPod,
    },
    /// A pod went, or gave up its place.
    PodDeleted(EventPod),
    /// An object that volumes depend on came or changed.
    Storage(StorageChange),
}

impl Event {
    /// The node of an event that a node can only have helped by.
    pub fn node(&self) -> Option<(Option<&NodeFacts>, &NodeFacts)> {
        match self {
            Self::NodeAdded(new) => Some((None, new)),
            Self::NodeUpdated { old, new } => Some((Some(old), new)),
            _ => None,
        }
    }
}
