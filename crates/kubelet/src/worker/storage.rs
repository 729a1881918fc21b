//! Watching what a pod with limits on its local storage uses, and ending it
//! when that is too much. Pods without such limits cost nothing here.

use std::time::SystemTime;

use futures_util::future::BoxFuture;
use tokio::time::{Duration, Instant};

use super::{Stage, Worker};
use crate::eviction::usage::{self, Usage};
use crate::spec;
use crate::status::EndedByAgent;
use crate::volume;

/// Between two measurements (upstream's `evictionMonitoringPeriod`). The kernel
/// tells nobody that a directory has grown too large.
const PERIOD: Duration = Duration::from_secs(10);
/// A measurement that takes long is repeated after so many times its length.
const REST_FACTOR: u32 = 20;
/// Time that a container gets to end when its pod is evicted at once.
const GRACE_SECONDS: i64 = 1;

/// Measuring of one pod.
#[derive(Default)]
pub(super) struct Storage {
    due: Option<Instant>,
    running: Option<(SystemTime, BoxFuture<'static, Usage>)>,
}

impl Storage {
    /// Waits for a measurement to end; for ever if there is none.
    pub(super) async fn measured(&mut self) -> Usage {
        let Some((begun, measurement)) = &mut self.running else { return std::future::pending().await };
        let usage = measurement.await;
        let took = begun.elapsed().unwrap_or_default();
        self.running = None;
        self.due = Some(Instant::now() + PERIOD.max(took * REST_FACTOR));
        usage
    }

    /// When the next one is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.filter(|_| self.running.is_none())
    }
}

impl Worker {
    /// Starts a measurement that is due.
    pub(super) fn keep_storage(&mut self) {
        let active = self.stage == Stage::Syncing
            && self.observed.containers.iter().any(crate::observe::Observed::running)
            // What is frozen writes nothing.
            && !self.observed.sandboxes.iter().any(|s| s.frozen)
            && usage::is_bounded(&self.pod);
        if !active {
            self.storage.due = None;
            return;
        }
        let due = *self.storage.due.get_or_insert_with(|| Instant::now() + PERIOD);
        if self.storage.running.is_none() && due <= Instant::now() {
            self.storage.running = Some((SystemTime::now(), self.measure()));
        }
    }

    fn measure(&self) -> BoxFuture<'static, Usage> {
        let context = self.context.clone();
        let containers: Vec<_> = self
            .observed
            .containers
            .iter()
            .filter(|c| c.running())
            .map(|c| (c.name.clone(), c.id.clone(), context.log_dir(&self.pod).join(&c.name)))
            .collect();
        let volumes: Vec<_> = spec::spec(&self.pod)
            .volumes
            .iter()
            .flatten()
            .filter(|v| v.empty_dir.is_some())
            .map(|v| (v.name.clone(), volume::empty_dir_path(&context.config.root_dir, &self.uid, &v.name)))
            .collect();
        Box::pin(async move {
            let mut usage = Usage::default();
            for (name, id, _) in &containers {
                if let Ok(stats) = context.runtime.stats(id).await {
                    usage.containers.insert(name.clone(), stats.rootfs_used_bytes);
                }
            }
            let walk = tokio::task::spawn_blocking(move || {
                for (name, _, logs) in containers {
                    let used = usage.containers.entry(name).or_default();
                    *used = used.saturating_add(usage::disk_bytes(&logs));
                }
                usage.volumes = volumes.into_iter().map(|(name, path)| (name, usage::disk_bytes(&path))).collect();
                usage
            });
            // It fails only when the program ends.
            walk.await.unwrap_or_default()
        })
    }

    /// Ends the pod if it uses too much.
    pub(super) fn storage_measured(&mut self, used: &Usage) {
        if self.stage != Stage::Syncing || self.ended.is_some() {
            return;
        }
        let Some(message) = usage::excess(&self.pod, used) else { return };
        self.context.events.pod(&self.pod, "Warning", "Evicted", &message);
        self.ended = Some(EndedByAgent { reason: "Evicted".into(), message, grace_seconds: Some(GRACE_SECONDS) });
        self.dirty = true;
    }
}
