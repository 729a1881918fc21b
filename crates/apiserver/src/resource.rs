//! The catalogue of what is served: one [`Resource`] for each resource in each
//! served version, and one [`Collection`] for the objects behind it. Built-in
//! rows come from the generated table, the others from definitions; both look
//! the same from here on. Holds no objects.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use api::gvk::GroupResource;
use serde_json::Value;

use crate::strategy::Strategy;

/// The objects of one kind, whatever versions they are served in.
pub(crate) struct Collection {
    /// Group and plural, as errors name it.
    pub group_resource: GroupResource,
    /// Singular resource name.
    pub singular: String,
    /// Kind.
    pub kind: String,
    /// `apiVersion` in which objects are stored and strategies see them.
    pub hub: String,
    /// Key prefix with a slash at its end: `/registry/pods/`.
    pub prefix: String,
    /// False for cluster scope.
    pub namespaced: bool,
    /// What the kind says for itself.
    pub strategy: Arc<dyn Strategy>,
}

impl Collection {
    /// The store key of an object.
    pub(crate) fn key(&self, namespace: &str, name: &str) -> Arc<str> {
        if self.namespaced {
            format!("{}{namespace}/{name}", self.prefix).into()
        } else {
            format!("{}{name}", self.prefix).into()
        }
    }

    /// The prefix of all keys in a namespace; of all keys without one.
    pub(crate) fn range(&self, namespace: &str) -> String {
        if self.namespaced && !namespace.is_empty() {
            format!("{}{namespace}/", self.prefix)
        } else {
            self.prefix.clone()
        }
    }
}

/// A resource in one served version.
pub(crate) struct Resource {
    /// Its objects.
    pub collection: Arc<Collection>,
    /// `v1`.
    pub version: String,
    /// `apps/v1`.
    pub api_version: String,
    /// Kind of a list.
    pub list_kind: String,
    /// Verbs of the resource itself.
    pub verbs: Vec<String>,
    /// Subresources with their verbs.
    pub subresources: BTreeMap<String, Vec<String>>,
    /// Turns a hub object into this version and back; `None` where the
    /// versions differ in nothing but their name.
    pub convert: Option<Conversion>,
    /// What clients of this version are told, if it is deprecated.
    pub deprecation: Option<String>,
    /// True for kinds from definitions: list items carry kind and version.
    pub custom: bool,
    /// Its row: schema and what discovery says.
    pub row: crate::discovery::KindRef,
}

/// Functions between a served version and the hub.
#[derive(Clone, Copy)]
pub(crate) struct Conversion {
    /// Served to hub.
    pub to_hub: fn(&mut Value),
    /// Hub to served.
    pub from_hub: fn(&mut Value),
}

impl Resource {
    /// Turns a decoded object of this version into its hub form.
    pub(crate) fn to_hub(&self, object: &mut Value) {
        if let Some(convert) = self.convert {
            (convert.to_hub)(object);
        }
        self.label(object, &self.collection.hub);
    }

    /// Turns a hub object into this version.
    #[expect(clippy::wrong_self_convention, reason = "it is the opposite of `to_hub`")]
    pub(crate) fn from_hub(&self, object: &mut Value) {
        if let Some(convert) = self.convert {
            (convert.from_hub)(object);
        }
        // Versions of a custom kind differ in their fields, not in what they mean.
        if self.custom
            && !self.serves_stored()
            && let Ok(known) = crate::codec::conform(object, &self.row.schema)
        {
            *object = known.object;
            crate::codec::defaults(object, &self.row.schema);
        }
        self.label(object, &self.api_version);
    }

    /// True if stored bytes can be served as they are.
    pub(crate) fn serves_stored(&self) -> bool {
        self.api_version == self.collection.hub
    }

    fn label(&self, object: &mut Value, api_version: &str) {
        let map = crate::object::as_map(object);
        map.insert("apiVersion".to_owned(), api_version.into());
        map.insert("kind".to_owned(), self.collection.kind.as_str().into());
    }

