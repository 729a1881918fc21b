//! What this node says about each policy's pods: counted as it happens, written
//! into the node's entry of the policy's status, at most so often. A policy that
//! nothing happens to is not written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use api::elastic::{NodeSleep, Rung, RungCounts, RungWakes, SleepPolicy, Transition, WakeHistogram};
use api::types::apimachinery::pkg::apis::meta::v1::Time;
use client::{Client, ObjectKey, Patch};
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Sleep;
use super::machine::Change;

/// Changes of this long are written together.
const REPORT_PERIOD: Duration = Duration::from_secs(2);
/// After a failed write.
const RETRY: Duration = Duration::from_secs(10);

/// A pod as its policy counts it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Member {
    pub(super) rung: Rung,
    /// CPU that it requests, thousandths.
    pub(super) cpu_milli: u64,
    /// Memory of it that is in swap, bytes.
    pub(super) paged_bytes: u64,
}

#[derive(Default)]
struct Report {
    members: BTreeMap<String, Member>,
    wakes: BTreeMap<Rung, WakeHistogram>,
    last: Option<Transition>,
    /// Wakes that an earlier run counted have been added.
    resumed: bool,
}

#[derive(Default)]
struct State {
    reports: BTreeMap<ObjectKey, Report>,
    changed: BTreeSet<ObjectKey>,
}

/// Reports by policy.
#[derive(Default)]
pub(super) struct Reports {
    state: Mutex<State>,
    notify: Notify,
}

impl Reports {
    fn change(&self, policy: &ObjectKey, change: impl FnOnce(&mut Report)) {
        let mut state = self.lock();
        change(state.reports.entry(policy.clone()).or_default());
        state.changed.insert(policy.clone());
        drop(state);
        self.notify.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        super::lock(&self.state)
    }

    /// The pod is one of the policy's, in this state.
    pub(super) fn member(&self, policy: &ObjectKey, uid: &str, member: Member) {
        self.change(policy, |report| {
            report.members.insert(uid.to_owned(), member);
        });
    }

    /// The pod is none of the policy's any more.
    pub(super) fn left(&self, policy: &ObjectKey, uid: &str) {
        self.change(policy, |report| {
            report.members.remove(uid);
        });
    }

    /// The pod changed its rung.
    pub(super) fn moved(&self, policy: &ObjectKey, pod: &str, change: Change, reason: &str) {
        let transition = Transition {
            time: Time(jiff::Timestamp::now()),
            of: pod.to_owned(),
            from: change.from,
            to: change.to,
            reason: reason.to_owned(),
        };
        self.change(policy, |report| report.last = Some(transition));
    }

    /// A wake from `rung` was answered after so long.
    pub(super) fn woke(&self, policy: &ObjectKey, rung: Rung, took: Duration) {
        self.change(policy, |report| report.wakes.entry(rung).or_default().record(took));
    }

    /// Writes changed reports until `shutdown`.
    pub(super) async fn write(&self, client: &Client, node: &str, sleep: &Sleep, shutdown: &CancellationToken) {
        let mut wait = Duration::ZERO;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.notify.notified() => {}
                () = tokio::time::sleep(wait), if !wait.is_zero() => {}
            }
            if shutdown.run_until_cancelled(tokio::time::sleep(REPORT_PERIOD)).await.is_none() {
                return;
            }
            wait = Duration::ZERO;
            let changed = std::mem::take(&mut self.lock().changed);
            for key in changed {
                // A policy that is gone takes its reports with it.
                let Some(policy) = sleep.policy(&key) else {
                    self.lock().reports.remove(&key);
                    continue;
                };
                let Some(mut entry) = self.entry(&key, &policy, node) else { continue };
                entry.not_offered = sleep.not_offered();
                let patch = json!({
                    "apiVersion": "elastic.darter.dev/v1alpha1", "kind": "SleepPolicy",
                    "metadata": {"name": &*key.name, "namespace": &*key.namespace},
                    "status": {"nodes": [entry]},
                });
                let patch = Patch::Apply { value: patch, manager: format!("darter-node-{node}"), force: true };
                let written = client.namespaced::<SleepPolicy>(&key.namespace).patch_status(&key.name, &patch).await;
                match written {
                    Ok(_) => {}
                    Err(error) if error.is_not_found() => {}
                    Err(err) => {
                        tracing::warn!(policy = %key, err = %api::error::Chain(&err), "a sleep policy's status could not be written");
                        self.lock().changed.insert(key);
                        wait = RETRY;
                    }
                }
            }
        }
    }

    fn entry(&self, key: &ObjectKey, policy: &Arc<SleepPolicy>, node: &str) -> Option<NodeSleep> {
        let mut state = self.lock();
        let report = state.reports.get_mut(key)?;
        if !report.resumed {
            report.resumed = true;
            let nodes = policy.status.iter().flat_map(|status| &status.nodes);
            for wakes in nodes.filter(|entry| entry.name == node).flat_map(|entry| &entry.wakes) {
                report.wakes.entry(wakes.rung).or_default().merge(&wakes.buckets);
            }
        }
        let mut pods = RungCounts::default();
        for member in report.members.values() {
            *pods.of(member.rung) += 1;
        }
        let asleep = || report.members.values().filter(|member| member.rung.is_asleep());
        Some(NodeSleep {
            name: node.to_owned(),
            pods,
            wakes: report
                .wakes
                .iter()
                .map(|(rung, buckets)| RungWakes { rung: *rung, buckets: buckets.clone() })
                .collect(),
            freed_cpu_milli: asleep().map(|member| member.cpu_milli).sum(),
            freed_memory_bytes: asleep().map(|member| member.paged_bytes).sum(),
            last_transition: report.last.clone(),
            not_offered: Vec::new(),
        })
    }
}
