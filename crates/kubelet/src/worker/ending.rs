//! The end of a pod: containers are ended, volumes taken down, the last status
//! written, and, once the object is gone, every trace removed.

use containers::runtime::RuntimeError;
use tokio_util::sync::CancellationToken;

use super::deadlines::{RETRY, stretched};
use super::job::JobDone;
use super::{Stage, Worker};
use crate::kill::Killer;
use crate::resources;
use crate::status;
use crate::volume;

impl Worker {
    /// From here on nothing is started any more.
    pub(super) fn begin_ending(&mut self) {
        if self.stage != Stage::Syncing {
            return;
        }
        self.stage = Stage::Ending;
        self.status_at_end.clone_from(&self.pod.status);
        // Pulls and hooks that are under way give up.
        self.cancel.cancel();
        self.prober.end();
        self.retry_at = None;
        self.after_write = false;
        self.dirty = true;
    }

    /// Ends what runs.
    pub(super) fn end_containers(&mut self) {
        let status = self.generate(false);
        self.set_status(status::without_early_end(&self.status, status));
        let (context, pod, observed) = (self.context.clone(), self.pod.clone(), self.observed.clone());
        let sandboxes: Vec<_> = self.observed.sandboxes.iter().filter(|s| s.frozen).map(|s| s.id.clone()).collect();
        let grace = self.ended.as_ref().and_then(|ended| ended.grace_seconds);
        self.dirty = false;
        self.job = Some(Box::pin(async move {
            for id in sandboxes {
                if let Err(err) = context.runtime.thaw(&id) {
                    tracing::debug!(err = %api::error::Chain(&err), "sandbox could not be thawed before its end");
                }
            }
            let killer = Killer {
                runtime: &*context.runtime,
                events: &context.events,
                pod: &pod,
                pod_ip: observed.ips().first().copied(),
                grace_seconds: grace,
            };
            let result = killer.pod(&observed).await;
            JobDone { ended: Some(result), ..JobDone::default() }
        }));
    }

    /// The containers were ended, or could not be.
    pub(super) fn containers_ended(&mut self, result: Result<(), RuntimeError>) {
        let running = self.observed.containers.iter().any(crate::observe::Observed::running);
        if let Err(err) = &result {
            self.context.events.pod(
                &self.pod,
                "Warning",
                "FailedKillPod",
                &format!("error killing pod: {}", api::error::Chain(err)),
            );
        }
        if result.is_err() || running {
            self.retries = self.retries.saturating_add(1);
            self.retry_at = Some(tokio::time::Instant::now() + stretched(RETRY, &self.uid, self.retries));
            return;
        }
        self.stage = Stage::Ended;
        self.cancel = CancellationToken::new();
        let status = self.generate(true);
        self.set_status(status);
        self.dirty = true;
    }

    /// After the end: once the status is seen, the final one; once the object
    /// is gone, clean up.
    pub(super) async fn ended_step(&mut self) {
        if self.gone {
            self.clean_up().await;
            return;
        }
        if !self.writes.settled(&self.pod, &self.status) {
            return;
        }
        // Whether it was initialised is judged by what the API showed then.
        let mut pod = (*self.pod).clone();
        pod.status.clone_from(&self.status_at_end);
        let last = status::terminate(&pod, self.status.clone());
        self.set_status(last);
        self.release().await;
    }

    /// Gives back what an ended pod needs no more: volumes and its cgroup. Its
    /// containers stay for their logs.
    async fn release(&mut self) {
        if self.cleaned {
            return;
        }
        self.cleaned = true;
        let (root, uid) = (self.context.config.root_dir.clone(), self.uid.clone());
        let result = tokio::task::spawn_blocking(move || volume::tear_down(&root, &uid)).await;
        if let Ok(Err(err)) = result {
            tracing::warn!(uid = %self.uid, err = %err, "volumes could not be taken down");
            self.cleaned = false;
        }
        let cgroup = resources::cgroup_path(&self.context.config.cgroup_root, &self.pod);
        if let Err(err) = self.context.runtime.remove_cgroup(&cgroup).await {
            tracing::warn!(uid = %self.uid, err = %api::error::Chain(&err), "pod cgroup could not be removed");
        }
    }

    /// Removes every trace of the pod from the machine.
    async fn clean_up(&mut self) {
        let runtime = &self.context.runtime;
        let mut failed = false;
        for id in &self.ids.sandboxes {
            if let Err(err) = runtime.remove_sandbox(id).await
                && !matches!(err, RuntimeError::NotFound { .. })
            {
                tracing::warn!(uid = %self.uid, err = %api::error::Chain(&err), "sandbox could not be removed");
                failed = true;
            }
        }
        self.release().await;
        let (root, uid, logs) =
            (self.context.config.root_dir.clone(), self.uid.clone(), self.context.log_dir(&self.pod));
        let result = tokio::task::spawn_blocking(move || {
            volume::remove_pod_dir(&root, &uid)?;
            match std::fs::remove_dir_all(&logs) {
                Err(err) if err.kind() != std::io::ErrorKind::NotFound => Err(err),
                _ => Ok(()),
            }
        })
        .await;
        if let Ok(Err(err)) = result {
            tracing::warn!(uid = %self.uid, err = %err, "files of the pod could not be removed");
            failed = true;
        }
        self.cleaned = !failed;
        if failed {
            self.retries = self.retries.saturating_add(1);
            self.retry_at = Some(tokio::time::Instant::now() + stretched(RETRY, &self.uid, self.retries));
        } else {
            self.context.pods.remove(&self.uid);
            if let Some(range) = self.users.take() {
                self.context.users.give_back(range);
            }
        }
    }
}
