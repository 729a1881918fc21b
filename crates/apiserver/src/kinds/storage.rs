//! Volumes, claims, classes, drivers and device claims
//! (`pkg/apis/{core,storage,resource}/v1/defaults.go`, upstream 1.36).

use serde_json::{Value, json};

use super::pod::defaults::old_volume;
use crate::object::{self, Meta, as_map, default, default_text, map_mut};
use crate::strategy::{Part, Write};

type Columns = &'static [(&'static str, &'static str, i32, fn(&Value) -> Value)];

pub(super) fn volume(object: &mut Value) {
    let spec = map_mut(object, "spec");
    default_text(spec, "persistentVolumeReclaimPolicy", "Retain");
    default_text(spec, "volumeMode", "Filesystem");
    if let Some(path) = spec.get_mut("hostPath").filter(|path| path.is_object()) {
        default(as_map(path), "type", "");
    }
    old_volume(spec);
}

pub(super) fn new_volume(object: &mut Value, write: &Write<'_>) {
    let status = json!({"phase": "Pending", "lastPhaseTransitionTime": write.now});
    as_map(object).insert("status".to_owned(), status);
    protect(object, "kubernetes.io/pv-protection");
}

/// A change of phase is dated.
pub(super) fn changed_volume(new: &mut Value, old: &Value, write: &Write<'_>) {
    let phase = |object: &Value| object::text(object, "status.phase").to_owned();
    let dated = object::at(new, "status.lastPhaseTransitionTime").is_string();
    let kept = object::at(old, "status.lastPhaseTransitionTime").clone();
    if write.part == Part::Status && phase(new) != phase(old) && !dated {
        map_mut(new, "status").insert("lastPhaseTransitionTime".to_owned(), write.now.into());
    } else if write.part == Part::Status && !dated && !kept.is_null() {
        map_mut(new, "status").insert("lastPhaseTransitionTime".to_owned(), kept);
    }
}

pub(super) fn claim(object: &mut Value) {
    let spec = map_mut(object, "spec");
    default_text(spec, "volumeMode", "Filesystem");
    // The old and the new way to name a source are one value.
    let (old, new) = (spec.get("dataSource").cloned(), spec.get("dataSourceRef").cloned());
    match (old, new) {
        (Some(old @ Value::Object(_)), None) => {
            spec.insert("dataSourceRef".to_owned(), old);
        }
        (None, Some(new @ Value::Object(_))) if new.get("namespace").is_none() => {
            spec.insert("dataSource".to_owned(), new);
        }
        _ => {}
    }
}

pub(super) fn new_claim(object: &mut Value, _write: &Write<'_>) {
    as_map(object).insert("status".to_owned(), json!({"phase": "Pending"}));
    protect(object, "kubernetes.io/pvc-protection");
}

/// StorageObjectInUseProtection: the object outlives its users.
fn protect(object: &mut Value, finalizer: &str) {
    let mut finalizers: Vec<Value> = object.finalizers().into_iter().map(Value::from).collect();
    if !finalizers.iter().any(|one| one == finalizer) {
        finalizers.push(finalizer.into());
        object::set_meta(object, "finalizers", finalizers);
    }
}

pub(super) fn class(object: &mut Value) {
    let map = as_map(object);
    default_text(map, "reclaimPolicy", "Delete");
    default_text(map, "volumeBindingMode", "Immediate");
}

