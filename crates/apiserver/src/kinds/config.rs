//! Kinds that mostly hold configuration: ConfigMaps, Secrets, accounts, quotas,
//! leases, classes of priority, flows, role bindings, signing requests.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::object::{self, as_map, default, default_text, map_mut};
use crate::strategy::Write;

type Columns = &'static [(&'static str, &'static str, i32, fn(&Value) -> Value)];

fn entries(object: &Value, field: &str) -> usize {
    object.get(field).and_then(Value::as_object).map_or(0, serde_json::Map::len)
}

pub(super) const MAP_COLUMNS: Columns =
    &[("Data", "string", 0, |map| (entries(map, "data") + entries(map, "binaryData")).into())];
pub(super) const SECRET_COLUMNS: Columns = &[
    ("Type", "string", 0, |secret| secret["type"].clone()),
    ("Data", "string", 0, |secret| entries(secret, "data").into()),
];
pub(super) const LEASE_COLUMNS: Columns =
    &[("Holder", "string", 0, |lease| object::text(lease, "spec.holderIdentity").into())];
pub(super) const PRIORITY_COLUMNS: Columns = &[
    ("Value", "integer", 0, |class| class["value"].clone()),
    ("Global-Default", "boolean", 0, |class| class.get("globalDefault").cloned().unwrap_or(false.into())),
    ("PreemptionPolicy", "string", 0, |class| class["preemptionPolicy"].clone()),
];

fn or(text: &str, none: &str) -> Value {
    if text.is_empty() { none.into() } else { text.into() }
}

fn joined(list: &[Value], field: &str) -> String {
    list.iter().filter_map(|one| one[field].as_str()).collect::<Vec<_>>().join(",")
}

pub(super) const TEMPLATE_COLUMNS: Columns = &[
    ("Containers", "string", 0, |one| joined(object::items(one, "template.spec.containers"), "name").into()),
    ("Images", "string", 0, |one| joined(object::items(one, "template.spec.containers"), "image").into()),
    ("Pod Labels", "string", 0, |one| {
        let labels = api::selector::Selector::from_value_map(object::at(one, "template.metadata.labels")).to_string();
        or(&labels, "<none>")
    }),
];
pub(super) const REVISION_COLUMNS: Columns = &[
    ("Controller", "string", 0, |one| {
        let owners = object::items(one, "metadata.ownerReferences");
        let controller = owners.iter().find(|owner| owner["controller"] == true);
        match controller {
            Some(owner) => {
                let kind = owner["kind"].as_str().unwrap_or_default().to_lowercase();
                let group = owner["apiVersion"].as_str().and_then(|text| text.split_once('/')).map(|(group, _)| group);
                let kind = group.map_or(kind.clone(), |group| format!("{kind}.{group}"));
                format!("{kind}/{}", owner["name"].as_str().unwrap_or_default()).into()
            }
            None => "<none>".into(),
        }
    }),
    ("Revision", "string", 0, |one| one["revision"].clone()),
];
pub(super) const BUDGET_COLUMNS: Columns = &[
    ("Min Available", "string", 0, |one| int_or_text(object::at(one, "spec.minAvailable"))),
    ("Max Unavailable", "string", 0, |one| int_or_text(object::at(one, "spec.maxUnavailable"))),
    ("Allowed Disruptions", "integer", 0, |one| {
        object::at(one, "status.disruptionsAllowed").as_i64().unwrap_or(0).into()
    }),
];
fn int_or_text(value: &Value) -> Value {
    match value {
        Value::String(text) => text.as_str().into(),
        Value::Number(number) => number.to_string().into(),
        _ => "N/A".into(),
    }
}
pub(super) const RUNTIME_COLUMNS: Columns = &[("Handler", "string", 0, |one| one["handler"].clone())];
pub(super) const BINDING_COLUMNS: Columns = &[
    ("Role", "string", 0, |one| {
        format!("{}/{}", object::text(one, "roleRef.kind"), object::text(one, "roleRef.name")).into()
    }),
    ("Users", "string", 1, |one| subjects(one, "User")),
    ("Groups", "string", 1, |one| subjects(one, "Group")),
    ("ServiceAccounts", "string", 1, |one| subjects(one, "ServiceAccount")),
];
fn subjects(binding: &Value, kind: &str) -> Value {
    let name = |subject: &Value| {
        let name = subject["name"].as_str().unwrap_or_default();
        match subject["namespace"].as_str().filter(|_| kind == "ServiceAccount") {
            Some(namespace) => format!("{namespace}/{name}"),
            None => name.to_owned(),
        }
    };
    let all = object::items(binding, "subjects").iter().filter(|subject| subject["kind"] == kind);
    all.map(name).collect::<Vec<_>>().join(", ").into()
}
pub(super) const SIGNING_COLUMNS: Columns = &[
    ("SignerName", "string", 0, |one| or(object::text(one, "spec.signerName"), "<none>")),
    ("Requestor", "string", 0, |one| object::text(one, "spec.username").into()),
    ("RequestedDuration", "string", 0, |one| match object::at(one, "spec.expirationSeconds").as_i64() {
        Some(seconds) => crate::table::human_duration(seconds).into(),
        None => "<none>".into(),
    }),
    ("Condition", "string", 0, |one| {
        let has =
            |kind: &str| object::items(one, "status.conditions").iter().any(|condition| condition["type"] == kind);
        let mut text = match (has("Denied"), has("Approved")) {
            (true, _) => "Denied".to_owned(),
            (false, true) => "Approved".to_owned(),
            (false, false) => "Pending".to_owned(),
        };
        if has("Failed") {
            text.push_str(",Failed");
        }
        if !object::text(one, "status.certificate").is_empty() {
            text.push_str(",Issued");
        }
        text.into()
    }),
];
pub(super) const LEVEL_COLUMNS: Columns = &[
    ("Type", "string", 0, |one| object::text(one, "spec.type").into()),
    ("NominalConcurrencyShares", "string", 0, |one| {
        let shares = |part: &str| object::at(one, &format!("spec.{part}.nominalConcurrencyShares")).clone();
        if shares("limited").is_null() { shares("exempt") } else { shares("limited") }
    }),
    ("Queues", "string", 0, |one| queuing(one, "queues")),
    ("HandSize", "string", 0, |one| queuing(one, "handSize")),
    ("QueueLengthLimit", "string", 0, |one| queuing(one, "queueLengthLimit")),
];
fn queuing(level: &Value, field: &str) -> Value {
    match object::at(level, &format!("spec.limited.limitResponse.queuing.{field}")) {
        Value::Null => "<none>".into(),
        value => value.clone(),
    }
}

