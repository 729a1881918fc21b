//! What the cluster calls its addresses, kept from Services, EndpointSlices and
//! Namespaces. No DNS words here.

use api::types::api::core::v1::{Namespace, Service};
use api::types::api::discovery::v1::EndpointSlice;
use client::{Delta, ObjectKey};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Label of a slice that names its Service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A port that has an SRV record.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct NamedPort {
    /// Empty if the only port has no name.
    pub(crate) name: String,
    /// `tcp`, `udp` or `sctp`.
    pub(crate) protocol: String,
    /// The number.
    pub(crate) port: u16,
}

/// An endpoint of a headless Service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NamedEndpoint {
    /// Its label below the Service's name: its hostname, or its address with
    /// dashes.
    pub(crate) label: String,
    /// Its addresses.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Its ports.
    pub(crate) ports: BTreeSet<NamedPort>,
}

/// How a Service is resolved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    /// To its own addresses.
    Addresses(Vec<IpAddr>, Vec<NamedPort>),
    /// To its endpoints'.
    Headless(Vec<NamedEndpoint>),
    /// To another name.
    External(String),
}

/// All names of the cluster. Keys are in lower case, as the API has them.
#[derive(Default)]
pub(crate) struct Directory {
    services: HashMap<ObjectKey, Arc<Service>>,
    slices: HashMap<ObjectKey, BTreeMap<ObjectKey, Arc<EndpointSlice>>>,
    entries: HashMap<ObjectKey, Entry>,
    namespaces: HashSet<Arc<str>>,
    /// Address to Services, and to labels below them if they are endpoints.
    reverse: HashMap<IpAddr, BTreeSet<(ObjectKey, Option<String>)>>,
    version: u32,
}

/// The label of an endpoint without hostname.
pub(crate) fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

impl Directory {
    /// The Service of this name.
    pub(crate) fn service(&self, namespace: &str, name: &str) -> Option<&Entry> {
        self.entries.get(&ObjectKey::new(namespace, name))
    }

    /// True if there is such a namespace.
    pub(crate) fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains(name)
    }

    /// Who has this address: namespace, Service, label of the endpoint.
    pub(crate) fn names_of(&self, address: IpAddr) -> impl Iterator<Item = (&str, &str, Option<&str>)> {
        let found = self.reverse.get(&address).into_iter().flatten();
        found.map(|(key, label)| (&*key.namespace, &*key.name, label.as_deref()))
    }

    /// Counts changes; for the zone's serial number.
    pub(crate) fn version(&self) -> u32 {
        self.version
    }

    pub(crate) fn note_namespace(&mut self, delta: &Delta<Namespace>) {
        let name = ObjectKey::of(&**delta.object()).name;
        match delta {
            Delta::Deleted(_) => self.namespaces.remove(&name),
            Delta::Added(_) | Delta::Updated { .. } => self.namespaces.insert(name),
        };
    }

    pub(crate) fn note_service(&mut self, delta: &Delta<Service>) {
        let key = ObjectKey::of(&**delta.object());
        match delta {
            Delta::Deleted(_) => self.services.remove(&key),
            Delta::Added(service) | Delta::Updated { new: service, .. } => {
                self.services.insert(key.clone(), service.clone())
            }
        };
        self.refresh(&key);
    }

    pub(crate) fn note_slice(&mut self, delta: &Delta<EndpointSlice>) {
        let key = ObjectKey::of(&**delta.object());
        let old = delta.old().and_then(|slice| service_of(slice));
        let new = service_of(delta.object());
        for service in old.iter().chain(&new) {
            if let Some(slices) = self.slices.get_mut(service) {
                slices.remove(&key);
                if slices.is_empty() {
                    self.slices.remove(service);
                }
            }
        }
        if let (Some(service), Delta::Added(slice) | Delta::Updated { new: slice, .. }) = (&new, delta) {
            self.slices.entry(service.clone()).or_default().insert(key, slice.clone());
        }
        for service in old.iter().chain(&new) {
            self.refresh(service);
        }
    }

    fn refresh(&mut self, key: &ObjectKey) {
        let slices = self.slices.get(key).into_iter().flat_map(BTreeMap::values);
        let entry = self.services.get(key).and_then(|service| entry(service, slices));
        if self.entries.get(key) == entry.as_ref() {
            return;
        }
        self.version = self.version.wrapping_add(1);
        if let Some(old) = self.entries.remove(key) {
            for (address, label) in addresses(&old) {
                if let Some(names) = self.reverse.get_mut(&address) {
                    names.remove(&(key.clone(), label));
                    if names.is_empty() {
                        self.reverse.remove(&address);
                    }
                }
            }
        }
        if let Some(entry) = entry {
            for (address, label) in addresses(&entry) {
                self.reverse.entry(address).or_default().insert((key.clone(), label));
            }
            self.entries.insert(key.clone(), entry);
        }
    }
}