pub(super) fn driver(object: &mut Value) {
    let spec = map_mut(object, "spec");
    default(spec, "attachRequired", true);
    default(spec, "podInfoOnMount", false);
    default(spec, "storageCapacity", false);
    default(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    if spec.get("volumeLifecycleModes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        spec.insert("volumeLifecycleModes".to_owned(), json!(["Persistent"]));
    }
    default(spec, "requiresRepublish", false);
    default(spec, "seLinuxMount", false);
}

/// Requests for devices ask for one of a kind unless they say otherwise.
pub(super) fn resource_claim(object: &mut Value) {
    let devices = map_mut(object, "spec").get_mut("devices");
    let requests = devices.and_then(|devices| devices.get_mut("requests")).and_then(Value::as_array_mut);
    let ask = |request: &mut Value| {
        let request = as_map(request);
        default_text(request, "allocationMode", "ExactCount");
        if request["allocationMode"] == "ExactCount" && request.get("count").and_then(Value::as_i64).unwrap_or(0) == 0 {
            request.insert("count".to_owned(), 1.into());
        }
    };
    for request in requests.into_iter().flatten() {
        if let Some(exactly) = request.get_mut("exactly").filter(|exactly| exactly.is_object()) {
            ask(exactly);
        }
        for alternative in request.get_mut("firstAvailable").and_then(Value::as_array_mut).into_iter().flatten() {
            ask(alternative);
        }
    }
}

fn modes(object: &Value, path: &str) -> String {
    let short = |mode: &Value| match mode.as_str().unwrap_or_default() {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        _ => "",
    };
    object::items(object, path).iter().map(short).collect::<Vec<_>>().join(",")
}

fn phase(object: &Value) -> Value {
    if object.deleting() { "Terminating".into() } else { object::text(object, "status.phase").into() }
}

fn or_unset(text: &str) -> Value {
    if text.is_empty() { "<unset>".into() } else { text.into() }
}

pub(super) const VOLUME_COLUMNS: Columns = &[
    ("Capacity", "string", 0, |one| object::text(one, "spec.capacity.storage").into()),
    ("Access Modes", "string", 0, |one| modes(one, "spec.accessModes").into()),
    ("Reclaim Policy", "string", 0, |one| object::text(one, "spec.persistentVolumeReclaimPolicy").into()),
    ("Status", "string", 0, phase),
    ("Claim", "string", 0, |one| {
        let claim = object::at(one, "spec.claimRef");
        match (claim["namespace"].as_str(), claim["name"].as_str()) {
            (Some(namespace), Some(name)) => format!("{namespace}/{name}").into(),
            _ => "".into(),
        }
    }),
    ("StorageClass", "string", 0, |one| object::text(one, "spec.storageClassName").into()),
    ("VolumeAttributesClass", "string", 0, |one| or_unset(object::text(one, "spec.volumeAttributesClassName"))),
    ("Reason", "string", 0, |one| object::text(one, "status.reason").into()),
    ("VolumeMode", "string", 1, |one| object::text(one, "spec.volumeMode").into()),
];

pub(super) const CLAIM_COLUMNS: Columns = &[
    ("Status", "string", 0, phase),
    ("Volume", "string", 0, |one| object::text(one, "spec.volumeName").into()),
    ("Capacity", "string", 0, |one| {
        let bound = !object::text(one, "spec.volumeName").is_empty();
        if bound { object::text(one, "status.capacity.storage").into() } else { "".into() }
    }),
    ("Access Modes", "string", 0, |one| {
        let bound = !object::text(one, "spec.volumeName").is_empty();
        if bound { modes(one, "status.accessModes").into() } else { "".into() }
    }),
    ("StorageClass", "string", 0, |one| object::text(one, "spec.storageClassName").into()),
    ("VolumeAttributesClass", "string", 0, |one| or_unset(object::text(one, "spec.volumeAttributesClassName"))),
    ("VolumeMode", "string", 1, |one| object::text(one, "spec.volumeMode").into()),
];

pub(super) const CLASS_COLUMNS: Columns = &[
    ("Provisioner", "string", 0, |one| one["provisioner"].clone()),
    ("ReclaimPolicy", "string", 0, |one| one["reclaimPolicy"].clone()),
    ("VolumeBindingMode", "string", 0, |one| one["volumeBindingMode"].clone()),
    ("AllowVolumeExpansion", "string", 0, |one| one.get("allowVolumeExpansion").cloned().unwrap_or(false.into())),
];

pub(super) const DRIVER_COLUMNS: Columns = &[
    ("AttachRequired", "boolean", 0, |one| object::at(one, "spec.attachRequired").clone()),
    ("PodInfoOnMount", "boolean", 0, |one| object::at(one, "spec.podInfoOnMount").clone()),
    ("StorageCapacity", "boolean", 0, |one| object::at(one, "spec.storageCapacity").clone()),
    ("TokenRequests", "string", 0, |one| {
        let audiences =
            object::items(one, "spec.tokenRequests").iter().filter_map(|request| request["audience"].as_str());
        or_unset(&audiences.collect::<Vec<_>>().join(","))
    }),
    ("RequiresRepublish", "boolean", 0, |one| object::at(one, "spec.requiresRepublish").clone()),
    ("Modes", "string", 0, |one| {
        let modes = object::items(one, "spec.volumeLifecycleModes").iter().filter_map(Value::as_str);
        modes.collect::<Vec<_>>().join(",").into()
    }),
];

pub(super) const ATTACHMENT_COLUMNS: Columns = &[
    ("Attacher", "string", 0, |one| object::text(one, "spec.attacher").into()),
    ("PV", "string", 0, |one| object::text(one, "spec.source.persistentVolumeName").into()),
    ("Node", "string", 0, |one| object::text(one, "spec.nodeName").into()),
    ("Attached", "boolean", 0, |one| object::at(one, "status.attached").as_bool().unwrap_or(false).into()),
];

pub(super) const DEVICE_CLAIM_COLUMNS: Columns = &[("State", "string", 0, |claim| {
    let mut states: Vec<&str> = Vec::new();
    if claim.deleting() {
        states.push("deleted");
    }
    if object::at(claim, "status.allocation").is_object() {
        states.push("allocated");
        if !object::items(claim, "status.reservedFor").is_empty() {
            states.push("reserved");
        }
    } else if states.is_empty() {
        states.push("pending");
    }
    states.join(",").into()
})];

pub(super) const SLICE_COLUMNS: Columns = &[
    ("Node", "string", 0, |one| object::text(one, "spec.nodeName").into()),
    ("Driver", "string", 0, |one| object::text(one, "spec.driver").into()),
    ("Pool", "string", 0, |one| object::text(one, "spec.pool.name").into()),
];
