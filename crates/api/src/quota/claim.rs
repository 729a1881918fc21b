//! PersistentVolumeClaims under quotas.

use serde_json::Value;

use super::Scope;
use crate::amounts::Amounts;
use crate::quantity::Written;

/// Between a class's name and what is counted of it.
const BY_CLASS: &str = ".storageclass.storage.k8s.io/";
const COUNTED: [&str; 2] = ["persistentvolumeclaims", "requests.storage"];
/// The annotation that named the class before the field did.
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

pub(super) fn counts(name: &str) -> bool {
    let plain = name.split_once(BY_CLASS).map_or(name, |(_, counted)| counted);
    name == "count/persistentvolumeclaims" || COUNTED.contains(&plain)
}

pub(super) fn usage(claim: &Value) -> Amounts {
    let one = || Written::from_i64(1);
    let annotated = claim["metadata"]["annotations"][CLASS].as_str();
    let class = annotated.or(claim["spec"]["storageClassName"].as_str()).filter(|class| !class.is_empty());
    let mut usage = Amounts::default();
    usage.set(COUNTED[0], one());
    usage.set("count/persistentvolumeclaims", one());
    if let Some(class) = class {
        usage.set(format!("{class}{BY_CLASS}{}", COUNTED[0]), one());
    }
    let Some(storage) = storage(claim) else { return usage };
    if let Some(class) = class {
        usage.set(format!("{class}{BY_CLASS}{}", COUNTED[1]), storage.clone());
    }
    usage.set(COUNTED[1], storage);
    usage
}

/// What is asked for, or what an expansion under way has allocated if that is
/// more; in whole bytes.
fn storage(claim: &Value) -> Option<Written> {
    let read = |list: &Value| list["storage"].as_str().and_then(|text| text.parse::<Written>().ok());
    let asked = read(&claim["spec"]["resources"]["requests"])?;
    let allocated = read(&claim["status"]["allocatedResources"]).filter(|allocated| *allocated > asked);
    let amount = allocated.unwrap_or(asked);
    let whole = Written::from_i64(amount.value());
    Some(if whole == amount { amount } else { whole })
}

pub(super) fn in_scope(scope: &Scope, claim: &Value) -> bool {
    if scope.name != "VolumeAttributesClass" {
        return false;
    }
    let status = &claim["status"];
    let named = [
        &claim["spec"]["volumeAttributesClassName"],
        &status["currentVolumeAttributesClassName"],
        &status["modifyVolumeStatus"]["targetVolumeAttributesClassName"],
    ];
    let mut named = named.into_iter().filter_map(Value::as_str).filter(|name| !name.is_empty()).peekable();
    if named.peek().is_none() {
        return scope.admits(None);
    }
    named.any(|name| scope.admits(Some(name)))
}
