//! What the loop remembers of each autoscaler between looks; all of it may be
//! lost. What the API knows is never kept here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::selector::Selector;
use client::ObjectKey;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerSpec;
use k8s_openapi::api::core::v1::Pod;

use super::history::History;

/// Of one autoscaler.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    /// Whose memory it is: another object of the same name starts anew.
    pub(crate) uid: String,
    /// What was recommended and done.
    pub(crate) history: History,
    /// Looks in a row that failed.
    pub(crate) failures: u32,
    /// Pods on their way to be ready may change the number.
    pub(crate) unsettled: bool,
    /// Selects the target's pods, as last known.
    pub(crate) selector: Option<Selector>,
    /// When the last look ended, and what the specification was.
    pub(crate) looked: Option<(Duration, HorizontalPodAutoscalerSpec)>,
    /// When the number was last changed.
    pub(crate) rescaled: Option<Duration>,
}

impl Memory {
    /// True if the pod is one of the target's. While the target's pods are not
    /// known, any may be.
    pub(crate) fn concerns(&self, pod: &Pod) -> bool {
        self.selector.as_ref().is_none_or(|selector| selects(selector, pod))
    }
}

pub(crate) fn selects(selector: &Selector, pod: &Pod) -> bool {
    match &pod.metadata.labels {
        Some(labels) => selector.matches(labels),
        None => selector.matches(&BTreeMap::new()),
    }
}

/// Of all autoscalers; one that is deleted is forgotten.
#[derive(Default)]
pub(crate) struct Memories {
    all: Mutex<BTreeMap<ObjectKey, Memory>>,
}

impl Memories {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Memory>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads or changes the memory of the autoscaler with this uid.
    pub(crate) fn with<T>(&self, key: &ObjectKey, uid: &str, act: impl FnOnce(&mut Memory) -> T) -> T {
        let mut all = self.lock();
        let memory = all.entry(key.clone()).or_default();
        if memory.uid != uid {
            *memory = Memory { uid: uid.to_owned(), ..Memory::default() };
        }
        act(memory)
    }

    /// Forgets an autoscaler; true if it was known.
    pub(crate) fn forget(&self, key: &ObjectKey) -> bool {
        self.lock().remove(key).is_some()
    }

    /// Keys of the autoscalers of a namespace of which `wanted` holds, by name.
    pub(crate) fn keys(&self, namespace: &str, wanted: impl Fn(&Memory) -> bool) -> Vec<ObjectKey> {
        let all = self.lock();
        let there = all.range(ObjectKey::new(namespace, "")..).take_while(|(key, _)| *key.namespace == *namespace);
        there.filter(|(_, memory)| wanted(memory)).map(|(key, _)| key.clone()).collect()
    }

    /// Autoscalers whose selectors select any of these pods, by name.
    pub(crate) fn controlling(&self, namespace: &str, pods: &[Arc<Pod>]) -> Vec<ObjectKey> {
        self.keys(namespace, |memory| {
            memory.selector.as_ref().is_some_and(|selector| pods.iter().any(|pod| selects(selector, pod)))
        })
    }
}
