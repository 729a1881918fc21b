//! The strategy of a custom kind: everything it knows comes from its definition.

use api::schema::{CrdSchemaError, Schema};
use serde_json::{Value, json};

use super::column::Printer;
use super::rules::Rules;
use super::{object_meta, validate, versions};
use crate::codec;
use crate::field::Errors;
use crate::object::{self, Meta};
use crate::strategy::{Column, Generation, Part, Strategy, Write};
use crate::subresources::ScalePaths;

/// A custom kind.
pub(super) struct Custom {
    versions: Vec<Version>,
    selectable: Vec<String>,
}

struct Version {
    name: String,
    api_version: String,
    open_api: Value,
    rules: Option<Rules>,
    schema: Schema,
    status: bool,
    scale: Option<(String, String, Option<String>)>,
    columns: Vec<Printer>,
}

impl Custom {
    /// Reads a definition.
    pub(super) fn new(definition: &Value) -> Result<Self, CrdSchemaError> {
        let group = object::text(definition, "spec.group");
        let mut all = Vec::new();
        for version in versions(definition) {
            let name = version["name"].as_str().unwrap_or_default();
            let open_api = object::at(version, "schema.openAPIV3Schema").clone();
            static ANY: std::sync::LazyLock<Schema> = std::sync::LazyLock::new(Schema::default);
            let schema = Schema::from_crd(&open_api, object_meta().unwrap_or(&ANY))?;
            let scale = version["subresources"]["scale"].as_object().map(|scale| {
                let path = |field: &str| {
                    scale.get(field).and_then(Value::as_str).map(|text| text.trim_start_matches('.').to_owned())
                };
                let some = |field: &str| path(field).unwrap_or_default();
                (some("specReplicasPath"), some("statusReplicasPath"), path("labelSelectorPath"))
            });
            all.push(Version {
                name: name.to_owned(),
                api_version: format!("{group}/{name}"),
                rules: Rules::new(&open_api),
                open_api,
                schema,
                status: version["subresources"]["status"].is_object(),
                scale,
                columns: Printer::all(object::items(version, "additionalPrinterColumns")),
            });
        }
        let storage = versions(definition).iter().find(|one| one["storage"] == true);
        let fields = storage.map(|one| object::items(one, "selectableFields")).unwrap_or_default();
        let selectable = fields.iter().filter_map(|one| one["jsonPath"].as_str());
        Ok(Self { versions: all, selectable: selectable.map(|path| path.trim_start_matches('.').to_owned()).collect() })
    }

    fn version(&self, name: &str) -> Option<&Version> {
        self.versions.iter().find(|one| one.name == name)
    }

    fn version_of(&self, object: &Value) -> Option<&Version> {
        let api_version = object["apiVersion"].as_str().unwrap_or_default();
        self.versions.iter().find(|one| one.api_version == api_version)
    }

    fn validate(&self, object: &Value, old: Option<&Value>, part: Part, errors: &mut Errors) {
        let Some(version) = self.version_of(object) else { return };
        match part {
            Part::Status => validate::status(object, &version.open_api, errors),
            _ => validate::object(object, &version.open_api, errors),
        }
        match &version.rules {
            Some(_) if errors.blocks_rules() => errors.rules_not_checked(),
            Some(rules) => rules.validate(object, old, errors),
            None => {}
        }
    }
}

impl Strategy for Custom {
    fn default(&self, object: &mut Value) {
        let Some(version) = self.version_of(object) else { return };
        codec::defaults(object, &version.schema);
    }

    fn prepare_create(&self, _object: &mut Value, _write: &mut Write<'_>) {}

    fn prepare_update(&self, new: &mut Value, old: &Value, write: &mut Write<'_>) {
        if write.part == Part::Status {
            // A status write changes nothing of the metadata but who wrote it.
            for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
                object::set_meta(new, field, old.meta(field).clone());
            }
        }
    }

    fn validate_create(&self, object: &Value, errors: &mut Errors) {
        self.validate(object, None, Part::Main, errors);
    }

    fn validate_update(&self, new: &Value, old: &Value, part: Part, errors: &mut Errors) {
        self.validate(new, Some(old), part, errors);
    }

    fn generation(&self) -> Generation {
        Generation::Spec
    }

    fn status_fields(&self) -> &'static [&'static str] {
        if self.versions.iter().any(|one| one.status) { &["status"] } else { &[] }
    }

    fn reset_on_main(&self) -> &'static [&'static str] {
        self.status_fields()
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn selectable(&self) -> Vec<&str> {
        self.selectable.iter().map(String::as_str).collect()
    }

    fn scale_paths(&self, version: &str) -> Option<ScalePaths> {
        let (replicas, status, selector) = self.version(version)?.scale.clone()?;
        Some(ScalePaths { replicas, status, selector })
    }

    fn columns_in(&self, version: &str) -> Vec<Column> {
        let printers = self.version(version).map(|one| one.columns.as_slice()).unwrap_or_default();
        let mut columns = vec![crate::table::name()];
        columns.extend(printers.iter().map(Printer::column));
        if printers.is_empty() {
            columns.push(Column { kind: "date".to_owned(), ..crate::table::age() });
        }
        columns
    }

    fn cells_in(&self, version: &str, object: &Value, now: i64) -> Vec<Value> {
        let printers = self.version(version).map(|one| one.columns.as_slice()).unwrap_or_default();
        let mut cells = vec![json!(object.name())];
        cells.extend(printers.iter().map(|printer| printer.cell(object, now)));
        if printers.is_empty() {
            cells.push(crate::table::age_cell(object, now));
        }
        cells
    }
}
