//! What readers need to know of a stored object without parsing it again:
//! where to splice, its labels and its selectable fields. Computed once for
//! each version of an object, at its write or at its first read.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::selector::LabelLookup;
use serde::Deserialize;
use serde_json::Value;
use store::Entry;

use crate::object::{self, Meta};
use crate::resource::Collection;

/// `metadata.labels` of one object.
pub(crate) struct Labels(BTreeMap<Box<str>, Box<str>>);

impl LabelLookup for Labels {
    fn label(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|value| &**value)
    }
}

/// Attached to a store entry, see [`Entry::facet`].
pub(crate) struct Facet {
    /// Range of `"metadata":{` in the value; `None` for foreign encodings,
    /// which are parsed at each read.
    pub splice: Option<(usize, usize)>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// The kind's selectable fields with their values.
    pub fields: Vec<(&'static str, Box<str>)>,
    /// `metadata.namespace`; empty for cluster scope.
    pub namespace: Box<str>,
    /// `metadata.name`.
    pub name: Box<str>,
}

impl Facet {
    /// From the object and its encoding.
    pub(crate) fn new(collection: &Collection, object: &Value, bytes: &[u8]) -> Self {
        let labels = object.meta("labels").as_object();
        Self {
            splice: object::splice_point(bytes),
            labels: Labels(
                labels
                    .into_iter()
                    .flatten()
                    .map(|(key, value)| (key.as_str().into(), value.as_str().unwrap_or_default().into()))
                    .collect(),
            ),
            fields: collection
                .strategy
                .selectable()
                .iter()
                .map(|field| (*field, collection.strategy.selectable_value(object, field).into()))
                .collect(),
            namespace: object.namespace().into(),
            name: object.name().into(),
        }
    }

    /// The facet of an entry, derived from its bytes if nobody did so yet.
    pub(crate) fn of(collection: &Collection, entry: &Entry) -> Arc<Self> {
        let derive = |entry: &Entry| {
            if collection.strategy.selectable().is_empty() {
                Self::light(entry)
            } else {
                let object = serde_json::from_slice(&entry.value).unwrap_or(Value::Null);
                Self::new(collection, &object, &entry.value)
            }
        };
        entry.facet(derive).expect("this crate attaches one type of facet only")
    }

    /// Metadata alone, without building a tree.
    fn light(entry: &Entry) -> Self {
        #[derive(Deserialize, Default)]
        struct Head {
            #[serde(default)]
            metadata: HeadMeta,
        }
        #[derive(Deserialize, Default)]
        struct HeadMeta {
            #[serde(default)]
            name: Box<str>,
            #[serde(default)]
            namespace: Box<str>,
            #[serde(default)]
            labels: Option<BTreeMap<Box<str>, Box<str>>>,
        }
        let head: Head = serde_json::from_slice(&entry.value).unwrap_or_default();
        Self {
            splice: object::splice_point(&entry.value),
            labels: Labels(head.metadata.labels.unwrap_or_default()),
            fields: Vec::new(),
            namespace: head.metadata.namespace,
            name: head.metadata.name,
        }
    }

    /// The value of a selectable field; `None` if the kind has no such field.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        match name {
            "metadata.name" => Some(&self.name),
            "metadata.namespace" => Some(&self.namespace),
            _ => self.fields.iter().find(|(field, _)| *field == name).map(|(_, value)| &**value),
        }
    }
}
