//! Whether two parts of a pod mean the same: absent and empty are one, amounts
//! are compared by value (`apiequality.Semantic`). It judges nothing.

use serde_json::Value;

/// True if both mean the same.
pub(super) fn semantically(a: &Value, b: &Value) -> bool {
    let mut differ = false;
    walk(a, b, "", "", &mut |_| differ = true);
    !differ
}

/// Where the two differ: `.hostname`, `.containers[0].command`.
pub(super) fn differences(a: &Value, b: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk(a, b, "", "", &mut |path: &str| found.push(path.to_owned()));
    found
}

fn walk(a: &Value, b: &Value, path: &str, parent: &str, found: &mut dyn FnMut(&str)) {
    match (a, b) {
        (Value::Object(left), Value::Object(right)) => {
            let keys: std::collections::BTreeSet<&String> = left.keys().chain(right.keys()).collect();
            for key in keys {
                let of = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or(Value::Null);
                walk(&of(left), &of(right), &format!("{path}.{key}"), key, found);
            }
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
            for (index, (left, right)) in left.iter().zip(right).enumerate() {
                walk(left, right, &format!("{path}[{index}]"), "", found);
            }
        }
        (Value::Object(some), Value::Null) | (Value::Null, Value::Object(some)) => {
            for (key, value) in some {
                walk(value, &Value::Null, &format!("{path}.{key}"), key, found);
            }
        }
        (Value::Array(some), Value::Null) | (Value::Null, Value::Array(some)) if some.is_empty() => {}
        (Value::String(left), Value::String(right)) if left != right => {
            let amount = |text: &str| api::quantity::canonical(text).ok();
            let amounts = matches!(parent, "cpu" | "memory") || path.contains("requests.") || path.contains("limits.");
            if !(amounts && amount(left).is_some() && amount(left) == amount(right)) {
                found(path);
            }
        }
        _ if a == b => {}
        _ => found(path),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn absent_and_empty_are_one_and_amounts_are_compared_by_value() {
        let cases = [
            (json!({"a": [], "b": {}, "c": null}), json!({}), &[][..]),
            (json!({"requests": {"cpu": "1000m"}}), json!({"requests": {"cpu": "1"}}), &[]),
            (json!({"name": "1000m"}), json!({"name": "1"}), &[".name"]),
            (json!({"c": [{"x": 1}]}), json!({"c": [{"x": 2}]}), &[".c[0].x"]),
            (json!({"c": [1]}), json!({"c": [1, 2]}), &[".c"]),
            (json!({"s": {"t": 1}}), json!({}), &[".s.t"]),
        ];
        for (a, b, expected) in cases {
            assert_eq!(differences(&a, &b), expected, "{a} {b}");
            assert_eq!(differences(&b, &a), expected, "{b} {a}");
            assert_eq!(semantically(&a, &b), expected.is_empty());
        }
    }
}
