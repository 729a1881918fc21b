//! `x-kubernetes-validations`: rules of definitions, compiled once and held
//! against objects (`apiextensions-apiserver/pkg/apiserver/schema/cel`, 1.36).
//! Not for types and formats, which are checked first.

use serde_json::Value;

use crate::cel::{self, Fault, Meter, Program, Type, Val};
use crate::field::{Errors, Path};
use crate::object;

/// Work that one rule may take (`PerCallLimit`, upstream: about 0.1 s).
const RULE_LIMIT: u64 = 1_000_000;
/// Work that all rules of an object may take (`RuntimeCELCostBudget`: about 1 s).
const OBJECT_LIMIT: i64 = 10_000_000;
/// Longest message of an expression, bytes.
const MESSAGE_LIMIT: usize = 5 * 1024;
/// Nesting of schemas that is followed.
const DEPTH: usize = 64;

/// The rules of a schema and of all below it.
#[derive(Debug)]
pub(super) struct Rules {
    /// Only where there are rules: what values are read by.
    schema: Value,
    root: bool,
    rules: Vec<Rule>,
    items: Option<Box<Rules>>,
    keys: Vec<String>,
    properties: Vec<(String, Rules)>,
    values: Option<Box<Rules>>,
    all_of: Vec<Rules>,
}

#[derive(Debug)]
struct Rule {
    text: String,
    message: String,
    reason: String,
    /// Below the value that the rule is about, as errors write it.
    field: String,
    optional_old: bool,
    program: Result<Program, String>,
    message_expression: Option<Program>,
}

/// A value, what it was before, and whether what surrounds it is as it was.
#[derive(Clone, Copy)]
struct Seen<'a> {
    value: &'a Value,
    old: Option<&'a Value>,
    parent_unchanged: bool,
}

impl<'a> Seen<'a> {
    fn unchanged(&self) -> bool {
        self.old.map_or(self.parent_unchanged, |old| old == self.value)
    }

    /// A value within this one.
    fn below(&self, value: &'a Value, old: Option<&'a Value>, parent_unchanged: bool) -> Self {
        Self { value, old: old.filter(|old| !old.is_null()), parent_unchanged }
    }
}

/// What was found, and the work that is left.
struct Report<'a> {
    budget: i64,
    errors: &'a mut Errors,
}

fn text<'a>(rule: &'a Value, field: &str) -> &'a str {
    rule[field].as_str().unwrap_or_default()
}

