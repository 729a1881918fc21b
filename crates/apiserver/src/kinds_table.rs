//! The table of built-in kinds, and the form in which custom ones join it. What
//! a kind does differently is not here.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, LazyLock};

use api::gvk::{GroupVersion, GroupVersionKind, GroupVersionResource};
use api::schema::{Library, Schema};

/// A schema, built in or owned by a custom kind.
#[derive(Clone, Debug)]
pub enum SchemaRef {
    /// Of the generated table.
    Builtin(&'static Schema),
    /// Of a CustomResourceDefinition.
    Custom(Arc<Schema>),
}

impl Deref for SchemaRef {
    type Target = Schema;

    fn deref(&self) -> &Schema {
        match self {
            Self::Builtin(schema) => schema,
            Self::Custom(schema) => schema,
        }
    }
}

/// One resource in one served version.
#[derive(Clone, Debug)]
pub struct Kind {
    /// Group, version and kind.
    pub gvk: GroupVersionKind,
    /// Plural, as in paths.
    pub resource: Cow<'static, str>,
    /// `pod`
    pub singular: Cow<'static, str>,
    /// `po`
    pub short_names: Vec<Cow<'static, str>>,
    /// `all`
    pub categories: Vec<Cow<'static, str>>,
    /// In a namespace, or in the cluster.
    pub namespaced: bool,
    /// Sorted.
    pub verbs: Vec<Cow<'static, str>>,
    /// Sorted by name.
    pub subresources: Vec<Subresource>,
    /// `PodList`
    pub list_kind: Cow<'static, str>,
    /// The version that objects are stored in.
    pub storage_version: GroupVersion,
    /// What follows `/registry/` in the keys of its objects; empty for kinds
    /// that are not stored.
    pub storage_prefix: Cow<'static, str>,
    /// `storageVersionHash` of discovery; empty for kinds that are not stored.
    pub storage_hash: Cow<'static, str>,
    /// Its fields.
    pub schema: SchemaRef,
    /// Name of its definition in OpenAPI; empty for custom kinds.
    pub definition: Cow<'static, str>,
    /// What its definition says of it in OpenAPI; none for built-in kinds.
    pub published: Option<Arc<crate::openapi::published::Published>>,
}

/// A subresource of a [`Kind`].
#[derive(Clone, Debug)]
pub struct Subresource {
    /// `status`
    pub name: Cow<'static, str>,
    /// What is read and written there.
    pub gvk: GroupVersionKind,
    /// Its group and version stand in discovery because they are another's.
    pub foreign: bool,
    /// Sorted.
    pub verbs: Vec<Cow<'static, str>>,
}

impl Kind {
    /// Group, version and plural.
    pub fn gvr(&self) -> GroupVersionResource {
        GroupVersionResource { group_version: self.gvk.group_version.clone(), resource: self.resource.to_string() }
    }

    /// True if the verb is served.
    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.iter().any(|known| known == verb)
    }

    /// The subresource of this name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|subresource| subresource.name == name)
    }
}

/// Every built-in kind, in discovery's order.
#[derive(Debug)]
pub struct KindTable {
    kinds: Vec<Kind>,
    by_resource: HashMap<(&'static str, &'static str, &'static str), usize>,
    library: &'static Library,
}

/// The built-in kinds.
pub fn builtin() -> &'static KindTable {
    static TABLE: LazyLock<KindTable> = LazyLock::new(|| {
        KindTable::load(include_str!("../generated/kinds.txt"), include_str!("../generated/schemas.txt"))
            .expect("the generated tables are read whole by a test")
    });
    &TABLE
}

/// A generated table that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The table of types.
    #[error("types")]
    Schemas(#[source] api::schema::TableError),
    /// A line of the table of kinds.
    #[error("kinds: line {line:?}")]
    Kinds {
        /// The line.
        line: String,
    },
}