/// Opaque unless it says what it is; plain texts move to the encoded data.
pub(super) fn secret(object: &mut Value) {
    let map = as_map(object);
    default_text(map, "type", "Opaque");
    let Some(Value::Object(plain)) = map.remove("stringData") else { return };
    if plain.is_empty() {
        return;
    }
    let data = as_map(map.entry("data").or_insert(Value::Null));
    for (key, value) in plain {
        data.insert(key, STANDARD.encode(value.as_str().unwrap_or_default()).into());
    }
}

/// Limits of containers: a maximum is a default limit, a limit a default request.
pub(super) fn limit_range(object: &mut Value) {
    let limits = map_mut(object, "spec").get_mut("limits").and_then(Value::as_array_mut);
    for item in limits.into_iter().flatten().filter(|item| item["type"] == "Container") {
        let amounts =
            |item: &Value, field: &str| item.get(field).and_then(Value::as_object).cloned().unwrap_or_default();
        let (max, min) = (amounts(item, "max"), amounts(item, "min"));
        let mut limit = amounts(item, "default");
        for (name, amount) in max {
            limit.entry(name).or_insert(amount);
        }
        let mut request = amounts(item, "defaultRequest");
        for (name, amount) in limit.iter() {
            request.entry(name.clone()).or_insert_with(|| min.get(name).unwrap_or(amount).clone());
        }
        for (name, amount) in min {
            request.entry(name).or_insert(amount);
        }
        let map = as_map(item);
        if !limit.is_empty() {
            map.insert("default".to_owned(), limit.into());
        }
        if !request.is_empty() {
            map.insert("defaultRequest".to_owned(), request.into());
        }
    }
}

pub(super) fn priority_class(object: &mut Value) {
    default_text(as_map(object), "preemptionPolicy", "PreemptLowerPriority");
}

/// Subjects and the role belong to RBAC's group unless they say otherwise.
pub(super) fn binding(object: &mut Value) {
    const RBAC: &str = "rbac.authorization.k8s.io";
    default_text(map_mut(object, "roleRef"), "apiGroup", RBAC);
    for subject in object.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
        if matches!(subject["kind"].as_str(), Some("User" | "Group")) {
            default_text(as_map(subject), "apiGroup", RBAC);
        }
    }
}

/// A request says who made it, whatever the client wrote.
pub(super) fn signing_request(object: &mut Value, write: &Write<'_>) {
    let spec = map_mut(object, "spec");
    for field in ["username", "uid", "groups", "extra"] {
        spec.remove(field);
    }
    let user = write.user;
    spec.insert("username".to_owned(), user.name.as_str().into());
    if !user.uid.is_empty() {
        spec.insert("uid".to_owned(), user.uid.as_str().into());
    }
    if !user.groups.is_empty() {
        spec.insert("groups".to_owned(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        spec.insert("extra".to_owned(), json!(user.extra));
    }
}

pub(super) fn flow_schema(object: &mut Value) {
    let spec = map_mut(object, "spec");
    if spec.get("matchingPrecedence").and_then(Value::as_i64).unwrap_or(0) == 0 {
        spec.insert("matchingPrecedence".to_owned(), 1000.into());
    }
}

pub(super) fn priority_level(object: &mut Value) {
    let spec = map_mut(object, "spec");
    match spec.get("type").and_then(Value::as_str) {
        Some("Limited") => {
            let limited = as_map(spec.entry("limited").or_insert(Value::Null));
            default(limited, "nominalConcurrencyShares", 30);
            default(limited, "lendablePercent", 0);
            if let Some(response) = limited.get_mut("limitResponse")
                && response["type"] == "Queue"
            {
                let queuing = as_map(as_map(response).entry("queuing").or_insert(Value::Null));
                for (field, number) in [("handSize", 8), ("queues", 64), ("queueLengthLimit", 50)] {
                    if queuing.get(field).and_then(Value::as_i64).unwrap_or(0) == 0 {
                        queuing.insert(field.to_owned(), number.into());
                    }
                }
            }
        }
        Some("Exempt") => {
            let exempt = as_map(spec.entry("exempt").or_insert(Value::Null));
            default(exempt, "nominalConcurrencyShares", 0);
            default(exempt, "lendablePercent", 0);
        }
        _ => {}
    }
}
