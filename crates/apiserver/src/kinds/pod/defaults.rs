//! Defaults of pods and pod templates (`pkg/apis/core/v1/defaults.go`, 1.36).

use serde_json::{Value, json};

use crate::object::{self, Object, as_map, default, default_text, map_mut};

/// Permissions of projected files.
const FILE_MODE: u32 = 0o644;

/// Defaults of a whole pod.
pub(crate) fn pod(pod: &mut Value) {
    let spec = map_mut(pod, "spec");
    default(spec, "enableServiceLinks", true);
    for list in ["initContainers", "containers"] {
        for container in each(spec, list) {
            requests_from_limits(container);
        }
    }
    pod_spec(spec);
}

/// Defaults of a pod template, as workloads carry it.
pub(crate) fn template(template: &mut Value) {
    object::metadata(template);
    pod_spec(map_mut(template, "spec"));
}

/// Defaults of the spec of pods and templates.
pub(crate) fn pod_spec(spec: &mut Object) {
    default_text(spec, "dnsPolicy", "ClusterFirst");
    default_text(spec, "restartPolicy", "Always");
    default_text(spec, "schedulerName", "default-scheduler");
    default(spec, "terminationGracePeriodSeconds", 30);
    default(spec, "securityContext", json!({}));
    service_account(spec);
    let host_network = spec.get("hostNetwork").and_then(Value::as_bool) == Some(true);
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for one in each(spec, list) {
            container(as_map(one), host_network && list != "ephemeralContainers");
        }
    }
    for one in each(spec, "volumes") {
        volume(as_map(one));
    }
}

/// The old and the new name of the account are one value.
fn service_account(spec: &mut Object) {
    let text = |spec: &Object, name: &str| spec.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (name, old) = (text(spec, "serviceAccountName"), text(spec, "serviceAccount"));
    let name = if name.is_empty() { old } else { name };
    if !name.is_empty() {
        spec.insert("serviceAccountName".to_owned(), name.as_str().into());
        spec.insert("serviceAccount".to_owned(), name.into());
    }
}

fn each<'a>(map: &'a mut Object, list: &str) -> impl Iterator<Item = &'a mut Value> + use<'a> {
    map.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten()
}

fn requests_from_limits(container: &mut Value) {
    let limits = object::at(container, "resources.limits").as_object().cloned().unwrap_or_default();
    if limits.is_empty() {
        return;
    }
    let resources = map_mut(container, "resources");
    let requests = as_map(resources.entry("requests").or_insert_with(|| json!({})));
    for (name, limit) in limits {
        default(requests, &name, limit);
    }
}

fn container(container: &mut Object, host_network: bool) {
    if container.get("imagePullPolicy").and_then(Value::as_str).unwrap_or_default().is_empty() {
        let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
        let policy = if is_latest(image) { "Always" } else { "IfNotPresent" };
        container.insert("imagePullPolicy".to_owned(), policy.into());
    }
    default_text(container, "terminationMessagePath", "/dev/termination-log");
    default_text(container, "terminationMessagePolicy", "File");
    default(container, "resources", json!({}));
    for port in each(container, "ports") {
        let port = as_map(port);
        default_text(port, "protocol", "TCP");
        if host_network && port.get("hostPort").and_then(Value::as_i64).unwrap_or(0) == 0 {
            let number = port.get("containerPort").cloned().unwrap_or_default();
            port.insert("hostPort".to_owned(), number);
        }
    }
    for one in each(container, "env") {
        if let Some(field) = one.get_mut("valueFrom").and_then(|from| from.get_mut("fieldRef")) {
            default_text(as_map(field), "apiVersion", "v1");
        }
        if let Some(file) = one.get_mut("valueFrom").and_then(|from| from.get_mut("fileKeyRef")) {
            default(as_map(file), "optional", false);
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe).filter(|probe| probe.is_object()) {
            self::probe(as_map(probe));
        }
    }
    for hook in ["postStart", "preStop"] {
        let handler = container.get_mut("lifecycle").and_then(|lifecycle| lifecycle.get_mut(hook));
        if let Some(handler) = handler.filter(|handler| handler.is_object()) {
            http_get(as_map(handler));
        }
    }
}

