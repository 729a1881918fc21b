//! Printer columns of custom kinds: the part of JSONPath that they use.

use serde_json::Value;

use crate::strategy::Column;
use crate::table;

/// One column with the path of its cells.
pub(super) struct Printer {
    name: String,
    kind: String,
    format: String,
    description: String,
    priority: i32,
    steps: Vec<Step>,
}

enum Step {
    Field(String),
    Index(usize),
    All,
    /// `[?(@.field=="value")]`
    Where(String, String),
}

impl Printer {
    /// The columns of a version.
    pub(super) fn all(columns: &[Value]) -> Vec<Self> {
        let text = |column: &Value, field: &str| column[field].as_str().unwrap_or_default().to_owned();
        let one = |column: &Value| {
            let path = text(column, "jsonPath");
            let mut description = text(column, "description");
            if description.is_empty() {
                description = format!("Custom resource definition column (in JSONPath format): {path}");
            }
            Self {
                name: text(column, "name"),
                kind: text(column, "type"),
                format: text(column, "format"),
                description,
                priority: column["priority"].as_i64().and_then(|number| i32::try_from(number).ok()).unwrap_or(0),
                steps: steps(&path),
            }
        };
        columns.iter().map(one).collect()
    }

    /// The heading.
    pub(super) fn column(&self) -> Column {
        Column {
            name: self.name.clone(),
            kind: self.kind.clone(),
            format: self.format.clone(),
            description: self.description.clone(),
            priority: self.priority,
        }
    }

    /// The cell of an object; null where there is nothing of the column's type.
    pub(super) fn cell(&self, object: &Value, now: i64) -> Value {
        let mut found = vec![object];
        for step in &self.steps {
            found = found.into_iter().flat_map(|value| step.apply(value)).collect();
        }
        let Some(first) = found.first() else { return Value::Null };
        match self.kind.as_str() {
            "integer" => first.as_i64().map(Value::from).unwrap_or_default(),
            "number" => first.as_f64().map(|_| (*first).clone()).unwrap_or_default(),
            "boolean" => first.as_bool().map(Value::from).unwrap_or_default(),
            "date" => match first.as_str() {
                Some(stamp) => table::since(stamp, now).into(),
                None => Value::Null,
            },
            _ => {
                let text = |value: &&Value| match value {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                found.iter().map(text).collect::<Vec<_>>().join(",").into()
            }
        }
    }
}

impl Step {
    fn apply<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match self {
            Self::Field(name) => value.get(name).filter(|value| !value.is_null()).into_iter().collect(),
            Self::Index(index) => value.get(index).into_iter().collect(),
            Self::All => match value {
                Value::Array(items) => items.iter().collect(),
                Value::Object(map) => map.values().collect(),
                _ => Vec::new(),
            },
            Self::Where(field, wanted) => {
                let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
                items.iter().filter(|item| item[field.as_str()].as_str() == Some(wanted.as_str())).collect()
            }
        }
    }
}

fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = path.trim_start_matches('$');
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('[') {
            let end = after.find(']').unwrap_or(after.len());
            let inner = &after[..end];
            rest = after.get(end + 1..).unwrap_or_default();
            steps.push(bracket(inner));
            continue;
        }
        rest = rest.trim_start_matches('.');
        let mut name = String::new();
        let mut chars = rest.char_indices();
        let mut end = rest.len();
        while let Some((at, c)) = chars.next() {
            match c {
                // A backslash keeps a dot in the name.
                '\\' => name.extend(chars.next().map(|(_, c)| c)),
                '.' | '[' => {
                    end = at;
                    break;
                }
                c => name.push(c),
            }
        }
        rest = &rest[end..];
        match name.as_str() {
            "" => {}
            "*" => steps.push(Step::All),
            _ => steps.push(Step::Field(name)),
        }
    }
    steps
}

fn bracket(inner: &str) -> Step {
    let quoted = |text: &str| text.trim_matches(|c| c == '"' || c == '\'').to_owned();
    if inner == "*" {
        return Step::All;
    }
    if let Ok(index) = inner.parse() {
        return Step::Index(index);
    }
    if let Some((field, wanted)) =
        inner.strip_prefix("?(@.").and_then(|rest| rest.trim_end_matches(')').split_once("=="))
    {
        return Step::Where(field.trim().to_owned(), quoted(wanted.trim()));
    }
    Step::Field(quoted(inner))
}
