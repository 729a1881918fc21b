//! The pod's sleep, as its worker sees it: starts and ends the sleeper, rests
//! the probes, and tells the API on which rung the pod is.

use std::net::IpAddr;
use std::sync::Arc;

use api::elastic::{RUNG_ANNOTATION, RUNG_SINCE_ANNOTATION, Rung};
use api::types::api::core::v1 as core;
use client::Patch;
use containers::runtime::SandboxId;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use super::{Stage, Worker};
use crate::mailbox::PodEvent;
use crate::resources;
use crate::sleep::{self, About, Rules, Sleeper};
use crate::spec;

/// The API learns of a change of rung at most so often for each pod: a pod that
/// is asked every few seconds must not make the store write as often again.
const TELL_PERIOD: Duration = Duration::from_secs(1);

/// Sleep of one pod.
pub(super) struct RungKeeper {
    sleeper: Arc<Sleeper>,
    sandbox: SandboxId,
    stop: CancellationToken,
    task: JoinHandle<()>,
    /// Up to which change the API was told, and when.
    told: Option<(u64, Instant)>,
}

impl Worker {
    /// Starts a sleeper where the pod may sleep and is ready to, ends it where
    /// it may not any more.
    pub(super) async fn keep_rung(&mut self) {
        let wanted = match self.stage {
            Stage::Syncing => self.context.sleep.rules(&self.pod),
            Stage::Ending | Stage::Ended => Some(None),
        };
        // Until the policies are known, what sleeps sleeps on.
        let Some(wanted) = wanted else { return };
        let sandbox = self.observed.usable_sandbox().map(|s| (s.id.clone(), s.frozen, s.ips.first().copied()));
        let keep = match (&self.rung, &wanted, &sandbox) {
            (Some(rung), Some(rules), Some((id, ..))) => rung.sandbox == *id && rung.sleeper.rules() == rules,
            _ => false,
        };
        if keep {
            return;
        }
        if let Some(rung) = self.rung.take() {
            rung.stop.cancel();
            // It only has to thaw and to clean up.
            let _ended = rung.task.await;
            self.context.pods.set_sleeper(&self.uid, None);
            self.prober.resume();
        }
        match (wanted, sandbox) {
            (Some(rules), Some((id, frozen, Some(address)))) if self.is_ready() => {
                self.start_rung(address, id, rules, frozen);
            }
            // Frozen by a former run under rules that do not hold any more.
            (None, Some((id, true, _))) => self.thaw(&id),
            _ => {}
        }
    }

    fn thaw(&self, sandbox: &SandboxId) {
        if let Err(err) = self.context.runtime.thaw(sandbox) {
            tracing::warn!(sandbox = %sandbox.0, err = %::api::error::Chain(&err), "sandbox could not be thawed");
        }
    }

    fn is_ready(&self) -> bool {
        let conditions = self.status.conditions.iter().flatten();
        conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
    }

    fn start_rung(&mut self, address: IpAddr, sandbox: SandboxId, rules: Rules, frozen: bool) {
        let mailbox = self.mailbox.clone();
        let on_change = Box::new(move || mailbox.post(PodEvent::Sleep));
        let about = About {
            pod: spec::name(&self.pod).to_owned(),
            uid: self.uid.clone(),
            policy: rules.policy.as_deref().map(|name| sleep::policy_key(&self.pod, name)),
            cpu_milli: u64::try_from(resources::milli(Some(&resources::pod_requests(&self.pod)), "cpu")).unwrap_or(0),
            address,
            sandbox: sandbox.clone(),
        };
        let learned = self.context.sleep.learned(&self.pod);
        let sleeper = Sleeper::new(about, rules, frozen, learned, self.context.runtime.clone(), on_change);
        let stop = CancellationToken::new();
        let task = tokio::spawn(sleeper.clone().run(self.context.sleep.clone(), stop.clone()));
        self.context.pods.set_sleeper(&self.uid, Some(sleeper.clone()));
        self.rung = Some(RungKeeper { sleeper, sandbox, stop, task, told: None });
        self.rung_changed();
    }

