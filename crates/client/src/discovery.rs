//! What the API server serves, for callers that act on kinds known only at run
//! time, CRDs and aggregated ones among them. It remembers nothing between calls.

use std::collections::{BTreeMap, BTreeSet};

use ::api::gvk::{GroupVersion, GroupVersionResource};
use serde_json::Value;

use crate::client::Client;
use crate::error::ClientError;

const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// One resource in the version that its group prefers.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// Where it is.
    pub gvr: GroupVersionResource,
    /// What its objects are.
    pub kind: String,
    /// Its objects are in namespaces.
    pub namespaced: bool,
    /// `get`, `list`, …
    pub verbs: BTreeSet<String>,
}

impl Resource {
    /// True if the verb is served.
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.contains(verb)
    }
}

/// Everything that is served.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Discovered {
    /// Each resource once.
    pub resources: Vec<Resource>,
    /// Group versions whose server does not answer; their resources are
    /// missing or old.
    pub failed: Vec<String>,
}

/// Asks what is served. A failure is the server's; a group that does not answer
/// is in [`Discovered::failed`].
pub async fn discover(client: &Client) -> Result<Discovered, ClientError> {
    let mut discovered = Discovered::default();
    let mut known = BTreeSet::new();
    for path in ["/api", "/apis"] {
        let document = client.get_json_as(path, ACCEPT).await?;
        for group in array(&document, "items") {
            read_group(group, &mut discovered, &mut known);
        }
    }
    Ok(discovered)
}

fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Versions come best first, so the first that has a resource is the one.
fn read_group(group: &Value, discovered: &mut Discovered, known: &mut BTreeSet<(String, String)>) {
    let name = text(group, "/metadata/name");
    for version in array(group, "versions") {
        let group_version = GroupVersion::new(name, text(version, "/version"));
        if text(version, "/freshness") == "Stale" {
            discovered.failed.push(group_version.to_string());
        }
        for resource in array(version, "resources") {
            let plural = text(resource, "/resource");
            if !known.insert((name.to_owned(), plural.to_owned())) {
                continue;
            }
            let verbs = array(resource, "verbs").iter().filter_map(Value::as_str).map(str::to_owned).collect();
            discovered.resources.push(Resource {
                gvr: GroupVersionResource { group_version: group_version.clone(), resource: plural.to_owned() },
                kind: text(resource, "/responseKind/kind").to_owned(),
                namespaced: text(resource, "/scope") == "Namespaced",
                verbs,
            });
        }
    }
}

/// Resources by group and kind.
pub type Kinds = BTreeMap<(String, String), Resource>;

/// The resources by group and kind; of several of one kind the first that can
/// be got.
pub fn by_kind(resources: &[Resource]) -> Kinds {
    let key = |resource: &Resource| (resource.gvr.group_version.group.clone(), resource.kind.clone());
    let mut kinds = Kinds::new();
    for resource in resources {
        // Some kinds have several resources; only one of them can be got.
        if resource.can("get") {
            kinds.entry(key(resource)).or_insert_with(|| resource.clone());
        }
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_resource_is_taken_in_its_first_version() {
        let resource = |name: &str| json!({"resource": name, "responseKind": {"kind": name}, "scope": "Namespaced", "verbs": ["get"]});
        let group = json!({"metadata": {"name": "g"}, "versions": [
            {"version": "v2", "resources": [resource("a")], "freshness": "Current"},
            {"version": "v1", "resources": [resource("a"), resource("b")], "freshness": "Stale"}]});
        let mut discovered = Discovered::default();
        read_group(&group, &mut discovered, &mut BTreeSet::new());
        let found: Vec<_> = discovered
            .resources
            .iter()
            .map(|resource| format!("{}/{}", resource.gvr.group_version, resource.gvr.resource))
            .collect();
        assert_eq!(found, ["g/v2/a", "g/v1/b"]);
        assert_eq!(discovered.failed, ["g/v1"]);
        assert_eq!(by_kind(&discovered.resources).len(), 2);
    }
}
