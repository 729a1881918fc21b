//! Objects as trees: reading and writing the metadata that every kind has, and
//! the one encoding in which objects are stored. Knows no kind.

use bytes::Bytes;
use serde_json::{Map, Value};

/// A tree's map; anything but a map is an error of ours.
pub(crate) type Object = Map<String, Value>;

static NULL: Value = Value::Null;

/// The value at a dotted path of plain field names; `null` if it is not there.
pub(crate) fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(value, |value, name| value.get(name).unwrap_or(&NULL))
}

/// The text at a dotted path; empty if it is not there or no text.
pub(crate) fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    at(value, path).as_str().unwrap_or_default()
}

/// The items of the list at a dotted path.
pub(crate) fn items<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    at(value, path).as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The map at a field, made if it is not there.
pub(crate) fn map_mut<'a>(value: &'a mut Value, name: &str) -> &'a mut Object {
    let entry = as_map(value).entry(name).or_insert_with(|| Value::Object(Map::new()));
    as_map(entry)
}

/// The list at a field, made if it is not there; anything but a list is
/// replaced by an empty one.
pub(crate) fn list_mut<'a>(map: &'a mut Object, name: &str) -> &'a mut Vec<Value> {
    let entry = map.entry(name).or_insert(Value::Null);
    if !entry.is_array() {
        *entry = Value::Array(Vec::new());
    }
    match entry {
        Value::Array(list) => list,
        _ => unreachable!("made a list above"),
    }
}

/// The value as a map; replaced by an empty one if it is none.
pub(crate) fn as_map(value: &mut Value) -> &mut Object {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made a map above"),
    }
}

/// Sets a field if it is absent or null.
pub(crate) fn default(map: &mut Object, name: &str, value: impl Into<Value>) {
    match map.get(name) {
        None | Some(Value::Null) => {
            map.insert(name.to_owned(), value.into());
        }
        Some(_) => {}
    }
}

/// Sets a text field if it is absent, null or empty.
pub(crate) fn default_text(map: &mut Object, name: &str, value: &str) {
    match map.get(name) {
        None | Some(Value::Null) => {}
        Some(Value::String(text)) if text.is_empty() => {}
        Some(_) => return,
    }
    map.insert(name.to_owned(), value.into());
}

/// Reading metadata.
pub(crate) trait Meta {
    fn meta(&self, field: &str) -> &Value;
    fn meta_text(&self, field: &str) -> &str {
        self.meta(field).as_str().unwrap_or_default()
    }
    fn name(&self) -> &str {
        self.meta_text("name")
    }
    fn namespace(&self) -> &str {
        self.meta_text("namespace")
    }
    fn uid(&self) -> &str {
        self.meta_text("uid")
    }
    fn resource_version(&self) -> &str {
        self.meta_text("resourceVersion")
    }
    fn generation(&self) -> i64 {
        self.meta("generation").as_i64().unwrap_or_default()
    }
    fn deleting(&self) -> bool {
        self.meta("deletionTimestamp").is_string()
    }
    fn finalizers(&self) -> Vec<&str> {
        self.meta("finalizers").as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }
    fn annotation(&self, key: &str) -> Option<&str> {
        self.meta("annotations").get(key).and_then(Value::as_str)
    }
}

impl Meta for Value {
    fn meta(&self, field: &str) -> &Value {
        self.get("metadata").and_then(|metadata| metadata.get(field)).unwrap_or(&NULL)
    }
}

/// The metadata map, made if it is not there.
pub(crate) fn metadata(object: &mut Value) -> &mut Object {
    map_mut(object, "metadata")
}

/// Sets a metadata field, or removes it for `null`.
pub(crate) fn set_meta(object: &mut Value, field: &str, value: impl Into<Value>) {
    let value = value.into();
    if value.is_null() {
        metadata(object).remove(field);
    } else {
        metadata(object).insert(field.to_owned(), value);
    }
}

/// Every encoded object starts with this, up to its version.
const HEAD: &str = r#"{"apiVersion":""#;
/// Metadata follows apiVersion and kind, and is never empty.
const METADATA: &[u8] = br#","metadata":{"#;
/// apiVersion and kind are shorter than this many bytes together; the search
/// for metadata goes no farther.
const HEAD_LIMIT: usize = 1024;

/// Encodes an object for the store: apiVersion, kind and metadata in front, no
/// resourceVersion (it is the revision of the entry). This order is what lets
/// readers splice without parsing, see [`splice_point`].
pub(crate) fn encode(object: &Value) -> Bytes {
    let mut out = Vec::with_capacity(1024);
    let mut put = |prefix: &str, value: &Value| {
        out.extend_from_slice(prefix.as_bytes());
        serde_json::to_writer(&mut out, value).expect("a tree with text keys serialises");
    };
    put(r#"{"apiVersion":"#, object.get("apiVersion").unwrap_or(&NULL));
    put(r#","kind":"#, object.get("kind").unwrap_or(&NULL));
    put(r#","metadata":"#, object.get("metadata").unwrap_or(&NULL));
    for (key, value) in object.as_object().into_iter().flatten() {
        if matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
            continue;
        }
        out.push(b',');
        serde_json::to_writer(&mut out, key).expect("text serialises");
        out.push(b':');
        serde_json::to_writer(&mut out, value).expect("a tree with text keys serialises");
    }
    out.push(b'}');
    Bytes::from(out)
}

/// Where, in an encoded object, `"metadata":{` begins and ends: everything
/// before is apiVersion and kind. `None` for bytes that [`encode`] did not make.
pub(crate) fn splice_point(bytes: &[u8]) -> Option<(usize, usize)> {
    if !bytes.starts_with(HEAD.as_bytes()) {
        return None;
    }
    let head = &bytes[..bytes.len().min(HEAD_LIMIT)];
    let start = head.windows(METADATA.len()).position(|window| window == METADATA)?;
    let end = start + METADATA.len();
    (bytes.get(end) == Some(&b'"')).then_some((start + 1, end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn encoded_objects_open_with_metadata_and_can_be_spliced() {
        let object = json!({"data": {"a": "b"}, "kind": "ConfigMap", "metadata": {"name": "x"}, "apiVersion": "v1"});
        let bytes = encode(&object);
        let (start, end) = splice_point(&bytes).expect("our own encoding");
        assert_eq!(&bytes[..start], br#"{"apiVersion":"v1","kind":"ConfigMap","#);
        assert_eq!(&bytes[start..end], br#""metadata":{"#);
        assert_eq!(serde_json::from_slice::<Value>(&bytes).expect("JSON"), object);
    }

    #[test]
    fn foreign_bytes_are_not_spliced() {
        assert_eq!(splice_point(br#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"x"}}"#), None);
        assert_eq!(splice_point(br#"{"apiVersion":"v1","kind":"Pod","metadata":{}}"#), None);
    }
}
