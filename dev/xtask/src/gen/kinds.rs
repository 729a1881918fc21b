//! `kinds.txt`: what each group and version serves, from recorded discovery,
//! and where it is stored, from a recorded registry.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{Failure, read_json};

/// Storage of kinds: plural → (key prefix, API version of the stored object).
type Stored = HashMap<(String, String), (String, String)>;

/// Versions of objects that the recorded registry wrote in an older version
/// than the release calls its storage version.
const STORAGE_VERSION: &[(&str, &str)] = &[("CustomResourceDefinition", "apiextensions.k8s.io/v1")];

pub(super) fn table(data: &Path, definitions: &BTreeMap<String, Value>) -> Result<String, Failure> {
    let stored = stored(&data.join("etcd/registry.jsonl"))?;
    let names = definition_names(definitions);
    let mut out = String::from(super::HEADER);
    let groups = read_json(&data.join("discovery/apis.json"))?;
    emit(&mut out, data, "", "v1", &stored, &names)?;
    for group in list(&groups, "groups") {
        for version in list(group, "versions") {
            let (group, version) = (text(group, "name"), text(version, "version"));
            if !version.contains("alpha") && !version.contains("beta") {
                emit(&mut out, data, group, version, &stored, &names)?;
            }
        }
    }
    Ok(out)
}

fn emit(
    out: &mut String,
    data: &Path,
    group: &str,
    version: &str,
    stored: &Stored,
    names: &HashMap<String, String>,
) -> Result<(), Failure> {
    let file = if group.is_empty() { "api__v1.json".to_owned() } else { format!("apis__{group}__{version}.json") };
    let document = read_json(&data.join("discovery").join(file))?;
    line(out, format_args!("version {group}/{version}"));
    for resource in list(&document, "resources") {
        let name = text(resource, "name");
        let kind = text(resource, "kind");
        let verbs = texts(resource, "verbs").join(",");
        if let Some((_, subresource)) = name.split_once('/') {
            let mut attributes = String::new();
            if resource.get("version").is_some() {
                attributes = format!(" gv={}/{}", text(resource, "group"), text(resource, "version"));
            }
            line(out, format_args!("  sub {subresource} {kind} {verbs}{attributes}"));
            continue;
        }
        let scope = if resource["namespaced"] == Value::Bool(true) { "namespaced" } else { "cluster" };
        let gvk = format!("{group}/{version}/{kind}");
        let definition = names.get(&gvk).ok_or_else(|| format!("no definition for {gvk}"))?;
        let mut attributes = String::new();
        for (attribute, key) in [("short", "shortNames"), ("cat", "categories")] {
            let values = texts(resource, key);
            if !values.is_empty() {
                attributes += &format!(" {attribute}={}", values.join(","));
            }
        }
        if let Some(hash) = resource.get("storageVersionHash").and_then(Value::as_str) {
            attributes += &format!(" hash={hash}");
            let (prefix, api_version) = stored
                .get(&(group.to_owned(), kind.to_owned()))
                .cloned()
                .unwrap_or_else(|| (name.to_owned(), format!("{group}/{version}")));
            attributes += &format!(" key={prefix} storage={api_version}");
        }
        let singular = text(resource, "singularName");
        line(out, format_args!(" kind {kind} {name} {singular} {scope} {definition} {verbs}{attributes}"));
    }
    Ok(())
}

/// Short definition names by `group/version/kind`.
fn definition_names(definitions: &BTreeMap<String, Value>) -> HashMap<String, String> {
    let mut names = HashMap::new();
    for (name, schema) in definitions {
        for gvk in list(schema, "x-kubernetes-group-version-kind") {
            let key = format!("{}/{}/{}", text(gvk, "group"), text(gvk, "version"), text(gvk, "kind"));
            names.insert(key, super::short_name(name));
        }
    }
    names
}

/// Reads group, kind and key of each stored object. The keys' first part is
/// the prefix, two parts for `services/…` and for groups that keep their name.
fn stored(path: &Path) -> Result<Stored, Failure> {
    let mut stored = Stored::new();
    let registry = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    for record in registry.lines() {
        let record: Value = serde_json::from_str(record).map_err(|error| format!("{}: {error}", path.display()))?;
        let key = text(&record, "key").trim_start_matches("/registry/");
        let value = decode_base64(text(&record, "value"));
        let Some((api_version, kind)) = type_of(&value) else { continue };
        let parts: Vec<&str> = key.split('/').collect();
        let long = parts[0] == "services" || parts[0].contains('.');
        let prefix = if long { parts[..2].join("/") } else { parts[0].to_owned() };
        if kind == "Endpoints" && prefix == "peerserverleases" || kind == "RangeAllocation" {
            continue;
        }
        let group = api_version.split_once('/').map_or("", |(group, _)| group).to_owned();
        let pinned = STORAGE_VERSION.iter().find(|(known, _)| *known == kind).map(|(_, version)| (*version).to_owned());
        stored.entry((group, kind)).or_insert((prefix, pinned.unwrap_or(api_version)));
    }
    Ok(stored)
}

/// API version and kind of a stored value: JSON, or the protobuf envelope whose
/// first field holds both.
fn type_of(value: &[u8]) -> Option<(String, String)> {
    if let Some(envelope) = value.strip_prefix(b"k8s\0") {
        let type_meta = envelope.get(2..2 + usize::from(*envelope.get(1)?))?;
        let length = usize::from(*type_meta.get(1)?);
        let api_version = type_meta.get(2..2 + length)?;
        let kind = type_meta.get(4 + length..)?;
        return Some((String::from_utf8(api_version.to_vec()).ok()?, String::from_utf8(kind.to_vec()).ok()?));
    }
    let object: Value = serde_json::from_slice(value).ok()?;
    Some((text(&object, "apiVersion").to_owned(), text(&object, "kind").to_owned()))
}

fn decode_base64(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.bytes() {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        bits = bits << 6 | u32::from(digit);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    out
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a String cannot fail");
    out.push('\n');
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn texts<'a>(value: &'a Value, key: &str) -> Vec<&'a str> {
    list(value, key).filter_map(Value::as_str).collect()
}
