//! Paths and operations of the built-in kinds, from their table.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use crate::kinds_table;

/// The table, indexed but not expanded.
pub(super) struct Operations {
    parameter: HashMap<&'static str, &'static str>,
    parameters: HashMap<&'static str, &'static str>,
    body: HashMap<&'static str, &'static str>,
    responses: HashMap<&'static str, &'static str>,
    documents: Vec<(&'static str, Vec<&'static str>)>,
}

impl Operations {
    /// The generated table.
    pub(super) fn builtin() -> &'static Self {
        static TABLE: LazyLock<Operations> =
            LazyLock::new(|| Operations::load(include_str!("../../generated/operations.txt")));
        &TABLE
    }

    fn load(table: &'static str) -> Self {
        let mut out = Self {
            parameter: HashMap::new(),
            parameters: HashMap::new(),
            body: HashMap::new(),
            responses: HashMap::new(),
            documents: Vec::new(),
        };
        for line in table.lines() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            let pool = match word {
                "parameter" => &mut out.parameter,
                "parameters" => &mut out.parameters,
                "body" => &mut out.body,
                "responses" => &mut out.responses,
                "doc" => {
                    out.documents.push((rest, Vec::new()));
                    continue;
                }
                _ => {
                    if let Some((_, lines)) = out.documents.last_mut() {
                        lines.push(line);
                    }
                    continue;
                }
            };
            let (number, text) = rest.split_once(' ').unwrap_or((rest, ""));
            pool.insert(number, text);
        }
        out
    }

    /// Names of the documents.
    pub(super) fn documents(&self) -> impl Iterator<Item = &'static str> {
        self.documents.iter().map(|(name, _)| *name)
    }

    /// Path items of the documents that `wanted` picks, in the style of version 3.
    pub(super) fn paths(&self, wanted: impl Fn(&str) -> bool) -> Map<String, Value> {
        let mut paths = Map::new();
        for (_, lines) in self.documents.iter().filter(|(name, _)| wanted(name)) {
            let mut at = "";
            for line in lines {
                if let Some(rest) = line.strip_prefix("path ") {
                    let (path, shared) = rest.split_once(' ').unwrap_or((rest, "-"));
                    at = path;
                    paths.insert(path.to_owned(), self.shared(shared));
                } else if let Some(item) = paths.get_mut(at)
                    && let Some((method, operation)) = self.operation(line)
                {
                    item[method] = operation;
                }
            }
        }
        paths
    }

    fn shared(&self, set: &str) -> Value {
        match self.parameter_list(set) {
            Some(list) => json!({ "parameters": list }),
            None => json!({}),
        }
    }

    fn parameter_list(&self, set: &str) -> Option<Value> {
        let numbers = self.parameters.get(set)?;
        let parameter = |number: &str| self.parameter.get(number).and_then(|text| serde_json::from_str(text).ok());
        Some(numbers.split(',').map(|number| parameter(number).unwrap_or(Value::Null)).collect())
    }

    /// ` METHOD ID TAG ACTION GVK PARAMETERS BODY RESPONSES REFS description`
    fn operation(&self, line: &'static str) -> Option<(&'static str, Value)> {
        let mut words = line.trim_start().splitn(10, ' ');
        let mut next = || words.next().unwrap_or("-");
        let (method, id, tag, action, gvk) = (next(), next(), next(), next(), next());
        let (parameters, body, responses, refs, description) = (next(), next(), next(), next(), next());
        let library = kinds_table::builtin().library();
        let refs: Vec<String> = refs
            .split(',')
            .filter_map(|name| Some(format!("#/components/schemas/{}", library.get(name)?.full_name())))
            .collect();
        let template = |pool: &HashMap<&str, &str>, number: &str| -> Option<Value> {
            Some(filled(&serde_json::from_str(pool.get(number)?).ok()?, &refs))
        };
        let mut operation = Map::new();
        let mut set = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                operation.insert(key.to_owned(), value);
            }
        };
        let text = |text: &'static str| (text != "-").then(|| Value::from(text));
        set("operationId", text(id));
        set("description", (!description.is_empty()).then(|| description.into()));
        set("tags", Some(json!([tag])));
        set("x-kubernetes-action", text(action));
        set("parameters", self.parameter_list(parameters));
        set("requestBody", template(&self.body, body));
        set("responses", template(&self.responses, responses));
        let mut parts = gvk.split('/');
        if let (Some(group), Some(version), Some(kind)) = (parts.next(), parts.next(), parts.next()) {
            let gvk = json!({"group": group, "version": version, "kind": kind});
            set("x-kubernetes-group-version-kind", Some(gvk));
        }
        Some((method, Value::Object(operation)))
    }
}