fn rules_of(schema: &Value) -> &[Value] {
    schema["x-kubernetes-validations"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"].as_object().into_iter().flatten()
}

/// Why a rule cannot be used, in upstream's words.
fn compile(source: &str, kind: &Type, optional_old: bool) -> Result<Program, String> {
    let old = if optional_old { Type::optional(kind.clone()) } else { kind.clone() };
    Program::compile(source, &[("self", kind.clone()), ("oldSelf", old)])
}

fn compile_rule(rule: &Value, kind: &Type) -> Result<Program, String> {
    let program = compile(text(rule, "rule"), kind, rule["optionalOldSelf"] == true)
        .map_err(|error| format!("compilation failed: {error}"))?;
    match program.result() {
        Type::Bool => Ok(program),
        _ => Err("cel expression must evaluate to a bool".to_owned()),
    }
}

fn compile_message(rule: &Value, kind: &Type) -> Result<Program, String> {
    let program = compile(text(rule, "messageExpression"), kind, rule["optionalOldSelf"] == true)
        .map_err(|error| format!("messageExpression compilation failed: {error}"))?;
    match program.result() {
        Type::String => Ok(program),
        _ => Err("messageExpression must evaluate to a string".to_owned()),
    }
}

impl Rules {
    /// The rules of a version's schema; `None` if it has none.
    pub(super) fn new(schema: &Value) -> Option<Self> {
        Self::of(schema, schema, true, 0)
    }

    /// `node` says what values are, `schema` has the rules: another one only
    /// within `allOf`.
    fn of(schema: &Value, node: &Value, root: bool, depth: usize) -> Option<Self> {
        if depth > DEPTH {
            return None;
        }
        let root = root || node["x-kubernetes-embedded-resource"] == true;
        let written = rules_of(schema);
        let kind = if written.is_empty() { None } else { cel::declare(node, root) };
        let rules: Vec<Rule> = written
            .iter()
            .filter(|rule| !text(rule, "rule").trim().is_empty())
            .map(|rule| {
                let message = text(rule, "messageExpression");
                Rule {
                    text: text(rule, "rule").trim().to_owned(),
                    message: text(rule, "message").trim().to_owned(),
                    reason: text(rule, "reason").to_owned(),
                    field: field_path(text(rule, "fieldPath"), node).unwrap_or_default(),
                    optional_old: rule["optionalOldSelf"] == true,
                    program: match &kind {
                        Some(kind) => compile_rule(rule, kind),
                        None => Err("failed to convert to declType for CEL validation rules".to_owned()),
                    },
                    message_expression: match &kind {
                        Some(kind) if !message.is_empty() => compile_message(rule, kind).ok(),
                        _ => None,
                    },
                }
            })
            .collect();
        let inner = |field: &str| {
            let (schema, node) = (schema.get(field)?, node.get(field)?);
            Self::of(schema, node, false, depth + 1).map(Box::new)
        };
        let below = properties(schema).filter_map(|(name, schema)| {
            let rules = Self::of(schema, node["properties"].get(name)?, false, depth + 1)?;
            Some((name.clone(), rules))
        });
        let properties: Vec<(String, Rules)> = below.collect();
        let (items, values) = (inner("items"), inner("additionalProperties"));
        let all_of = schema["allOf"].as_array().into_iter().flatten();
        let all_of: Vec<Rules> = all_of.filter_map(|schema| Self::of(schema, node, root, depth + 1)).collect();
        if rules.is_empty() && properties.is_empty() && items.is_none() && values.is_none() && all_of.is_empty() {
            return None;
        }
        let keys = match node["x-kubernetes-list-type"].as_str() {
            Some("map") => object::items(node, "x-kubernetes-list-map-keys")
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            _ => Vec::new(),
        };
        let schema = if rules.is_empty() { Value::Null } else { node.clone() };
        Some(Self { schema, root, rules, items, keys, properties, values, all_of })
    }

    /// Holds an object against the rules. A violation that was there before
    /// and that the change did not touch is let pass.
    pub(super) fn validate(&self, object: &Value, old: Option<&Value>, errors: &mut Errors) {
        let mut report = Report { budget: OBJECT_LIMIT, errors };
        self.value(Seen { value: object, old, parent_unchanged: false }, &Path::ROOT, &mut report);
    }

    fn value(&self, seen: Seen<'_>, path: &Path<'_>, report: &mut Report<'_>) {
        if seen.value.is_null() || report.budget < 0 {
            return;
        }
        if !self.rules.is_empty() {
            self.here(seen, path, report);
        }
        for rules in &self.all_of {
            rules.value(seen, path, report);
        }
        match seen.value {
            Value::Array(all) => {
                let Some(rules) = &self.items else { return };
                let unchanged = seen.unchanged();
                let before = seen.old.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                for (index, item) in all.iter().enumerate() {
                    let same =
                        |one: &&Value| !self.keys.is_empty() && self.keys.iter().all(|key| one[key] == item[key]);
                    let old = before.iter().find(same);
                    rules.value(seen.below(item, old, unchanged), &path.index(index), report);
                }
            }
            Value::Object(map) => {
                let unchanged = seen.unchanged();
                let before = |name: &str| seen.old.and_then(|old| old.get(name));
                for (name, rules) in &self.properties {
                    if let Some(value) = map.get(name) {
                        rules.value(seen.below(value, before(name), unchanged), &path.child(name), report);
                    }
                }
                if let Some(rules) = &self.values {
                    for (name, value) in map {
                        rules.value(seen.below(value, before(name), unchanged), &path.key(name), report);
                    }
                }
            }
            _ => {}
        }
    }

    /// The rules about this value itself.
    fn here(&self, seen: Seen<'_>, path: &Path<'_>, report: &mut Report<'_>) {
        let Report { budget, errors } = report;
        let (value, unchanged) = (seen.value, seen.unchanged());
        let kind = &self.schema["type"];
        let kind = if kind.is_null() { Value::from("") } else { kind.clone() };
        let current = cel::value_of(value, &self.schema, self.root);
        let before = seen.old.map(|old| cel::value_of(old, &self.schema, self.root));
        for rule in &self.rules {
            if *budget <= 0 {
                let detail =
                    "validation failed due to running out of cost budget, no further validation rules will be run";
                errors.invalid(path, &kind, detail);
                *budget = -1;
                return;
            }
            let program = match &rule.program {
                Ok(program) => program,
                Err(error) => {
                    errors.invalid(path, &kind, &format!("rule compile error: {error}"));
                    continue;
                }
            };
            let uses_old = program.uses("oldSelf");
            if uses_old && before.is_none() && !rule.optional_old {
                continue;
            }
            let mut variables = vec![("self", current.clone())];
            match (&before, rule.optional_old) {
                (before, true) => variables.push(("oldSelf", Val::Optional(before.clone().map(std::sync::Arc::new)))),
                (Some(before), false) => variables.push(("oldSelf", before.clone())),
                (None, false) => {}
            }
            let mut meter = Meter::new(RULE_LIMIT);
            let result = program.evaluate(&variables, &mut meter);
            *budget -= i64::try_from(meter.spent()).unwrap_or(i64::MAX);
            let shown = if rule.message.is_empty() { &rule.text } else { &rule.message };
            match result {
                Ok(Val::Bool(true)) => continue,
                Ok(_) => {}
                Err(Fault::Cost) => {
                    let fault = Fault::Cost;
                    let detail = format!(
                        "'{fault}': no further validation rules will be run due to call cost exceeds limit for rule: {shown}"
                    );
                    errors.invalid(path, &kind, &detail);
                    *budget = -1;
                    return;
                }
                Err(fault @ Fault::Overload) => {
                    let detail = format!(
                        "'{fault}': call arguments did not match a supported operator, function or macro signature for rule: {shown}"
                    );
                    errors.invalid(path, &kind, &detail);
                    continue;
                }
                Err(fault) => {
                    errors.invalid(path, &kind, &format!("{fault} evaluating rule: {shown}"));
                    continue;
                }
            }
            if unchanged && !uses_old {
                continue;
            }
            let detail = rule.detail(&variables, budget);
            rule.refuse(value, &kind, &detail, path, errors);
        }
    }
}

impl Rule {
    /// What is said about a violation.
    fn detail(&self, variables: &[(&str, Val)], budget: &mut i64) -> String {
        let spoken = self.message_expression.as_ref().and_then(|program| {
            let mut meter = Meter::new(RULE_LIMIT);
            let result = program.evaluate(variables, &mut meter);
            *budget -= i64::try_from(meter.spent()).unwrap_or(i64::MAX);
            let Ok(Val::Text(message)) = result else { return None };
            let message = message.trim();
            let fine = !message.is_empty() && message.len() <= MESSAGE_LIMIT && !message.contains('\n');
            fine.then(|| message.to_owned())
        });
        spoken.unwrap_or_else(|| match self.message.as_str() {
            "" => format!("failed rule: {}", self.text),
            message => message.to_owned(),
        })
    }

    fn refuse(&self, value: &Value, kind: &Value, detail: &str, path: &Path<'_>, errors: &mut Errors) {
        let field = path.child(&self.field);
        let field = if self.field.is_empty() { path } else { &field };
        match self.reason.as_str() {
            "FieldValueForbidden" => errors.forbidden(field, detail),
            "FieldValueRequired" => errors.required(field, detail),
            "FieldValueDuplicate" => errors.duplicate(field, value),
            // Whole objects and lists would make messages without end.
            _ if kind == "object" || kind == "array" => errors.invalid_unshown(field, detail),
            _ => errors.invalid(field, value, detail),
        }
    }
}

/// `.a.b['c']` as errors write it, if the schema has such a field.
pub(super) fn field_path(path: &str, schema: &Value) -> Option<String> {
    let (mut rest, mut schema, mut out) = (path, schema, String::new());
    while !rest.is_empty() {
        let (name, after) = if let Some(inner) = rest.strip_prefix("['") {
            let end = inner.find("']")?;
            (inner[..end].replace("\\'", "'"), &inner[end + 2..])
        } else {
            let inner = rest.strip_prefix('.')?;
            let end = inner.find(['.', '[']).unwrap_or(inner.len());
            (inner[..end].to_owned(), &inner[end..])
        };
        if schema["properties"].is_object() {
            if !out.is_empty() {
                out.push('.');
            }
            out.push_str(&name);
            schema = schema["properties"].get(&name)?;
        } else {
            out.push_str(&format!("[{name}]"));
            schema = schema.get("additionalProperties").filter(|inner| inner.is_object())?;
        }
        rest = after;
    }
    Some(out)
}

/// Checks the rules of a definition's schema. `path` is that of the schema.
pub(super) fn check(schema: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut found = Errors::new();
    shapes(schema, path, &mut found, 0);
    // Types of a schema that has faults would only confuse.
    if found.is_empty() {
        expressions(schema, true, path, None, &mut found, 0);
    }
    errors.append(found);
}

const REASONS: [&str; 4] = ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

fn below<'a>(
    schema: &Value,
    path: &Path<'a>,
    depth: usize,
    errors: &mut Errors,
    each: &mut dyn FnMut(&Value, &Path<'_>, usize, &mut Errors),
) {
    if depth > DEPTH {
        return;
    }
    let all = path.child("properties");
    for (name, schema) in properties(schema) {
        each(schema, &all.key(name), depth + 1, errors);
    }
    for field in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(field).filter(|inner| inner.is_object()) {
            each(inner, &path.child(field), depth + 1, errors);
        }
    }
}

