//! Pods that wait for a node where others are making room for them. They hold
//! no place yet, but pods of no greater priority must leave them theirs.

use std::collections::HashMap;
use std::sync::Arc;

use crate::pod::{Class, PodKey};

/// One nominated pod.
#[derive(Clone, Debug)]
pub struct Nominated {
    /// Namespace and name.
    pub key: PodKey,
    /// Its class.
    pub class: Class,
    /// The node.
    pub node: Arc<str>,
}

/// Nominated pods by uid.
#[derive(Debug, Default)]
pub struct Nominations {
    by_uid: HashMap<Arc<str>, Nominated>,
    by_node: HashMap<Arc<str>, Vec<Arc<str>>>,
}

impl Nominations {
    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.by_uid.is_empty()
    }

    /// Nominates a pod for a node, instead of any other.
    pub fn set(&mut self, uid: Arc<str>, nominated: Nominated) {
        self.remove(&uid);
        self.by_node.entry(nominated.node.clone()).or_default().push(uid.clone());
        self.by_uid.insert(uid, nominated);
    }

    /// Takes a pod's nomination back.
    pub fn remove(&mut self, uid: &str) -> Option<Nominated> {
        let nominated = self.by_uid.remove(uid)?;
        if let Some(uids) = self.by_node.get_mut(&nominated.node) {
            uids.retain(|other| &**other != uid);
            if uids.is_empty() {
                self.by_node.remove(&nominated.node);
            }
        }
        Some(nominated)
    }

    /// The node a pod is nominated for.
    pub fn node_of(&self, uid: &str) -> Option<&Arc<str>> {
        self.by_uid.get(uid).map(|nominated| &nominated.node)
    }

    /// Pods nominated for a node.
    pub fn on_node<'a>(&'a self, node: &str) -> impl Iterator<Item = (&'a Arc<str>, &'a Nominated)> + 'a {
        let uids = self.by_node.get(node).into_iter().flatten();
        uids.filter_map(|uid| self.by_uid.get_key_value(uid))
    }

    /// Classes of the pods nominated for a node that a pod of this priority
    /// must leave their place.
    pub fn yields_to<'a>(&'a self, node: &str, uid: &'a str, priority: i32) -> impl Iterator<Item = &'a Class> + 'a {
        let others = self
            .on_node(node)
            .filter(move |(other, nominated)| &***other != uid && nominated.class.priority >= priority);
        others.map(|(_, nominated)| &nominated.class)
    }
}