    /// It changed its rung, or the rules of sleep are others.
    pub(super) fn rung_changed(&mut self) {
        let Some(rung) = &self.rung else { return };
        if rung.sleeper.rung().is_asleep() {
            self.prober.pause();
        } else {
            self.prober.resume();
        }
    }

    /// When the API is to be told of a change.
    pub(super) fn rung_due(&self) -> Option<Instant> {
        let rung = self.rung.as_ref()?;
        match rung.told {
            Some((told, _)) if told == rung.sleeper.changes().0 => None,
            Some((_, at)) => Some(at + TELL_PERIOD),
            // A pod that never slept needs no word.
            None => rung.sleeper.rung().is_asleep().then(Instant::now),
        }
    }

    /// Tells the API, if that is due.
    pub(super) fn tell_rung(&mut self) {
        self.tell_missed();
        self.tell_no_rung();
        let Some(due) = self.rung_due().filter(|_| self.rung_write.is_none()) else { return };
        let Some(keeper) = self.rung.as_mut().filter(|_| due <= Instant::now()) else { return };
        // Read before the rung: a change in between is told again.
        let (changes, last) = keeper.sleeper.changes();
        let rung = keeper.sleeper.rung();
        keeper.told = Some((changes, Instant::now()));
        let why = last.map_or("Idle", |change| change.reason.as_str());
        let (reason, message) = match rung {
            Rung::Hot | Rung::Cool => ("Woke", format!("Awake: {why}")),
            Rung::Frozen => {
                ("Slept", format!("Frozen after {} ms without activity", keeper.sleeper.rules().after.as_millis()))
            }
            Rung::PagedOut | Rung::Gone => ("Slept", format!("{rung}: {why}")),
        };
        self.context.events.pod(&self.pod, "Normal", reason, &message);
        self.write_rung(rung);
    }

    /// The API still shows a rung of sleep for a pod that may not sleep any more:
    /// a policy or label changed, or a former run of the agent left it.
    fn tell_no_rung(&mut self) {
        let shown = self.pod.metadata.annotations.as_ref().and_then(|notes| notes.get(RUNG_ANNOTATION));
        let asleep = shown.and_then(|rung| Rung::parse(rung)).is_some_and(Rung::is_asleep);
        let settled = self.stage == Stage::Syncing && matches!(self.context.sleep.rules(&self.pod), Some(None));
        if !asleep || self.rung.is_some() || !settled {
            self.rung_cleared = false;
        } else if !self.rung_cleared && self.rung_write.is_none() {
            // Once, until the API shows it.
            self.rung_cleared = true;
            self.context.events.pod(&self.pod, "Normal", "Woke", "Awake: no rule lets it sleep any more");
            self.write_rung(Rung::Hot);
        }
    }

    fn write_rung(&mut self, rung: Rung) {
        let api = self.context.client.namespaced::<core::Pod>(spec::namespace(&self.pod));
        let name = spec::name(&self.pod).to_owned();
        let notes = json!({
            RUNG_ANNOTATION: rung.as_str(),
            RUNG_SINCE_ANNOTATION: jiff::Timestamp::now().to_string(),
        });
        let patch = Patch::Merge(json!({"metadata": {"uid": self.uid, "annotations": notes}}));
        self.rung_write = Some(Box::pin(async move {
            if let Err(err) = api.patch_status(&name, &patch).await {
                tracing::warn!(err = %::api::error::Chain(&err), "rung of a pod could not be written");
            }
        }));
    }

    /// Says by an event that wakes are slower than the policy allows.
    fn tell_missed(&self) {
        let Some((rung, took)) = self.rung.as_ref().and_then(|keeper| keeper.sleeper.take_missed()) else { return };
        let message = format!(
            "Wakes from {rung} are slower than firstResponse.p99 (the last took {took:?}); the rung is left out for a while"
        );
        self.context.events.pod(&self.pod, "Warning", "WakeObjectiveMissed", &message);
    }

    /// Ends the sleeper with the worker.
    pub(super) async fn drop_rung(&mut self) {
        if let Some(rung) = self.rung.take() {
            rung.stop.cancel();
            let _ended = rung.task.await;
        }
    }
}