/// Everything about rules that needs no types.
fn shapes(schema: &Value, path: &Path<'_>, errors: &mut Errors, depth: usize) {
    below(schema, path, depth, errors, &mut |schema, path, depth, errors| shapes(schema, path, errors, depth));
    let all = path.child("x-kubernetes-validations");
    for (index, rule) in rules_of(schema).iter().enumerate() {
        let path = all.index(index);
        let breaks = |text: &str| text.contains(['\n', '\r']);
        let (source, message) = (text(rule, "rule").trim(), text(rule, "message"));
        if source.is_empty() {
            errors.required(&path.child("rule"), "rule is not specified");
        } else if !message.is_empty() && message.trim().is_empty() {
            errors.invalid_text(&path.child("message"), message, "must be non-empty if specified");
        } else if breaks(message.trim()) {
            errors.invalid_text(&path.child("message"), message, "must not contain line breaks");
        } else if breaks(source) && message.trim().is_empty() {
            errors.required(&path.child("message"), "message must be specified if rule contains line breaks");
        }
        let expression = text(rule, "messageExpression");
        if !expression.is_empty() && expression.trim().is_empty() {
            errors.required(&path.child("messageExpression"), "messageExpression must be non-empty if specified");
        }
        if let Some(reason) = rule["reason"].as_str().filter(|reason| !REASONS.contains(reason)) {
            errors.not_supported(&path.child("reason"), &reason.into(), &REASONS);
        }
        let field = text(rule, "fieldPath");
        if !field.is_empty() && field.trim().is_empty() {
            errors.invalid_text(&path.child("fieldPath"), field, "must be non-empty if specified");
        }
        if breaks(field) {
            errors.invalid_text(&path.child("fieldPath"), field, "must not contain line breaks");
        }
        if !field.is_empty() && field_path(field, schema).is_none() {
            errors.invalid_text(&path.child("fieldPath"), field, "must be a valid path");
        }
    }
}

