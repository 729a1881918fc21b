//! Field errors: what is wrong with which field, in upstream's words
//! (`apimachinery/pkg/util/validation/field`, 1.36). Decides no rule.

use std::fmt::{self, Write as _};

use api::status::StatusCause;
use serde_json::Value;

/// A field's place: `spec.containers[0].image`. Cheap to extend while walking.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Root,
    Name(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// The object itself.
    pub(crate) const ROOT: Path<'static> = Path { parent: None, step: Step::Root };

    /// A top-level field; dots in the name are taken as they are.
    pub(crate) const fn new(name: &'a str) -> Self {
        Self { parent: None, step: Step::Name(name) }
    }

    /// A field of this one.
    pub(crate) fn child<'b>(&'b self, name: &'b str) -> Path<'b> {
        Path { parent: Some(self), step: Step::Name(name) }
    }

    /// An item of this list.
    pub(crate) fn index(&self, index: usize) -> Path<'_> {
        Path { parent: Some(self), step: Step::Index(index) }
    }

    /// An entry of this map.
    pub(crate) fn key<'b>(&'b self, key: &'b str) -> Path<'b> {
        Path { parent: Some(self), step: Step::Key(key) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            write!(f, "{parent}")?;
        }
        let below_root = self.parent.is_some_and(|parent| !matches!(parent.step, Step::Root));
        match self.step {
            Step::Root => Ok(()),
            Step::Name(name) if below_root => write!(f, ".{name}"),
            Step::Name(name) => f.write_str(name),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// The findings of one validation, in order.
#[derive(Default, Debug)]
pub(crate) struct Errors(Vec<StatusCause>);

impl Errors {
    /// Nothing found yet.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// True while nothing was found.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The findings as causes of a `Status`.
    pub(crate) fn into_causes(self) -> Vec<StatusCause> {
        self.0
    }

    fn push(&mut self, reason: &str, field: &Path<'_>, message: String) {
        let field = field.to_string();
        self.0.push(StatusCause {
            reason: Some(reason.to_owned()),
            message: Some(message),
            field: (!field.is_empty()).then_some(field),
        });
    }

    /// The field must be set.
    pub(crate) fn required(&mut self, field: &Path<'_>, detail: &str) {
        self.push("FieldValueRequired", field, with_detail("Required value".to_owned(), detail));
    }

    /// The value breaks a rule.
    pub(crate) fn invalid(&mut self, field: &Path<'_>, value: &Value, detail: &str) {
        self.push("FieldValueInvalid", field, with_detail(format!("Invalid value: {}", Shown(value)), detail));
    }

    /// [`Self::invalid`] for a text.
    pub(crate) fn invalid_text(&mut self, field: &Path<'_>, value: &str, detail: &str) {
        let message = format!("Invalid value: {}", Quoted(value));
        self.push("FieldValueInvalid", field, with_detail(message, detail));
    }

    /// [`Self::invalid`] for a value that is too large to show.
    pub(crate) fn invalid_unshown(&mut self, field: &Path<'_>, detail: &str) {
        self.push_at_root("FieldValueInvalid", field, with_detail("Invalid value".to_owned(), detail));
    }

    /// [`Self::invalid`] for a value that is shown in words of its own.
    pub(crate) fn invalid_shown(&mut self, field: &Path<'_>, shown: &str, detail: &str) {
        self.push("FieldValueInvalid", field, with_detail(format!("Invalid value: {shown}"), detail));
    }

    /// The server cannot tell.
    pub(crate) fn internal(&mut self, field: &Path<'_>, detail: &str) {
        self.push("InternalError", field, with_detail("Internal error".to_owned(), detail));
    }

    /// Findings that leave open what the object is, so that rules about its
    /// values are not worth a look.
    pub(crate) fn blocks_rules(&self) -> bool {
        const BLOCKING: [&str; 5] = [
            "FieldValueNotSupported",
            "FieldValueRequired",
            "FieldValueTooLong",
            "FieldValueTooMany",
            "FieldValueTypeInvalid",
        ];
        self.0.iter().any(|cause| cause.reason.as_deref().is_some_and(|reason| BLOCKING.contains(&reason)))
    }

    /// Something about the object that no field is blamed for.
    pub(crate) fn whole(&mut self, detail: &str) {
        self.push_at_root("FieldValueInvalid", &Path::ROOT, with_detail("Invalid value: \"\"".to_owned(), detail));
    }

    /// Says that rules were not looked at.
    pub(crate) fn rules_not_checked(&mut self) {
        let detail = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
        self.push_at_root("FieldValueInvalid", &Path::ROOT, with_detail("Invalid value: null".to_owned(), detail));
    }

    /// Changes what the findings say.
    pub(crate) fn each_message(&mut self, change: impl Fn(&mut String)) {
        self.0.iter_mut().filter_map(|cause| cause.message.as_mut()).for_each(change);
    }

    /// Takes over what was found elsewhere.
    pub(crate) fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// The object itself has a name here, as Go prints a path of nothing.
    fn push_at_root(&mut self, reason: &str, field: &Path<'_>, message: String) {
        let name = if let Step::Root = field.step { Path::new("<nil>") } else { *field };
        self.push(reason, &name, message);
    }

    /// The value has the wrong type.
    pub(crate) fn type_invalid(&mut self, field: &Path<'_>, value: &Value, detail: &str) {
        self.push("FieldValueTypeInvalid", field, with_detail(format!("Invalid value: {}", Shown(value)), detail));
    }

    /// The value is none of the supported ones. `supported` keeps its order;
    /// upstream lists these sorted where they come from a set.
    pub(crate) fn not_supported(&mut self, field: &Path<'_>, value: &Value, supported: &[&str]) {
        let mut message = format!("Unsupported value: {}", Shown(value));
        if !supported.is_empty() {
            message.push_str(": supported values: ");
            for (index, one) in supported.iter().enumerate() {
                let comma = if index == 0 { "" } else { ", " };
                write!(message, "{comma}{}", Quoted(one)).expect("a String takes any text");
            }
        }
        self.push("FieldValueNotSupported", field, message);
    }

    /// The value occurs twice.
    pub(crate) fn duplicate(&mut self, field: &Path<'_>, value: &Value) {
        self.push("FieldValueDuplicate", field, format!("Duplicate value: {}", Shown(value)));
    }

    /// The field must not be set (here, now, to this).
    pub(crate) fn forbidden(&mut self, field: &Path<'_>, detail: &str) {
        self.push("FieldValueForbidden", field, with_detail("Forbidden".to_owned(), detail));
    }

    /// The text is longer than `limit` bytes.
    pub(crate) fn too_long(&mut self, field: &Path<'_>, limit: usize) {
        let bytes = if limit == 1 { "byte" } else { "bytes" };
        self.push("FieldValueTooLong", field, format!("Too long: may not be more than {limit} {bytes}"));
    }

    /// The list or map has more than `limit` items.
    pub(crate) fn too_many(&mut self, field: &Path<'_>, actual: usize, limit: usize) {
        let items = if limit == 1 { "item" } else { "items" };
        self.push("FieldValueTooMany", field, format!("Too many: {actual}: must have at most {limit} {items}"));
    }
}

fn with_detail(mut message: String, detail: &str) -> String {
    if !detail.is_empty() {
        message.push_str(": ");
        message.push_str(detail);
    }
    message
}

/// A value as Go prints it in field errors: texts quoted, nil as `null`,
/// structures as JSON.
struct Shown<'a>(&'a Value);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::String(text) => write!(f, "{}", Quoted(text)),
            Value::Number(number) => write!(f, "{number}"),
            other => write!(f, "{other}"),
        }
    }
}

/// A text as Go's `%q` prints it.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\u{07}' => f.write_str("\\a")?,
                '\u{08}' => f.write_str("\\b")?,
                '\u{0c}' => f.write_str("\\f")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                '\u{0b}' => f.write_str("\\v")?,
                c if (c as u32) < 0x20 || c as u32 == 0x7f => write!(f, "\\x{:02x}", c as u32)?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_messages_read_as_upstream_writes_them() {
        let mut errors = Errors::new();
        let spec = Path::new("spec");
        let containers = spec.child("containers");
        let first = containers.index(0);
        errors.required(&first.child("name"), "");
        errors.invalid(&spec.child("replicas"), &Value::from(-1), "must be greater than or equal to 0");
        errors.not_supported(&Path::new("type"), &Value::from("x"), &["A", "B"]);
        errors.too_many(&Path::ROOT, 3, 2);
        let lines: Vec<String> = errors.into_causes().iter().map(StatusCause::line).collect();
        assert_eq!(
            lines,
            [
                "spec.containers[0].name: Required value",
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
                "type: Unsupported value: \"x\": supported values: \"A\", \"B\"",
                "Too many: 3: must have at most 2 items",
            ]
        );
    }
}
