//! Pods and samples for the tests of this module.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, PodSpec, PodStatus, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::samples::{Sample, Samples};

/// The tests' clock.
pub(crate) const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

pub(crate) fn ago(seconds: i64) -> Timestamp {
    NOW - SignedDuration::from_secs(seconds)
}

/// Samples of half a minute that end now.
pub(crate) fn samples(values: &[(&str, i64)]) -> Samples {
    let sample = |milli| Sample { at: NOW, window: SignedDuration::from_secs(30), milli };
    values.iter().map(|(pod, milli)| ((*pod).to_owned(), sample(*milli))).collect()
}

/// A pod under construction.
pub(crate) struct Builder(Pod);

/// A pod that has run and been ready for a long time.
pub(crate) fn pod(name: &str) -> Builder {
    let mut pod = Pod { spec: Some(PodSpec::default()), status: Some(PodStatus::default()), ..Pod::default() };
    pod.metadata.name = Some(name.to_owned());
    pod.metadata.namespace = Some("ns".to_owned());
    Builder(pod).phase("Running").started(ago(3600)).ready(true, ago(3500))
}

impl Builder {
    pub(crate) fn build(self) -> Arc<Pod> {
        Arc::new(self.0)
    }

    fn status(&mut self) -> &mut PodStatus {
        self.0.status.get_or_insert_default()
    }

    fn spec(&mut self) -> &mut PodSpec {
        self.0.spec.get_or_insert_default()
    }

    pub(crate) fn label(mut self, key: &str, value: &str) -> Self {
        self.0.metadata.labels.get_or_insert_default().insert(key.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn phase(mut self, phase: &str) -> Self {
        self.status().phase = Some(phase.to_owned());
        self
    }

    pub(crate) fn started(mut self, at: Timestamp) -> Self {
        self.status().start_time = Some(Time(at));
        self
    }

    pub(crate) fn ready(mut self, ready: bool, since: Timestamp) -> Self {
        let condition = PodCondition {
            type_: "Ready".to_owned(),
            status: if ready { "True" } else { "False" }.to_owned(),
            last_transition_time: Some(Time(since)),
            ..PodCondition::default()
        };
        self.status().conditions = Some(vec![condition]);
        self
    }

    pub(crate) fn without_conditions(mut self) -> Self {
        self.status().conditions = None;
        self
    }

    pub(crate) fn deleted(mut self) -> Self {
        self.0.metadata.deletion_timestamp = Some(Time(ago(1)));
        self
    }

    /// A container that requests CPU, or nothing if that is empty.
    pub(crate) fn container(mut self, name: &str, cpu: &str) -> Self {
        self.spec().containers.push(container(name, cpu));
        self
    }

    pub(crate) fn sidecar(self, name: &str, cpu: &str) -> Self {
        let mut container = container(name, cpu);
        container.restart_policy = Some("Always".to_owned());
        self.before(container)
    }

    pub(crate) fn init(self, name: &str, cpu: &str) -> Self {
        self.before(container(name, cpu))
    }

    fn before(mut self, container: Container) -> Self {
        self.spec().init_containers.get_or_insert_default().push(container);
        self
    }

    /// A request of the pod itself.
    pub(crate) fn own(mut self, resource: &str, amount: &str) -> Self {
        self.spec().resources = Some(request(resource, amount));
        self
    }
}

fn container(name: &str, cpu: &str) -> Container {
    let resources = (!cpu.is_empty()).then(|| request("cpu", cpu));
    Container { name: name.to_owned(), resources, ..Container::default() }
}

fn request(resource: &str, amount: &str) -> ResourceRequirements {
    let requests = BTreeMap::from([(resource.to_owned(), Quantity(amount.to_owned()))]);
    ResourceRequirements { requests: Some(requests), ..ResourceRequirements::default() }
}
