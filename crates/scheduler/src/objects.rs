//! Objects other than nodes and pods that decisions read: labels of
//! namespaces, selectors of services and workloads, disruption budgets.
//! Kept as events bring them; nothing is fetched from here.

mod volumes;

pub use volumes::{Capacity, Claim, StorageChange, StorageClass, Volume, VolumePlan, Volumes};

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api::selector::{Labels, Selector};

/// Namespace and name.
pub type ObjectName = (Arc<str>, Arc<str>);

/// A disruption budget.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Budget {
    /// Its pods.
    pub selector: Selector,
    /// Disruptions allowed now.
    pub allowed: i32,
    /// Pods whose disruption is already counted.
    pub disrupted: Vec<String>,
}

/// Workloads whose selectors make the default spreading.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Workload {
    /// `v1 ReplicationController`.
    ReplicationController,
    /// `apps/v1 ReplicaSet`.
    ReplicaSet,
    /// `apps/v1 StatefulSet`.
    StatefulSet,
}

impl Workload {
    /// From an owner reference.
    pub fn parse(api_version: &str, kind: &str) -> Option<Self> {
        match (api_version, kind) {
            ("v1", "ReplicationController") => Some(Self::ReplicationController),
            ("apps/v1", "ReplicaSet") => Some(Self::ReplicaSet),
            ("apps/v1", "StatefulSet") => Some(Self::StatefulSet),
            _ => None,
        }
    }
}

/// The objects. Every change that can change a cached decision must be made
/// through a method, which counts it.
#[derive(Debug, Default)]
pub struct Objects {
    /// Volumes and what belongs to them.
    pub volumes: Volumes,
    namespaces: HashMap<Arc<str>, Arc<Labels>>,
    services: HashMap<Arc<str>, HashMap<Arc<str>, Labels>>,
    workloads: HashMap<(Workload, Arc<str>, Arc<str>), Selector>,
    budgets: BTreeMap<ObjectName, Budget>,
    generation: u64,
}

impl Objects {
    /// Changes when labels of namespaces or selectors of services or workloads do.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Labels of a namespace; empty if it is not known.
    pub fn namespace_labels(&self, namespace: &str) -> Arc<Labels> {
        self.namespaces.get(namespace).cloned().unwrap_or_default()
    }

    /// Takes a namespace's labels, or forgets it.
    pub fn set_namespace(&mut self, name: &str, labels: Option<Labels>) {
        let changed = match labels {
            Some(labels) => {
                let before = self.namespaces.insert(name.into(), Arc::new(labels.clone()));
                before.as_deref() != Some(&labels)
            }
            None => self.namespaces.remove(name).is_some(),
        };
        self.generation += u64::from(changed);
    }

    /// Takes a service's selector; none for a service without or one that is gone.
    pub fn set_service(&mut self, namespace: &str, name: &str, selector: Option<Labels>) {
        let services = self.services.entry(namespace.into()).or_default();
        let changed = match selector {
            Some(selector) => services.insert(name.into(), selector.clone()) != Some(selector),
            None => services.remove(name).is_some(),
        };
        if services.is_empty() {
            self.services.remove(namespace);
        }
        self.generation += u64::from(changed);
    }

    /// Takes a workload's selector, or forgets it.
    pub fn set_workload(&mut self, kind: Workload, namespace: &str, name: &str, selector: Option<Selector>) {
        let key = (kind, namespace.into(), name.into());
        let changed = match selector {
            Some(selector) => self.workloads.insert(key, selector.clone()) != Some(selector),
            None => self.workloads.remove(&key).is_some(),
        };
        self.generation += u64::from(changed);
    }

    /// Takes a disruption budget, or forgets it.
    pub fn set_budget(&mut self, namespace: &str, name: &str, budget: Option<Budget>) {
        let key = (namespace.into(), name.into());
        match budget {
            Some(budget) => {
                self.budgets.insert(key, budget);
            }
            None => {
                self.budgets.remove(&key);
            }
        }
    }

    /// All disruption budgets with their namespaces.
    pub fn budgets(&self) -> impl Iterator<Item = (&str, &Budget)> + '_ {
        self.budgets.iter().map(|((namespace, _), budget)| (&**namespace, budget))
    }

    /// Selectors of the services in a namespace that select these labels.
    pub fn services_of<'a>(&'a self, namespace: &str, labels: &'a Labels) -> impl Iterator<Item = &'a Labels> + 'a {
        let services = self.services.get(namespace).into_iter().flat_map(HashMap::values);
        services.filter(|selector| selector.iter().all(|(key, value)| labels.get(key) == Some(value)))
    }

    /// Selector of a workload.
    pub fn workload(&self, kind: Workload, namespace: &str, name: &str) -> Option<&Selector> {
        self.workloads.get(&(kind, namespace.into(), name.into()))
    }
}
