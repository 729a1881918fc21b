//! DefaultBinder: a decision is made known by the pod's `binding` subresource.
//! Sending it is the run loop's work.

use serde_json::{Value, json};

use crate::plugin::Plugin;
use crate::pod::PodKey;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct DefaultBinder;

/// The body of the request; the uid keeps it from a pod of the same name.
pub fn binding(key: &PodKey, uid: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"namespace": &*key.namespace, "name": &*key.name, "uid": uid},
        "target": {"kind": "Node", "name": node},
    })
}

impl Plugin for DefaultBinder {
    fn name(&self) -> &'static str {
        "DefaultBinder"
    }
}
