//! Webhook configurations and admission policies.

use serde_json::{Value, json};

use crate::object::{self, as_map, default, default_text, map_mut};

pub(super) fn webhooks(object: &mut Value) {
    let mutating = object["kind"] == "MutatingWebhookConfiguration";
    for webhook in object.get_mut("webhooks").and_then(Value::as_array_mut).into_iter().flatten() {
        let webhook = as_map(webhook);
        default_text(webhook, "failurePolicy", "Fail");
        default_text(webhook, "matchPolicy", "Equivalent");
        default(webhook, "namespaceSelector", json!({}));
        default(webhook, "objectSelector", json!({}));
        default(webhook, "timeoutSeconds", 10);
        if mutating {
            default_text(webhook, "reinvocationPolicy", "Never");
        }
        let service = webhook.get_mut("clientConfig").and_then(|config| config.get_mut("service"));
        if let Some(service) = service.filter(|service| service.is_object()) {
            default(as_map(service), "port", 443);
        }
        scopes(webhook.get_mut("rules"));
    }
}

fn scopes(rules: Option<&mut Value>) {
    for rule in rules.and_then(Value::as_array_mut).into_iter().flatten() {
        default_text(as_map(rule), "scope", "*");
    }
}

pub(super) fn policy(object: &mut Value) {
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    let spec = map_mut(object, "spec");
    if kind.ends_with("Binding") {
        if let Some(resources) = spec.get_mut("matchResources").filter(|one| one.is_object()) {
            matching(resources);
        }
        return;
    }
    default_text(spec, "failurePolicy", "Fail");
    if let Some(resources) = spec.get_mut("matchConstraints").filter(|one| one.is_object()) {
        matching(resources);
    }
}

fn matching(resources: &mut Value) {
    let map = as_map(resources);
    default_text(map, "matchPolicy", "Equivalent");
    default(map, "namespaceSelector", json!({}));
    default(map, "objectSelector", json!({}));
    scopes(map.get_mut("resourceRules"));
    scopes(map.get_mut("excludeResourceRules"));
}

type Columns = &'static [(&'static str, &'static str, i32, fn(&Value) -> Value)];

pub(super) const WEBHOOK_COLUMNS: Columns =
    &[("Webhooks", "integer", 0, |one| object::items(one, "webhooks").len().into())];

pub(super) const POLICY_COLUMNS: Columns = &[
    ("Validations", "integer", 0, |one| object::items(one, "spec.validations").len().into()),
    ("Mutations", "integer", 0, |one| object::items(one, "spec.mutations").len().into()),
    ("ParamKind", "string", 0, |one| {
        let kind = object::at(one, "spec.paramKind");
        match (kind["apiVersion"].as_str(), kind["kind"].as_str()) {
            (Some(version), Some(kind)) => format!("{version}/{kind}").into(),
            _ => "<unset>".into(),
        }
    }),
];
