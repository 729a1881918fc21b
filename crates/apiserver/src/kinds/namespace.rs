//! Namespaces.

use serde_json::{Value, json};

use crate::object::{self, Meta};
use crate::strategy::{Column, Part, Strategy, Write};
use crate::table;
use crate::validation::names::NameRule;

pub(super) struct Namespace;

impl Strategy for Namespace {
    fn default(&self, object: &mut Value) {
        let name = object.name().to_owned();
        if name.is_empty() {
            return;
        }
        let labels = object::metadata(object).entry("labels").or_insert_with(|| json!({}));
        object::as_map(labels).insert("kubernetes.io/metadata.name".to_owned(), name.into());
    }

    fn prepare_create(&self, object: &mut Value, _write: &mut Write<'_>) {
        self.default(object);
        let has_kubernetes = object::items(object, "spec.finalizers").iter().any(|one| one == "kubernetes");
        if !has_kubernetes {
            let mut finalizers = object::items(object, "spec.finalizers").to_vec();
            finalizers.push("kubernetes".into());
            object::map_mut(object, "spec").insert("finalizers".to_owned(), finalizers.into());
        }
        object::as_map(object).insert("status".to_owned(), json!({"phase": "Active"}));
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, write: &mut Write<'_>) {
        if write.part == Part::Main {
            let map = object::as_map(new);
            match old.get("spec").and_then(|spec| spec.get("finalizers")) {
                Some(finalizers) => {
                    map.insert("spec".to_owned(), json!({"finalizers": finalizers}));
                }
                None => {
                    map.remove("spec");
                }
            }
        }
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Label
    }

    fn returns_deleted(&self) -> bool {
        true
    }

    fn selectable(&self) -> &'static [&'static str] {
        &["status.phase"]
    }

    fn columns(&self) -> Vec<Column> {
        vec![table::name(), table::column("Status", "string", 0, "The status of the namespace"), table::age()]
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        vec![object.name().into(), object::text(object, "status.phase").into(), table::age_cell(object, now)]
    }
}