    /// True if the resource (or its subresource, if not empty) takes the verb.
    pub(crate) fn allows(&self, subresource: &str, verb: &str) -> bool {
        let verbs = if subresource.is_empty() { Some(&self.verbs) } else { self.subresources.get(subresource) };
        verbs.is_some_and(|verbs| verbs.iter().any(|one| one == verb))
    }

    /// The group.
    pub(crate) fn group(&self) -> &str {
        &self.collection.group_resource.group
    }

    /// The kind.
    pub(crate) fn kind(&self) -> &str {
        &self.collection.kind
    }
}

/// Key of a resource: group, version, plural.
type ResourceKey = (String, String, String);

/// All that is served, looked up by group, version and plural.
#[derive(Default)]
pub(crate) struct Catalog {
    resources: RwLock<Arc<BTreeMap<ResourceKey, Arc<Resource>>>>,
    /// Kinds that are answered beside the pipeline and only shown in discovery.
    beside: Vec<Arc<crate::kinds_table::Kind>>,
    served: RwLock<Option<Arc<crate::discovery::Served>>>,
}

impl Catalog {
    /// A catalogue of these; kinds `beside` the pipeline are in discovery only.
    pub(crate) fn new(
        resources: impl IntoIterator<Item = Resource>,
        beside: Vec<Arc<crate::kinds_table::Kind>>,
    ) -> Self {
        let catalog = Self { beside, ..Self::default() };
        catalog.change(|map| {
            for resource in resources {
                map.insert(key_of(&resource), Arc::new(resource));
            }
        });
        catalog
    }

    /// True if kinds of this group come with the server.
    pub(crate) fn is_built_in(&self, group: &str) -> bool {
        let snapshot = self.snapshot();
        let from = (group.to_owned(), String::new(), String::new());
        let mut of_group = snapshot.range(from..).take_while(|((name, _, _), _)| name == group);
        of_group.any(|(_, resource)| !resource.custom)
    }

    /// A resource in a version.
    pub(crate) fn get(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        let key = (group.to_owned(), version.to_owned(), plural.to_owned());
        self.snapshot().get(&key).cloned()
    }

    /// Any version of a resource, the hub's if it is served.
    pub(crate) fn by_resource(&self, group: &str, plural: &str) -> Option<Arc<Resource>> {
        let snapshot = self.snapshot();
        let mut versions = snapshot
            .values()
            .filter(|resource| resource.group() == group && resource.collection.group_resource.resource == plural);
        let first = versions.next()?;
        Some(std::iter::once(first).chain(versions).find(|resource| resource.serves_stored()).unwrap_or(first).clone())
    }

    /// All resources now, in order of group, version and plural.
    pub(crate) fn snapshot(&self) -> Arc<BTreeMap<ResourceKey, Arc<Resource>>> {
        Arc::clone(&self.resources.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Replaces all rows of a custom group and plural by these.
    pub(crate) fn replace_custom(&self, group: &str, plural: &str, resources: Vec<Resource>) {
        self.change(|map| {
            map.retain(|(g, _, p), resource| !(resource.custom && g == group && p == plural));
            for resource in resources {
                map.insert(key_of(&resource), Arc::new(resource));
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<ResourceKey, Arc<Resource>>)) {
        let mut held = self.resources.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut map = BTreeMap::clone(&held);
        change(&mut map);
        *held = Arc::new(map);
        *self.served.write().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
    }

    /// What discovery says, computed after each change once.
    pub(crate) fn served(&self) -> Arc<crate::discovery::Served> {
        if let Some(served) = &*self.served.read().unwrap_or_else(std::sync::PoisonError::into_inner) {
            return Arc::clone(served);
        }
        let snapshot = self.snapshot();
        let custom = snapshot.values().filter_map(|resource| match &resource.row {
            crate::discovery::KindRef::Custom(kind) => Some(Arc::clone(kind)),
            crate::discovery::KindRef::Builtin(_) => None,
        });
        let served = Arc::new(crate::discovery::Served::new(custom.chain(self.beside.iter().cloned())));
        *self.served.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Arc::clone(&served));
        served
    }
}

fn key_of(resource: &Resource) -> ResourceKey {
    let name = &resource.collection.group_resource;
    (name.group.clone(), resource.version.clone(), name.resource.clone())
}
