//! Claims, volumes, storage classes and what CSI drivers say of nodes, reduced
//! to what decisions read, with the bindings that are decided but not yet in
//! the objects. Nothing is decided here.

mod parse;

use std::collections::HashMap;
use std::sync::Arc;

use api::node_selector::NodeSelection;
use api::selector::{Labels, Selector};

use crate::objects::ObjectName;

/// A persistent volume claim.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claim {
    /// Namespace and name.
    pub key: ObjectName,
    /// `metadata.uid`.
    pub uid: String,
    /// Storage class; empty if none.
    pub class: String,
    /// Name of its volume, once it has one.
    pub volume: Option<String>,
    /// The binding is complete.
    pub bound: bool,
    /// The node for which it is being provisioned.
    pub selected_node: Option<String>,
    /// Being deleted.
    pub deleting: bool,
    /// Its volume is gone.
    pub lost: bool,
    /// Bytes asked for.
    pub request: i64,
    /// Access modes asked for.
    pub access_modes: Vec<String>,
    /// Which volumes it accepts.
    pub selector: Option<Selector>,
    /// `Filesystem` or `Block`.
    pub mode: String,
    /// Volume attributes class; empty if none.
    pub attributes_class: String,
    /// Uid of the pod that controls it.
    pub owner: Option<String>,
}

/// A persistent volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Volume {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// Storage class; empty if none.
    pub class: String,
    /// Bytes.
    pub capacity: i64,
    /// Claim it is bound to or reserved for, and its uid (empty: any).
    pub claim: Option<(ObjectName, String)>,
    /// Access modes offered.
    pub access_modes: Vec<String>,
    /// `Filesystem` or `Block`.
    pub mode: String,
    /// Volume attributes class; empty if none.
    pub attributes_class: String,
    /// Being deleted.
    pub deleting: bool,
    /// In phase `Available`.
    pub available: bool,
    /// Nodes it can be used on; none for all.
    pub affinity: Option<NodeSelection>,
    /// CSI driver and handle.
    pub csi: Option<(String, String)>,
}

/// A storage class.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StorageClass {
    /// Provisioner.
    pub provisioner: String,
    /// `WaitForFirstConsumer`: the pod's node decides.
    pub waits: bool,
    /// Nodes that volumes can be made for: alternatives of labels with their
    /// allowed values; empty for all.
    pub topologies: Vec<Vec<(String, Vec<String>)>>,
}

/// Room that a driver states for a part of the nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Capacity {
    /// Storage class.
    pub class: String,
    /// The nodes; none for no node.
    pub nodes: Option<Selector>,
    /// Bytes of the largest volume; none if not stated.
    pub largest: Option<i64>,
}

/// What changed of storage, for hints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StorageChange {
    /// A claim came or changed.
    Claim {
        /// Namespace and name.
        key: ObjectName,
        /// It came.
        added: bool,
    },
    /// A volume came or changed.
    Volume,
    /// A class came or changed its topologies.
    Class {
        /// It came.
        added: bool,
    },
    /// Drivers of a node changed.
    CsiNode,
    /// A driver or its room changed.
    Capacity,
    /// A volume was detached.
    Detached,
}

/// What a pod's volumes need before it can be bound to a node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VolumePlan {
    /// Volumes to bind to claims.
    pub bindings: Vec<(Arc<Volume>, Arc<Claim>)>,
    /// Claims to be provisioned for the node.
    pub provisions: Vec<Arc<Claim>>,
}

impl VolumePlan {
    /// True if nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.bindings.is_empty() && self.provisions.is_empty()
    }

    /// The claims of it.
    pub fn claims(&self) -> impl Iterator<Item = &Arc<Claim>> {
        self.bindings.iter().map(|(_, claim)| claim).chain(&self.provisions)
    }
}

/// All of it.
#[derive(Debug, Default)]
pub struct Volumes {
    claims: HashMap<ObjectName, Arc<Claim>>,
    volumes: HashMap<Arc<str>, Arc<Volume>>,
    classes: HashMap<String, StorageClass>,
    /// Limits of attached volumes by node and driver; none for no limit.
    csi_nodes: HashMap<Arc<str>, HashMap<String, Option<i64>>>,
    /// Drivers that state their room.
    drivers: HashMap<String, bool>,
    capacities: HashMap<ObjectName, Capacity>,
    /// Volume names by node, each under the attachment's name.
    attachments: HashMap<Arc<str>, (Arc<str>, String)>,
    assumed_volumes: HashMap<Arc<str>, (ObjectName, String)>,
    assumed_nodes: HashMap<ObjectName, Arc<str>>,
}

impl Volumes {
    /// The claim of this name.
    pub fn claim(&self, namespace: &str, name: &str) -> Option<&Arc<Claim>> {
        self.claims.get(&(namespace.into(), name.into()))
    }

    /// The volume of this name.
    pub fn volume(&self, name: &str) -> Option<&Arc<Volume>> {
        self.volumes.get(name)
    }

    /// All volumes.
    pub fn volumes(&self) -> impl Iterator<Item = &Arc<Volume>> {
        self.volumes.values()
    }

    /// The claim that a volume is bound to, reserved for, or decided for.
    pub fn claim_of<'a>(&'a self, volume: &'a Volume) -> Option<&'a (ObjectName, String)> {
        self.assumed_volumes.get(&volume.name).or(volume.claim.as_ref())
    }

