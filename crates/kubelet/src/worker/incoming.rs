//! What comes in for a pod: its object, news of the runtime, results of probes
//! and writes. It notes what changed; what follows is decided elsewhere.

use std::sync::Arc;

use api::types::api::core::v1 as core;

use super::{Stage, Worker, writes};
use crate::mailbox::Mail;
use crate::probe::{Kind, Outcome};
use crate::spec;
use crate::status;

impl Worker {
    pub(super) async fn receive(&mut self, mail: Mail) {
        if let Some(pod) = mail.object {
            self.object(pod);
        }
        if mail.gone {
            self.gone = true;
            self.dirty = true;
        }
        if mail.reference {
            self.volumes_stale = true;
            self.dirty = true;
        }
        if mail.runtime {
            // A job looks for itself when it is done.
            if self.job.is_none() {
                self.observe().await;
            }
            self.dirty = true;
        }
        if mail.sleep {
            self.rung_changed();
        }
        if mail.room {
            self.try_resize();
        }
    }

    pub(super) fn object(&mut self, pod: Arc<core::Pod>) {
        let new = self.take_object(&pod);
        let meta = |p: &core::Pod| (p.metadata.labels.clone(), p.metadata.annotations.clone());
        if meta(&new) != meta(&self.pod) {
            self.volumes_stale = true;
        }
        let spec_changed =
            new.spec != self.pod.spec || new.metadata.deletion_timestamp != self.pod.metadata.deletion_timestamp;
        if spec_changed {
            self.context.references.register(&new);
        }
        let shorter = new.metadata.deletion_grace_period_seconds < self.pod.metadata.deletion_grace_period_seconds
            && new.metadata.deletion_grace_period_seconds.is_some();
        self.writes.api_has(&pod);
        let foreign = conditions_of_others(&new) != conditions_of_others(&self.pod);
        self.dirty |= spec_changed
            || foreign
            || self.volumes_stale
            || meta(&new) != meta(&self.pod)
            || self.stage == Stage::Ended;
        self.pod = new;
        self.try_resize();
        if shorter && self.stage == Stage::Ending {
            // Begin again with less time.
            self.job = None;
            self.dirty = true;
        }
    }

    pub(super) fn probed(&mut self, finished: crate::probe::Finished) {
        let Some(report) = self.prober.record(finished) else { return };
        let (kind, name) = (report.kind, &report.container);
        let event =
            |reason: &str, message: String| self.context.events.container(&self.pod, name, "Warning", reason, &message);
        match report.outcome {
            Outcome::Success => {}
            Outcome::Failure(output) => event("Unhealthy", format!("{} probe failed: {output}", kind.as_str())),
            Outcome::Warning(output) => event("ProbeWarning", format!("{} probe warning: {output}", kind.as_str())),
            Outcome::Unknown(err) => {
                event("Unhealthy", format!("{} probe errored and resulted in unknown state: {err}", kind.as_str()));
            }
        }
        if !report.changed {
            return;
        }
        if self.job.is_some() || self.stage != Stage::Syncing {
            // Readiness reaches the API even while other containers start or end.
            if kind != Kind::Liveness {
                let status = self.generate(false);
                self.set_status(status::without_early_end(&self.status, status));
            }
        }
        self.dirty = true;
    }

    pub(super) fn written(&mut self, result: writes::Written) {
        match result {
            writes::Written::Done => {}
            writes::Written::Gone => self.gone = true,
        }
        self.dirty |= self.after_write || self.stage == Stage::Ended || self.gone;
    }
}

/// The agent's copy: where the pod came from and when it was first seen.
pub(super) fn annotated(pod: &core::Pod, seen_at: &str) -> Arc<core::Pod> {
    let mut own = pod.clone();
    let notes = own.metadata.annotations.get_or_insert_default();
    notes.entry("kubernetes.io/config.source".into()).or_insert_with(|| "api".into());
    notes.entry("kubernetes.io/config.seen".into()).or_insert_with(|| seen_at.into());
    Arc::new(own)
}

fn conditions_of_others(pod: &core::Pod) -> Vec<&core::PodCondition> {
    let all = spec::status(pod).conditions.iter().flatten();
    all.filter(|c| !status::conditions::OWNED.contains(&c.type_.as_str())).collect()
}
