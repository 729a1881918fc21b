//! The discovery documents, plain and aggregated, as functions of the kinds in
//! effect. Negotiation and paths are the pipeline's.

use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::kinds_table::{self, Kind, Subresource};

/// A kind in effect.
#[derive(Clone, Debug)]
pub enum KindRef {
    /// Of the generated table.
    Builtin(&'static Kind),
    /// Of a CustomResourceDefinition.
    Custom(Arc<Kind>),
}

impl Deref for KindRef {
    type Target = Kind;

    fn deref(&self) -> &Kind {
        match self {
            Self::Builtin(kind) => kind,
            Self::Custom(kind) => kind,
        }
    }
}

/// A body with its strong validator.
#[derive(Clone, Debug)]
pub struct Document {
    /// JSON.
    pub body: Bytes,
    /// Upper-case hexadecimal SHA-512 of the body, without quotes.
    pub etag: String,
}

impl Document {
    /// Hashes a body.
    pub fn new(body: Bytes) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA512, &body);
        let etag = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
        Self { body, etag }
    }

    fn json(value: &Value) -> Self {
        Self::new(Bytes::from(value.to_string()))
    }
}

/// The kinds in effect, by group and version.
#[derive(Clone, Debug)]
pub struct Served {
    groups: Vec<Group>,
}

/// A group with its versions, the preferred one first.
#[derive(Clone, Debug)]
pub struct Group {
    /// Empty for the core group.
    pub name: String,
    /// Preferred first.
    pub versions: Vec<Version>,
}

/// A version with its kinds.
#[derive(Clone, Debug)]
pub struct Version {
    /// `v1`
    pub name: String,
    /// Sorted by resource.
    pub kinds: Vec<KindRef>,
}

/// Which form of the aggregated document.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aggregated {
    /// `apidiscovery.k8s.io/v2`
    V2,
    /// `apidiscovery.k8s.io/v2beta1`
    V2Beta1,
}

impl Served {
    /// The built-in kinds alone.
    pub fn builtin() -> Self {
        Self::new(std::iter::empty())
    }

    /// The built-in kinds and these. Built-in groups come first in upstream's
    /// order, then the others by name; versions by their age of maturity.
    pub fn new(custom: impl Iterator<Item = Arc<Kind>>) -> Self {
        let mut served = Self { groups: Vec::new() };
        for kind in kinds_table::builtin().iter() {
            served.add(KindRef::Builtin(kind));
        }
        let builtin = served.groups.len();
        for kind in custom {
            served.add(KindRef::Custom(kind));
        }
        served.groups[builtin..].sort_by(|a, b| a.name.cmp(&b.name));
        for group in &mut served.groups {
            if group.versions.iter().flat_map(|version| &version.kinds).any(|kind| matches!(kind, KindRef::Custom(_))) {
                group.versions.sort_by_key(|version| std::cmp::Reverse(version_order(&version.name)));
            }
            for version in &mut group.versions {
                version.kinds.sort_by(|a, b| a.resource.cmp(&b.resource));
            }
        }
        served
    }

    fn add(&mut self, kind: KindRef) {
        let name = &kind.gvk.group_version;
        let index = self.groups.iter().position(|group| group.name == name.group).unwrap_or_else(|| {
            self.groups.push(Group { name: name.group.clone(), versions: Vec::new() });
            self.groups.len() - 1
        });
        let versions = &mut self.groups[index].versions;
        let index = versions.iter().position(|version| version.name == name.version).unwrap_or_else(|| {
            versions.push(Version { name: name.version.clone(), kinds: Vec::new() });
            versions.len() - 1
        });
        versions[index].kinds.push(kind);
    }

    /// In order, the core group first.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The kinds of a version.
    pub fn version(&self, group: &str, version: &str) -> Option<&Version> {
        let group = self.groups.iter().find(|known| known.name == group)?;
        group.versions.iter().find(|known| known.name == version)
    }
}

/// Sort key of a version: `v2` over `v1` over `v1beta2` over `v1beta1` over
/// `v1alpha1` over everything else, as upstream's version priority has it.
pub(crate) fn version_order(version: &str) -> (u8, u64, u64, std::cmp::Reverse<String>) {
    let other = (0, 0, 0, std::cmp::Reverse(version.to_owned()));
    let Some(rest) = version.strip_prefix('v') else { return other };
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let Ok(major) = rest[..end].parse() else { return other };
    let (maturity, minor) = match &rest[end..] {
        "" => (3, "0"),
        rest if rest.starts_with("beta") => (2, &rest[4..]),
        rest if rest.starts_with("alpha") => (1, &rest[5..]),
        _ => return other,
    };
    match minor.parse() {
        Ok(minor) => (maturity, major, minor, std::cmp::Reverse(String::new())),
        Err(_) => other,
    }
}

