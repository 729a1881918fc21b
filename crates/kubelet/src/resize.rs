//! Resize in place: what a pod was allotted and what is in force, and what
//! follows where the two differ (`computePodResizeAction`, 1.36). Nothing is
//! carried out here.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use api::types::api::core::v1 as core;
use serde::{Deserialize, Serialize};

use crate::observe::Observation;
use crate::resources::{self, List};
use crate::spec;
use crate::volume;

/// File in the pod's directory that keeps a [`Record`].
const RECORD_FILE: &str = "resources.json";

/// Resources of a pod: its own, and those of each container that can be
/// resized, by name.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Allotment {
    pod: Option<core::ResourceRequirements>,
    containers: BTreeMap<String, core::ResourceRequirements>,
}

/// Main containers and sidecars.
fn resizable(pod: &core::Pod) -> impl Iterator<Item = &core::Container> {
    spec::main_containers(pod).iter().chain(spec::init_containers(pod).iter().filter(|c| spec::is_sidecar(c)))
}

impl Allotment {
    /// What the specification asks for.
    pub(crate) fn of(pod: &core::Pod) -> Self {
        let own = |c: &core::Container| (c.name.clone(), c.resources.clone().unwrap_or_default());
        Self { pod: spec::spec(pod).resources.clone(), containers: resizable(pod).map(own).collect() }
    }

    /// The pod with these resources in place of those it asks for.
    pub(crate) fn apply(&self, mut pod: core::Pod) -> core::Pod {
        let Some(spec) = &mut pod.spec else { return pod };
        if !same(self.pod.as_ref(), spec.resources.as_ref()) {
            spec.resources.clone_from(&self.pod);
        }
        for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
            if let Some(own) = self.containers.get(&container.name)
                && !same(Some(own), container.resources.as_ref())
            {
                container.resources = Some(own.clone());
            }
        }
        pod
    }

    /// True if the pod asks for nothing else.
    pub(crate) fn fits(&self, pod: &core::Pod) -> bool {
        same(self.pod.as_ref(), spec::spec(pod).resources.as_ref())
            && resizable(pod)
                .all(|c| self.containers.get(&c.name).is_none_or(|own| same(Some(own), c.resources.as_ref())))
    }

    /// Those of one container.
    pub(crate) fn container(&self, name: &str) -> Option<&core::ResourceRequirements> {
        self.containers.get(name)
    }

    /// What matters of those of one container.
    pub(crate) fn amounts(&self, name: &str) -> Amounts {
        Amounts::of(self.pod.as_ref(), self.containers.get(name))
    }

    /// Notes what a container has.
    pub(crate) fn set_container(&mut self, name: &str, own: Option<&core::ResourceRequirements>) {
        self.containers.insert(name.to_owned(), own.cloned().unwrap_or_default());
    }

    /// Notes what the pod itself has.
    pub(crate) fn set_pod(&mut self, pod: &core::Pod) {
        self.pod.clone_from(&spec::spec(pod).resources);
    }
}

/// Equal amounts; absent and empty lists are the same.
fn same(a: Option<&core::ResourceRequirements>, b: Option<&core::ResourceRequirements>) -> bool {
    let lists = |r: Option<&core::ResourceRequirements>| {
        let r = r.cloned().unwrap_or_default();
        [r.requests.unwrap_or_default(), r.limits.unwrap_or_default()]
    };
    lists(a).iter().zip(&lists(b)).all(|(a, b)| {
        a.len() == b.len()
            && a.keys()
                .all(|name| b.contains_key(name) && resources::milli(Some(a), name) == resources::milli(Some(b), name))
    })
}

/// What the agent must still know after it was started anew.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// What the pod was allotted.
    pub(crate) allotted: Allotment,
    /// What is in force.
    pub(crate) actual: Allotment,
}

fn record_path(root: &Path, uid: &str) -> PathBuf {
    volume::pod_dir(root, uid).join(RECORD_FILE)
}

impl Record {
    /// For a pod that is new here.
    pub(crate) fn of(pod: &core::Pod) -> Self {
        let own = Allotment::of(pod);
        Self { allotted: own.clone(), actual: own }
    }

