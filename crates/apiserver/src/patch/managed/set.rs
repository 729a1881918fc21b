//! Sets of field paths in the form in which they are stored: the tree of
//! `FieldsV1`. A node `{}` is a path in the set; `.` marks one that has
//! children too. Operations work on that tree, so nothing is decoded to track
//! a write.

use serde_json::{Map, Value};

/// A set of paths, or the part below one path.
pub(super) type Tree = Map<String, Value>;

const SELF: &str = ".";

/// A node under construction.
#[derive(Clone, Default, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) member: bool,
    pub(super) children: Tree,
}

impl Node {
    /// The stored form; none if no path is in it.
    fn finish(mut self) -> Option<Tree> {
        match (self.member, self.children.is_empty()) {
            (false, true) => None,
            (true, false) => {
                self.children.insert(SELF.to_owned(), Value::Object(Map::new()));
                Some(self.children)
            }
            _ => Some(self.children),
        }
    }

    /// Puts this node into its parent under a key made only if needed.
    pub(super) fn attach(self, parent: &mut Tree, key: impl FnOnce() -> String) {
        if let Some(tree) = self.finish() {
            parent.insert(key(), Value::Object(tree));
        }
    }
}

fn is_member(node: &Tree) -> bool {
    node.is_empty() || node.contains_key(SELF)
}

fn child<'a>(set: &'a Tree, key: &str) -> Option<&'a Tree> {
    set.get(key).and_then(Value::as_object)
}

/// Children of a node, `.` left out.
fn children(node: &Tree) -> impl Iterator<Item = (&String, &Tree)> {
    node.iter().filter(|(key, _)| *key != SELF).filter_map(|(key, value)| Some((key, value.as_object()?)))
}

/// Applies an operation to each node of `a` and its counterpart.
fn zip(a: &Tree, b: &Tree, keep_alone: bool, member: fn(bool, bool) -> bool) -> Tree {
    let mut out = Tree::new();
    for (key, node) in children(a) {
        let combined = match child(b, key) {
            Some(other) => Node {
                member: member(is_member(node), is_member(other)),
                children: zip(node, other, keep_alone, member),
            },
            None if keep_alone => {
                out.insert(key.clone(), Value::Object(node.clone()));
                continue;
            }
            None => continue,
        };
        combined.attach(&mut out, || key.clone());
    }
    out
}

/// Paths in either set.
pub(super) fn union(a: &Tree, b: &Tree) -> Tree {
    let mut out = Tree::new();
    for (key, node) in children(a) {
        match child(b, key) {
            Some(other) => {
                let both = Node { member: is_member(node) || is_member(other), children: union(node, other) };
                both.attach(&mut out, || key.clone());
            }
            None => {
                out.insert(key.clone(), Value::Object(node.clone()));
            }
        }
    }
    for (key, node) in children(b).filter(|(key, _)| !a.contains_key(*key)) {
        out.insert(key.clone(), Value::Object(node.clone()));
    }
    out
}

/// Paths of `a` that are not in `b`.
pub(super) fn difference(a: &Tree, b: &Tree) -> Tree {
    zip(a, b, true, |a, b| a && !b)
}

/// Paths in both sets.
pub(super) fn intersection(a: &Tree, b: &Tree) -> Tree {
    zip(a, b, false, |a, b| a && b)
}

/// Paths of `a` that are neither in `b` nor below a path in it.
pub(super) fn recursive_difference(a: &Tree, b: &Tree) -> Tree {
    let mut out = Tree::new();
    for (key, node) in children(a) {
        match child(b, key) {
            Some(other) if is_member(other) => {}
            Some(other) => {
                let rest = Node { member: is_member(node), children: recursive_difference(node, other) };
                rest.attach(&mut out, || key.clone());
            }
            None => {
                out.insert(key.clone(), Value::Object(node.clone()));
            }
        }
    }
    out
}

/// True if the path that ends in `key` is in the set.
pub(super) fn has(set: &Tree, key: &str) -> bool {
    child(set, key).is_some_and(is_member)
}

