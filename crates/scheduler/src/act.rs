//! Carries out the core's steps: binds, reports, makes room. Jobs about one
//! pod run one after another in the order given, others side by side. Decides
//! nothing.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use api::error::Chain;
use api::types::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod, PodCondition};
use client::events::Recorder;
use client::{Client, ClientError, DeleteParams, Patch, Preconditions};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::core::Report;
use crate::objects::{Claim, Volume, VolumePlan};
use crate::plugins;
use crate::pod::PodKey;

/// Jobs side by side, and so bindings: at 5 ms each it is 12,000 a second.
const LANES: usize = 64;
/// Longest event message in bytes (upstream's `NoteLengthLimit`).
const EVENT_MESSAGE_LIMIT: usize = 1024;
/// Tries of a status patch that the server was too busy for.
const PATCH_ATTEMPTS: u32 = 5;

/// Something to do about a pod.
#[derive(Debug)]
pub(crate) enum Job {
    Bind { pod: Arc<Pod>, node: Arc<str> },
    Report(Report),
    Preempt { report: Report, victims: Vec<(PodKey, Arc<str>)>, outranked: Vec<PodKey>, node: Arc<str> },
    PrepareVolumes { pod: Arc<Pod>, node: Arc<str>, plan: VolumePlan },
    Skipped { pod: Arc<Pod> },
}

/// How a job ended. Each job gives exactly one.
#[derive(Debug)]
pub(crate) enum Outcome {
    Bound { uid: String, result: Result<(), String> },
    Preempted { uid: String, succeeded: bool },
    VolumesRequested { uid: String, result: Result<(), String> },
    Reported,
}

/// The lanes. Dropping the senders ends the tasks after the jobs they have.
pub(crate) struct Lanes {
    senders: Vec<mpsc::Sender<Job>>,
    tasks: JoinSet<()>,
}

impl Lanes {
    /// `capacity`: jobs under way at most, which the caller counts.
    pub(crate) fn spawn(actor: &Actor, outcomes: &mpsc::Sender<Outcome>, capacity: usize) -> Self {
        let mut tasks = JoinSet::new();
        let mut senders = Vec::with_capacity(LANES);
        for _ in 0..LANES {
            let (sender, mut jobs) = mpsc::channel(capacity);
            let (actor, outcomes) = (actor.clone(), outcomes.clone());
            senders.push(sender);
            tasks.spawn(async move {
                while let Some(job) = jobs.recv().await {
                    let outcome = actor.carry_out(job).await;
                    if outcomes.send(outcome).await.is_err() {
                        return;
                    }
                }
            });
        }
        Self { senders, tasks }
    }

    /// Takes no more jobs; the tasks end with the jobs they have.
    pub(crate) fn close(self) -> JoinSet<()> {
        self.tasks
    }

    /// Hands a job over. Never waits: there is room for all jobs under way.
    pub(crate) fn send(&self, job: Job) {
        let pod = match &job {
            Job::Bind { pod, .. } | Job::PrepareVolumes { pod, .. } | Job::Skipped { pod } => pod,
            Job::Report(report) | Job::Preempt { report, .. } => &report.pod,
        };
        let mut hasher = DefaultHasher::new();
        pod.metadata.uid.hash(&mut hasher);
        let lane = (hasher.finish() % LANES as u64) as usize;
        if let Err(error) = self.senders[lane].try_send(job) {
            tracing::error!(%error, "a job did not fit its lane");
        }
    }
}

/// Speaks to the API server.
#[derive(Clone)]
pub(crate) struct Actor {
    pub(crate) client: Client,
    pub(crate) recorder: Recorder,
    pub(crate) scheduler_name: Arc<str>,
}

impl Actor {
    async fn carry_out(&self, job: Job) -> Outcome {
        match job {
            Job::Bind { pod, node } => {
                let result = self.bind(&pod, &node).await;
                Outcome::Bound { uid: pod.metadata.uid.clone().unwrap_or_default(), result }
            }
            Job::Report(report) => {
                self.report(&report).await;
                Outcome::Reported
            }
            Job::Preempt { report, victims, outranked, node } => {
                let uid = report.pod.metadata.uid.clone().unwrap_or_default();
                self.report(&report).await;
                let succeeded = self.make_room(&uid, &victims, &outranked, &node).await;
                Outcome::Preempted { uid, succeeded }
            }
            Job::PrepareVolumes { pod, node, plan } => {
                let result = self.prepare_volumes(&pod, &node, &plan).await;
                Outcome::VolumesRequested { uid: pod.metadata.uid.clone().unwrap_or_default(), result }
            }
            Job::Skipped { pod } => {
                self.recorder.warning(
                    &*pod,
                    "FailedScheduling",
                    format!("skip schedule deleting pod: {}", PodKey::of(&pod)),
                );
                Outcome::Reported
            }
        }
    }