    /// As it was written; `None` if there is none that can be read.
    pub(crate) fn load(root: &Path, uid: &str) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(record_path(root, uid)).ok()?).ok()
    }

    /// Writes it to the pod's directory. A reader sees the old record or the
    /// new one.
    pub(crate) fn save(&self, root: &Path, uid: &str) -> std::io::Result<()> {
        let path = record_path(root, uid);
        std::fs::create_dir_all(volume::pod_dir(root, uid))?;
        let next = path.with_extension("next");
        std::fs::write(&next, serde_json::to_vec(self)?)?;
        std::fs::rename(next, path)
    }
}

/// What matters of a container's resources: memory in bytes, cpu in
/// thousandths; 0 for none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Amounts {
    pub(crate) memory_limit: i64,
    memory_request: i64,
    cpu_limit: i64,
    cpu_request: i64,
}

impl Amounts {
    /// The pod's own limits stand in for a container's that has none.
    pub(crate) fn of(pod: Option<&core::ResourceRequirements>, container: Option<&core::ResourceRequirements>) -> Self {
        let limits = |r: Option<&core::ResourceRequirements>| r.and_then(|r| r.limits.clone());
        let (own, pod) = (limits(container), limits(pod));
        let limit = |name: &str, read: fn(Option<&List>, &str) -> i64| match read(own.as_ref(), name) {
            0 => read(pod.as_ref(), name),
            own => own,
        };
        let requests = container.and_then(|r| r.requests.as_ref());
        Self {
            memory_limit: limit("memory", resources::value),
            memory_request: resources::value(requests, "memory"),
            cpu_limit: limit("cpu", resources::milli),
            cpu_request: resources::milli(requests, "cpu"),
        }
    }
}

/// What a running container needs so that it has what it was allotted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    /// Nothing.
    None,
    /// Its policy wants a restart.
    Restart,
    /// New limits; how memory and cpu go, `None` for what stays.
    InPlace {
        /// Memory.
        memory: Option<Ordering>,
        /// Cpu.
        cpu: Option<Ordering>,
    },
}

/// What `container` of `pod`, which was allotted its resources, needs.
pub(crate) fn change(pod: &core::Pod, container: &core::Container, actual: &Allotment) -> Change {
    let wanted = Amounts::of(spec::spec(pod).resources.as_ref(), container.resources.as_ref());
    let has = actual.amounts(&container.name);
    if wanted == has {
        return Change::None;
    }
    // The limit decides whether it grows; without a change there, the request.
    let way = |limit: Ordering, request: Ordering| match limit.then(request) {
        Ordering::Equal => None,
        way => Some(way),
    };
    let memory = way(wanted.memory_limit.cmp(&has.memory_limit), wanted.memory_request.cmp(&has.memory_request));
    let cpu = way(wanted.cpu_limit.cmp(&has.cpu_limit), wanted.cpu_request.cmp(&has.cpu_request));
    let restarts = |name: &str| {
        let mut policies = container.resize_policy.iter().flatten();
        policies.find(|p| p.resource_name == name).is_some_and(|p| p.restart_policy == "RestartContainer")
    };
    if (memory.is_some() && restarts("memory")) || (cpu.is_some() && restarts("cpu")) {
        return Change::Restart;
    }
    Change::InPlace { memory, cpu }
}

/// Whether the pod's own resources are not yet in force.
pub(crate) fn pod_differs(pod: &core::Pod, actual: &Allotment) -> bool {
    let amounts = |r: Option<&core::ResourceRequirements>| Amounts::of(None, r);
    amounts(spec::spec(pod).resources.as_ref()) != amounts(actual.pod.as_ref())
}

/// Whether anything that runs has not what it was allotted (`IsPodResizeInProgress`).
pub(crate) fn in_progress(pod: &core::Pod, observed: &Observation, actual: &Allotment) -> bool {
    let running = |c: &&core::Container| observed.find(&c.name).is_some_and(crate::observe::Observed::running);
    resizable(pod).filter(running).any(|c| change(pod, c, actual) != Change::None)
        || (spec::spec(pod).resources.is_some() && pod_differs(pod, actual))
}

