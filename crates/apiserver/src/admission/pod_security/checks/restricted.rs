//! The level `restricted`: what a hardened pod must state, beyond `baseline`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::baseline::{any_proc_mount, is_confined};
use super::{Bad, Violation, has_own_users, is_windows, named, plural, quoted, setters, these};
use crate::object;

/// Kinds of volumes that hold nothing of the node's.
const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];
/// Kinds that are named when they are refused; first match wins.
const NAMED: [&str; 19] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "gitRepo",
    "nfs",
    "iscsi",
    "glusterfs",
    "rbd",
    "flexVolume",
    "cinder",
    "cephfs",
    "flocker",
    "fc",
    "azureFile",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "portworxVolume",
];

pub(super) fn privilege_escalation(pod: &Value, minor: u32) -> Option<Violation> {
    if minor >= 25 && is_windows(pod) {
        return None;
    }
    let bad = named(pod, |container| object::at(container, "securityContext.allowPrivilegeEscalation") != false);
    if bad.is_empty() {
        return None;
    }
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", these("container", &bad));
    Violation::new("allowPrivilegeEscalation != false", detail)
}

pub(super) fn capabilities(pod: &Value, minor: u32) -> Option<Violation> {
    if minor >= 25 && is_windows(pod) {
        return None;
    }
    let list = |container: &Value, field: &str| {
        let all = object::items(object::at(container, "securityContext.capabilities"), field).iter();
        all.filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
    };
    let keeping = named(pod, |container| !list(container, "drop").iter().any(|one| one == "ALL"));
    let mut added = BTreeSet::new();
    let adding = named(pod, |container| {
        let forbidden: Vec<String> =
            list(container, "add").into_iter().filter(|one| one != "NET_BIND_SERVICE").collect();
        let bad = !forbidden.is_empty();
        added.extend(forbidden);
        bad
    });
    let mut details = Vec::new();
    if !keeping.is_empty() {
        let who = these("container", &keeping);
        details.push(format!("{who} must set securityContext.capabilities.drop=[\"ALL\"]"));
    }
    if !adding.is_empty() {
        let who = these("container", &adding);
        details.push(format!("{who} must not include {} in securityContext.capabilities.add", quoted(added)));
    }
    if details.is_empty() { None } else { Violation::new("unrestricted capabilities", details.join("; ")) }
}

pub(super) fn proc_mount(pod: &Value, _minor: u32) -> Option<Violation> {
    any_proc_mount(pod)
}

pub(super) fn volumes(pod: &Value, _minor: u32) -> Option<Violation> {
    let has = |volume: &Value, kind: &&str| volume.get(*kind).is_some_and(|source| !source.is_null());
    let all = object::items(pod, "spec.volumes").iter();
    let bad: Vec<&Value> = all.filter(|volume| !VOLUMES.iter().any(|kind| has(volume, kind))).collect();
    if bad.is_empty() {
        return None;
    }
    let names: Vec<String> = bad.iter().map(|volume| object::text(volume, "name").to_owned()).collect();
    let kind_of = |volume: &&Value| match NAMED.iter().find(|kind| has(volume, kind)) {
        Some(kind) => *kind,
        None if has(volume, &"scaleIO") => "scaleIO",
        None if has(volume, &"storageos") => "storageos",
        None => "unknown",
    };
    let kinds: BTreeSet<&str> = bad.iter().map(kind_of).collect();
    let verb = if names.len() == 1 { "uses" } else { "use" };
    let noun = plural("restricted volume type", kinds.len());
    let detail = format!("{} {verb} {noun} {}", these("volume", &names), quoted(kinds));
    Violation::new("restricted volume types", detail)
}

pub(super) fn non_root(pod: &Value, minor: u32) -> Option<Violation> {
    if minor >= 35 && has_own_users(pod) {
        return None;
    }
    let set = |context: &Value| object::at(context, "runAsNonRoot").as_bool();
    let of_pod = set(object::at(pod, "spec.securityContext"));
    let of = |container: &Value| set(&container["securityContext"]);
    let refusing = named(pod, |container| of(container) == Some(false));
    if of_pod == Some(false) || !refusing.is_empty() {
        let who = setters(of_pod == Some(false), &refusing);
        return Violation::new(
            "runAsNonRoot != true",
            format!("{who} must not set securityContext.runAsNonRoot=false"),
        );
    }
    let silent = named(pod, |container| of(container).is_none() && of_pod != Some(true));
    if silent.is_empty() {
        return None;
    }
    let detail = format!("pod or {} must set securityContext.runAsNonRoot=true", these("container", &silent));
    Violation::new("runAsNonRoot != true", detail)
}

pub(super) fn user(pod: &Value, minor: u32) -> Option<Violation> {
    if minor >= 35 && has_own_users(pod) {
        return None;
    }
    let is_root = |context: &Value| object::at(context, "runAsUser").as_i64() == Some(0);
    let in_pod = is_root(object::at(pod, "spec.securityContext"));
    let bad = named(pod, |container| is_root(&container["securityContext"]));
    if !in_pod && bad.is_empty() {
        return None;
    }
    Violation::new("runAsUser=0", format!("{} must not set runAsUser=0", setters(in_pod, &bad)))
}

pub(super) fn seccomp_profile(pod: &Value, minor: u32) -> Option<Violation> {
    if minor >= 25 && is_windows(pod) {
        return None;
    }
    let bad = Bad::of(pod, "seccompProfile", "type", is_confined);
    if !bad.is_empty() {
        let who = setters(bad.pod, &bad.containers);
        let values = quoted(bad.values);
        let detail = format!("{who} must not set securityContext.seccompProfile.type to {values}");
        return Violation::new("seccompProfile", detail);
    }
    let is_set = |context: &Value| object::at(context, "seccompProfile").is_object();
    if is_set(object::at(pod, "spec.securityContext")) {
        return None;
    }
    let silent = named(pod, |container| !is_set(&container["securityContext"]));
    if silent.is_empty() {
        return None;
    }
    let who = these("container", &silent);
    Violation::new(
        "seccompProfile",
        format!("pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\""),
    )
}
