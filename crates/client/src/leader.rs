//! One of several acts: leader election on a Lease, as client-go's
//! `leaderelection`, and with the same fields, so that both can compete.
//! It fences nothing: a leader that stalls longer than its lease may overlap
//! with the next one until it notices.

use std::time::Duration;

use ::api::error::Chain;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::client::Client;
use crate::error::ClientError;
use crate::informer::{Informer, ObjectKey, Subscription};
use crate::watch::WatchParams;

/// Who competes for which Lease, and how long things may take.
#[derive(Clone, Debug)]
pub struct Election {
    /// Namespace of the Lease, `kube-system` for components.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Unique among the competitors.
    pub identity: String,
    /// Others may take over a lease that was not renewed for this long.
    pub lease_duration: Duration,
    /// A leader that could not renew for this long stops. Shorter than the lease.
    pub renew_deadline: Duration,
    /// Time between renewals.
    pub renew_interval: Duration,
}

impl Election {
    /// With upstream's durations: 15 s, 10 s and 2 s.
    pub fn new(namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            renew_interval: Duration::from_secs(2),
        }
    }

    /// Competes until `shutdown`. While leading, runs what `lead` gives; its
    /// token is cancelled when the lease is lost or at shutdown, and it must
    /// then end. It may be called several times.
    pub async fn run<F>(self, client: Client, shutdown: CancellationToken, mut lead: impl FnMut(CancellationToken) -> F)
    where
        F: Future<Output = ()>,
    {
        let api = client.namespaced::<Lease>(&self.namespace);
        let selector = WatchParams::fields(format!("metadata.name={}", self.name));
        let (informer, task) = Informer::new(api.clone(), selector);
        let compete = async {
            while let Some(lease) = self.acquire(&api, &informer, &shutdown).await {
                tracing::info!(name = self.name, identity = self.identity, "leading");
                let term = shutdown.child_token();
                let (lease, ()) = tokio::join!(self.renew(&api, lease, &term), lead(term.clone()));
                tracing::info!(name = self.name, identity = self.identity, "leading no longer");
                if shutdown.is_cancelled() {
                    self.release(&api, lease).await;
                    break;
                }
            }
        };
        tokio::join!(compete, task.run(shutdown.clone()));
    }

    /// None at shutdown.
    async fn acquire(
        &self,
        api: &Api<Lease>,
        informer: &Informer<Lease>,
        shutdown: &CancellationToken,
    ) -> Option<Lease> {
        tokio::select! {
            () = shutdown.cancelled() => None,
            lease = self.take(api, informer) => Some(lease),
        }
    }

    async fn take(&self, api: &Api<Lease>, informer: &Informer<Lease>) -> Lease {
        let key = ObjectKey::new(self.namespace.as_str(), self.name.as_str());
        let mut changes = informer.subscribe();
        let mut seen: Option<(String, Instant)> = None;
        informer.synced().await;
        loop {
            let current = informer.get(&key);
            let revision = current.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
            let revision = revision.unwrap_or_default();
            if seen.as_ref().is_none_or(|(known, _)| *known != revision) {
                seen = Some((revision, Instant::now()));
            }
            let seen_at = seen.as_ref().map_or_else(Instant::now, |(_, at)| *at);
            let held_until = current.as_ref().and_then(|lease| self.held_until(lease, seen_at));
            if let Some(until) = held_until.filter(|until| *until > Instant::now()) {
                change_or(&mut changes, until).await;
                continue;
            }
            match self.claim(api, current.as_deref()).await {
                Ok(lease) => return lease,
                Err(error) => {
                    tracing::debug!(name = self.name, err = %Chain(&error), "cannot take the lease");
                    change_or(&mut changes, Instant::now() + self.renew_interval).await;
                }
            }
        }
    }

    /// None if nobody else holds it. By this machine's clock since it was seen:
    /// clocks of different machines are not compared.
    fn held_until(&self, lease: &Lease, seen: Instant) -> Option<Instant> {
        let spec = lease.spec.as_ref()?;
        let holder = spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())?;
        let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0);
        (holder != self.identity).then(|| seen + Duration::from_secs(seconds))
    }

    async fn claim(&self, api: &Api<Lease>, current: Option<&Lease>) -> Result<Lease, ClientError> {
        let now = Some(MicroTime(Timestamp::now()));
        let before = current.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let mine = before.holder_identity.as_deref() == Some(&self.identity);
        let spec = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(self.lease_duration.as_secs()).unwrap_or(i32::MAX)),
            acquire_time: if mine { before.acquire_time } else { now.clone() },
            renew_time: now,
            lease_transitions: Some(match current {
                Some(_) if !mine => before.lease_transitions.unwrap_or(0).saturating_add(1),
                _ => before.lease_transitions.unwrap_or(0),
            }),
            ..before
        };
        match current {
            Some(lease) => {
                let lease = Lease { metadata: lease.metadata.clone(), spec: Some(spec) };
                api.replace(&self.name, &lease).await
            }
            None => {
                let metadata = ObjectMeta {
                    name: Some(self.name.clone()),
                    namespace: Some(self.namespace.clone()),
                    ..ObjectMeta::default()
                };
                api.create(&Lease { metadata, spec: Some(spec) }).await
            }
        }
    }

    /// Renews until the term is cancelled or the deadline is missed, which
    /// cancels it. Returns the lease as last written.
    async fn renew(&self, api: &Api<Lease>, mut lease: Lease, term: &CancellationToken) -> Lease {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = term.cancelled() => return lease,
                () = tokio::time::sleep(self.renew_interval) => {}
            }
            let deadline = renewed + self.renew_deadline;
            let result = tokio::time::timeout_at(deadline, self.claim(api, Some(&lease))).await;
            match result {
                Ok(Ok(newer)) => {
                    lease = newer;
                    renewed = Instant::now();
                    continue;
                }
                Ok(Err(error)) => {
                    tracing::debug!(name = self.name, err = %Chain(&error), "cannot renew the lease");
                    // Perhaps an own write whose answer was lost; or another leader's.
                    if let Ok(newer) = api.get(&self.name).await {
                        let holder = newer.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
                        if holder != Some(&self.identity) {
                            term.cancel();
                        }
                        lease = newer;
                    }
                }
                Err(_) => {}
            }
            if Instant::now() >= deadline {
                term.cancel();
            }
        }
    }

    /// Lets others take over at once.
    async fn release(&self, api: &Api<Lease>, mut lease: Lease) {
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        let released = tokio::time::timeout(self.renew_interval, api.replace(&self.name, &lease)).await;
        if !matches!(released, Ok(Ok(_))) {
            tracing::debug!(name = self.name, "the lease was not released and will run out");
        }
    }
}

async fn change_or(changes: &mut Subscription<Lease>, until: Instant) {
    tokio::select! {
        _ = changes.next() => {}
        () = tokio::time::sleep_until(until) => {}
    }
}

#[cfg(test)]
mod tests;