/// The template with each `$N` replaced by the N-th reference.
fn filled(value: &Value, refs: &[String]) -> Value {
    match value {
        Value::String(text) => {
            let number = text.strip_prefix('$').and_then(|number| number.parse::<usize>().ok());
            number.and_then(|number| refs.get(number)).map_or_else(|| value.clone(), |name| name.as_str().into())
        }
        Value::Array(items) => items.iter().map(|item| filled(item, refs)).collect(),
        Value::Object(map) => {
            Value::Object(map.iter().map(|(key, value)| (key.clone(), filled(value, refs))).collect())
        }
        other => other.clone(),
    }
}

/// A path item of version 3 in the style of version 2.
pub(super) fn to_v2(item: Value) -> Value {
    let Value::Object(map) = item else { return item };
    let converted = map.into_iter().map(|(key, value)| {
        let value = if key == "parameters" { parameters_v2(&value) } else { operation_v2(value) };
        (key, value)
    });
    renamed(Value::Object(converted.collect()))
}

/// References point to where version 2 keeps definitions.
fn renamed(value: Value) -> Value {
    match value {
        Value::String(text) => match text.strip_prefix("#/components/schemas/") {
            Some(name) => format!("#/definitions/{name}").into(),
            None => Value::String(text),
        },
        Value::Array(items) => items.into_iter().map(renamed).collect(),
        Value::Object(map) => Value::Object(map.into_iter().map(|(key, value)| (key, renamed(value))).collect()),
        other => other,
    }
}

fn parameters_v2(list: &Value) -> Value {
    let flat = |parameter: &Value| {
        let mut parameter = parameter.clone();
        if let Value::Object(map) = &mut parameter
            && let Some(Value::Object(schema)) = map.remove("schema")
        {
            map.extend(schema);
        }
        parameter
    };
    list.as_array().into_iter().flatten().map(flat).collect()
}

fn operation_v2(operation: Value) -> Value {
    let Value::Object(mut map) = operation else { return operation };
    let mut parameters = match map.remove("parameters") {
        Some(list) => parameters_v2(&list),
        None => Value::Array(Vec::new()),
    };
    let mut consumes = vec!["*/*".to_owned()];
    if let Some(body) = map.remove("requestBody") {
        let content = body["content"].as_object().cloned().unwrap_or_default();
        let schema = content.values().next().map(|media| media["schema"].clone()).unwrap_or_default();
        consumes = content.keys().cloned().collect();
        let mut parameter = json!({"name": "body", "in": "body", "schema": schema});
        if body["required"] == Value::Bool(true) {
            parameter["required"] = true.into();
        }
        if let Value::Array(list) = &mut parameters {
            list.insert(0, parameter);
        }
    }
    let mut produces: Vec<String> = Vec::new();
    for response in
        map.get_mut("responses").and_then(Value::as_object_mut).into_iter().flatten().map(|(_, value)| value)
    {
        let Some(content) = response.as_object_mut().and_then(|response| response.remove("content")) else { continue };
        let content = content.as_object().cloned().unwrap_or_default();
        if let Some(schema) = content.values().next().and_then(|media| media.get("schema")) {
            response["schema"] = schema.clone();
        }
        produces.extend(content.into_iter().map(|(media_type, _)| media_type));
    }
    produces.sort();
    produces.dedup();
    if parameters.as_array().is_some_and(|list| !list.is_empty()) {
        map.insert("parameters".to_owned(), parameters);
    }
    map.insert("consumes".to_owned(), json!(consumes));
    map.insert("produces".to_owned(), json!(produces));
    map.insert("schemes".to_owned(), json!(["https"]));
    Value::Object(map)
}