/// The paths below `key`, if there are any.
pub(super) fn below<'a>(set: &'a Tree, key: &str) -> Option<&'a Tree> {
    child(set, key).filter(|node| children(node).next().is_some())
}

/// Every path of the set, those that end at a level before those that go on.
pub(super) fn paths(set: &Tree) -> Vec<String> {
    let mut out = Vec::new();
    collect(set, String::new(), &mut out);
    out
}

fn collect(set: &Tree, prefix: String, out: &mut Vec<String>) {
    for (key, node) in children(set) {
        if is_member(node) {
            out.push(format!("{prefix}{}", printed(key)));
        }
    }
    for (key, node) in children(set) {
        if children(node).next().is_some() {
            collect(node, format!("{prefix}{}", printed(key)), out);
        }
    }
}

/// The set of these dotted paths of field names.
pub(super) fn of_paths(paths: &[&str]) -> Tree {
    let mut out = Tree::new();
    for path in paths {
        let mut tree = Tree::new();
        for name in path.rsplit('.') {
            tree = Tree::from_iter([(field(name), Value::Object(tree))]);
        }
        out = union(&out, &tree);
    }
    out
}

/// `f:name`
pub(super) fn field(name: &str) -> String {
    format!("f:{name}")
}

/// `v:"value"`
pub(super) fn value(value: &Value) -> String {
    format!("v:{}", go_json(value))
}

/// `k:{"name":"value"}`; the names must be sorted.
pub(super) fn keys(keys: &[(&str, &Value)]) -> String {
    let fields: Vec<String> =
        keys.iter().map(|(name, value)| format!("{}:{}", Value::from(*name), go_json(value))).collect();
    format!("k:{{{}}}", fields.join(","))
}

/// JSON as Go writes it, with the characters escaped that HTML gives a meaning.
fn go_json(value: &Value) -> String {
    let text = value.to_string();
    if !text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return text;
    }
    let text = text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
    text.replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

/// An element as conflicts print it: `.name`, `[name="value"]`, `[="value"]`, `[0]`.
pub(super) fn printed(key: &str) -> String {
    let Some((kind, rest)) = key.split_once(':') else { return key.to_owned() };
    match kind {
        "f" => format!(".{rest}"),
        "v" => format!("[={}]", printed_value(&serde_json::from_str(rest).unwrap_or_default())),
        "k" => {
            let fields: Tree = serde_json::from_str(rest).unwrap_or_default();
            let fields: Vec<String> =
                fields.iter().map(|(name, value)| format!("{name}={}", printed_value(value))).collect();
            format!("[{}]", fields.join(","))
        }
        _ => format!("[{rest}]"),
    }
}

fn printed_value(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        other => other.to_string(),
    }
}

/// True if two values are the same to an owner.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(value: Value) -> Tree {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn set_operations_keep_membership_apart_from_descent() {
        let a = set(json!({"f:a": {"f:b": {}}, "f:c": {}}));
        let b = set(json!({"f:a": {}, "f:c": {}}));
        assert_eq!(union(&a, &b), set(json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}})));
        assert_eq!(difference(&a, &b), set(json!({"f:a": {"f:b": {}}})));
        assert_eq!(recursive_difference(&a, &b), Tree::new());
        assert_eq!(intersection(&a, &b), set(json!({"f:c": {}})));
        assert_eq!(intersection(&union(&a, &b), &b), b);
        assert_eq!(difference(&union(&a, &b), &b), set(json!({"f:a": {"f:b": {}}})));
    }

    #[test]
    fn paths_print_as_upstream_prints_them() {
        let tree = set(json!({"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}}},
            "f:finalizers": {"v:\"x\"": {}}}}));
        assert_eq!(
            paths(&tree),
            [r#".spec.containers[name="a"]"#, r#".spec.containers[name="a"].image"#, r#".spec.finalizers[="x"]"#]
        );
        assert_eq!(keys(&[("a", &json!("<b>"))]), r#"k:{"a":"\u003cb\u003e"}"#);
    }
}