    async fn bind(&self, pod: &Pod, node: &str) -> Result<(), String> {
        let key = PodKey::of(pod);
        let body = plugins::binding(&key, pod.metadata.uid.as_deref().unwrap_or_default(), node);
        let pods = self.client.namespaced::<Pod>(&key.namespace);
        match pods.subresource_create(&key.name, "binding", &body).await {
            Ok(_) => {
                self.recorder.normal(pod, "Scheduled", format!("Successfully assigned {key} to {node}"));
                Ok(())
            }
            Err(error) => {
                let err = Chain(&error).to_string();
                tracing::debug!(namespace = &*key.namespace, name = &*key.name, node, err, "binding failed");
                Err(err)
            }
        }
    }

    /// Says which node the pod will go to, then asks for its volumes.
    async fn prepare_volumes(&self, pod: &Pod, node: &str, plan: &VolumePlan) -> Result<(), String> {
        self.patch_status(&PodKey::of(pod), json!({"status": {"nominatedNodeName": node}})).await;
        for (volume, claim) in &plan.bindings {
            self.bind_volume(volume, claim).await.map_err(|error| Chain(&error).to_string())?;
        }
        for claim in &plan.provisions {
            self.request_volume(claim, node).await.map_err(|error| Chain(&error).to_string())?;
        }
        Ok(())
    }

    /// Reserves a volume for a claim; the volume controller does the rest.
    async fn bind_volume(&self, volume: &Volume, claim: &Claim) -> Result<(), ClientError> {
        let volumes = self.client.all::<PersistentVolume>();
        let mut object = volumes.get(&volume.name).await?;
        let spec = object.spec.get_or_insert_default();
        let reserved = spec.claim_ref.as_ref().is_some_and(|reference| {
            reference.namespace.as_deref() == Some(&*claim.key.0)
                && reference.name.as_deref() == Some(&*claim.key.1)
                && reference.uid.as_deref().is_none_or(|uid| uid.is_empty() || uid == claim.uid)
        });
        spec.claim_ref = Some(ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("PersistentVolumeClaim".into()),
            namespace: Some(claim.key.0.to_string()),
            name: Some(claim.key.1.to_string()),
            uid: Some(claim.uid.clone()),
            ..ObjectReference::default()
        });
        if !reserved {
            let annotations = object.metadata.annotations.get_or_insert_default();
            annotations.insert("pv.kubernetes.io/bound-by-controller".into(), "yes".into());
        }
        volumes.replace(&volume.name, &object).await.map(drop)
    }

    /// Tells the provisioner for which node to make a volume.
    async fn request_volume(&self, claim: &Claim, node: &str) -> Result<(), ClientError> {
        let claims = self.client.namespaced::<PersistentVolumeClaim>(&claim.key.0);
        let mut object = claims.get(&claim.key.1).await?;
        let annotations = object.metadata.annotations.get_or_insert_default();
        annotations.insert("volume.kubernetes.io/selected-node".into(), node.to_owned());
        claims.replace(&claim.key.1, &object).await.map(drop)
    }

    async fn report(&self, report: &Report) {
        self.recorder.warning(&*report.pod, "FailedScheduling", truncated(&report.message));
        let condition = scheduled_condition(&report.pod, report.reason, &report.message);
        let nomination = report.nomination.as_ref().map(|node| node.as_deref());
        if let Some(patch) = status_patch(&report.pod, condition, nomination, Timestamp::now()) {
            self.patch_status(&PodKey::of(&report.pod), patch).await;
        }
    }

    /// Patches a pod's status; false if that failed for good. A pod that is
    /// gone needs none.
    async fn patch_status(&self, key: &PodKey, patch: Value) -> bool {
        let pods = self.client.namespaced::<Pod>(&key.namespace);
        let patch = Patch::Strategic(patch);
        for attempt in 1.. {
            match pods.patch_status(&key.name, &patch).await {
                Ok(_) => return true,
                Err(error) if error.is_not_found() => return true,
                Err(error) if error.is_conflict() && attempt < PATCH_ATTEMPTS => {}
                Err(error) => {
                    tracing::warn!(namespace = &*key.namespace, name = &*key.name, err = %Chain(&error), "cannot update the pod's status");
                    return false;
                }
            }
        }
        false
    }

    /// Upstream's order: nominations of less important pods are void, then all
    /// victims but the last go, then the last one.
    async fn make_room(
        &self,
        preemptor_uid: &str,
        victims: &[(PodKey, Arc<str>)],
        outranked: &[PodKey],
        node: &str,
    ) -> bool {
        let mut succeeded = true;
        for key in outranked {
            succeeded &= self.patch_status(key, json!({"status": {"nominatedNodeName": null}})).await;
        }
        for (victim, uid) in victims {
            if let Err(error) = self.evict(victim, uid, preemptor_uid, node).await {
                tracing::warn!(namespace = &*victim.namespace, name = &*victim.name, err = %Chain(&error), "cannot preempt the pod");
                return false;
            }
        }
        succeeded
    }

    async fn evict(&self, victim: &PodKey, uid: &str, preemptor_uid: &str, node: &str) -> Result<(), ClientError> {
        let pods = self.client.namespaced::<Pod>(&victim.namespace);
        let Some(pod) = pods.get_opt(&victim.name).await? else { return Ok(()) };
        if pod.metadata.uid.as_deref() != Some(uid) || pod.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let message = format!("{}: preempting to accommodate a higher priority pod", self.scheduler_name);
        let condition = PodCondition {
            type_: "DisruptionTarget".into(),
            status: "True".into(),
            reason: Some("PreemptionByScheduler".into()),
            message: Some(message),
            observed_generation: pod.metadata.generation,
            ..PodCondition::default()
        };
        if let Some(patch) = status_patch(&pod, condition, None, Timestamp::now()) {
            match pods.patch_status(&victim.name, &Patch::Strategic(patch)).await {
                Err(error) if error.is_not_found() => return Ok(()),
                other => other.map(drop)?,
            }
        }
        let only_this = DeleteParams {
            preconditions: Some(Preconditions { uid: Some(uid.to_owned()), ..Preconditions::default() }),
            ..DeleteParams::default()
        };
        match pods.delete(&victim.name, &only_this).await {
            Err(error) if error.is_not_found() => return Ok(()),
            other => other?,
        }
        self.recorder.normal(&pod, "Preempted", format!("Preempted by pod {preemptor_uid} on node {node}"));
        Ok(())
    }
}

