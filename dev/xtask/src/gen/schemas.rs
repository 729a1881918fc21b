//! Joins the OpenAPI definitions with the struct tags into `schemas.txt`. What
//! an attribute means is said by the reader of the table, not here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::Value;

use super::gotypes::{GoField, GoType, Packages};
use super::{Failure, short_name, short_package};

/// Types that no OpenAPI document has, but the API decodes or encodes.
const EXTRA: &[&str] = &[
    "io.k8s.api.core.v1.NodeProxyOptions",
    "io.k8s.api.core.v1.PodAttachOptions",
    "io.k8s.api.core.v1.PodExecOptions",
    "io.k8s.api.core.v1.PodLogOptions",
    "io.k8s.api.core.v1.PodPortForwardOptions",
    "io.k8s.api.core.v1.PodProxyOptions",
    "io.k8s.api.core.v1.PodStatusResult",
    "io.k8s.api.core.v1.RangeAllocation",
    "io.k8s.api.core.v1.SerializedReference",
    "io.k8s.api.core.v1.ServiceProxyOptions",
    "io.k8s.api.core.v1.List",
    "io.k8s.apimachinery.pkg.apis.meta.v1.CreateOptions",
    "io.k8s.apimachinery.pkg.apis.meta.v1.GetOptions",
    "io.k8s.apimachinery.pkg.apis.meta.v1.ListOptions",
    "io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadata",
    "io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadataList",
    "io.k8s.apimachinery.pkg.apis.meta.v1.PatchOptions",
    "io.k8s.apimachinery.pkg.apis.meta.v1.UpdateOptions",
];

