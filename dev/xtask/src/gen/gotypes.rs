//! Reads the struct declarations of Kubernetes' API packages: JSON names,
//! omission, pointers and protobuf field numbers stand in their tags. Not a Go
//! parser: it knows only the shapes that API types are written in.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::Failure;

/// Packages by OpenAPI prefix (`io.k8s.api.core.v1`), read when first asked for.
pub(super) struct Packages {
    staging: PathBuf,
    read: HashMap<String, Package>,
}

/// The types of one package.
#[derive(Default, Clone)]
pub(super) struct Package {
    pub(super) structs: HashMap<String, Vec<GoField>>,
    /// Named types that are not structs: `Protocol` → `string`.
    pub(super) named: HashMap<String, GoType>,
}

/// A type expression with packages resolved.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum GoType {
    Basic(String),
    Pointer(Box<GoType>),
    List(Box<GoType>),
    Map(Box<GoType>, Box<GoType>),
    /// OpenAPI prefix of the package, and the name.
    Named(String, String),
}

/// One field as declared; embedded ones have no name.
#[derive(Clone, Debug)]
pub(super) struct GoField {
    pub(super) embedded: bool,
    pub(super) go_type: GoType,
    pub(super) json: String,
    pub(super) inline: bool,
    pub(super) omit_empty: bool,
    pub(super) omit_zero: bool,
    pub(super) proto: Option<u32>,
}

impl Packages {
    pub(super) fn new(staging: &Path) -> Self {
        Self { staging: staging.to_owned(), read: HashMap::new() }
    }

    /// The package, read from disk the first time.
    pub(super) fn get(&mut self, prefix: &str) -> Result<Package, Failure> {
        if let Some(package) = self.read.get(prefix) {
            return Ok(package.clone());
        }
        let relative = prefix.trim_start_matches("io.k8s.").replace('.', "/");
        let package = read_package(&self.staging.join(relative), prefix)?;
        self.read.insert(prefix.to_owned(), package.clone());
        Ok(package)
    }
}

fn read_package(folder: &Path, prefix: &str) -> Result<Package, Failure> {
    let mut package = Package::default();
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for entry in entries {
        let path = entry.map_err(|error| error.to_string())?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !name.ends_with(".go") || name.ends_with("_test.go") || name.contains("generated") {
            continue;
        }
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        read_file(&text, prefix, &mut package);
    }
    Ok(package)
}

fn read_file(text: &str, prefix: &str, package: &mut Package) {
    let imports = imports(text);
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(rest) = line.strip_prefix("type ") else { continue };
        let Some((name, rest)) = rest.split_once(' ') else { continue };
        if rest == "struct {" {
            let mut fields = Vec::new();
            for line in lines.by_ref() {
                if line == "}" {
                    break;
                }
                fields.extend(field(line, prefix, &imports));
            }
            package.structs.insert(name.to_owned(), fields);
        } else if rest == "struct{}" {
            package.structs.insert(name.to_owned(), Vec::new());
        } else if !rest.starts_with("interface") && !rest.starts_with("func") {
            let expression = rest.split("//").next().unwrap_or_default().trim().trim_start_matches("= ");
            package.named.insert(name.to_owned(), parse(expression, prefix, &imports));
        }
    }
}

/// Import names to OpenAPI prefixes.
fn imports(text: &str) -> HashMap<String, String> {
    let mut found = HashMap::new();
    for line in text.lines().take_while(|line| !line.starts_with("type ")) {
        let Some((before, rest)) = line.split_once('"') else { continue };
        let Some((path, _)) = rest.split_once('"') else { continue };
        if !path.starts_with("k8s.io/") {
            continue;
        }
        let alias = before.trim().trim_start_matches("import ").trim();
        let last = path.rsplit('/').next().unwrap_or_default();
        let alias = if alias.is_empty() { last } else { alias };
        let prefix = format!("io.k8s.{}", path.trim_start_matches("k8s.io/").replace('/', "."));
        found.insert(alias.to_owned(), prefix);
    }
    found
}

fn field(line: &str, prefix: &str, imports: &HashMap<String, String>) -> Option<GoField> {
    let line = line.trim();
    let (declaration, tags) = line.split_once('`')?;
    if line.starts_with("//") {
        return None;
    }
    let tags = tags.split('`').next().unwrap_or_default();
    let words: Vec<&str> = declaration.split_whitespace().collect();
    let (embedded, expression) = match words.as_slice() {
        [only] => (true, *only),
        [_, expression] => (false, *expression),
        _ => return None,
    };
    let json = tag(tags, "json").unwrap_or_default();
    let mut options = json.split(',');
    let json_name = options.next().unwrap_or_default().to_owned();
    let options: Vec<&str> = options.collect();
    let proto = tag(tags, "protobuf").and_then(|tag| tag.split(',').nth(1).and_then(|number| number.parse().ok()));
    Some(GoField {
        embedded,
        go_type: parse(expression, prefix, imports),
        inline: options.contains(&"inline") || (embedded && json_name.is_empty()),
        omit_empty: options.contains(&"omitempty"),
        omit_zero: options.contains(&"omitzero"),
        json: json_name,
        proto,
    })
}

fn tag<'a>(tags: &'a str, key: &str) -> Option<&'a str> {
    let start = tags.find(&format!("{key}:\""))? + key.len() + 2;
    tags[start..].split('"').next()
}

fn parse(expression: &str, prefix: &str, imports: &HashMap<String, String>) -> GoType {
    let inner = |text: &str| Box::new(parse(text, prefix, imports));
    if let Some(rest) = expression.strip_prefix('*') {
        return GoType::Pointer(inner(rest));
    }
    if expression == "[]byte" {
        return GoType::Basic("bytes".to_owned());
    }
    if let Some(rest) = expression.strip_prefix("[]") {
        return GoType::List(inner(rest));
    }
    if let Some(rest) = expression.strip_prefix("map[") {
        let (key, value) = rest.split_once(']').unwrap_or((rest, "string"));
        return GoType::Map(inner(key), inner(value));
    }
    if matches!(expression, "string" | "bool" | "int32" | "int64" | "float64" | "int" | "uint32") {
        return GoType::Basic(expression.to_owned());
    }
    match expression.split_once('.') {
        Some((alias, name)) => {
            let package = imports.get(alias).cloned().unwrap_or_else(|| alias.to_owned());
            GoType::Named(package, name.to_owned())
        }
        None => GoType::Named(prefix.to_owned(), expression.to_owned()),
    }
}