/// The message of a resize event: prefix, then resources of all containers as
/// JSON (`podResizeMessage`, 1.36).
pub(crate) fn message(prefix: &str, pod: &core::Pod, generation: i64, error: &str) -> String {
    let list = |containers: &[core::Container]| -> Vec<Named> {
        containers
            .iter()
            .map(|c| Named { name: c.name.clone(), resources: c.resources.clone().unwrap_or_default() })
            .collect()
    };
    let summary = Summary {
        init_containers: list(spec::init_containers(pod)),
        containers: list(spec::main_containers(pod)),
        generation,
        error: error.to_owned(),
    };
    match serde_json::to_string(&summary) {
        Ok(text) => format!("{prefix}: {text}"),
        Err(_) => prefix.to_owned(),
    }
}

#[derive(Serialize)]
struct Named {
    name: String,
    resources: core::ResourceRequirements,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    init_containers: Vec<Named>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    containers: Vec<Named>,
    generation: i64,
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plan::tests::{observe, pod};

    fn one(resources: Value, policy: Value) -> core::Pod {
        pod(json!({"containers": [{"name": "c", "image": "i", "resources": resources, "resizePolicy": policy}]}))
    }

    fn amounts(cpu: &str, memory: &str) -> Value {
        json!({"requests": {"cpu": cpu, "memory": "16Mi"}, "limits": {"cpu": cpu, "memory": memory}})
    }

    #[test]
    fn a_container_is_changed_in_place_unless_its_policy_wants_a_restart() {
        use Ordering::{Greater, Less};
        let actual = Allotment::of(&one(amounts("100m", "64Mi"), Value::Null));
        let check = |resources: Value, policy: Value, expected: Change| {
            let pod = one(resources, policy);
            assert_eq!(change(&pod, &spec::main_containers(&pod)[0], &actual), expected);
        };
        let in_place = |memory, cpu| Change::InPlace { memory, cpu };
        check(amounts("0.1", "64Mi"), Value::Null, Change::None);
        check(amounts("200m", "64Mi"), Value::Null, in_place(None, Some(Greater)));
        check(amounts("50m", "128Mi"), Value::Null, in_place(Some(Greater), Some(Less)));
        let memory = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
        check(amounts("50m", "64Mi"), memory.clone(), in_place(None, Some(Less)));
        check(amounts("50m", "32Mi"), memory, Change::Restart);
    }

    #[test]
    fn limits_of_the_pod_reach_containers_without_their_own() {
        let with = |cpu: &str| pod(json!({"resources": {"limits": {"cpu": cpu}}, "containers": [{"name": "c"}]}));
        let (old, new) = (with("100m"), with("200m"));
        let actual = Allotment::of(&old);
        assert!(!in_progress(&old, &observe(&old, Some(true), &["c=running"]), &actual));
        assert!(pod_differs(&new, &actual));
        assert_eq!(
            change(&new, &spec::main_containers(&new)[0], &actual),
            Change::InPlace { memory: None, cpu: Some(Ordering::Greater) }
        );
        assert!(in_progress(&new, &observe(&new, Some(true), &["c=running"]), &actual));
    }

    #[test]
    fn what_was_allotted_takes_the_place_of_what_is_asked_for() {
        let (old, new) = (one(amounts("100m", "64Mi"), Value::Null), one(amounts("200m", "64Mi"), Value::Null));
        let allotted = Allotment::of(&old);
        assert!(allotted.fits(&old) && !allotted.fits(&new));
        assert_eq!(allotted.apply(new), old);
        let ended = observe(&old, Some(true), &["c=exit:0"]);
        assert!(!in_progress(&one(amounts("200m", "64Mi"), Value::Null), &ended, &allotted));
    }

    #[test]
    fn events_show_all_resources_in_upstreams_order() {
        let pod = pod(json!({"initContainers": [{"name": "i"}],
            "containers": [{"name": "c", "resources": amounts("100m", "64Mi")}]}));
        assert_eq!(
            message("Pod resize error", &pod, 2, "no"),
            "Pod resize error: {\"initContainers\":[{\"name\":\"i\",\"resources\":{}}],\"containers\":[{\"name\":\"c\",\
             \"resources\":{\"limits\":{\"cpu\":\"100m\",\"memory\":\"64Mi\"},\"requests\":{\"cpu\":\"100m\",\
             \"memory\":\"16Mi\"}}}],\"generation\":2,\"error\":\"no\"}"
        );
    }
}
