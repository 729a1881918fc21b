//! What a kind may say for itself. The pipeline does everything else: a
//! strategy never authorizes, commits, watches or builds a `Status`.

use serde_json::Value;

use crate::field::Errors;
use crate::validation::names::NameRule;

/// Which part of the object a write is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    /// The object itself: its status is kept.
    Main,
    /// `/status`: all but the status (and some metadata) is kept.
    Status,
    /// Another subresource that writes the object, by its name.
    Other(&'static str),
}

/// When a write raises `metadata.generation`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Generation {
    /// The kind has no generation.
    None,
    /// 1 for ever.
    Fixed,
    /// Set to 1 at creation, raised when anything but metadata and status changes.
    Spec,
    /// The same, and by annotations.
    SpecAndAnnotations,
    /// The same as `Spec`, and by labels.
    SpecAndLabels,
    /// Not set at creation, raised like `Spec`.
    Changes,
}

/// What the garbage collector does with dependents unless told otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dependents {
    /// Deleted in the background.
    Delete,
    /// Left, with the `orphan` finalizer.
    Orphan,
    /// Left alone (`Unsupported` upstream: finalizers are never set).
    Unsupported,
}

/// A column of `kubectl get`.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    /// Heading.
    pub name: String,
    /// `string`, `integer`, `date`, …
    pub kind: String,
    /// `name` for the name; mostly empty.
    pub format: String,
    /// Field documentation.
    pub description: String,
    /// 0 is always shown, 1 only wide.
    pub priority: i32,
}

/// Facts about the write that strategies may use.
pub(crate) struct Write<'a> {
    /// Who writes.
    pub user: &'a crate::access::UserInfo,
    /// The instant of the write, RFC 3339 in whole seconds.
    pub now: &'a str,
    /// Which part is written.
    pub part: Part,
    /// Warnings for the client, in order.
    pub warnings: &'a mut Vec<String>,
}

/// The functions in which kinds differ. Objects are in the hub (storage)
/// version. Every default is what most kinds do.
pub(crate) trait Strategy: Send + Sync + 'static {
    /// Fills in what the client left out. Runs on every decoded object, so it
    /// must be idempotent.
    fn default(&self, _object: &mut Value) {}

    /// Sets and drops fields before validation at creation.
    fn prepare_create(&self, _object: &mut Value, _write: &mut Write<'_>) {}

    /// Sets and drops fields before validation of an update. Status and main
    /// part are already kept apart.
    fn prepare_update(&self, _new: &mut Value, _old: &Value, _write: &mut Write<'_>) {}

    /// Rules for a new object, beyond metadata.
    fn validate_create(&self, _object: &Value, _errors: &mut Errors) {}

    /// Rules for a changed object, beyond metadata. `part` is what is written.
    fn validate_update(&self, _new: &Value, _old: &Value, _part: Part, _errors: &mut Errors) {}

    /// Form of `metadata.name`.
    fn name_rule(&self) -> NameRule {
        NameRule::Subdomain
    }

    /// When the generation is raised.
    fn generation(&self) -> Generation {
        Generation::None
    }

    /// Top-level fields that only `/status` writes; empty for kinds without
    /// that subresource.
    fn status_fields(&self) -> &'static [&'static str] {
        &["status"]
    }

    /// True if a creation may bring its status along.
    fn keeps_status_at_creation(&self) -> bool {
        false
    }

    /// True if `/status` may also change metadata (labels, annotations,
    /// finalizers); most kinds keep theirs.
    fn status_writes_metadata(&self) -> bool {
        true
    }

    /// Paths that writes of the object set back, so that nobody owns them there.
    fn reset_on_main(&self) -> &'static [&'static str] {
        &["status"]
    }

    /// Paths that writes of the status set back.
    fn reset_on_status(&self) -> &'static [&'static str] {
        &["spec"]
    }

    /// True if PUT may create.
    fn create_on_update(&self) -> bool {
        false
    }

    /// True if PUT needs no resourceVersion.
    fn unconditional_update(&self) -> bool {
        true
    }

    /// True if a deletion answers with the object, not with a `Status`.
    fn returns_deleted(&self) -> bool {
        false
    }

    /// The grace period in seconds with which this object is deleted, given
    /// what was asked; `None` if the kind knows no grace.
    fn grace(&self, _object: &Value, _asked: Option<i64>) -> Option<i64> {
        None
    }

    /// What happens to dependents by default.
    fn dependents(&self) -> Dependents {
        Dependents::Delete
    }

    /// Fields that field selectors may name, beside `metadata.name` and
    /// `metadata.namespace`.
    fn selectable(&self) -> &'static [&'static str] {
        &[]
    }

    /// The refusal of another field in a selector.
    fn unknown_field(&self, api_version: &str, kind: &str, field: &str) -> String {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        if self.selectable().is_empty() {
            return format!(
                "\"{field}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
            );
        }
        let _ = (group, version, kind);
        format!("field label not supported: {field}")
    }

    /// The text of a selectable field.
    fn selectable_value(&self, object: &Value, field: &str) -> String {
        match crate::object::at(object, field) {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        }
    }

    /// Where `/scale` finds its numbers, if not where built-in kinds have them.
    fn scale_paths(&self, _version: &str) -> Option<crate::subresources::ScalePaths> {
        None
    }

    /// Columns of a table; the default is name and age.
    fn columns(&self) -> Vec<Column> {
        crate::table::name_and_age()
    }

    /// The cells of a row, one per column. `now` in seconds since the epoch.
    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        crate::table::name_and_age_cells(object, now)
    }
}

/// A kind that differs in nothing.
pub(crate) struct Plain;

impl Strategy for Plain {}
