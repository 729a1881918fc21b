//! Fields of the pod and resources of its containers as text: for variables
//! and for files of downward API volumes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use api::quantity::Quantity as Amount;
use api::types::api::core::v1 as core;

use crate::resources;
use crate::spec;

/// Why a field can't be shown.
#[derive(thiserror::Error, Debug)]
pub(crate) enum FieldError {
    /// No such field.
    #[error("unsupported fieldPath: {0}")]
    Path(String),
    /// No such resource.
    #[error("unsupported container resource : {0}")]
    Resource(String),
    /// No such container.
    #[error("container {0} not found")]
    Container(String),
}

/// A field by its path.
pub(crate) fn field(
    pod: &core::Pod,
    path: &str,
    pod_ips: &[IpAddr],
    host_ips: &[IpAddr],
) -> Result<String, FieldError> {
    let join = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let first = |ips: &[IpAddr]| ips.first().map(ToString::to_string).unwrap_or_default();
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        let values = match map {
            "metadata.labels" => pod.metadata.labels.as_ref(),
            "metadata.annotations" => pod.metadata.annotations.as_ref(),
            _ => return Err(FieldError::Path(path.into())),
        };
        return Ok(values.and_then(|v| v.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => spec::name(pod).into(),
        "metadata.namespace" => spec::namespace(pod).into(),
        "metadata.uid" => spec::uid(pod).into(),
        "metadata.labels" => lines(pod.metadata.labels.as_ref()),
        "metadata.annotations" => lines(pod.metadata.annotations.as_ref()),
        "spec.nodeName" => spec::spec(pod).node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => spec::spec(pod).service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => first(host_ips),
        "status.hostIPs" => join(host_ips),
        "status.podIP" => first(pod_ips),
        "status.podIPs" => join(pod_ips),
        _ => return Err(FieldError::Path(path.into())),
    })
}

/// `key="value"` lines, sorted, values quoted as Go's `%q` does it.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let all: Vec<String> = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", quote(value))).collect();
    all.join("\n")
}

fn quote(value: &str) -> String {
    let mut text = String::from("\"");
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            '\r' => text.push_str("\\r"),
            c if c.is_control() => {
                let code = u32::from(c);
                // Writing to a string cannot fail.
                let _written = if code < 0x80 { write!(text, "\\x{code:02x}") } else { write!(text, "\\u{code:04x}") };
            }
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

/// A container's request or limit in units of the divisor, rounded up.
/// `own` is the container that asks; a selector may name another.
pub(crate) fn resource(
    pod: &core::Pod,
    own: Option<&core::Container>,
    selector: &core::ResourceFieldSelector,
    allocatable: &BTreeMap<String, i64>,
) -> Result<String, FieldError> {
    let named = selector.container_name.as_deref().filter(|n| !n.is_empty());
    let found;
    let container = match (named, own) {
        (Some(name), _) => {
            found = spec::find(pod, name).ok_or_else(|| FieldError::Container(name.into()))?.1;
            &*found
        }
        (None, Some(own)) => own,
        (None, None) => return Err(FieldError::Container(String::new())),
    };
    let (kind, name) =
        selector.resource.split_once('.').ok_or_else(|| FieldError::Resource(selector.resource.clone()))?;
    let list = match kind {
        "limits" => resources::limits(container),
        "requests" => resources::requests(container),
        _ => return Err(FieldError::Resource(selector.resource.clone())),
    };
    let known = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !known {
        return Err(FieldError::Resource(selector.resource.clone()));
    }
    let divisor = selector.divisor.as_ref().and_then(|d| Amount::parse(&d.0).ok()).filter(|d| !d.is_zero());
    // A limit that isn't set is what the machine offers.
    let milli = match resources::milli(list, name) {
        0 if kind == "limits" => allocatable.get(name).copied().unwrap_or(0),
        own => own,
    };
    let divisor = divisor.map_or(1000, |d| d.milli_value()).max(1);
    Ok((i128::from(milli) + i128::from(divisor) - 1).div_euclid(i128::from(divisor)).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels_and_annotations_are_quoted_lines() {
        let pod: core::Pod = serde_json::from_value(
            json!({"metadata": {"labels": {"b": "2", "a": "1"}, "annotations": {"note": "line\nbreak \"quoted\""}}}),
        )
        .expect("a pod");
        assert_eq!(field(&pod, "metadata.labels", &[], &[]).expect("labels"), "a=\"1\"\nb=\"2\"");
        assert_eq!(
            field(&pod, "metadata.annotations", &[], &[]).expect("annotations"),
            r#"note="line\nbreak \"quoted\"""#
        );
        assert_eq!(field(&pod, "metadata.annotations['note']", &[], &[]).expect("one"), "line\nbreak \"quoted\"");
        assert!(field(&pod, "spec.x", &[], &[]).is_err());
    }

    #[test]
    fn resources_are_divided_and_rounded_up() {
        let pod: core::Pod = serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "resources": {
            "requests": {"cpu": "125m", "memory": "32Mi"}, "limits": {"cpu": "250m"}}}]}}))
        .expect("a pod");
        let node = BTreeMap::from([("memory".to_owned(), 1_000_000)]);
        let check = |resource_name: &str, divisor: &str, expected: &str| {
            let selector =
                serde_json::from_value(json!({"containerName": "c", "resource": resource_name, "divisor": divisor}))
                    .expect("a selector");
            assert_eq!(resource(&pod, None, &selector, &node).expect("a value"), expected, "{resource_name}");
        };
        check("limits.cpu", "0", "1");
        check("limits.cpu", "1m", "250");
        check("requests.cpu", "1m", "125");
        check("requests.memory", "1k", "33555");
        check("limits.memory", "1", "1000");
    }
}