/// `/api`; the address is what clients are told to use.
pub fn api_versions(server_address: &str) -> Document {
    Document::json(&json!({"kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}]}))
}

/// `/apis`
pub fn api_group_list(served: &Served) -> Document {
    let groups = served.groups.iter().filter(|group| !group.name.is_empty()).map(group_entry);
    let groups: Vec<Value> = groups.map(Value::Object).collect();
    Document::json(&json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
}

/// `/apis/GROUP`
pub fn api_group(served: &Served, group: &str) -> Option<Document> {
    let group = served.groups.iter().find(|known| known.name == group && !group.is_empty())?;
    let mut entry = group_entry(group);
    entry.insert("kind".to_owned(), "APIGroup".into());
    entry.insert("apiVersion".to_owned(), "v1".into());
    Some(Document::json(&Value::Object(entry)))
}

fn group_entry(group: &Group) -> Map<String, Value> {
    let versions: Vec<Value> = group
        .versions
        .iter()
        .map(|version| json!({"groupVersion": format!("{}/{}", group.name, version.name), "version": version.name}))
        .collect();
    let mut entry = Map::new();
    entry.insert("name".to_owned(), group.name.as_str().into());
    entry.insert("preferredVersion".to_owned(), versions.first().cloned().unwrap_or_default());
    entry.insert("versions".to_owned(), versions.into());
    entry
}

/// `/api/v1` and `/apis/GROUP/VERSION`
pub fn api_resource_list(served: &Served, group: &str, version: &str) -> Option<Document> {
    let known = served.version(group, version)?;
    let mut resources = Vec::new();
    for kind in &known.kinds {
        resources.push(resource_entry(kind));
        resources.extend(kind.subresources.iter().map(|subresource| subresource_entry(kind, subresource)));
    }
    let mut list = json!({"kind": "APIResourceList", "resources": resources});
    if group.is_empty() {
        list["groupVersion"] = version.into();
    } else {
        list["apiVersion"] = "v1".into();
        list["groupVersion"] = format!("{group}/{version}").into();
    }
    Some(Document::json(&list))
}

fn resource_entry(kind: &Kind) -> Value {
    let mut entry = json!({
        "name": kind.resource,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.gvk.kind,
        "verbs": kind.verbs,
    });
    for (key, names) in [("shortNames", &kind.short_names), ("categories", &kind.categories)] {
        if !names.is_empty() {
            entry[key] = json!(names);
        }
    }
    if !kind.storage_hash.is_empty() {
        entry["storageVersionHash"] = json!(kind.storage_hash);
    }
    entry
}

fn subresource_entry(kind: &Kind, subresource: &Subresource) -> Value {
    let mut entry = json!({
        "name": format!("{}/{}", kind.resource, subresource.name),
        "singularName": "",
        "namespaced": kind.namespaced,
        "kind": subresource.gvk.kind,
        "verbs": subresource.verbs,
    });
    if subresource.foreign {
        entry["group"] = subresource.gvk.group_version.group.as_str().into();
        entry["version"] = subresource.gvk.group_version.version.as_str().into();
    }
    entry
}

/// The aggregated form of `/api` (`core`) or of `/apis`.
pub fn aggregated(served: &Served, core: bool, form: Aggregated) -> Document {
    let items: Vec<Value> =
        served.groups.iter().filter(|group| group.name.is_empty() == core).map(aggregated_group).collect();
    let api_version = match form {
        Aggregated::V2 => "apidiscovery.k8s.io/v2",
        Aggregated::V2Beta1 => "apidiscovery.k8s.io/v2beta1",
    };
    Document::json(&json!({"kind": "APIGroupDiscoveryList", "apiVersion": api_version, "metadata": {}, "items": items}))
}

fn aggregated_group(group: &Group) -> Value {
    let versions: Vec<Value> = group
        .versions
        .iter()
        .map(|version| {
            let resources: Vec<Value> = version.kinds.iter().map(aggregated_resource).collect();
            json!({"version": version.name, "freshness": "Current", "resources": resources})
        })
        .collect();
    let metadata = if group.name.is_empty() { json!({}) } else { json!({"name": group.name}) };
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_resource(kind: &KindRef) -> Value {
    // Upstream leaves group and version of built-in kinds empty here.
    let explicit = matches!(kind, KindRef::Custom(_));
    let response = |gvk: &api::gvk::GroupVersionKind, explicit: bool| {
        let (group, version) =
            if explicit { (gvk.group_version.group.as_str(), gvk.group_version.version.as_str()) } else { ("", "") };
        json!({"group": group, "version": version, "kind": gvk.kind})
    };
    let mut entry = json!({
        "resource": kind.resource,
        "responseKind": response(&kind.gvk, explicit),
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": kind.verbs,
    });
    for (key, names) in [("shortNames", &kind.short_names), ("categories", &kind.categories)] {
        if !names.is_empty() {
            entry[key] = json!(names);
        }
    }
    if !kind.subresources.is_empty() {
        let subresources: Vec<Value> = kind
            .subresources
            .iter()
            .map(|subresource| {
                let response = response(&subresource.gvk, explicit || subresource.foreign);
                json!({"subresource": subresource.name, "responseKind": response, "verbs": subresource.verbs})
            })
            .collect();
        entry["subresources"] = subresources.into();
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_maturity() {
        let mut versions = ["v1beta1", "v2", "foo", "v1", "v1alpha2", "v10", "v1beta2"];
        versions.sort_by_key(|version| std::cmp::Reverse(version_order(version)));
        assert_eq!(versions, ["v10", "v2", "v1", "v1beta2", "v1beta1", "v1alpha2", "foo"]);
    }

    #[test]
    fn the_documents_name_every_kind_once() {
        let served = Served::builtin();
        let parse = |document: Document| serde_json::from_slice::<Value>(&document.body).unwrap();
        let list = parse(api_resource_list(&served, "apps", "v1").unwrap());
        assert_eq!(list["resources"][3]["name"], "deployments");
        assert_eq!(list["resources"][4]["group"], "autoscaling");
        let group = parse(api_group(&served, "autoscaling").unwrap());
        assert_eq!(group["preferredVersion"]["version"], "v2");
        let all = parse(aggregated(&served, false, Aggregated::V2));
        assert_eq!(all["items"].as_array().unwrap().len(), 20);
        assert!(api_group(&served, "").is_none() && api_resource_list(&served, "apps", "v2").is_none());
    }
}
