//! `operations.txt`: paths and operations of the OpenAPI documents. What
//! repeats (parameters, sets of them, bodies, answers) is written once.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{Failure, read_json};

/// Values in order of first use, each written once.
#[derive(Default)]
struct Pool {
    numbers: BTreeMap<String, usize>,
    texts: Vec<String>,
}

impl Pool {
    fn number(&mut self, text: String) -> usize {
        let next = self.texts.len();
        *self.numbers.entry(text.clone()).or_insert_with(|| {
            self.texts.push(text);
            next
        })
    }
}

#[derive(Default)]
struct Pools {
    parameter: Pool,
    parameters: Pool,
    body: Pool,
    responses: Pool,
}

const REF: &str = "#/components/schemas/";

/// The whole table.
pub(super) fn table(folder: &Path) -> Result<String, Failure> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .map_err(|error| format!("{}: {error}", folder.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect();
    files.sort();
    let names: Vec<String> = files.iter().map(|path| document_name(path)).collect();
    let mut pools = Pools::default();
    let mut documents = String::new();
    for (path, name) in files.iter().zip(&names) {
        // A group of which no version is on by default is not served.
        let stable = |name: &str| !name.contains("alpha") && !name.contains("beta");
        let parts: Vec<&str> = name.split('/').collect();
        let served = match parts.as_slice() {
            ["apis", group] => names.iter().any(|other| other.starts_with(&format!("apis/{group}/")) && stable(other)),
            _ => stable(name),
        };
        if !served {
            continue;
        }
        line(&mut documents, format_args!("doc {name}"));
        for (path, item) in read_json(path)?["paths"].as_object().into_iter().flatten() {
            let shared = parameters(item, &mut pools);
            line(&mut documents, format_args!("path {path} {shared}"));
            for (method, operation) in item.as_object().into_iter().flatten().filter(|(key, _)| *key != "parameters") {
                let text = operation_line(method, operation, &mut pools);
                line(&mut documents, format_args!(" {text}"));
            }
        }
    }
    let mut out = String::from(super::HEADER);
    for (word, pool) in [
        ("parameter", &pools.parameter),
        ("parameters", &pools.parameters),
        ("body", &pools.body),
        ("responses", &pools.responses),
    ] {
        for (number, text) in pool.texts.iter().enumerate() {
            line(&mut out, format_args!("{word} {number} {text}"));
        }
    }
    Ok(out + &documents)
}

fn document_name(path: &Path) -> String {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.trim_end_matches("_openapi.json").replace("__", "/").replace("well-known/", ".well-known/").replace("..", ".")
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a String cannot fail");
    out.push('\n');
}

fn parameters(owner: &Value, pools: &mut Pools) -> String {
    let Some(list) = owner.get("parameters").and_then(Value::as_array) else { return "-".to_owned() };
    let numbers: Vec<String> =
        list.iter().map(|parameter| pools.parameter.number(parameter.to_string()).to_string()).collect();
    pools.parameters.number(numbers.join(",")).to_string()
}

/// METHOD ID TAG ACTION GVK PARAMETERS BODY RESPONSES REFS description
fn operation_line(method: &str, operation: &Value, pools: &mut Pools) -> String {
    let text = |key: &str| operation.get(key).and_then(Value::as_str).unwrap_or("-").to_owned();
    let tags: Vec<&str> = operation["tags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let gvk = operation.get("x-kubernetes-group-version-kind").map_or("-".to_owned(), |gvk| {
        ["group", "version", "kind"].map(|part| gvk[part].as_str().unwrap_or_default()).join("/")
    });
    let mut refs = Vec::new();
    let mut template = |key: &str, pool: &mut Pool| match operation.get(key) {
        Some(value) => pool.number(extract(value, &mut refs).to_string()).to_string(),
        None => "-".to_owned(),
    };
    let body = template("requestBody", &mut pools.body);
    let responses = template("responses", &mut pools.responses);
    let refs: Vec<String> = refs.iter().map(|name| super::short_name(name)).collect();
    let refs = if refs.is_empty() { "-".to_owned() } else { refs.join(",") };
    format!(
        "{method} {} {} {} {gvk} {} {body} {responses} {refs} {}",
        text("operationId"),
        tags.join(","),
        text("x-kubernetes-action"),
        parameters(operation, pools),
        operation.get("description").and_then(Value::as_str).unwrap_or_default(),
    )
}

/// The value with each type it refers to replaced by its place in `refs`.
fn extract(value: &Value, refs: &mut Vec<String>) -> Value {
    match value {
        Value::String(text) => match text.strip_prefix(REF) {
            Some(name) => {
                let at = refs.iter().position(|known| known == name).unwrap_or_else(|| {
                    refs.push(name.to_owned());
                    refs.len() - 1
                });
                Value::String(format!("${at}"))
            }
            None => value.clone(),
        },
        Value::Array(items) => items.iter().map(|item| extract(item, refs)).collect(),
        Value::Object(map) => {
            Value::Object(map.iter().map(|(key, value)| (key.clone(), extract(value, refs))).collect())
        }
        other => other.clone(),
    }
}
