//! Walks over trees with their schema: which paths a tree sets, and which
//! paths differ between two. The semantics are those of structured-merge-diff.

use std::collections::HashMap;

use api::schema::{Field, ListType, Schema, Shape, Struct};
use serde_json::{Map, Value};

use super::set::{self, Node, Tree};

/// What a place in a tree is to an owner.
#[derive(Clone, Copy)]
pub(super) enum Atom<'a> {
    /// One owner for the whole.
    Leaf,
    /// Members with their own owners.
    Map(Members<'a>),
    /// Elements with their own owners.
    List(&'a Schema, &'a ListType),
}

/// The members of a map or struct.
#[derive(Clone, Copy)]
pub(super) struct Members<'a> {
    known: Option<&'a Struct>,
    values: Option<&'a Schema>,
}

static FREE: Schema = Schema {
    declared: Shape::Any,
    default: None,
    pointer: false,
    nullable: false,
    list: ListType::Atomic,
    explicit_list: false,
    map: None,
    patch: api::schema::PatchStrategy { merge: false, replace: false, retain_keys: false, merge_key: None },
    embedded: false,
    wrapped: false,
    go_name: None,
};

impl<'a> Members<'a> {
    /// The schema of a member; none if the schema does not know it.
    pub(super) fn get(&self, name: &str) -> Option<&'a Schema> {
        self.known.and_then(|known| known.field(name)).map(|field| &field.schema).or(self.values)
    }

    /// True if the member is a field of a struct.
    pub(super) fn is_field(&self, name: &str) -> bool {
        self.known.is_some_and(|known| known.field(name).is_some())
    }
}

/// How a place is owned; `value` decides where the schema leaves it open.
pub(super) fn atom<'a>(schema: &'a Schema, value: Option<&Value>) -> Atom<'a> {
    match schema.shape() {
        Shape::Struct(_) | Shape::Map(_) if schema.is_atomic_map() => Atom::Leaf,
        Shape::Struct(known) => {
            Atom::Map(Members { known: Some(known), values: known.preserve_unknown.then_some(&FREE) })
        }
        Shape::Map(values) => Atom::Map(Members { known: None, values: Some(values) }),
        Shape::List(items) if schema.list != ListType::Atomic => Atom::List(items, &schema.list),
        Shape::Any | Shape::Raw | Shape::Fields if value.is_some_and(Value::is_object) => {
            Atom::Map(Members { known: None, values: Some(&FREE) })
        }
        _ => Atom::Leaf,
    }
}

/// The schema of an unknown place.
pub(super) fn free() -> &'static Schema {
    &FREE
}

/// How an element of a list is told apart; none for elements that cannot be.
pub(super) fn element(item: &Value, items: &Schema, list: &ListType) -> Result<String, String> {
    match list {
        ListType::Atomic => Err("invalid indexing of non-associative list".to_owned()),
        ListType::Set => match item {
            Value::Object(_) => Err("associative list without keys has an element that's a map type".to_owned()),
            Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
            Value::Null => Err("associative list without keys has an element that's an explicit null".to_owned()),
            value => Ok(set::value(value)),
        },
        ListType::Map(keys) => {
            let Value::Object(map) = item else {
                let what = if item.is_null() { "a null element" } else { "non-map elements" };
                return Err(format!("associative list with keys may not have {what}"));
            };
            let mut found: Vec<(&str, &Value)> = Vec::with_capacity(keys.len());
            for key in keys {
                let default = || items.field(key).and_then(|field| field.schema.default.as_deref());
                if let Some(value) = map.get(key.as_ref()).or_else(default) {
                    found.push((key, value));
                }
            }
            if found.is_empty() {
                let keys: Vec<String> = keys.iter().map(|key| format!("{key:?}")).collect();
                return Err(format!(
                    "associative list with keys has an element that omits all key fields [{}] (and doesn't have \
                     default values for any key fields)",
                    keys.join(" ")
                ));
            }
            found.sort_by(|a, b| a.0.cmp(b.0));
            Ok(set::keys(&found))
        }
    }
}

