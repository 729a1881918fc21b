//! The table of built-in types: an index at start, each type parsed when it is
//! first asked for, so that a cluster pays only for the kinds it uses. The
//! table's grammar is in docs/decisions/0004-schema-tables.md.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::OnceLock;

use super::{Dialect, Field, ListType, MapType, Omit, Proto, Schema, Shape, Struct};

/// All built-in types.
#[derive(Debug)]
pub struct Library {
    definitions: HashMap<&'static str, Definition>,
    /// Short package to full: `core.v1` → `io.k8s.api.core.v1`.
    packages: HashMap<&'static str, &'static str>,
}

/// One built-in type.
pub struct Definition {
    /// `core.v1.Pod`.
    name: &'static str,
    /// What follows the name on its line.
    attributes: &'static str,
    /// The lines of its fields.
    body: &'static str,
    special: bool,
    library: OnceLock<&'static Library>,
    schema: OnceLock<Schema>,
    reference: OnceLock<Schema>,
}

/// A line of the table that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("schema table: {what} in line {line:?}")]
pub struct TableError {
    what: &'static str,
    line: String,
}

fn broken(what: &'static str, line: &str) -> TableError {
    TableError { what, line: line.to_owned() }
}

impl Library {
    /// Indexes the table. The library lives as long as the process.
    pub fn load(table: &'static str) -> Result<&'static Self, TableError> {
        let mut definitions = HashMap::with_capacity(1024);
        let mut packages = HashMap::new();
        let mut rest = table;
        while !rest.is_empty() {
            let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
            let (word, tail) = line.split_once(' ').unwrap_or((line, ""));
            let (name, attributes) = tail.split_once(' ').unwrap_or((tail, ""));
            rest = after;
            match word {
                "#" | "" => {}
                "package" => {
                    packages.insert(name, attributes);
                }
                "special" | "type" => {
                    let length = if after.starts_with(' ') { body_length(after) } else { 0 };
                    let (body, after) = after.split_at(length);
                    rest = after;
                    let special = word == "special";
                    definitions.insert(name, Definition::new(name, attributes, body, special));
                }
                _ => return Err(broken("unknown word", line)),
            }
        }
        let library: &'static Self = Box::leak(Box::new(Self { definitions, packages }));
        for definition in library.definitions.values() {
            definition.library.get_or_init(|| library);
        }
        Ok(library)
    }

    /// The type of this short name, `core.v1.Pod`, or of this OpenAPI name.
    pub fn get(&'static self, name: &str) -> Option<&'static Definition> {
        if let Some(found) = self.definitions.get(name) {
            return Some(found);
        }
        let mut parts = name.rsplitn(4, '.');
        let (kind, version, group) = (parts.next()?, parts.next()?, parts.next()?);
        self.definitions.get(format!("{group}.{version}.{kind}").as_str()).filter(|found| found.full_name() == name)
    }

    /// Every type, in no order.
    pub fn definitions(&'static self) -> impl Iterator<Item = &'static Definition> {
        self.definitions.values()
    }
}

/// Length of the lines that start with a space.
fn body_length(text: &str) -> usize {
    let mut length = 0;
    for line in text.split_inclusive('\n') {
        if !line.starts_with(' ') {
            break;
        }
        length += line.len();
    }
    length
}

impl Definition {
    fn new(name: &'static str, attributes: &'static str, body: &'static str, special: bool) -> Self {
        Self {
            name,
            attributes,
            body,
            special,
            library: OnceLock::new(),
            schema: OnceLock::new(),
            reference: OnceLock::new(),
        }
    }

    /// `core.v1.Pod`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Name in OpenAPI: `io.k8s.api.core.v1.Pod`.
    pub fn full_name(&self) -> String {
        let (package, kind) = self.name.rsplit_once('.').unwrap_or(("", self.name));
        let package = self.library.get().and_then(|library| library.packages.get(package)).copied();
        format!("{}.{kind}", package.unwrap_or_default())
    }

    /// Its JSON form is code, not fields.
    pub fn is_special(&self) -> bool {
        self.special
    }

    /// `x-kubernetes-group-version-kind`: group, version and kind of each.
    pub fn gvks(&self) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
        let list = self.attribute("gvk=").unwrap_or_default();
        list.split(',').filter_map(|gvk| {
            let mut parts = gvk.split('/');
            Some((parts.next()?, parts.next()?, parts.next()?))
        })
    }

    /// Required fields, in OpenAPI's order.
    pub fn required(&self) -> impl Iterator<Item = &'static str> {
        let list = self.attribute("req=").unwrap_or_default();
        list.split(',').filter(|name| !name.is_empty())
    }

    /// `x-kubernetes-unions` as JSON text.
    pub fn unions(&self) -> Option<&'static str> {
        self.attribute("unions=")
    }