fn scheduled_condition(pod: &Pod, reason: &str, message: &str) -> PodCondition {
    PodCondition {
        type_: "PodScheduled".into(),
        status: "False".into(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    }
}

/// A strategic merge patch that sets a condition and, if given, the nominated
/// node; none if the pod has both already.
fn status_patch(pod: &Pod, condition: PodCondition, nomination: Option<Option<&str>>, now: Timestamp) -> Option<Value> {
    let status = pod.status.as_ref();
    let mut conditions = status.iter().flat_map(|status| status.conditions.iter().flatten());
    let old = conditions.find(|old| old.type_ == condition.type_);
    let unchanged = old.is_some_and(|old| {
        old.status == condition.status
            && old.reason == condition.reason
            && old.message == condition.message
            && old.observed_generation == condition.observed_generation
    });
    let mut fields = serde_json::Map::new();
    if !unchanged {
        let since = old.filter(|old| old.status == condition.status).and_then(|old| old.last_transition_time.as_ref());
        let since = since.map_or_else(|| now.to_string(), |time| time.0.to_string());
        let seconds = since.split('.').next().unwrap_or_default().trim_end_matches('Z');
        fields.insert(
            "conditions".into(),
            json!([{
                "type": condition.type_,
                "status": condition.status,
                "reason": condition.reason,
                "message": condition.message,
                "observedGeneration": condition.observed_generation,
                "lastProbeTime": null,
                "lastTransitionTime": format!("{seconds}Z"),
            }]),
        );
    }
    let stated = status.and_then(|status| status.nominated_node_name.as_deref()).filter(|name| !name.is_empty());
    if let Some(node) = nomination
        && node != stated
    {
        fields.insert("nominatedNodeName".into(), json!(node));
    }
    (!fields.is_empty()).then(|| json!({"status": fields}))
}

fn truncated(message: &str) -> String {
    const MARK: &str = " ...";
    if message.len() <= EVENT_MESSAGE_LIMIT {
        return message.to_owned();
    }
    let end = message.floor_char_boundary(EVENT_MESSAGE_LIMIT - MARK.len());
    format!("{}{MARK}", &message[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "generation": 3}, "status": status})).unwrap()
    }

    #[test]
    fn a_report_that_the_pod_already_carries_is_not_sent() {
        let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no", "observedGeneration": 3});
        let pod = pod(json!({"conditions": [condition], "nominatedNodeName": "a"}));
        let patch = |message: &str, nomination| {
            status_patch(&pod, scheduled_condition(&pod, "Unschedulable", message), nomination, Timestamp::UNIX_EPOCH)
        };
        assert_eq!(patch("no", None), None);
        assert_eq!(patch("no", Some(Some("a"))), None);
        assert_eq!(patch("no", Some(None)), Some(json!({"status": {"nominatedNodeName": null}})));
        assert!(patch("still no", None).is_some());
    }

    #[test]
    fn the_transition_time_stays_while_the_status_does() {
        let condition =
            json!({"type": "PodScheduled", "status": "False", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let pod = pod(json!({"conditions": [condition]}));
        let patch =
            status_patch(&pod, scheduled_condition(&pod, "Unschedulable", "no"), None, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(patch["status"]["conditions"][0]["lastTransitionTime"], "2026-01-01T00:00:00Z");
    }

    #[test]
    fn a_long_message_is_cut_for_the_event() {
        let cut = truncated(&"ä".repeat(2000));
        assert!(cut.len() <= EVENT_MESSAGE_LIMIT && cut.ends_with("ä ..."));
    }
}