    /// The node that a claim is being, or is decided to be, provisioned for.
    pub fn selected_node<'a>(&'a self, claim: &'a Claim) -> Option<&'a str> {
        self.assumed_nodes.get(&claim.key).map(|node| &**node).or(claim.selected_node.as_deref())
    }

    /// The class of this name.
    pub fn class(&self, name: &str) -> Option<&StorageClass> {
        self.classes.get(name)
    }

    /// Limits of attached volumes on a node by driver.
    pub fn limits(&self, node: &str) -> Option<&HashMap<String, Option<i64>>> {
        self.csi_nodes.get(node)
    }

    /// Volumes that are attached to a node.
    pub fn attached<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.attachments.values().filter(move |(on, _)| &**on == node).map(|(_, volume)| volume.as_str())
    }

    /// True if a driver says it has room for a claim near a node, or says nothing.
    pub fn has_room(&self, class_name: &str, provisioner: &str, bytes: i64, node_labels: &Labels) -> bool {
        if bytes == 0 || !self.drivers.get(provisioner).copied().unwrap_or(false) {
            return true;
        }
        self.capacities.values().any(|capacity| {
            capacity.class == class_name
                && capacity.largest.is_some_and(|largest| largest >= bytes)
                && capacity.nodes.as_ref().is_some_and(|nodes| nodes.matches(node_labels))
        })
    }

    /// Takes a plan for granted until it is in the objects or reverted.
    pub fn assume(&mut self, plan: &VolumePlan, node: &Arc<str>) {
        for (volume, claim) in &plan.bindings {
            self.assumed_volumes.insert(volume.name.clone(), (claim.key.clone(), claim.uid.clone()));
        }
        for claim in &plan.provisions {
            self.assumed_nodes.insert(claim.key.clone(), node.clone());
        }
    }

    /// The plan failed, or is in the objects.
    pub fn revert(&mut self, plan: &VolumePlan) {
        for (volume, _) in &plan.bindings {
            self.assumed_volumes.remove(&volume.name);
        }
        for claim in &plan.provisions {
            self.assumed_nodes.remove(&claim.key);
        }
    }

    /// Takes a claim in; what that means for waiting pods, if it is new.
    pub fn apply_claim(&mut self, claim: Claim) -> Option<StorageChange> {
        let key = claim.key.clone();
        let claim = Arc::new(claim);
        let old = self.claims.insert(key.clone(), claim.clone());
        (old.as_ref() != Some(&claim)).then_some(StorageChange::Claim { key, added: old.is_none() })
    }

    /// Takes a volume in.
    pub fn apply_volume(&mut self, volume: Volume) -> Option<StorageChange> {
        let volume = Arc::new(volume);
        let old = self.volumes.insert(volume.name.clone(), volume.clone());
        (old.as_ref() != Some(&volume)).then_some(StorageChange::Volume)
    }

    /// Takes a class in.
    pub fn apply_class(&mut self, name: String, class: StorageClass) -> Option<StorageChange> {
        let old = self.classes.insert(name, class.clone());
        (old.as_ref() != Some(&class)).then_some(StorageChange::Class { added: old.is_none() })
    }

    /// Takes the drivers of a node in.
    pub fn apply_csi_node(&mut self, node: &str, limits: HashMap<String, Option<i64>>) -> Option<StorageChange> {
        let old = self.csi_nodes.insert(node.into(), limits.clone());
        (old.as_ref() != Some(&limits)).then_some(StorageChange::CsiNode)
    }

    /// Takes in whether a driver states its room.
    pub fn apply_driver(&mut self, name: String, states_room: bool) -> Option<StorageChange> {
        (self.drivers.insert(name, states_room) != Some(states_room)).then_some(StorageChange::Capacity)
    }

    /// Takes a statement of room in.
    pub fn apply_capacity(&mut self, key: ObjectName, capacity: Capacity) -> Option<StorageChange> {
        let old = self.capacities.insert(key, capacity.clone());
        (old.as_ref() != Some(&capacity)).then_some(StorageChange::Capacity)
    }

    /// Takes an attachment in.
    pub fn apply_attachment(&mut self, name: &str, node: &str, volume: Option<String>) {
        if let Some(volume) = volume {
            self.attachments.insert(name.into(), (node.into(), volume));
        }
    }

    /// Forgets a claim.
    pub fn forget_claim(&mut self, key: &ObjectName) {
        self.claims.remove(key);
        self.assumed_nodes.remove(key);
    }

    /// Forgets a volume.
    pub fn forget_volume(&mut self, name: &str) {
        self.volumes.remove(name);
        self.assumed_volumes.remove(name);
    }

    /// Forgets a class.
    pub fn forget_class(&mut self, name: &str) {
        self.classes.remove(name);
    }

    /// Forgets the drivers of a node.
    pub fn forget_csi_node(&mut self, node: &str) {
        self.csi_nodes.remove(node);
    }

    /// Forgets a driver.
    pub fn forget_driver(&mut self, name: &str) {
        self.drivers.remove(name);
    }

    /// Forgets a statement of room.
    pub fn forget_capacity(&mut self, key: &ObjectName) {
        self.capacities.remove(key);
    }

    /// Forgets an attachment.
    pub fn forget_attachment(&mut self, name: &str) -> Option<StorageChange> {
        self.attachments.remove(name).map(|_| StorageChange::Detached)
    }
}