/// The paths that a tree sets.
pub(super) fn to_set(value: &Value, schema: &Schema) -> Tree {
    let mut node = Node::default();
    collect(value, schema, &mut node);
    node.children
}

fn collect(value: &Value, schema: &Schema, node: &mut Node) {
    match (atom(schema, Some(value)), value) {
        (Atom::Map(members), Value::Object(map)) => {
            for (name, value) in map {
                let mut below = Node::default();
                collect(value, members.get(name).unwrap_or(&FREE), &mut below);
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                below.member |= empty || !members.is_field(name);
                below.attach(&mut node.children, || set::field(name));
            }
        }
        (Atom::List(items, list), Value::Array(elements)) => {
            let names: Vec<Option<String>> = elements.iter().map(|item| element(item, items, list).ok()).collect();
            for (item, name) in elements.iter().zip(&names) {
                let Some(name) = name else { continue };
                let mut below = Node { member: true, children: Tree::new() };
                let twice = names.iter().filter(|other| other.as_ref() == Some(name)).count() > 1;
                if !twice {
                    collect(item, items, &mut below);
                }
                below.attach(&mut node.children, || name.clone());
            }
        }
        (Atom::Map(_) | Atom::List(..), Value::Null) => {}
        _ => node.member = true,
    }
}

/// How two trees differ.
#[derive(Clone, Default, Debug, PartialEq)]
pub(super) struct Comparison {
    pub(super) removed: Tree,
    pub(super) modified: Tree,
    pub(super) added: Tree,
}

impl Comparison {
    pub(super) fn is_same(&self) -> bool {
        self.removed.is_empty() && self.modified.is_empty() && self.added.is_empty()
    }

    /// Leaves out what is at or below these paths.
    pub(super) fn without(self, excluded: &Tree) -> Self {
        if excluded.is_empty() {
            return self;
        }
        Self {
            removed: set::recursive_difference(&self.removed, excluded),
            modified: set::recursive_difference(&self.modified, excluded),
            added: set::recursive_difference(&self.added, excluded),
        }
    }
}

#[derive(Default)]
struct Difference {
    removed: Node,
    modified: Node,
    added: Node,
}

impl Difference {
    fn attach(self, parent: &mut Self, key: impl Fn() -> String) {
        self.removed.attach(&mut parent.removed.children, &key);
        self.modified.attach(&mut parent.modified.children, &key);
        self.added.attach(&mut parent.added.children, &key);
    }
}

/// Compares two trees of one schema.
pub(super) fn compare(old: &Value, new: &Value, schema: &Schema) -> Comparison {
    let mut out = Difference::default();
    walk(Some(old), Some(new), schema, &mut out);
    Comparison { removed: out.removed.children, modified: out.modified.children, added: out.added.children }
}

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(_) => false,
    }
}

fn walk(old: Option<&Value>, new: Option<&Value>, schema: &Schema, out: &mut Difference) {
    let old_atom = atom(schema, old);
    let new_atom = atom(schema, new);
    let leaf = match (old, new) {
        (None, _) => level(old, new, new_atom, out),
        (_, None) => level(old, new, old_atom, out),
        _ if std::mem::discriminant(&old_atom) == std::mem::discriminant(&new_atom) => level(old, new, new_atom, out),
        _ => {
            level(old, new, old_atom, out);
            level(old, new, new_atom, out)
        }
    };
    if !leaf {
        out.added.member |= old.is_none();
        out.removed.member |= new.is_none();
    }
}

