//! Resize in place, as the pod's worker drives it: asks for room, keeps what
//! was allotted and what is in force, and the two conditions that tell of it.

use std::sync::Arc;

use api::types::api::core::v1 as core;

use super::incoming::annotated;
use super::{Stage, Worker};
use crate::admission;
use crate::resize::{self, Record};
use crate::spec;
use crate::status;

const PENDING: &str = "PodResizePending";
const IN_PROGRESS: &str = "PodResizeInProgress";

/// Why a resize waits, or went wrong.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Told {
    reason: String,
    message: String,
    /// Generation of the pod that asked for it.
    generation: i64,
}

/// Resizing of one pod.
#[derive(Default)]
pub(super) struct Resizing {
    pub(super) record: Record,
    /// As it lies on disk.
    saved: Option<Record>,
    /// The pod as the API has it, with its own annotations.
    desired: Arc<core::Pod>,
    pending: Option<Told>,
    progress: Option<Told>,
}

fn generation(pod: &core::Pod) -> i64 {
    pod.metadata.generation.unwrap_or(0)
}

impl Resizing {
    /// `left`: a former run of the agent knew the pod.
    pub(super) fn new(root: &std::path::Path, pod: &Arc<core::Pod>, left: bool) -> Self {
        let saved = if left { Record::load(root, spec::uid(pod)) } else { None };
        let told = |kind: &str| {
            let condition = status::conditions::find(spec::status(pod).conditions.as_ref(), kind)?;
            Some(Told {
                reason: condition.reason.clone().unwrap_or_default(),
                message: condition.message.clone().unwrap_or_default(),
                generation: condition.observed_generation.unwrap_or(0),
            })
        };
        Self {
            record: saved.clone().unwrap_or_else(|| Record::of(pod)),
            saved,
            desired: pod.clone(),
            pending: told(PENDING),
            progress: told(IN_PROGRESS),
        }
    }

    /// Conditions that tell of a resize.
    pub(super) fn conditions(&self) -> Vec<core::PodCondition> {
        let condition = |kind: &str, told: &Told| core::PodCondition {
            type_: kind.into(),
            status: "True".into(),
            reason: (!told.reason.is_empty()).then(|| told.reason.clone()),
            message: (!told.message.is_empty()).then(|| told.message.clone()),
            observed_generation: Some(told.generation),
            ..core::PodCondition::default()
        };
        let pending = self.pending.iter().map(|told| condition(PENDING, told));
        pending.chain(self.progress.iter().map(|told| condition(IN_PROGRESS, told))).collect()
    }
}

impl Worker {
    /// Takes the API's object: what was allotted stands in for what it asks for.
    pub(super) fn take_object(&mut self, pod: &core::Pod) -> Arc<core::Pod> {
        self.resizing.desired = annotated(pod, &self.seen_at);
        Arc::new(self.resizing.record.allotted.apply((*self.resizing.desired).clone()))
    }

    /// Allots what the pod asks for, if there is room.
    pub(super) fn try_resize(&mut self) {
        if self.stage != Stage::Syncing || status::is_terminal(self.status.phase.as_deref().unwrap_or_default()) {
            return;
        }
        let desired = self.resizing.desired.clone();
        if self.resizing.record.allotted.fits(&desired) {
            self.dirty |= self.resizing.pending.take().is_some();
            self.context.pods.set_waits_for_room(&self.uid, false);
            return;
        }
        let mut with_status = (*desired).clone();
        with_status.status = Some(self.status.clone());
        let context = self.context.clone();
        let refused = context
            .pods
            .allot(&self.uid, Arc::new(with_status), |pod, others| admission::capacity(&context, pod, others));
        let generation = generation(&desired);
        let Some(refusal) = refused else {
            self.resizing.pending = None;
            self.resizing.record.allotted = resize::Allotment::of(&desired);
            self.save_record();
            self.pod = desired;
            self.resizing.progress = Some(Told { generation, ..Told::default() });
            let text = resize::message("Pod resize started", &self.pod, generation, "");
            self.context.events.pod(&self.pod, "Normal", "ResizeStarted", &text);
            self.dirty = true;
            return;
        };
        let before = self.resizing.pending.take();
        if before.as_ref().is_none_or(|told| told.generation != generation) {
            let prefix = format!("Pod resize {}", refusal.reason());
            let text = resize::message(&prefix, &desired, generation, refusal.message());
            self.context.events.pod(&self.pod, "Warning", "ResizeDeferred", &text);
        }
        let pending = Told { reason: "Deferred".into(), message: refusal.message().to_owned(), generation };
        self.dirty |= before.as_ref() != Some(&pending);
        self.resizing.pending = Some(pending);
    }

    /// Brings the condition of a resize in progress up to date.
    pub(super) fn follow_resize(&mut self) {
        if resize::in_progress(&self.pod, &self.observed, &self.resizing.record.actual) {
            let generation = generation(&self.pod);
            self.resizing.progress.get_or_insert(Told { generation, ..Told::default() });
        } else if let Some(told) = self.resizing.progress.take() {
            let text = resize::message("Pod resize completed", &self.pod, told.generation, "");
            self.context.events.pod(&self.pod, "Normal", "ResizeCompleted", &text);
            // What it gave back may be what another pod waits for.
            self.context.pods.room();
        }
    }

    /// A job changed what is in force, or could not.
    pub(super) fn resized(
        &mut self,
        actual: Vec<(String, Option<core::ResourceRequirements>)>,
        outcome: Option<Result<(), String>>,
    ) {
        for (name, own) in actual {
            self.resizing.record.actual.set_container(&name, own.as_ref());
        }
        match outcome {
            None => {}
            Some(Ok(())) => self.resizing.record.actual.set_pod(&self.pod),
            Some(Err(message)) => {
                let generation =
                    self.resizing.progress.as_ref().map_or_else(|| generation(&self.pod), |t| t.generation);
                let told = Told { reason: "Error".into(), message, generation };
                if self.resizing.progress.as_ref() != Some(&told) {
                    let text = resize::message("Pod resize error", &self.pod, generation, &told.message);
                    self.context.events.pod(&self.pod, "Warning", "ResizeError", &text);
                }
                self.resizing.progress = Some(told);
            }
        }
        self.save_record();
    }

    pub(super) fn save_record(&mut self) {
        if self.resizing.saved.as_ref() == Some(&self.resizing.record) {
            return;
        }
        match self.resizing.record.save(&self.context.config.root_dir, &self.uid) {
            Ok(()) => self.resizing.saved = Some(self.resizing.record.clone()),
            // The next change tries again; until then a restart of the agent
            // would take what the specification says for what was allotted.
            Err(err) => tracing::warn!(uid = %self.uid, err = %err, "resources of a pod could not be kept"),
        }
    }
}
