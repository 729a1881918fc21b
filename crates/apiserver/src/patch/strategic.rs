//! Strategic merge patch: lists merged by key, and the directives `$patch`,
//! `$deleteFromPrimitiveList`, `$setElementOrder` and `$retainKeys`. The
//! behaviour is that of apimachinery's `strategicpatch` in a server.

use api::schema::{PatchStrategy, Schema, Shape};
use serde_json::{Map, Value};

use super::{PatchError, printed};

type Tree = Map<String, Value>;

const PATCH: &str = "$patch";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";
const RETAIN: &str = "$retainKeys";
const BAD_ORDER: PatchError = PatchError::Format("invalid patch format of setElementOrder list");
const BAD_RETAIN: PatchError = PatchError::Format("invalid patch format of retainKeys");

/// Applies a patch to an object.
pub(super) fn apply(object: &Value, patch: Tree, schema: &Schema) -> Result<Value, PatchError> {
    let original = object.as_object().cloned().unwrap_or_default();
    Ok(Value::Object(merge_map(original, patch, schema)?))
}

/// How a member is merged: its schema and strategy.
fn member<'a>(schema: &'a Schema, name: &str) -> (Option<&'a Schema>, PatchStrategy) {
    let found = match schema.shape() {
        Shape::Struct(known) => known.field(name).map(|field| &field.schema),
        Shape::Map(values) => Some(values.as_ref()),
        _ => None,
    };
    (found, found.map(|found| found.patch.clone()).unwrap_or_default())
}

fn free() -> &'static Schema {
    static FREE: std::sync::LazyLock<Schema> = std::sync::LazyLock::new(Schema::default);
    &FREE
}

fn merge_map(mut original: Tree, mut patch: Tree, schema: &Schema) -> Result<Tree, PatchError> {
    if let Some(directive) = patch.get(PATCH) {
        return match directive.as_str() {
            Some("replace") => {
                patch.remove(PATCH);
                Ok(patch)
            }
            Some("delete") => Ok(Tree::new()),
            _ => Err(unknown_directive(directive, &patch)),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    merge_ordered(&mut original, &mut patch, schema)?;
    for (key, mut value) in patch {
        let delete_from = key.strip_prefix(DELETE_FROM).map(str::to_owned);
        let from_list = delete_from.is_some();
        let key = delete_from.unwrap_or(key);
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        let (found, strategy) = member(schema, &key);
        let subschema = found.unwrap_or(free());
        let merged = match (original.remove(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) if strategy.replace => {
                drop(old);
                Some(Value::Object(new))
            }
            (Some(Value::Object(old)), Value::Object(new)) => Some(Value::Object(merge_map(old, new, subschema)?)),
            (Some(Value::Array(old)), Value::Array(new)) if strategy.merge || from_list => {
                Some(Value::Array(merge_list(old, new, subschema, &strategy, from_list)?))
            }
            (Some(Value::Array(_)), new @ Value::Array(_)) => Some(new),
            (Some(old), _) if from_list => Some(old),
            (None, _) if from_list => None,
            (_, new) => {
                value = new;
                discard_nulls(&mut value);
                without_directives(value)
            }
        };
        if let Some(merged) = merged {
            original.insert(key, merged);
        }
    }
    Ok(original)
}

fn unknown_directive(directive: &Value, map: &Tree) -> PatchError {
    let map = printed(&Value::Object(map.clone()));
    PatchError::Merge(format!("unknown patch type: {} in map: {map}", printed(directive)))
}

fn no_merge_key(map: &Tree, key: &str) -> PatchError {
    let map = printed(&Value::Object(map.clone()));
    PatchError::Merge(format!("map: {map} does not contain declared merge key: {key}"))
}

/// Nulls of new values mean nothing.
fn discard_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(discard_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(discard_nulls),
        _ => {}
    }
}

/// A new value without what only speaks to an old one; none if all of it does.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(PATCH) => None,
        Value::Object(map) => {
            let kept = map.into_iter().filter_map(|(key, value)| Some((key, without_directives(value)?)));
            Some(Value::Object(kept.collect()))
        }
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(without_directives).collect())),
        other => Some(other),
    }
}

