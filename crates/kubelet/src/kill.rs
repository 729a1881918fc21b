//! Ending containers: preStop hook, stop signal, the time a container gets,
//! and the order between main containers and sidecars.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use api::types::api::core::v1 as core;
use containers::runtime::{ContainerId, Runtime, RuntimeError, SandboxId};
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::events::Events;
use crate::hooks;
use crate::observe::Observation;
use crate::plan::KillReason;
use crate::spec;

/// Every container gets at least so long, so that none is killed by haste.
pub(crate) const MINIMUM_GRACE_SECONDS: i64 = 2;

/// Ends containers of one pod.
pub(crate) struct Killer<'a> {
    /// The runtime.
    pub(crate) runtime: &'a dyn Runtime,
    /// For `Killing` and `FailedPreStopHook`.
    pub(crate) events: &'a Events,
    /// The pod.
    pub(crate) pod: &'a core::Pod,
    /// Its primary address, for HTTP hooks.
    pub(crate) pod_ip: Option<IpAddr>,
    /// Time that every container gets, whatever the pod says.
    pub(crate) grace_seconds: Option<i64>,
}

/// Who has ended, for those who wait for their turn.
struct Order {
    ended: HashMap<String, CancellationToken>,
    after: HashMap<String, Vec<CancellationToken>>,
}

impl Order {
    /// Sidecars end after all main containers, and after the sidecars that
    /// were started later.
    fn new(pod: &core::Pod, running: &[String]) -> Self {
        let token = |name: &String| {
            let token = CancellationToken::new();
            if !running.contains(name) {
                token.cancel();
            }
            token
        };
        let mut order = Self { ended: HashMap::new(), after: HashMap::new() };
        let main: Vec<CancellationToken> = spec::main_containers(pod)
            .iter()
            .map(|c| order.ended.entry(c.name.clone()).or_insert_with(|| token(&c.name)).clone())
            .collect();
        let mut later: Option<CancellationToken> = None;
        for container in spec::init_containers(pod).iter().rev() {
            let own = order.ended.entry(container.name.clone()).or_insert_with(|| token(&container.name)).clone();
            if spec::is_sidecar(container) {
                order.after.insert(container.name.clone(), main.iter().cloned().chain(later.take()).collect());
                later = Some(own);
            }
        }
        order
    }

    async fn turn(&self, name: &str) {
        for token in self.after.get(name).into_iter().flatten() {
            token.cancelled().await;
        }
    }

    fn done(&self, name: &str) {
        if let Some(token) = self.ended.get(name) {
            token.cancel();
        }
    }
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or(0))
}

impl Killer<'_> {
    /// Ends one container; returns once it has ended. An empty message is the
    /// usual one.
    pub(crate) async fn container(
        &self,
        id: &ContainerId,
        name: &str,
        message: &str,
        reason: KillReason,
    ) -> Result<(), RuntimeError> {
        self.end(id, name, message, reason, None).await
    }

    async fn end(
        &self,
        id: &ContainerId,
        name: &str,
        message: &str,
        reason: KillReason,
        order: Option<&Order>,
    ) -> Result<(), RuntimeError> {
        let container = spec::find(self.pod, name).map(|(_, c)| c.into_owned());
        let usual = format!("Stopping container {name}");
        let text = if message.is_empty() { &usual } else { message };
        self.events.container(self.pod, name, "Normal", "Killing", text);
        let mut left = seconds(self.grace_seconds(container.as_ref(), reason));
        let hook = container.as_ref().and_then(|c| c.lifecycle.as_ref()?.pre_stop.as_ref().map(|hook| (c, hook)));
        if let Some((container, hook)) = hook.filter(|_| !left.is_zero()) {
            left -= self.pre_stop(id, container, hook, left).await;
        }
        if let Some(order) = order.filter(|_| !left.is_zero()) {
            let begun = Instant::now();
            // Out of time: its turn has come.
            let _waited = tokio::time::timeout(left, order.turn(name)).await;
            left = left.saturating_sub(begun.elapsed());
        }
        let result = self.runtime.stop_container(id, left.max(seconds(MINIMUM_GRACE_SECONDS))).await;
        if let Some(order) = order {
            order.done(name);
        }
        match result {
            Err(RuntimeError::NotFound { .. }) => Ok(()),
            other => other,
        }
    }

    /// Returns the time used, at most `limit`.
    async fn pre_stop(
        &self,
        id: &ContainerId,
        container: &core::Container,
        hook: &core::LifecycleHandler,
        limit: Duration,
    ) -> Duration {
        let begun = Instant::now();
        let run = hooks::run(self.runtime, self.pod, container, id, hook, self.pod_ip);
        let failed = match tokio::time::timeout(limit, run).await {
            Ok(Ok(())) => false,
            // What the hook said may be secret; upstream keeps it out of the event too.
            Ok(Err(_)) | Err(_) => true,
        };
        if failed {
            self.events.container(self.pod, &container.name, "Warning", "FailedPreStopHook", "PreStopHook failed");
        }
        begun.elapsed().min(limit)
    }

    fn grace_seconds(&self, container: Option<&core::Container>, reason: KillReason) -> i64 {
        if reason == KillReason::RestartAll {
            return 0;
        }
        if let Some(grace) = self.grace_seconds {
            return grace;
        }
        if let Some(grace) = self.pod.metadata.deletion_grace_period_seconds {
            return grace;
        }
        let probe = match reason {
            KillReason::Liveness => container.and_then(|c| c.liveness_probe.as_ref()),
            KillReason::Startup => container.and_then(|c| c.startup_probe.as_ref()),
            KillReason::Other | KillReason::RestartAll => None,
        };
        probe.and_then(|p| p.termination_grace_period_seconds).unwrap_or_else(|| spec::grace_period_seconds(self.pod))
    }

    /// Ends all running containers at once, then stops the sandboxes.
    pub(crate) async fn pod(&self, observed: &Observation) -> Result<(), RuntimeError> {
        let running: Vec<(ContainerId, String)> =
            observed.containers.iter().filter(|c| c.running()).map(|c| (c.id.clone(), c.name.clone())).collect();
        let sidecars = spec::init_containers(self.pod).iter().any(spec::is_sidecar);
        let names: Vec<String> = running.iter().map(|(_, name)| name.clone()).collect();
        let order = sidecars.then(|| Order::new(self.pod, &names));
        let ends = running.iter().map(|(id, name)| self.end(id, name, "", KillReason::Other, order.as_ref()));
        join_all(ends).await.into_iter().collect::<Result<(), _>>()?;
        let sandboxes: Vec<SandboxId> = observed.sandboxes.iter().map(|s| s.id.clone()).collect();
        for id in sandboxes {
            match self.runtime.stop_sandbox(&id).await {
                Ok(()) | Err(RuntimeError::NotFound { .. }) => {}
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }
}
