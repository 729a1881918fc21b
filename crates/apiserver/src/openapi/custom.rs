//! Paths and definitions of custom kinds. Their operations are those of a
//! built-in kind of the same scope under other names.

use serde_json::{Map, Value, json};

use super::definitions::Style;
use super::operations::Operations;
use crate::kinds_table::Kind;

/// The built-in kind whose operations serve as pattern: its document, parts of
/// its operation ids and paths, its kind and its definition.
struct Pattern {
    document: &'static str,
    id: &'static str,
    tag: &'static str,
    group: &'static str,
    resource: &'static str,
    kind: &'static str,
    definition: &'static str,
}

const NAMESPACED: Pattern = Pattern {
    document: "apis/apps/v1",
    id: "AppsV1",
    tag: "apps_v1",
    group: "/apis/apps/v1/",
    resource: "deployments",
    kind: "Deployment",
    definition: "io.k8s.api.apps.v1.Deployment",
};

const CLUSTER: Pattern = Pattern {
    document: "apis/apiextensions.k8s.io/v1",
    id: "ApiextensionsV1",
    tag: "apiextensions_v1",
    group: "/apis/apiextensions.k8s.io/v1/",
    resource: "customresourcedefinitions",
    kind: "CustomResourceDefinition",
    definition: "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
};

/// `com.example.v1.Widget`
fn definition_name(kind: &Kind) -> String {
    let group: Vec<&str> = kind.gvk.group_version.group.rsplit('.').collect();
    format!("{}.{}.{}", group.join("."), kind.gvk.group_version.version, kind.gvk.kind)
}

/// `ExampleComV1`
fn operation_part(kind: &Kind) -> String {
    let version = std::iter::once(kind.gvk.group_version.version.as_str());
    let parts = kind.gvk.group_version.group.split(['.', '-']).chain(version);
    parts
        .map(|part| part.chars().take(1).flat_map(char::to_uppercase).chain(part.chars().skip(1)).collect::<String>())
        .collect()
}

/// Path items of a custom kind, in the style of version 3.
pub(super) fn paths(kind: &Kind) -> Map<String, Value> {
    let pattern = if kind.namespaced { NAMESPACED } else { CLUSTER };
    let version = &kind.gvk.group_version;
    let base = format!("/apis/{}/{}/", version.group, version.version);
    let mut out = Map::new();
    for (path, item) in Operations::builtin().paths(|document| document == pattern.document) {
        let Some(rest) = path.strip_prefix(pattern.group) else { continue };
        let parts: Vec<&str> = rest.split('/').collect();
        let own = parts.contains(&pattern.resource) && parts.first() != Some(&"watch");
        let subresource = parts.last().copied().filter(|part| matches!(*part, "status" | "scale"));
        let served = subresource.is_none_or(|name| kind.subresource(name).is_some());
        if own && served {
            let rest = rest.replace(pattern.resource, &kind.resource);
            let mut item = renamed(item, &pattern, kind);
            as_custom(&mut item, kind, rest.contains("{name}"));
            out.insert(format!("{base}{rest}"), item);
        }
    }
    out
}

/// In what operations of custom kinds differ from those of the pattern.
fn as_custom(item: &mut Value, kind: &Kind, of_one: bool) {
    let version = &kind.gvk.group_version;
    for parameter in item["parameters"].as_array_mut().into_iter().flatten() {
        if parameter["description"] == "name of the Scale" {
            parameter["description"] = format!("name of the {}", kind.gvk.kind).into();
        }
    }
    for verb in ["get", "put", "post", "delete", "patch"] {
        let Some(operation) = item.get_mut(verb) else { continue };
        operation["x-kubernetes-group-version-kind"] =
            json!({"group": version.group, "version": version.version, "kind": kind.gvk.kind});
        if let Some(text) = operation["description"].as_str().and_then(|text| text.strip_prefix("list or watch ")) {
            operation["description"] = format!("list {text}").into();
        }
        for response in operation["responses"].as_object_mut().into_iter().flatten().map(|(_, response)| response) {
            plain_content(response);
        }
        match verb {
            "patch" => drop(operation["responses"].as_object_mut().map(|all| all.remove("201"))),
            "delete" if !of_one => drop(operation.as_object_mut().map(|operation| operation.remove("requestBody"))),
            _ => {}
        }
        if let Some(body) = operation.get_mut("requestBody") {
            plain_content(body);
        }
    }
}

