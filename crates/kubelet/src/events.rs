//! Events of pods and of the node, with the references that upstream gives.

use api::types::api::core::v1 as core;
use client::events::{EventType, Recorder};

use crate::spec;

/// Records events as `kubelet`.
#[derive(Clone)]
pub(crate) struct Events {
    recorder: Recorder,
    node: core::ObjectReference,
}

impl Events {
    /// Events about the node refer to it by its name, as its uid.
    pub(crate) fn new(recorder: Recorder, node_name: &str) -> Self {
        let node = core::ObjectReference {
            kind: Some("Node".into()),
            name: Some(node_name.into()),
            uid: Some(node_name.into()),
            ..core::ObjectReference::default()
        };
        Self { recorder, node }
    }

    /// About a pod. `kind` is `Normal` or `Warning`.
    pub(crate) fn pod(&self, pod: &core::Pod, kind: &str, reason: &str, message: &str) {
        self.recorder.event(&reference(pod, None), event_type(kind), reason, message);
    }

    /// About one container of a pod.
    pub(crate) fn container(&self, pod: &core::Pod, container: &str, kind: &str, reason: &str, message: &str) {
        let path = spec::find(pod, container).map(|(role, _)| format!("spec.{}{{{container}}}", role.field()));
        self.recorder.event(&reference(pod, path), event_type(kind), reason, message);
    }

    /// About the node.
    pub(crate) fn node(&self, kind: &str, reason: &str, message: &str) {
        self.recorder.event(&self.node, event_type(kind), reason, message);
    }
}

fn event_type(kind: &str) -> EventType {
    if kind == "Warning" { EventType::Warning } else { EventType::Normal }
}

fn reference(pod: &core::Pod, field_path: Option<String>) -> core::ObjectReference {
    core::ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: Some(spec::name(pod).into()),
        namespace: Some(spec::namespace(pod).into()),
        uid: Some(spec::uid(pod).into()),
        resource_version: pod.metadata.resource_version.clone(),
        field_path,
    }
}