impl KindTable {
    fn load(kinds: &'static str, schemas: &'static str) -> Result<Self, TableError> {
        let library = Library::load(schemas).map_err(TableError::Schemas)?;
        let mut table = Self { kinds: Vec::new(), by_resource: HashMap::new(), library };
        let mut version = ("", "");
        for line in kinds.lines().filter(|line| !line.starts_with('#')) {
            let broken = || TableError::Kinds { line: line.to_owned() };
            let words: Vec<&'static str> = line.trim_start().split(' ').collect();
            match words.as_slice() {
                ["version", name] => version = name.split_once('/').ok_or_else(broken)?,
                ["kind", rest @ ..] => table.add(version, rest).ok_or_else(broken)?,
                ["sub", name, kind, verbs, rest @ ..] => {
                    let parent = table.kinds.last_mut().ok_or_else(broken)?;
                    parent.subresources.push(subresource(parent, name, kind, verbs, rest));
                }
                _ => return Err(broken()),
            }
        }
        Ok(table)
    }

    fn add(&mut self, (group, version): (&'static str, &'static str), words: &[&'static str]) -> Option<()> {
        let [kind, resource, singular, scope, definition, verbs, attributes @ ..] = words else { return None };
        let attribute = |key: &str| attributes.iter().find_map(|attribute| attribute.strip_prefix(key)).unwrap_or("");
        let list = |text: &'static str| text.split(',').filter(|part| !part.is_empty()).map(Cow::Borrowed).collect();
        self.by_resource.insert((group, version, resource), self.kinds.len());
        self.kinds.push(Kind {
            gvk: GroupVersionKind { group_version: GroupVersion::new(group, version), kind: (*kind).to_owned() },
            resource: Cow::Borrowed(resource),
            singular: Cow::Borrowed(singular),
            short_names: list(attribute("short=")),
            categories: list(attribute("cat=")),
            namespaced: *scope == "namespaced",
            verbs: list(verbs),
            subresources: Vec::new(),
            list_kind: format!("{kind}List").into(),
            storage_version: GroupVersion::parse(attribute("storage="))?,
            storage_prefix: Cow::Borrowed(attribute("key=")),
            storage_hash: Cow::Borrowed(attribute("hash=")),
            schema: SchemaRef::Builtin(self.library.get(definition)?.lazy_schema()),
            definition: self.library.get(definition)?.full_name().into(),
            published: None,
        });
        Some(())
    }

    /// The kind of a resource.
    pub fn get(&self, group: &str, version: &str, resource: &str) -> Option<&Kind> {
        self.by_resource.get(&(group, version, resource)).and_then(|index| self.kinds.get(*index))
    }

    /// The kind of an object.
    pub fn by_kind(&self, gvk: &GroupVersionKind) -> Option<&Kind> {
        self.kinds.iter().find(|kind| kind.gvk == *gvk)
    }

    /// All kinds, in discovery's order.
    pub fn iter(&self) -> impl Iterator<Item = &Kind> {
        self.kinds.iter()
    }

    /// A type by its name in OpenAPI, or by its short name, `meta.v1.DeleteOptions`.
    pub fn definition(&self, name: &str) -> Option<&'static Schema> {
        Some(self.library.get(name)?.schema())
    }

    /// Every built-in type.
    pub fn library(&self) -> &'static Library {
        self.library
    }
}

fn subresource(
    parent: &Kind,
    name: &'static str,
    kind: &'static str,
    verbs: &'static str,
    attributes: &[&'static str],
) -> Subresource {
    let foreign = attributes.iter().find_map(|attribute| attribute.strip_prefix("gv=")).and_then(GroupVersion::parse);
    Subresource {
        name: Cow::Borrowed(name),
        foreign: foreign.is_some(),
        gvk: GroupVersionKind {
            group_version: foreign.unwrap_or_else(|| parent.gvk.group_version.clone()),
            kind: kind.to_owned(),
        },
        verbs: verbs.split(',').map(Cow::Borrowed).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generated_tables_are_read_whole() {
        let table = builtin();
        assert_eq!(table.iter().count(), 68);
        for definition in table.library().definitions() {
            definition.schema();
        }
        let pods = table.get("", "v1", "pods").unwrap();
        assert_eq!((pods.storage_prefix.as_ref(), pods.singular.as_ref()), ("pods", "pod"));
        assert_eq!(pods.subresource("eviction").unwrap().gvk.group_version.group, "policy");
        let hpa = table.get("autoscaling", "v1", "horizontalpodautoscalers").unwrap();
        assert_eq!(hpa.storage_version, GroupVersion::new("autoscaling", "v2"));
        assert_eq!(table.get("", "v1", "services").unwrap().storage_prefix, "services/specs");
    }
}
