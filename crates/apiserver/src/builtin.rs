//! The built-in kinds: rows of the generated table joined with the strategies
//! of [`crate::kinds`]. A kind without a strategy of its own differs in
//! nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::gvk::GroupResource;

use crate::discovery::KindRef;
use crate::kinds;
use crate::kinds_table::{self, Kind};
use crate::resource::{Collection, Resource};

/// All built-in resources in all served versions.
pub(crate) fn resources() -> Vec<Resource> {
    let mut collections: BTreeMap<&'static str, Arc<Collection>> = BTreeMap::new();
    kinds_table::builtin().iter().map(|row| resource(row, &mut collections)).collect()
}

fn resource(row: &'static Kind, collections: &mut BTreeMap<&'static str, Arc<Collection>>) -> Resource {
    let group_version = &row.gvk.group_version;
    let api_version = group_version.to_string();
    let key: &'static str = &row.storage_prefix;
    let collection = if key.is_empty() {
        Arc::new(collection(row, &api_version))
    } else {
        let shared = collections.entry(key).or_insert_with(|| Arc::new(collection(row, &api_version)));
        if shared.group_resource.group == group_version.group {
            Arc::clone(shared)
        } else {
            // The same objects under another group: errors name the group asked.
            let hub = shared.hub.clone();
            Arc::new(Collection { hub, ..collection(row, &api_version) })
        }
    };
    let strings = |list: &[std::borrow::Cow<'static, str>]| list.iter().map(|one| one.to_string()).collect();
    Resource {
        deprecation: None,
        convert: kinds::conversion(&collection.hub, &api_version, &row.gvk.kind),
        collection,
        version: group_version.version.clone(),
        api_version,
        list_kind: row.list_kind.to_string(),
        verbs: strings(&row.verbs),
        subresources: row.subresources.iter().map(|one| (one.name.to_string(), strings(&one.verbs))).collect(),
        custom: false,
        row: KindRef::Builtin(row),
    }
}

fn collection(row: &'static Kind, api_version: &str) -> Collection {
    let group_version = &row.gvk.group_version;
    let storage = kinds_table::builtin().get(&row.storage_version.group, &row.storage_version.version, &row.resource);
    Collection {
        group_resource: GroupResource { group: group_version.group.clone(), resource: row.resource.to_string() },
        singular: row.singular.to_string(),
        kind: row.gvk.kind.clone(),
        hub: storage.map_or_else(|| api_version.to_owned(), |row| row.gvk.group_version.to_string()),
        prefix: if row.storage_prefix.is_empty() {
            String::new()
        } else {
            format!("/registry/{}/", row.storage_prefix)
        },
        namespaced: row.namespaced,
        strategy: kinds::strategy(&row.gvk.group_version.group, &row.resource),
    }
}