fn retain_keys(original: &mut Tree, patch: &mut Tree) -> Result<(), PatchError> {
    let Some(keys) = patch.remove(RETAIN) else { return Ok(()) };
    let Value::Array(keys) = keys else { return Err(BAD_RETAIN) };
    let kept = |key: &str| keys.iter().any(|kept| kept == key);
    for (key, value) in patch.iter() {
        let directive = key.starts_with(DELETE_FROM) || key.starts_with(ORDER);
        if !value.is_null() && !directive && !kept(key) {
            return Err(BAD_RETAIN);
        }
    }
    original.retain(|key, _| kept(key));
    Ok(())
}

/// Merges the lists whose order the patch sets.
fn merge_ordered(original: &mut Tree, patch: &mut Tree, schema: &Schema) -> Result<(), PatchError> {
    let directives: Vec<String> = patch.keys().filter(|key| key.starts_with(ORDER)).cloned().collect();
    for directive in directives {
        let order = patch.remove(&directive).unwrap_or_default();
        let Value::Array(order) = order else { return Err(BAD_ORDER) };
        let key = directive.trim_start_matches(ORDER);
        let (found, strategy) = member(schema, key);
        let subschema = found.unwrap_or(free());
        let list = |tree: &Tree| match tree.get(key) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items.clone())),
            Some(_) => Err(BAD_ORDER),
        };
        let (old, new) = (list(original)?, list(patch)?);
        let merge_key = strategy.merge_key.as_deref();
        check_order(new.as_deref().unwrap_or_default(), &order, merge_key)?;
        let merged = match (&old, new) {
            (None, None) => continue,
            (Some(old), None) => old.clone(),
            (None, Some(new)) => match without_directives(Value::Array(new)) {
                Some(Value::Array(new)) => new,
                _ => continue,
            },
            (Some(old), Some(new)) if strategy.merge => merge_list(old.clone(), new, subschema, &strategy, false)?,
            (Some(_), Some(new)) => new,
        };
        let merged = arrange(merged, &order, old.as_deref().unwrap_or_default(), merge_key)?;
        original.insert(key.to_owned(), Value::Array(merged));
        patch.remove(key);
    }
    Ok(())
}

fn is_deletion(item: &Value) -> bool {
    item.get(PATCH).is_some_and(|directive| directive == "delete")
}

/// The patch's list must follow the order that it sets.
fn check_order(items: &[Value], order: &[Value], merge_key: Option<&str>) -> Result<(), PatchError> {
    if items.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut ordered = order.iter();
    for item in items.iter().filter(|item| item.get(PATCH).is_none()) {
        if !ordered.by_ref().any(|next| same(item, next, merge_key)) {
            let shown = |items: &[Value]| printed(&Value::Array(items.to_vec()));
            return Err(PatchError::Merge(format!(
                "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                shown(items),
                shown(order)
            )));
        }
    }
    Ok(())
}

fn same(a: &Value, b: &Value, merge_key: Option<&str>) -> bool {
    match merge_key {
        Some(key) => a.get(key).is_some() && a.get(key) == b.get(key),
        None => a == b,
    }
}

