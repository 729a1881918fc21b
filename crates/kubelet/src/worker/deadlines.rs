//! Times at which a pod's worker has to do something by itself. It does none of
//! it.

use std::time::SystemTime;

use tokio::time::{Duration, Instant};

use super::{Stage, Worker};
use crate::spec;
use crate::status::EndedByAgent;

/// Retry of a step that failed without a deadline of its own (upstream's
/// `backOffPeriod`), stretched by up to half.
pub(super) const RETRY: Duration = Duration::from_secs(10);

impl Worker {
    /// True if the pod's time is over.
    pub(super) fn check_deadline(&mut self) -> bool {
        let Some(deadline) = self.active_deadline() else { return false };
        if SystemTime::now() < deadline || self.ended.is_some() {
            return false;
        }
        let message = "Pod was active on the node longer than the specified deadline";
        self.context.events.pod(&self.pod, "Normal", "DeadlineExceeded", message);
        self.ended =
            Some(EndedByAgent { reason: "DeadlineExceeded".into(), message: message.into(), grace_seconds: None });
        self.begin_ending();
        self.dirty = true;
        true
    }

    pub(super) fn active_deadline(&self) -> Option<SystemTime> {
        let seconds = u64::try_from(spec::spec(&self.pod).active_deadline_seconds?).ok()?;
        let start = self.status.start_time.as_ref()?.0;
        Some(SystemTime::from(start) + Duration::from_secs(seconds))
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let wall = |at: SystemTime| Instant::now() + at.duration_since(SystemTime::now()).unwrap_or_default();
        let syncing = self.stage == Stage::Syncing && self.job.is_none();
        let deadline =
            self.active_deadline().filter(|_| self.stage == Stage::Syncing && self.ended.is_none()).map(wall);
        let retry = self.retry_at.filter(|_| self.job.is_none());
        let token = self
            .context
            .tokens
            .renew_at(&self.uid)
            .filter(|_| syncing && !self.observed.containers.is_empty())
            .map(wall);
        let rung = self.rung_due().filter(|_| self.rung_write.is_none());
        [deadline, retry, token, rung, self.prober.next_due(), self.writes.retry_at(), self.storage.due()]
            .into_iter()
            .flatten()
            .min()
    }
}

/// Stretches a wait by up to half, differently for each pod and attempt, so
/// that pods that failed together don't return together.
pub(super) fn stretched(wait: Duration, uid: &str, attempt: u32) -> Duration {
    let seed = uid
        .bytes()
        .fold(attempt.wrapping_mul(0x9e37_79b9), |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    wait + wait.mul_f64(f64::from(seed % 1000) / 2000.0)
}

/// Waits until then; for ever without a deadline.
pub(super) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