/// Compares at one level; true if it was taken as a whole.
fn level(old: Option<&Value>, new: Option<&Value>, atom: Atom<'_>, out: &mut Difference) -> bool {
    let empty = is_empty(old) && is_empty(new);
    match atom {
        Atom::Map(members) if !empty => {
            let (old, new) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
            walk_map(old, new, members, out);
            false
        }
        Atom::List(items, list) if !empty => {
            let (old, new) = (old.and_then(Value::as_array), new.and_then(Value::as_array));
            walk_list(old.map_or(&[], Vec::as_slice), new.map_or(&[], Vec::as_slice), items, list, out);
            false
        }
        _ => {
            match (old, new) {
                (None, _) => out.added.member = true,
                (_, None) => out.removed.member = true,
                (Some(old), Some(new)) => out.modified.member |= !set::same(old, new),
            }
            true
        }
    }
}

fn walk_map(old: Option<&Tree>, new: Option<&Tree>, members: Members<'_>, out: &mut Difference) {
    for (name, old) in old.into_iter().flatten() {
        let new = new.and_then(|new| new.get(name));
        walk_member(name, Some(old), new, members, out);
    }
    for (name, new) in new.into_iter().flatten() {
        if old.is_none_or(|old| !old.contains_key(name)) {
            walk_member(name, None, Some(new), members, out);
        }
    }
}

fn walk_member(name: &str, old: Option<&Value>, new: Option<&Value>, members: Members<'_>, out: &mut Difference) {
    let mut below = Difference::default();
    walk(old, new, members.get(name).unwrap_or(&FREE), &mut below);
    below.attach(out, || set::field(name));
}

fn walk_list(old: &[Value], new: &[Value], items: &Schema, list: &ListType, out: &mut Difference) {
    if old == new {
        return;
    }
    let mut order: Vec<String> = Vec::with_capacity(old.len().max(new.len()));
    let mut sides: HashMap<String, [Vec<&Value>; 2]> = HashMap::new();
    for (side, elements) in [old, new].into_iter().enumerate() {
        for item in elements {
            let Ok(name) = element(item, items, list) else { continue };
            let entry = sides.entry(name.clone()).or_insert_with(|| {
                order.push(name);
                [Vec::new(), Vec::new()]
            });
            entry[side].push(item);
        }
    }
    for name in order {
        let [old, new] = &sides[&name];
        let mut below = Difference::default();
        match (old.as_slice(), new.as_slice()) {
            ([] | [_], [] | [_]) => walk(old.first().copied(), new.first().copied(), items, &mut below),
            ([_, _, ..], [_, _, ..]) => below.modified.member = old != new,
            ([_, _, ..], _) => {
                if let Some(new) = new.first() {
                    walk(None, Some(new), items, &mut below);
                }
                below.removed.member = true;
            }
            (_, _) => {
                if let Some(old) = old.first() {
                    walk(Some(old), None, items, &mut below);
                }
                below.added.member = true;
            }
        }
        below.attach(out, || name.clone());
    }
}

/// Adds the fields of structs on the way to a path as paths of their own
/// (`EnsureNamedFieldsAreMembers`).
pub(super) fn with_fields(tree: &Tree, schema: &Schema) -> Tree {
    let mut out = Tree::new();
    for (key, below) in tree {
        let Value::Object(below) = below else { continue };
        if key == "." {
            out.insert(key.clone(), Value::Object(Map::new()));
            continue;
        }
        let (next, is_field) = step(key, schema);
        let mut node = with_fields(below, next);
        if is_field && !below.is_empty() {
            node.insert(".".to_owned(), Value::Object(Map::new()));
        }
        out.insert(key.clone(), Value::Object(node));
    }
    out
}

/// The schema behind an element of a path, and whether that is a struct's field.
fn step<'a>(key: &str, schema: &'a Schema) -> (&'a Schema, bool) {
    match (key.strip_prefix("f:"), schema.shape()) {
        (Some(name), Shape::Struct(known)) => {
            let field: Option<&Field> = known.field(name);
            (field.map_or(&FREE, |field| &field.schema), field.is_some())
        }
        (Some(_), Shape::Map(values)) => (values, false),
        (None, Shape::List(items)) => (items, false),
        _ => (&FREE, false),
    }
}