fn addresses(entry: &Entry) -> Vec<(IpAddr, Option<String>)> {
    match entry {
        Entry::Addresses(addresses, _) => addresses.iter().map(|address| (*address, None)).collect(),
        Entry::Headless(endpoints) => endpoints
            .iter()
            .flat_map(|endpoint| endpoint.addresses.iter().map(|address| (*address, Some(endpoint.label.clone()))))
            .collect(),
        Entry::External(_) => Vec::new(),
    }
}

fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(ObjectKey::new(slice.metadata.namespace.as_deref().unwrap_or_default(), name.as_str()))
}

fn port(name: Option<&String>, protocol: Option<&String>, number: i32) -> Option<NamedPort> {
    Some(NamedPort {
        name: name.cloned().unwrap_or_default(),
        protocol: protocol.map_or_else(|| "tcp".into(), |protocol| protocol.to_lowercase()),
        port: u16::try_from(number).ok()?,
    })
}

fn entry<'a>(service: &Service, slices: impl Iterator<Item = &'a Arc<EndpointSlice>>) -> Option<Entry> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return spec.external_name.clone().filter(|name| !name.is_empty()).map(Entry::External);
    }
    let own = spec.cluster_ips.clone().or_else(|| Some(vec![spec.cluster_ip.clone()?])).unwrap_or_default();
    if own.iter().any(|address| address == "None") {
        return Some(Entry::Headless(endpoints(slices)));
    }
    let own: Vec<IpAddr> = own.iter().filter_map(|address| address.parse().ok()).collect();
    if own.is_empty() {
        return None;
    }
    let ports = spec.ports.iter().flatten();
    let ports = ports.filter_map(|p| port(p.name.as_ref(), p.protocol.as_ref(), p.port)).collect();
    Some(Entry::Addresses(own, ports))
}

fn endpoints<'a>(slices: impl Iterator<Item = &'a Arc<EndpointSlice>>) -> Vec<NamedEndpoint> {
    let mut found: BTreeMap<String, NamedEndpoint> = BTreeMap::new();
    for slice in slices {
        let ports: BTreeSet<_> =
            slice.ports.iter().flatten().filter_map(|p| port(p.name.as_ref(), p.protocol.as_ref(), p.port?)).collect();
        for endpoint in slice.endpoints.iter().flatten() {
            // The controller sets ready where publishNotReadyAddresses asks it.
            if endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(false) {
                continue;
            }
            let addresses: BTreeSet<IpAddr> =
                endpoint.addresses.iter().filter_map(|address| address.parse().ok()).collect();
            let Some(first) = addresses.first() else { continue };
            let label = endpoint.hostname.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| dashed(*first));
            let named = found.entry(label.clone()).or_insert_with(|| NamedEndpoint {
                label,
                addresses: BTreeSet::new(),
                ports: BTreeSet::new(),
            });
            named.addresses.extend(addresses);
            named.ports.extend(ports.clone());
        }
    }
    found.into_values().collect()
}
