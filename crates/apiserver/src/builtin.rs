//! The built-in kinds: rows of the generated table joined with the strategies
//! of [`crate::kinds`]. A kind without a strategy of its own differs in
//! nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::gvk::GroupResource;

use crate::kinds;
use crate::resource::{Collection, Resource};

const TABLE: &str = include_str!("../generated/kinds.txt");

/// All built-in resources in all served versions.
pub(crate) fn resources() -> Vec<Resource> {
    let mut resources: Vec<Resource> = Vec::new();
    let mut collections: BTreeMap<String, Arc<Collection>> = BTreeMap::new();
    let served: Vec<&str> = TABLE.lines().filter_map(|line| line.strip_prefix("version ")).collect();
    let (mut group, mut version) = ("", "");
    for line in TABLE.lines() {
        if let Some(gv) = line.strip_prefix("version ") {
            (group, version) = gv.split_once('/').unwrap_or(("", gv));
        } else if let Some(rest) = line.strip_prefix("  sub ") {
            let mut words = rest.split(' ');
            let name = words.next().unwrap_or_default();
            let verbs = words.nth(1).unwrap_or_default();
            if let Some(resource) = resources.last_mut() {
                resource.subresources.insert(name.to_owned(), list(verbs));
            }
        } else if let Some(rest) = line.strip_prefix(" kind ") {
            resources.push(row(group, version, rest, &served, &mut collections));
        }
    }
    resources
}

fn list(words: &str) -> Vec<String> {
    words.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn row(
    group: &str,
    version: &str,
    text: &str,
    served: &[&str],
    collections: &mut BTreeMap<String, Arc<Collection>>,
) -> Resource {
    let words: Vec<&str> = text.split(' ').collect();
    let word = |index: usize| words.get(index).copied().unwrap_or_default();
    let attribute = |name: &str| {
        words.iter().find_map(|word| word.strip_prefix(name).and_then(|rest| rest.strip_prefix('='))).unwrap_or_default()
    };
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let key = attribute("key");
    let storage = attribute("storage");
    let is_served = served.iter().any(|one| one.trim_start_matches('/') == storage);
    let hub = if is_served { storage.to_owned() } else { api_version.clone() };
    let make = || {
        Arc::new(Collection {
            group_resource: GroupResource { group: group.to_owned(), resource: word(1).to_owned() },
            singular: word(2).to_owned(),
            kind: word(0).to_owned(),
            hub,
            prefix: if key.is_empty() { String::new() } else { format!("/registry/{key}/") },
            namespaced: word(3) == "namespaced",
            strategy: kinds::strategy(group, word(1)),
        })
    };
    let shared = !key.is_empty();
    let mut collection =
        if shared { Arc::clone(collections.entry(key.to_owned()).or_insert_with(make)) } else { make() };
    if collection.group_resource.group != group {
        // The same objects under another group: errors name the group asked.
        collection = Arc::new(Collection {
            group_resource: GroupResource { group: group.to_owned(), resource: word(1).to_owned() },
            singular: collection.singular.clone(),
            kind: collection.kind.clone(),
            hub: collection.hub.clone(),
            prefix: collection.prefix.clone(),
            namespaced: collection.namespaced,
            strategy: Arc::clone(&collection.strategy),
        });
    }
    Resource {
        convert: kinds::conversion(&collection.hub, &api_version, word(0)),
        collection,
        version: version.to_owned(),
        api_version,
        list_kind: format!("{}List", word(0)),
        short_names: list(attribute("short")),
        categories: list(attribute("cat")),
        verbs: list(word(5)),
        subresources: BTreeMap::new(),
        custom: false,
        row: crate::wire::Row {},
    }
}
