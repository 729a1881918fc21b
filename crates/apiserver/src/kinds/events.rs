//! Events: the core version is the hub, `events.k8s.io/v1` names its fields
//! differently (`pkg/apis/events/v1/conversion.go`, upstream 1.36).

use serde_json::Value;

use crate::object::{self, Meta, as_map};
use crate::resource::Conversion;
use crate::strategy::{Column, Dependents, Strategy};
use crate::table;

/// Conversion of `events.k8s.io/v1`.
pub(super) const EVENTS_V1: Conversion =
    Conversion { to_hub: |object| rename(object, false), from_hub: |object| rename(object, true) };

/// Core name, new name.
const FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn rename(object: &mut Value, from_core: bool) {
    let map = as_map(object);
    for (core, new) in FIELDS {
        let (from, to) = if from_core { (core, new) } else { (new, core) };
        if let Some(value) = map.remove(from) {
            map.insert(to.to_owned(), value);
        }
    }
}

pub(super) struct Event;

impl Strategy for Event {
    fn create_on_update(&self) -> bool {
        true
    }

    fn status_fields(&self) -> &'static [&'static str] {
        &[]
    }

    fn dependents(&self) -> Dependents {
        Dependents::Unsupported
    }

    fn selectable(&self) -> &'static [&'static str] {
        &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ]
    }

    fn selectable_value(&self, event: &Value, field: &str) -> String {
        match field {
            "source" => {
                let source = object::text(event, "source.component");
                if source.is_empty() { object::text(event, "reportingComponent") } else { source }.to_owned()
            }
            _ => object::text(event, field).to_owned(),
        }
    }

    fn columns(&self) -> Vec<Column> {
        let wide = |name: &str| table::column(name, "string", 1, "");
        vec![
            table::column("Last Seen", "string", 0, ""),
            table::column("Type", "string", 0, ""),
            table::column("Reason", "string", 0, ""),
            table::column("Object", "string", 0, ""),
            wide("Subobject"),
            wide("Source"),
            table::column("Message", "string", 0, ""),
            wide("First Seen"),
            wide("Count"),
            Column { priority: 1, ..table::name() },
        ]
    }

    fn cells(&self, event: &Value, now: i64) -> Vec<Value> {
        let text = |path: &str| object::text(event, path);
        let first_of =
            |paths: &[&str]| paths.iter().map(|path| text(path)).find(|text| !text.is_empty()).unwrap_or_default();
        let last = first_of(&["series.lastObservedTime", "lastTimestamp", "eventTime"]);
        let first = first_of(&["firstTimestamp", "eventTime"]);
        let count =
            ["series.count", "count"].iter().find_map(|path| object::at(event, path).as_i64()).unwrap_or(0).max(1);
        let object = format!("{}/{}", text("involvedObject.kind").to_lowercase(), text("involvedObject.name"));
        let source = match (
            first_of(&["source.component", "reportingComponent"]),
            first_of(&["source.host", "reportingInstance"]),
        ) {
            (component, "") => component.to_owned(),
            (component, host) => format!("{component}, {host}"),
        };
        vec![
            table::since(last, now).into(),
            text("type").into(),
            text("reason").into(),
            object.into(),
            text("involvedObject.fieldPath").into(),
            source.into(),
            text("message").trim().into(),
            table::since(first, now).into(),
            count.into(),
            event.name().into(),
        ]
    }
}
