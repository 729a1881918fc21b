//! Carrying out steps: one request each, in order. It decides nothing.

use api::elastic::{Hold, Phase, Sleeper, SleeperSpec};
use api::gvk::{GroupVersion, GroupVersionResource};
use api::types::api::core::v1::ObjectReference;
use api::types::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use client::events::{EventType, Recorder};
use client::{Client, ClientError, DeleteParams, Patch};
use jiff::Timestamp;
use serde_json::json;

use super::facts::{Key, Kind, Workload};
use super::plan::Step;

/// Who writes, and where it is told.
pub(super) struct Writer {
    pub(super) client: Client,
    pub(super) recorder: Recorder,
}

impl Writer {
    /// One step. `wrote` hears of each new revision of the Sleeper.
    pub(super) async fn carry_out(
        &self,
        key: &Key,
        workload: &Workload,
        step: Step,
        wrote: impl Fn(&Sleeper),
    ) -> Result<(), ClientError> {
        let sleepers = self.client.namespaced::<Sleeper>(&key.namespace);
        let name = key.sleeper().name;
        match step {
            Step::Create { policy, replicas, services } => {
                let spec =
                    SleeperSpec { target_ref: key.target(), policy, replicas, services, hold: Some(Hold::Always) };
                match sleepers.create(&self.sleeper(key, workload, spec)).await {
                    Ok(made) => wrote(&made),
                    Err(error) if error.is_already_exists() => {}
                    Err(error) => return Err(error),
                }
            }
            Step::Specify { hold, replicas, services } => {
                let spec = json!({"spec": {"hold": hold, "replicas": replicas, "services": services}});
                wrote(&sleepers.patch(&name, &Patch::Merge(spec)).await?);
            }
            Step::Enter(phase, reason) => {
                let since = Time(Timestamp::now());
                let status = json!({"status": {"phase": phase, "since": since, "reason": reason}});
                wrote(&sleepers.patch_status(&name, &Patch::Merge(status)).await?);
                self.tell(key, workload, phase, reason);
            }
            Step::Scale(replicas) => self.scale(key, workload, replicas).await?,
            Step::Delete => match sleepers.delete(&name, &DeleteParams::default()).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            },
        }
        Ok(())
    }

    fn sleeper(&self, key: &Key, workload: &Workload, spec: SleeperSpec) -> Sleeper {
        let owner = OwnerReference {
            api_version: Kind::API_VERSION.into(),
            kind: key.kind.as_str().into(),
            name: key.name.to_string(),
            uid: workload.metadata.uid.clone().unwrap_or_default(),
            ..OwnerReference::default()
        };
        let metadata = ObjectMeta {
            name: Some(key.sleeper().name.to_string()),
            namespace: Some(key.namespace.to_string()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        };
        Sleeper { metadata, spec, status: None }
    }

    /// Going to zero is tied to the workload as it was looked at: someone who
    /// changed it meanwhile wins.
    async fn scale(&self, key: &Key, workload: &Workload, replicas: i32) -> Result<(), ClientError> {
        let resource = GroupVersionResource {
            group_version: GroupVersion::new("apps", "v1"),
            resource: key.kind.plural().to_owned(),
        };
        let mut scale = json!({"spec": {"replicas": replicas}});
        if replicas == 0 {
            scale["metadata"] = json!({"resourceVersion": workload.metadata.resource_version});
        }
        let api = self.client.dynamic(&resource, Some(&key.namespace));
        api.patch_subresource(&key.name, "scale", &Patch::Merge(scale)).await.map(drop)
    }

    fn tell(&self, key: &Key, workload: &Workload, phase: Phase, why: &str) {
        let (reason, message) = match phase {
            Phase::Gone => ("Slept", "Went to zero replicas, its Services hold new connections".to_owned()),
            Phase::Rising => ("Woke", format!("Comes back from zero replicas: {why}")),
            Phase::Falling | Phase::Awake => return,
        };
        let reference = ObjectReference {
            api_version: Some(Kind::API_VERSION.into()),
            kind: Some(key.kind.as_str().into()),
            namespace: Some(key.namespace.to_string()),
            name: Some(key.name.to_string()),
            uid: workload.metadata.uid.clone(),
            ..ObjectReference::default()
        };
        self.recorder.event(&reference, EventType::Normal, reason, message);
    }
}