/// Media types that custom kinds speak.
fn plain_content(of: &mut Value) {
    let Some(content) = of.get_mut("content").and_then(Value::as_object_mut) else { return };
    content.retain(|name, _| !name.contains("cbor") && !name.contains("stream=watch"));
    if let Some(any) = content.remove("*/*") {
        for name in ["application/json", "application/yaml"] {
            content.insert(name.to_owned(), any.clone());
        }
    }
}

fn renamed(value: Value, pattern: &Pattern, kind: &Kind) -> Value {
    let version = &kind.gvk.group_version;
    match value {
        Value::String(text) => renamed_text(&text, pattern, kind).into(),
        Value::Array(items) => items.into_iter().map(|item| renamed(item, pattern, kind)).collect(),
        Value::Object(map) => {
            if map.get("kind").is_some_and(|found| found == pattern.kind) && map.contains_key("version") {
                return json!({"group": version.group, "version": version.version, "kind": kind.gvk.kind});
            }
            let unserved = |key: &str| key.contains("protobuf") || key.contains("strategic-merge-patch");
            let kept = map.into_iter().filter(|(key, _)| !unserved(key));
            Value::Object(kept.map(|(key, value)| (key, renamed(value, pattern, kind))).collect())
        }
        other => other,
    }
}

fn renamed_text(text: &str, pattern: &Pattern, kind: &Kind) -> String {
    if let Some(name) = text.strip_prefix("#/components/schemas/") {
        let list = format!("{}List", pattern.definition);
        return match name {
            _ if name == pattern.definition => format!("#/components/schemas/{}", definition_name(kind)),
            _ if name == list => format!("#/components/schemas/{}List", definition_name(kind)),
            _ => text.to_owned(),
        };
    }
    if text == pattern.tag {
        let group = kind.gvk.group_version.group.split(['.', '-']);
        let mut parts = group.map(|part| part.to_owned());
        let first = parts.next().unwrap_or_default();
        let rest: String = parts
            .map(|part| {
                part.chars().take(1).flat_map(char::to_uppercase).chain(part.chars().skip(1)).collect::<String>()
            })
            .collect();
        return format!("{first}{rest}_{}", kind.gvk.group_version.version);
    }
    text.replace(pattern.id, &operation_part(kind)).replace(pattern.kind, &kind.gvk.kind)
}

/// The definitions of a custom kind and of its list.
pub(super) fn definitions(kind: &Kind, prefix: &str, style: Style) -> Vec<(String, Value)> {
    let version = &kind.gvk.group_version;
    let name = definition_name(kind);
    let gvk = |kind: &str| json!([{"group": version.group, "version": version.version, "kind": kind}]);
    let reference = |target: &str, description: &str| {
        let target = format!("{prefix}io.k8s.apimachinery.pkg.apis.meta.v1.{target}");
        let mut reference = match style {
            Style::V2 => json!({ "$ref": target }),
            Style::V3 => json!({"allOf": [{ "$ref": target }]}),
        };
        reference["description"] = description.into();
        reference
    };
    let meta = reference("ObjectMeta", METADATA);
    let published = kind.published.as_deref();
    let mut object = match published.map(|published| published.object(style, &meta)) {
        Some(Some(mut object)) => {
            let properties = object.entry("properties").or_insert_with(|| json!({}));
            properties["apiVersion"] = json!({"type": "string", "description": API_VERSION});
            properties["kind"] = json!({"type": "string", "description": KIND});
            properties["metadata"] = meta;
            Value::Object(object)
        }
        _ => json!({"type": "object"}),
    };
    let mut list = json!({
        "description": format!("{} is a list of {}", kind.list_kind, kind.gvk.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": API_VERSION},
            "kind": {"type": "string", "description": KIND},
            "metadata": reference("ListMeta", LIST_METADATA),
            "items": {"type": "array", "items": {"$ref": format!("{prefix}{name}")},
                "description": format!("List of {}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md", kind.resource)},
        },
    });
    for (definition, kind) in [(&mut object, kind.gvk.kind.as_str()), (&mut list, &kind.list_kind)] {
        definition["x-kubernetes-group-version-kind"] = gvk(kind);
        if let Some(fields) = published.and_then(|published| published.selectable()) {
            definition["x-kubernetes-selectable-fields"] = fields;
        }
    }
    vec![(name.clone(), object), (format!("{name}List"), list)]
}

const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
pub(super) const METADATA: &str = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
const LIST_METADATA: &str = "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