    fn attribute(&self, key: &str) -> Option<&'static str> {
        self.attributes.split(' ').find_map(|attribute| attribute.strip_prefix(key))
    }

    /// Go's name: `v1.Pod`.
    pub(super) fn go_name(&self) -> Cow<'static, str> {
        Cow::Borrowed(self.name.split_once('.').map_or(self.name, |(_, name)| name))
    }

    /// The type itself.
    pub fn schema(&'static self) -> &'static Schema {
        self.schema.get_or_init(|| self.parse().expect("the generated table is read whole by a test"))
    }

    /// A schema that refers to the type: the type is parsed when its shape is asked for.
    pub fn lazy_schema(&'static self) -> &'static Schema {
        self.reference.get_or_init(|| Schema::new(Shape::Named(self)))
    }

    /// Parses the definition anew.
    pub(super) fn parse(&'static self) -> Result<Schema, TableError> {
        let library = self.library.get().ok_or_else(|| broken("no library", self.name))?;
        if self.special {
            return Ok(Schema::new(special(self.attributes, library)?));
        }
        let mut fields = Vec::new();
        for line in self.body.lines() {
            let mut field = field(line, library)?;
            field.required = self.required().any(|name| field.name == name);
            fields.push(field);
        }
        let name = self.name.rsplit('.').next().unwrap_or(self.name).into();
        let keeps_empty = ["apiextensions.", "apiregistration."].iter().any(|package| self.name.starts_with(package));
        let known = Struct { name, fields, preserve_unknown: false, dialect: Dialect::Go, keeps_empty };
        let mut schema = Schema::new(Shape::Struct(Box::new(known)));
        schema.map = self.attribute("map=").and_then(map_type);
        Ok(schema)
    }
}

impl fmt::Debug for Definition {
    /// The name only: definitions refer to each other in circles.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

fn map_type(text: &str) -> Option<MapType> {
    match text {
        "atomic" => Some(MapType::Atomic),
        "granular" => Some(MapType::Granular),
        _ => None,
    }
}

/// ` name TYPE[=GO] NUMBER attributes…`
fn field(line: &'static str, library: &'static Library) -> Result<Field, TableError> {
    let mut words = line.trim_start().split(' ');
    let name = words.next().ok_or_else(|| broken("no name", line))?;
    let spelling = words.next().ok_or_else(|| broken("no type", line))?;
    let number = words.next().ok_or_else(|| broken("no number", line))?;
    let mut schema = type_of(spelling, library).ok_or_else(|| broken("a type that cannot be read", line))?;
    let mut omit = Omit::Never;
    for attribute in words {
        let (key, value) = attribute.split_once('=').unwrap_or((attribute, ""));
        match key {
            "omit" => omit = Omit::Empty,
            "omitzero" => omit = Omit::Zero,
            "list" => {
                schema.list = list_type(value).ok_or_else(|| broken("unknown list type", line))?;
                schema.explicit_list = true;
            }
            "map" => schema.map = map_type(value),
            "patch" => {
                schema.patch.merge = value.split('+').any(|part| part == "merge");
                schema.patch.replace = value.split('+').any(|part| part == "replace");
                schema.patch.retain_keys = value.split('+').any(|part| part == "retainKeys");
            }
            "mergekey" => schema.patch.merge_key = Some(value.into()),
            "default" => {
                let default = serde_json::from_str(value).map_err(|_| broken("a default that is no JSON", line))?;
                schema.default = Some(Box::new(default));
            }
            _ => return Err(broken("unknown attribute", line)),
        }
    }
    let proto = match number {
        "-" => None,
        number => Some(proto(number).ok_or_else(|| broken("a field number that is none", line))?),
    };
    Ok(Field { name: name.into(), schema, required: false, omit, proto })
}

fn proto(text: &str) -> Option<Proto> {
    let numbers: Option<Vec<u32>> = text.split('.').map(|number| number.parse().ok()).collect();
    Proto::new(&numbers?)
}

fn list_type(text: &'static str) -> Option<ListType> {
    Some(match text {
        "atomic" => ListType::Atomic,
        "set" => ListType::Set,
        _ => {
            let keys = text.strip_prefix("map(")?.strip_suffix(')')?;
            ListType::Map(keys.split(',').map(Cow::Borrowed).collect())
        }
    })
}

fn type_of(spelling: &'static str, library: &'static Library) -> Option<Schema> {
    let (spelling, go) = spelling.split_once('=').map_or((spelling, None), |(spelling, go)| (spelling, Some(go)));
    let mut schema = plain_type(spelling, library)?;
    if let Some(go) = go {
        name_go(&mut schema, go);
    }
    Some(schema)
}

fn plain_type(spelling: &'static str, library: &'static Library) -> Option<Schema> {
    if let Some(inner) = spelling.strip_prefix('*') {
        let mut schema = plain_type(inner, library)?;
        schema.pointer = true;
        return Some(schema);
    }
    if let Some(inner) = spelling.strip_prefix("[]") {
        return Some(Schema::new(Shape::List(Box::new(plain_type(inner, library)?))));
    }
    if let Some(inner) = spelling.strip_prefix("map.") {
        return Some(Schema::new(Shape::Map(Box::new(plain_type(inner, library)?))));
    }
    if let Some(inner) = spelling.strip_prefix("wrap.") {
        let mut schema = plain_type(inner, library)?;
        schema.wrapped = true;
        return Some(schema);
    }
    if let Some(name) = spelling.strip_prefix('@') {
        return Some(Schema::new(Shape::Named(library.get(name)?)));
    }
    Some(Schema::new(special(spelling, library).ok()?))
}

/// Puts Go's name where it belongs: `[]v1.Finalizer` also names the elements.
fn name_go(schema: &mut Schema, go: &'static str) {
    schema.go_name = Some(go);
    if let (Shape::List(items), Some(inner)) = (&mut schema.declared, go.strip_prefix("[]")) {
        name_go(items, inner);
    } else if let (Shape::Map(values), Some(inner)) = (&mut schema.declared, go.strip_prefix("map["))
        && let Some((_, inner)) = inner.split_once(']')
    {
        name_go(values, inner);
    }
}

fn special(word: &str, library: &'static Library) -> Result<Shape, TableError> {
    let props = || library.get("apiextensions.v1.JSONSchemaProps").ok_or_else(|| broken("no JSONSchemaProps", word));
    Ok(match word {
        "any" => Shape::Any,
        "bool" => Shape::Bool,
        "int32" => Shape::Int32,
        "int64" | "int" | "uint32" => Shape::Int64,
        "float64" => Shape::Float,
        "string" => Shape::String,
        "bytes" => Shape::Bytes,
        "quantity" => Shape::Quantity,
        "intstr" => Shape::IntOrString,
        "time" => Shape::Time,
        "microtime" => Shape::MicroTime,
        "duration" => Shape::Duration,
        "fields" => Shape::Fields,
        "raw" => Shape::Raw,
        "json" => Shape::Json,
        "schema-or-array" => Shape::SchemaOrArray(props()?),
        "schema-or-bool" => Shape::SchemaOrBool(props()?),
        "schema-or-strings" => Shape::SchemaOrStrings(props()?),
        _ => return Err(broken("unknown type", word)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "# head\npackage core.v1 io.k8s.api.core.v1\ntype core.v1.A gvk=/v1/A req=protocol\n \
        next *@core.v1.A 2.3 omit\n ports []int32 1 omit list=map(port,protocol) patch=merge mergekey=port\n \
        protocol string=v1.Protocol 4 default=\"TCP\"\ntype core.v1.B\n";

    #[test]
    fn a_table_is_read_and_refers_to_itself() {
        let library = Library::load(TABLE).unwrap();
        let a = library.get("io.k8s.api.core.v1.A").unwrap();
        assert_eq!(a.gvks().collect::<Vec<_>>(), [("", "v1", "A")]);
        let schema = a.schema();
        let next = schema.field("next").unwrap();
        assert!(next.schema.pointer && next.schema.field("next").is_some());
        assert_eq!(next.proto, Proto::new(&[2, 3]));
        let ports = schema.field("ports").unwrap();
        assert_eq!(ports.schema.list, ListType::Map(vec!["port".into(), "protocol".into()]));
        assert!(ports.schema.patch.merge);
        let protocol = schema.field("protocol").unwrap();
        assert!(protocol.required && protocol.schema.go_name() == "v1.Protocol");
        assert!(library.get("core.v1.B").unwrap().schema().fields().is_empty());
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named() {
        let error = Library::load("tipe core.v1.A\n").unwrap_err().to_string();
        assert_eq!(error, "schema table: unknown word in line \"tipe core.v1.A\"");
    }
}
