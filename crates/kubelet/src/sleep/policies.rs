//! Following what decides whether pods sleep: policies, and labels of
//! namespaces. What follows from them for a pod is [`super::rules`]'.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use api::elastic::SleepPolicy;
use api::types::api::core::v1 as core;
use client::{Client, Delta, Informer, InformerTask, ObjectKey, WatchParams};
use jiff::tz::TimeZone;
use tokio_util::sync::CancellationToken;

use super::rules::{self, Rules};
use crate::spec;

/// Where time zones are read from.
const ZONE_DIRS: [&str; 2] = ["/usr/share/zoneinfo", "/usr/lib/zoneinfo"];
/// Longest name of a zone, and largest file of one, bytes.
const ZONE_NAME_LIMIT: usize = 64;
const ZONE_FILE_LIMIT: u64 = 1 << 20;
/// Zones kept; there are about 600.
const ZONE_CACHE: usize = 1000;

/// The cluster's rules of sleep.
pub(super) struct Policies {
    policies: Informer<SleepPolicy>,
    namespaces: Informer<core::Namespace>,
    zones: Mutex<HashMap<String, Option<TimeZone>>>,
}

/// Keeps [`Policies`] current.
pub(super) struct PoliciesTask {
    tasks: [InformerTask; 2],
}

impl Policies {
    pub(super) fn new(client: &Client) -> (Self, PoliciesTask) {
        let (policies, first) = Informer::trimmed(client.all::<SleepPolicy>(), WatchParams::default(), |policy| {
            policy.metadata.managed_fields = None;
        });
        let (namespaces, second) =
            Informer::trimmed(client.all(), WatchParams::default(), |space: &mut core::Namespace| {
                space.metadata.managed_fields = None;
                space.metadata.annotations = None;
                space.spec = None;
                space.status = None;
            });
        (Self { policies, namespaces, zones: Mutex::default() }, PoliciesTask { tasks: [first, second] })
    }

    /// The rules for a pod: `None` until the policies are known, `Some(None)`
    /// if it stays awake.
    pub(super) fn rules(&self, pod: &core::Pod) -> Option<Option<Rules>> {
        if !self.policies.is_synced() || !self.namespaces.is_synced() {
            return None;
        }
        let namespace = spec::namespace(pod);
        let labels = self.namespaces.get(&ObjectKey::cluster(namespace));
        let labels = labels.as_ref().and_then(|object| object.metadata.labels.as_ref());
        let policies = self.policies.in_namespace(namespace);
        Some(rules::resolve(pod, labels, &policies, &|name| self.zone(name)))
    }

    pub(super) fn policy(&self, key: &ObjectKey) -> Option<std::sync::Arc<SleepPolicy>> {
        self.policies.get(key)
    }

    /// The zone of this name; UTC for none, and for one that the machine does
    /// not know.
    fn zone(&self, name: Option<&str>) -> TimeZone {
        let Some(name) = name else { return TimeZone::UTC };
        // Nothing panics while it is held.
        let mut zones = self.zones.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(zone) = zones.get(name) {
            return zone.clone().unwrap_or(TimeZone::UTC);
        }
        if zones.len() >= ZONE_CACHE {
            zones.clear();
        }
        let zone = read_zone(name);
        if zone.is_none() {
            tracing::warn!(time_zone = name, "a sleep policy's time zone is not known on this machine; UTC is used");
        }
        zones.insert(name.to_owned(), zone.clone());
        zone.unwrap_or(TimeZone::UTC)
    }

    /// Calls `changed` with the namespace whose rules may be others now; first
    /// with each that has some.
    pub(super) async fn follow(&self, changed: impl Fn(&str), shutdown: &CancellationToken) {
        let mut policies = self.policies.subscribe();
        let mut namespaces = self.namespaces.subscribe();
        let namespace_of = |delta: &Delta<SleepPolicy>| delta.object().metadata.namespace.clone().unwrap_or_default();
        loop {
            let namespace = tokio::select! {
                () = shutdown.cancelled() => return,
                delta = policies.next() => match delta {
                    // What nodes report changes nothing here.
                    Some(delta) if delta.old().is_some_and(|old| old.spec == delta.object().spec) => continue,
                    Some(delta) => namespace_of(&delta),
                    None => return,
                },
                delta = namespaces.next() => match delta {
                    Some(delta) => delta.object().metadata.name.clone().unwrap_or_default(),
                    None => return,
                },
            };
            changed(&namespace);
        }
    }
}

impl PoliciesTask {
    pub(super) async fn run(self, shutdown: CancellationToken) {
        let [first, second] = self.tasks;
        tokio::join!(first.run(shutdown.clone()), second.run(shutdown));
    }
}

fn read_zone(name: &str) -> Option<TimeZone> {
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+-".contains(&b));
    // A name is never a way out of the directory.
    if name.len() > ZONE_NAME_LIMIT || !name.split('/').all(plain) {
        return None;
    }
    ZONE_DIRS.iter().find_map(|dir| {
        let path = std::path::Path::new(dir).join(name);
        let mut data = Vec::new();
        let file = std::fs::File::open(path).ok()?;
        std::io::Read::read_to_end(&mut std::io::Read::take(file, ZONE_FILE_LIMIT), &mut data).ok()?;
        TimeZone::tzif(name, &data).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_a_name_and_not_a_path() {
        for name in ["../../etc/passwd", "/etc/passwd", "", "a//b", "Europe/../Europe/Berlin"] {
            assert!(read_zone(name).is_none(), "{name}");
        }
    }
}