/// Types whose JSON form is code, not fields, by OpenAPI name.
const SPECIAL: &[(&str, &str)] = &[
    ("io.k8s.apimachinery.pkg.api.resource.Quantity", "quantity"),
    ("io.k8s.apimachinery.pkg.util.intstr.IntOrString", "intstr"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", "time"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", "microtime"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Duration", "duration"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", "fields"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Patch", "any"),
    ("io.k8s.apimachinery.pkg.runtime.RawExtension", "raw"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON", "json"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray", "schema-or-array"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool", "schema-or-bool"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray", "schema-or-strings"),
];

/// Named lists that protobuf wraps into a message of one repeated field.
const WRAPPED: &[&str] = &["ExtraValue", "Verbs"];

/// The whole table.
pub(super) fn table(definitions: &BTreeMap<String, Value>, packages: &mut Packages) -> Result<String, Failure> {
    let mut all = definitions.clone();
    for name in EXTRA {
        all.entry((*name).to_owned()).or_insert(Value::Null);
    }
    let names: BTreeSet<String> = all.keys().filter_map(|name| Some(name.rsplit_once('.')?.0.to_owned())).collect();
    let mut out = String::from(super::HEADER);
    for package in names {
        line(&mut out, format_args!("package {} {package}", short_package(&package)));
    }
    for (name, schema) in &all {
        match SPECIAL.iter().find(|(special, _)| special == name) {
            Some((_, special)) => line(&mut out, format_args!("special {} {special}", short_name(name))),
            None => definition(&mut out, name, schema, packages)?,
        }
    }
    Ok(out)
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a String cannot fail");
    out.push('\n');
}

fn definition(out: &mut String, name: &str, schema: &Value, packages: &mut Packages) -> Result<(), Failure> {
    let mut attributes = String::new();
    if let Some(map_type) = text(schema, "x-kubernetes-map-type") {
        attributes += &format!(" map={map_type}");
    }
    if let Some(unions) = schema.get("x-kubernetes-unions") {
        attributes += &format!(" unions={unions}");
    }
    if let Some(gvks) = schema.get("x-kubernetes-group-version-kind").and_then(Value::as_array) {
        // Options have a kind in every group; the reader adds those it serves.
        let own = if gvks.len() > 1 { &gvks[..1] } else { gvks };
        let gvks: Vec<String> = own
            .iter()
            .map(|gvk| ["group", "version", "kind"].map(|part| text(gvk, part).unwrap_or_default()).join("/"))
            .collect();
        attributes += &format!(" gvk={}", gvks.join(","));
    }
    let required: Vec<&str> =
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    if !required.is_empty() {
        attributes += &format!(" req={}", required.join(","));
    }
    line(out, format_args!("type {}{attributes}", short_name(name)));
    let mut fields = BTreeMap::new();
    flatten(name, &[], packages, &mut fields)?;
    let properties = schema.get("properties").and_then(Value::as_object);
    if let Some(missing) = properties.into_iter().flatten().map(|(key, _)| key).find(|key| !fields.contains_key(*key)) {
        return Err(format!("{name}.{missing} is in OpenAPI, but no struct field has that JSON name"));
    }
    for (json, (go, proto)) in &fields {
        // A field that upstream's documents lack is not upstream's.
        if !schema.is_null() && properties.is_none_or(|properties| !properties.contains_key(json)) {
            continue;
        }
        let property = properties.and_then(|properties| properties.get(json)).unwrap_or(&Value::Null);
        let mut attributes = String::new();
        if go.omit_zero {
            attributes += " omitzero";
        } else if go.omit_empty {
            attributes += " omit";
        }
        attributes += &merge_attributes(property);
        if let Some(default) = property.get("default") {
            attributes += &format!(" default={default}");
        }
        line(out, format_args!(" {json} {} {proto}{attributes}", spell(&go.go_type, packages)?));
    }
    Ok(())
}

/// Fields by JSON name, with embedded structs resolved; the protobuf number of
/// a field inside embedded messages is `OUTER.INNER`.
fn flatten(
    name: &str,
    outer: &[u32],
    packages: &mut Packages,
    fields: &mut BTreeMap<String, (GoField, String)>,
) -> Result<(), Failure> {
    let (prefix, local) = name.rsplit_once('.').ok_or_else(|| format!("{name} has no package"))?;
    let package = packages.get(prefix)?;
    if let Some(GoType::Named(prefix, target)) = package.named.get(local) {
        return flatten(&format!("{prefix}.{target}"), outer, packages, fields);
    }
    let declared = package.structs.get(local).ok_or_else(|| format!("no struct {name}"))?;
    for field in declared {
        if field.inline && field.embedded {
            let GoType::Named(prefix, target) = &field.go_type else {
                return Err(format!("{name} embeds something that has no name"));
            };
            let inner: Vec<u32> = outer.iter().copied().chain(field.proto).collect();
            flatten(&format!("{prefix}.{target}"), &inner, packages, fields)?;
            if field.proto.is_none() && outer.is_empty() && target == "TypeMeta" {
                for key in ["apiVersion", "kind"] {
                    if let Some(entry) = fields.get_mut(key) {
                        entry.1 = "-".to_owned();
                    }
                }
            }
            continue;
        }
        if field.json.is_empty() || field.json == "-" {
            continue;
        }
        let proto = match field.proto {
            None => "-".to_owned(),
            Some(number) => {
                let path: Vec<String> = outer.iter().chain(&[number]).map(u32::to_string).collect();
                path.join(".")
            }
        };
        fields.insert(field.json.clone(), (field.clone(), proto));
    }
    Ok(())
}

/// The type as the table spells it, followed by `=GO` where the Go name of the
/// type cannot be told from the spelling.
fn spell(go_type: &GoType, packages: &mut Packages) -> Result<String, Failure> {
    let (spelling, plain) = shape(go_type, packages)?;
    let go = go_name(go_type);
    let go = go.trim_start_matches('*');
    Ok(if go == plain { spelling } else { format!("{spelling}={go}") })
}

/// Spelling, and the Go name that a reader infers from it.
fn shape(go_type: &GoType, packages: &mut Packages) -> Result<(String, String), Failure> {
    Ok(match go_type {
        GoType::Basic(name) if name == "bytes" => ("bytes".to_owned(), "[]uint8".to_owned()),
        GoType::Basic(name) => (name.clone(), name.clone()),
        GoType::Pointer(inner) => {
            let (spelling, plain) = shape(inner, packages)?;
            (format!("*{spelling}"), plain)
        }
        GoType::List(inner) => {
            let (spelling, plain) = shape(inner, packages)?;
            (format!("[]{spelling}"), format!("[]{plain}"))
        }
        GoType::Map(_, inner) => {
            let (spelling, plain) = shape(inner, packages)?;
            (format!("map.{spelling}"), format!("map[string]{plain}"))
        }
        GoType::Named(prefix, name) => {
            let full = format!("{prefix}.{name}");
            let last = prefix.rsplit('.').next().unwrap_or_default();
            if let Some((_, special)) = SPECIAL.iter().find(|(known, _)| *known == full) {
                return Ok(((*special).to_owned(), format!("{last}.{name}")));
            }
            let package = packages.get(prefix)?;
            if package.structs.contains_key(name) {
                return Ok((format!("@{}", short_name(&full)), format!("{last}.{name}")));
            }
            let target = package.named.get(name).ok_or_else(|| format!("no type {full}"))?;
            let (spelling, plain) = shape(target, packages)?;
            let spelling = if WRAPPED.contains(&name.as_str()) { format!("wrap.{spelling}") } else { spelling };
            (spelling, plain)
        }
    })
}

fn go_name(go_type: &GoType) -> String {
    match go_type {
        GoType::Basic(name) if name == "bytes" => "[]uint8".to_owned(),
        GoType::Basic(name) => name.clone(),
        GoType::Pointer(inner) => format!("*{}", go_name(inner)),
        GoType::List(inner) => format!("[]{}", go_name(inner)),
        GoType::Map(key, value) => format!("map[{}]{}", go_name(key), go_name(value)),
        GoType::Named(prefix, name) => format!("{}.{name}", prefix.rsplit('.').next().unwrap_or_default()),
    }
}

fn merge_attributes(property: &Value) -> String {
    let mut out = String::new();
    let keys: Vec<&str> = property
        .get("x-kubernetes-list-map-keys")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    match text(property, "x-kubernetes-list-type") {
        Some("map") => out += &format!(" list=map({})", keys.join(",")),
        Some(list_type) => out += &format!(" list={list_type}"),
        None => {}
    }
    if let Some(map_type) = text(property, "x-kubernetes-map-type") {
        out += &format!(" map={map_type}");
    }
    if let Some(strategy) = text(property, "x-kubernetes-patch-strategy") {
        out += &format!(" patch={}", strategy.replace(',', "+"));
    }
    if let Some(key) = text(property, "x-kubernetes-patch-merge-key") {
        out += &format!(" mergekey={key}");
    }
    out
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}
