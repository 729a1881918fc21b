//! Defaults that a schema itself carries: those of custom kinds, and the few
//! of built-in kinds that are declared. Go's defaulting functions are not here.

use api::schema::{Schema, Shape};
use serde_json::Value;

/// Sets absent fields to their schema's default, and drops nulls of custom
/// kinds that are not nullable, as upstream does in this order.
pub fn defaults(object: &mut Value, schema: &Schema) {
    match (schema.shape(), object) {
        (Shape::Struct(known), Value::Object(map)) => {
            for field in &known.fields {
                let nullable = field.schema.nullable;
                if !nullable && map.get(field.name.as_ref()).is_some_and(Value::is_null) {
                    map.remove(field.name.as_ref());
                }
                if let Some(default) = &field.schema.default
                    && !map.contains_key(field.name.as_ref())
                    && !(matches!(field.schema.declared, Shape::Named(_)))
                {
                    map.insert(field.name.clone().into_owned(), default.as_ref().clone());
                }
                if let Some(value) = map.get_mut(field.name.as_ref())
                    && !matches!(field.schema.declared, Shape::Named(_))
                {
                    defaults(value, &field.schema);
                }
            }
        }
        (Shape::Map(values), Value::Object(map)) => {
            if !values.nullable && values.default.is_none() && !matches!(values.shape(), Shape::Any) {
                map.retain(|_, value| !value.is_null());
            }
            for value in map.values_mut() {
                fill(value, values);
            }
        }
        (Shape::List(items), Value::Array(list)) => {
            for value in list {
                fill(value, items);
            }
        }
        _ => {}
    }
}

fn fill(value: &mut Value, schema: &Schema) {
    if value.is_null()
        && !schema.nullable
        && let Some(default) = &schema.default
    {
        *value = default.as_ref().clone();
    }
    defaults(value, schema);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_reach_every_level_and_nulls_give_way_to_them() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "default": {}, "properties": {
            "size": {"type": "integer", "default": 3},
            "note": {"type": "string", "nullable": true, "default": "x"},
            "gone": {"type": "string"},
            "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string", "default": "b"}}}},
        }}}});
        let meta = Box::leak(Box::new(Schema::default()));
        let schema = Schema::from_crd(&schema, meta).unwrap();
        let mut object = json!({});
        defaults(&mut object, &schema);
        assert_eq!(object, json!({"spec": {"size": 3, "note": "x"}}));
        let mut object = json!({"spec": {"size": null, "note": null, "gone": null, "list": [{}]}});
        defaults(&mut object, &schema);
        assert_eq!(object, json!({"spec": {"size": 3, "note": null, "list": [{"a": "b"}]}}));
    }
}