fn probe(probe: &mut Object) {
    for (field, number) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        if probe.get(field).and_then(Value::as_i64).unwrap_or(0) == 0 {
            probe.insert(field.to_owned(), number.into());
        }
    }
    http_get(probe);
    if let Some(grpc) = probe.get_mut("grpc").filter(|grpc| grpc.is_object()) {
        default(as_map(grpc), "service", "");
    }
}

fn http_get(handler: &mut Object) {
    if let Some(get) = handler.get_mut("httpGet").filter(|get| get.is_object()) {
        let get = as_map(get);
        default_text(get, "path", "/");
        default_text(get, "scheme", "HTTP");
    }
}

/// True if an image name means the tag `latest`.
fn is_latest(image: &str) -> bool {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let last = name.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => digest.is_none(),
    }
}

fn volume(volume: &mut Object) {
    let has_source = volume.iter().any(|(key, value)| key != "name" && !value.is_null());
    if !has_source {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(source).filter(|source| source.is_object()) {
            default(as_map(source), "defaultMode", FILE_MODE);
        }
    }
    if let Some(downward) = volume.get_mut("downwardAPI") {
        downward_items(downward);
    }
    let sources = volume.get_mut("projected").and_then(|one| one.get_mut("sources")).and_then(Value::as_array_mut);
    for source in sources.into_iter().flatten() {
        if let Some(token) = source.get_mut("serviceAccountToken").filter(|token| token.is_object()) {
            default(as_map(token), "expirationSeconds", 60 * 60);
        }
        if let Some(downward) = source.get_mut("downwardAPI") {
            downward_items(downward);
        }
    }
    if let Some(path) = volume.get_mut("hostPath").filter(|path| path.is_object()) {
        default(as_map(path), "type", "");
    }
    if let Some(image) = volume.get_mut("image").filter(|image| image.is_object()) {
        let image = as_map(image);
        if image.get("pullPolicy").and_then(Value::as_str).unwrap_or_default().is_empty() {
            let reference = image.get("reference").and_then(Value::as_str).unwrap_or_default();
            let policy = if is_latest(reference) { "Always" } else { "IfNotPresent" };
            image.insert("pullPolicy".to_owned(), policy.into());
        }
    }
    old_volume(volume);
    let claim = volume.get_mut("ephemeral").and_then(|one| one.get_mut("volumeClaimTemplate"));
    if let Some(claim) = claim.filter(|claim| claim.is_object()) {
        default_text(map_mut(claim, "spec"), "volumeMode", "Filesystem");
    }
}

/// Volume types that only persistent volumes and old manifests use.
pub(crate) fn old_volume(volume: &mut Object) {
    let texts: [(&str, &[(&str, &str)]); 4] = [
        ("iscsi", &[("iscsiInterface", "default")]),
        ("rbd", &[("pool", "rbd"), ("user", "admin"), ("keyring", "/etc/ceph/keyring")]),
        ("azureDisk", &[("cachingMode", "ReadWrite"), ("kind", "Shared"), ("fsType", "ext4")]),
        ("scaleIO", &[("storageMode", "ThinProvisioned"), ("fsType", "xfs")]),
    ];
    for (source, fields) in texts {
        if let Some(source) = volume.get_mut(source).filter(|source| source.is_object()) {
            for (field, text) in fields {
                default_text(as_map(source), field, text);
            }
        }
    }
    if let Some(disk) = volume.get_mut("azureDisk").filter(|disk| disk.is_object()) {
        default(as_map(disk), "readOnly", false);
    }
}

fn downward_items(source: &mut Value) {
    for item in source.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(field) = item.get_mut("fieldRef").filter(|field| field.is_object()) {
            default_text(as_map(field), "apiVersion", "v1");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_images_without_tag_and_digest_are_latest() {
        for (image, latest) in [
            ("nginx", true),
            ("nginx:latest", true),
            ("nginx:1.27", false),
            ("registry:5000/nginx", true),
            ("registry:5000/nginx:1", false),
            ("nginx@sha256:abc", false),
        ] {
            assert_eq!(is_latest(image), latest, "{image}");
        }
    }
}
