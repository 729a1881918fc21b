//! Running it: one loop over workloads, one over policies, on shared copies.

use std::sync::Arc;

use api::elastic::{SleepPolicy, SleepPolicyStatus, Sleeper};
use client::events::Recorder;
use client::{Action, Client, ClientError, Controller, Delta, ObjectKey, Patch};
use jiff::Timestamp;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::apply::Writer;
use super::facts::{Copies, Key, Kind, is_ready};
use super::plan::plan;
use super::summary::summary;

/// Field manager of a policy's summed status.
const MANAGER: &str = "darter-sleep-controller";

/// Why a reconciliation failed; it is tried again.
#[derive(thiserror::Error, Debug)]
enum Failure {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Behind(#[from] client::informer::Behind),
}

/// Takes workloads to zero and back, and sums up policies.
pub struct SleepController {
    client: Client,
}

struct Shared {
    copies: Copies,
    writer: Writer,
}

impl SleepController {
    /// Nothing happens before [`SleepController::run`].
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Runs until `shutdown`, then waits for the writes under way.
    pub async fn run(self, shutdown: CancellationToken) {
        let (copies, tasks) = Copies::new(&self.client);
        let (recorder, recorder_task) = Recorder::new(self.client.clone(), "sleep-controller", None);
        let shared = Arc::new(Shared { copies, writer: Writer { client: self.client, recorder } });
        let mut running = JoinSet::new();
        for task in tasks {
            running.spawn(task.run(shutdown.clone()));
        }
        running.spawn(recorder_task.run(shutdown.clone()));
        running.spawn(workloads(&shared).run(shutdown.clone()));
        running.spawn(policies(&shared).run(shutdown.clone()));
        drop(shared);
        while let Some(ended) = running.join_next().await {
            // A panic is our mistake: the rest must not go on as if nothing
            // had happened.
            if let Err(error) = ended {
                tracing::error!(err = %error, "the sleep controller ended abnormally");
                shutdown.cancel();
            }
        }
    }
}

fn workloads(shared: &Arc<Shared>) -> Controller<Failure, Key> {
    let copies = &shared.copies;
    let reconciler = Arc::clone(shared);
    let of_pods = Arc::clone(shared);
    let of_policies = Arc::clone(shared);
    let of_services = Arc::clone(shared);
    let of_nodes = Arc::clone(shared);
    Controller::new("sleep", move |key: Key| {
        let shared = Arc::clone(&reconciler);
        async move { shared.workload(&key).await }
    })
    .watches(&copies.pods, move |delta| of_pods.copies.workload_of(delta.object()))
    .watches(&copies.sleepers, |delta| Key::of_sleeper(delta.object()))
    .watches(&copies.policies, move |delta| {
        let same = delta.old().is_some_and(|old| old.spec == delta.object().spec);
        let namespace = delta.object().metadata.namespace.clone().unwrap_or_default();
        if same { Default::default() } else { of_policies.copies.workloads(&namespace) }
    })
    .watches(&copies.services, move |delta| {
        of_services.copies.workloads(delta.object().metadata.namespace.as_deref().unwrap_or_default())
    })
    .watches(&copies.nodes, move |delta| {
        let changed = !matches!(delta, Delta::Updated { old, new } if is_ready(old) == is_ready(new));
        let sleepers = if changed { of_nodes.copies.sleepers.list() } else { Vec::new() };
        sleepers.iter().filter_map(|sleeper| Key::of_sleeper(sleeper)).collect::<Vec<_>>()
    })
    .watches(&copies.deployments, |delta| Key::of_object(Kind::Deployment, &delta.object().metadata))
    .watches(&copies.stateful_sets, |delta| Key::of_object(Kind::StatefulSet, &delta.object().metadata))
    .waits_for(&copies.replica_sets)
}

fn policies(shared: &Arc<Shared>) -> Controller<Failure> {
    let reconciler = Arc::clone(shared);
    Controller::new("sleep-policies", move |key: ObjectKey| {
        let shared = Arc::clone(&reconciler);
        async move { shared.policy(&key).await }
    })
    .watches(&shared.copies.policies, |delta| Some(ObjectKey::of(&**delta.object())))
    .watches(&shared.copies.sleepers, |delta| {
        let sleeper = delta.object();
        Some(ObjectKey::new(sleeper.metadata.namespace.as_deref().unwrap_or_default(), sleeper.spec.policy.as_str()))
    })
}

impl Shared {
    async fn workload(&self, key: &Key) -> Result<Action, Failure> {
        let copies = &self.copies;
        if copies.is_silent(&key.namespace) {
            return Ok(Action::Done);
        }
        copies.sleepers.caught_up().await?;
        // A Sleeper whose workload is gone goes with its owner.
        let Some(workload) = copies.workload(key) else { return Ok(Action::Done) };
        let plan = plan(&copies.facts(key, &workload, Timestamp::now()));
        for step in plan.steps {
            let wrote = |sleeper: &Sleeper| copies.sleepers.wrote(sleeper.metadata.resource_version.as_deref());
            self.writer.carry_out(key, &workload, step, wrote).await?;
        }
        Ok(plan.again.map_or(Action::Done, Action::After))
    }

    async fn policy(&self, key: &ObjectKey) -> Result<Action, Failure> {
        let Some(policy) = self.copies.policies.get(key) else { return Ok(Action::Done) };
        let sleepers = self.copies.sleepers.in_namespace(&key.namespace);
        let own: Vec<&Sleeper> =
            sleepers.iter().map(|one| &**one).filter(|one| *one.spec.policy == *key.name).collect();
        let status = summary(&policy, &own, Timestamp::now());
        let before = policy.status.clone().map(|status| SleepPolicyStatus { nodes: Vec::new(), ..status });
        if before.as_ref() == Some(&status) {
            return Ok(Action::Done);
        }
        let patch = json!({
            "apiVersion": "elastic.darter.dev/v1alpha1", "kind": "SleepPolicy",
            "metadata": {"name": &*key.name, "namespace": &*key.namespace},
            "status": status,
        });
        let patch = Patch::Apply { value: patch, manager: MANAGER.to_owned(), force: true };
        let api = self.writer.client.namespaced::<SleepPolicy>(&key.namespace);
        match api.patch_status(&key.name, &patch).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(Action::Done),
        }
    }
}