/// Compiles every rule. `uncorrelatable`: the list above whose items have no
/// old value.
fn expressions(
    schema: &Value,
    root: bool,
    path: &Path<'_>,
    uncorrelatable: Option<&str>,
    errors: &mut Errors,
    depth: usize,
) {
    let keyed = schema["x-kubernetes-list-type"] == "map";
    let here = path.to_string();
    below(schema, path, depth, errors, &mut |inner, path, depth, errors| {
        let list = schema.get("items").is_some_and(|items| std::ptr::eq(items, inner)) && !keyed;
        let lost = uncorrelatable.or(if list { Some(here.as_str()) } else { None });
        expressions(inner, false, path, lost, errors, depth);
    });
    let written = rules_of(schema);
    let root = root || schema["x-kubernetes-embedded-resource"] == true;
    let all = path.child("x-kubernetes-validations");
    if written.is_empty() {
        return;
    }
    let Some(kind) = cel::declare(schema, root) else {
        errors.internal(&all, "failed to convert to declType for CEL validation rules");
        return;
    };
    for (index, rule) in written.iter().enumerate() {
        let path = all.index(index);
        let uses_old = match compile_rule(rule, &kind) {
            Ok(program) => program.uses("oldSelf"),
            Err(error) => {
                errors.invalid_shown(&path.child("rule"), &shown(rule), &error);
                false
            }
        };
        if !text(rule, "messageExpression").is_empty()
            && let Err(error) = compile_message(rule, &kind)
        {
            errors.invalid_shown(&path.child("messageExpression"), &shown(rule), &error);
        }
        match (uses_old, uncorrelatable) {
            (true, Some(list)) => {
                let detail =
                    format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {list}");
                errors.invalid_text(&path.child("rule"), text(rule, "rule"), &detail);
            }
            (false, _) if rule["optionalOldSelf"].is_boolean() => {
                let detail = "may not be set if oldSelf is not used in rule";
                errors.invalid(&path.child("optionalOldSelf"), &rule["optionalOldSelf"], detail);
            }
            _ => {}
        }
    }
}

/// A rule as upstream prints it.
fn shown(rule: &Value) -> String {
    let json = |text: &str| {
        let text = Value::from(text).to_string();
        text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
    };
    let or_null = |field: &str| match &rule[field] {
        Value::String(text) => json(text),
        other => other.to_string(),
    };
    format!(
        "{{\"Rule\":{},\"Message\":{},\"MessageExpression\":{},\"Reason\":{},\"FieldPath\":{},\"OptionalOldSelf\":{}}}",
        json(text(rule, "rule")),
        json(text(rule, "message")),
        json(text(rule, "messageExpression")),
        or_null("reason"),
        json(text(rule, "fieldPath")),
        or_null("optionalOldSelf"),
    )
}