fn merge_list(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    schema: &Schema,
    strategy: &PatchStrategy,
    from_list: bool,
) -> Result<Vec<Value>, PatchError> {
    let maps = original.first().or(patch.first()).is_some_and(Value::is_object);
    let items = schema.items().unwrap_or(free());
    if original.iter().chain(&patch).any(|item| item.is_object() != maps || item.is_array()) {
        return Err(PatchError::Merge("list element types are not identical".to_owned()));
    }
    if !maps {
        if from_list {
            original.retain(|item| !patch.contains(item));
            return Ok(original);
        }
        let order = original.clone();
        for item in &patch {
            if !original.contains(item) {
                original.push(item.clone());
            }
        }
        return arrange(original, &patch, &order, None);
    }
    let Some(key) = strategy.merge_key.as_deref() else {
        let name = schema.items().map(|items| items.go_name().into_owned()).unwrap_or_default();
        return Err(PatchError::Merge(format!("cannot merge lists without merge key for {name}")));
    };
    let Some((mut merged, patch)) = special_elements(original, patch, key)? else { return Ok(Vec::new()) };
    let order = merged.clone();
    for item in &patch {
        let Value::Object(map) = item else { continue };
        let Some(value) = map.get(key) else { return Err(no_merge_key(map, key)) };
        match merged.iter_mut().find(|known| known.get(key) == Some(value)) {
            Some(Value::Object(known)) => *known = merge_map(std::mem::take(known), map.clone(), items)?,
            _ => merged.push(item.clone()),
        }
    }
    arrange(merged, &patch, &order, Some(key))
}

/// Carries out the elements that are directives; gives what is left of both lists.
#[allow(clippy::type_complexity, reason = "two lists, named at the only call")]
fn special_elements(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Result<Option<(Vec<Value>, Vec<Value>)>, PatchError> {
    let mut plain = Vec::new();
    let mut replace = false;
    for item in patch {
        let Value::Object(map) = &item else { continue };
        match map.get(PATCH).map(|directive| (directive, directive.as_str())) {
            None => plain.push(item),
            Some((_, Some("delete"))) => {
                let Some(value) = map.get(key) else { return Err(no_merge_key(map, key)) };
                original.retain(|known| known.get(key) != Some(value));
            }
            Some((_, Some("replace"))) => replace = true,
            Some((_, Some("merge"))) => {
                return Err(PatchError::Merge("merging lists cannot yet be specified in the patch".to_owned()));
            }
            Some((directive, _)) => return Err(unknown_directive(directive, map)),
        }
    }
    Ok(Some(if replace { (plain, Vec::new()) } else { (original, plain) }))
}

/// Puts elements that `order` names into its order, and the others where the
/// original list had them relative to those.
fn arrange(
    merged: Vec<Value>,
    order: &[Value],
    original: &[Value],
    merge_key: Option<&str>,
) -> Result<Vec<Value>, PatchError> {
    let position = |list: &[Value], item: &Value| list.iter().position(|other| same(item, other, merge_key));
    if let Some(key) = merge_key
        && let Some(Value::Object(map)) = merged.iter().find(|item| item.get(key).is_none())
    {
        return Err(no_merge_key(map, key));
    }
    let (mut ours, mut theirs): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| position(order, item).is_some());
    settle(&mut ours, |item| position(order, item));
    settle(&mut theirs, |item| position(original, item));
    let mut out = Vec::with_capacity(ours.len() + theirs.len());
    let (mut ours, mut theirs) = (ours.into_iter().peekable(), theirs.into_iter().peekable());
    while let (Some(right), Some(left)) = (ours.peek(), theirs.peek()) {
        let before = matches!((position(original, left), position(original, right)), (Some(l), Some(r)) if l < r);
        out.extend(if before { theirs.next() } else { ours.next() });
    }
    out.extend(theirs);
    out.extend(ours);
    Ok(out)
}

/// Upstream's sort: elements without a position move to the front, deletions
/// to the end.
fn settle(items: &mut Vec<Value>, position: impl Fn(&Value) -> Option<usize>) {
    let (mut kept, deleted): (Vec<Value>, Vec<Value>) =
        std::mem::take(items).into_iter().partition(|item| !is_deletion(item));
    for end in 1..kept.len() {
        for at in (1..=end).rev() {
            let less = match (position(&kept[at]), position(&kept[at - 1])) {
                (Some(this), Some(before)) => this < before,
                _ => true,
            };
            if !less {
                break;
            }
            kept.swap(at, at - 1);
        }
    }
    kept.extend(deleted);
    *items = kept;
}
