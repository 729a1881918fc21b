//! From API objects to the reduced forms.

use std::collections::BTreeMap;

use api::node_selector::NodeSelection;
use api::quantity::Quantity;
use api::selector::Selector;
use api::types::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use api::types::api::storage::v1::{self as storage, CSIStorageCapacity};
use api::types::apimachinery::pkg::api::resource::Quantity as QuantityText;
use api::types::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Capacity, Claim, StorageClass, Volume};

const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a String> {
    meta.annotations.as_ref()?.get(key)
}

/// The old annotation goes before the field.
fn class_of(meta: &ObjectMeta, field: Option<&String>) -> String {
    annotation(meta, CLASS_ANNOTATION).or(field).cloned().unwrap_or_default()
}

fn bytes(list: Option<&BTreeMap<String, QuantityText>>) -> i64 {
    list.and_then(|list| list.get("storage")).map_or(0, quantity)
}

fn quantity(text: &QuantityText) -> i64 {
    Quantity::parse(&text.0).map_or(0, Quantity::value)
}

fn mode(mode: Option<String>) -> String {
    mode.unwrap_or_else(|| "Filesystem".into())
}

impl Claim {
    /// From the API object.
    pub fn new(claim: PersistentVolumeClaim) -> Self {
        let meta = claim.metadata;
        let spec = claim.spec.unwrap_or_default();
        let mut owners = meta.owner_references.iter().flatten();
        let owner = owners.find(|owner| owner.controller == Some(true) && owner.kind == "Pod");
        Self {
            key: (
                meta.namespace.as_deref().unwrap_or_default().into(),
                meta.name.as_deref().unwrap_or_default().into(),
            ),
            uid: meta.uid.clone().unwrap_or_default(),
            class: class_of(&meta, spec.storage_class_name.as_ref()),
            bound: spec.volume_name.as_ref().is_some_and(|name| !name.is_empty())
                && annotation(&meta, BIND_COMPLETED).is_some(),
            volume: spec.volume_name.filter(|name| !name.is_empty()),
            selected_node: annotation(&meta, SELECTED_NODE).cloned(),
            deleting: meta.deletion_timestamp.is_some(),
            lost: claim.status.and_then(|status| status.phase).as_deref() == Some("Lost"),
            request: bytes(spec.resources.and_then(|resources| resources.requests).as_ref()),
            access_modes: spec.access_modes.unwrap_or_default(),
            selector: spec
                .selector
                .map(|selector| Selector::from_label_selector(Some(&selector)).unwrap_or_else(|_| Selector::nothing())),
            mode: mode(spec.volume_mode),
            attributes_class: spec.volume_attributes_class_name.unwrap_or_default(),
            owner: owner.map(|owner| owner.uid.clone()),
        }
    }
}

impl Volume {
    /// From the API object.
    pub fn new(volume: PersistentVolume) -> Self {
        let meta = volume.metadata;
        let spec = volume.spec.unwrap_or_default();
        let claim = spec.claim_ref.map(|claim| {
            let key =
                (claim.namespace.unwrap_or_default().as_str().into(), claim.name.unwrap_or_default().as_str().into());
            (key, claim.uid.unwrap_or_default())
        });
        Self {
            name: meta.name.as_deref().unwrap_or_default().into(),
            class: class_of(&meta, spec.storage_class_name.as_ref()),
            capacity: bytes(spec.capacity.as_ref()),
            claim,
            access_modes: spec.access_modes.unwrap_or_default(),
            mode: mode(spec.volume_mode),
            attributes_class: spec.volume_attributes_class_name.unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            available: volume.status.and_then(|status| status.phase).as_deref() == Some("Available"),
            affinity: spec
                .node_affinity
                .and_then(|affinity| affinity.required)
                .map(|selector| NodeSelection::of_selector(&selector)),
            csi: spec.csi.map(|csi| (csi.driver, csi.volume_handle)),
            labels: meta.labels.unwrap_or_default(),
        }
    }
}

impl StorageClass {
    /// From the API object.
    pub fn new(class: storage::StorageClass) -> Self {
        let topologies = class.allowed_topologies.unwrap_or_default().into_iter();
        Self {
            provisioner: class.provisioner,
            waits: class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
            topologies: topologies
                .map(|term| {
                    let expressions = term.match_label_expressions.unwrap_or_default().into_iter();
                    expressions.map(|expression| (expression.key, expression.values)).collect()
                })
                .collect(),
        }
    }
}

impl Capacity {
    /// From the API object.
    pub fn new(capacity: CSIStorageCapacity) -> Self {
        Self {
            class: capacity.storage_class_name,
            nodes: capacity.node_topology.and_then(|selector| Selector::from_label_selector(Some(&selector)).ok()),
            largest: capacity.maximum_volume_size.or(capacity.capacity).as_ref().map(quantity),
        }
    }
}
