//! The pod's sleep, as its worker sees it: starts and ends the sleeper, rests
//! the probes, and tells the API on which rung the pod is.

use std::net::IpAddr;
use std::sync::Arc;

use api::types::api::core::v1 as core;
use client::Patch;
use containers::runtime::SandboxId;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use super::{Stage, Worker};
use crate::mailbox::PodEvent;
use crate::sleep::{self, RUNG_ANNOTATION, RUNG_SINCE_ANNOTATION, Sleeper};
use crate::spec;

/// The API learns of a change of rung at most so often for each pod: a pod that
/// is asked every few seconds must not make the store write as often again.
const TELL_PERIOD: Duration = Duration::from_secs(1);

/// Sleep of one pod.
pub(super) struct Rung {
    pub(super) sleeper: Arc<Sleeper>,
    sandbox: SandboxId,
    after: Duration,
    stop: CancellationToken,
    task: JoinHandle<()>,
    /// Up to which change the API was told, and when.
    told: Option<(u64, Instant)>,
}

impl Worker {
    /// Starts a sleeper where the pod wants to sleep and is ready to, ends it
    /// where it does not any more.
    pub(super) async fn keep_rung(&mut self) {
        let wanted = if self.stage == Stage::Syncing { sleep::idle_after(&self.pod) } else { None };
        let sandbox = self.observed.usable_sandbox().map(|s| (s.id.clone(), s.frozen, s.ips.first().copied()));
        let keep = match (&self.rung, wanted, &sandbox) {
            (Some(rung), Some(after), Some((id, ..))) => rung.sandbox == *id && rung.after == after,
            _ => false,
        };
        if keep {
            return;
        }
        if let Some(rung) = self.rung.take() {
            rung.stop.cancel();
            // It only has to thaw and to clean up.
            let _ended = rung.task.await;
            self.prober.resume();
        }
        let (Some(after), Some((id, frozen, Some(address)))) = (wanted, sandbox) else { return };
        if self.is_ready() {
            self.start_rung(address, id, after, frozen);
        }
    }

    fn is_ready(&self) -> bool {
        let conditions = self.status.conditions.iter().flatten();
        conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
    }

    fn start_rung(&mut self, address: IpAddr, sandbox: SandboxId, after: Duration, frozen: bool) {
        let mailbox = self.mailbox.clone();
        let on_change = Box::new(move |_frozen| mailbox.post(PodEvent::Sleep));
        let runtime = self.context.runtime.clone();
        let sleeper = Sleeper::new(address, sandbox.clone(), after, frozen, runtime, on_change);
        let stop = CancellationToken::new();
        let task = tokio::spawn(sleeper.clone().run(self.context.sleep.clone(), stop.clone()));
        self.context.pods.set_sleeper(&self.uid, Some(sleeper.clone()));
        self.rung = Some(Rung { sleeper, sandbox, after, stop, task, told: None });
        self.rung_changed();
    }

    /// It was frozen or thawed.
    pub(super) fn rung_changed(&mut self) {
        let Some(rung) = &self.rung else { return };
        if rung.sleeper.is_frozen() {
            self.prober.pause();
        } else {
            self.prober.resume();
        }
    }

    /// When the API is to be told of a change.
    pub(super) fn rung_due(&self) -> Option<Instant> {
        let rung = self.rung.as_ref()?;
        match rung.told {
            Some((told, _)) if told == rung.sleeper.changes() => None,
            Some((_, at)) => Some(at + TELL_PERIOD),
            // A pod that never slept needs no word.
            None => rung.sleeper.is_frozen().then(Instant::now),
        }
    }

    /// Tells the API, if that is due.
    pub(super) fn tell_rung(&mut self) {
        let Some(due) = self.rung_due().filter(|_| self.rung_write.is_none()) else { return };
        let Some(rung) = self.rung.as_mut().filter(|_| due <= Instant::now()) else { return };
        // Read before the state: a change in between is told again.
        let changes = rung.sleeper.changes();
        let frozen = rung.sleeper.is_frozen();
        rung.told = Some((changes, Instant::now()));
        let (reason, message) = if frozen {
            ("Slept", format!("Frozen after {} ms without packets", rung.after.as_millis()))
        } else {
            ("Woke", "Thawed by a packet or a session".to_owned())
        };
        self.context.events.pod(&self.pod, "Normal", reason, &message);
        let api = self.context.client.namespaced::<core::Pod>(spec::namespace(&self.pod));
        let name = spec::name(&self.pod).to_owned();
        let notes = json!({
            RUNG_ANNOTATION: if frozen { "frozen" } else { "hot" },
            RUNG_SINCE_ANNOTATION: jiff::Timestamp::now().to_string(),
        });
        let patch = Patch::Merge(json!({"metadata": {"uid": self.uid, "annotations": notes}}));
        self.rung_write = Some(Box::pin(async move {
            if let Err(err) = api.patch_status(&name, &patch).await {
                tracing::warn!(err = %::api::error::Chain(&err), "rung of a pod could not be written");
            }
        }));
    }

    /// Ends the sleeper with the worker.
    pub(super) async fn drop_rung(&mut self) {
        if let Some(rung) = self.rung.take() {
            rung.stop.cancel();
            let _ended = rung.task.await;
        }
    }
}
