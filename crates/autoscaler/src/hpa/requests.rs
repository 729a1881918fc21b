//! What pods request of a resource, against which utilisation is told. Not the
//! scheduler's sum: init containers that end do not count.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::amounts::Amounts;
use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

/// A pod does not say how much it requests.
#[derive(thiserror::Error, Clone, Debug, PartialEq)]
pub(crate) enum RequestError {
    /// Of a container.
    #[error("missing request for {resource} in container {container} of Pod {pod}")]
    Container {
        /// `cpu`, …
        resource: String,
        /// The container's name.
        container: String,
        /// The pod's name.
        pod: String,
    },
    /// Of a pod that has requests of its own.
    #[error("missing pod-level request for {resource} in Pod {pod}")]
    Pod {
        /// `cpu`, …
        resource: String,
        /// The pod's name.
        pod: String,
    },
    /// There is no such container.
    #[error("container {container} not found in Pod {pod}")]
    NoContainer {
        /// The name asked for.
        container: String,
        /// The pod's name.
        pod: String,
    },
}

/// Requests in thousandths, by the pod's name. `container`: of this container
/// alone; empty: of the whole pod.
pub(crate) fn requests(
    pods: &[Arc<Pod>],
    container: &str,
    resource: &str,
) -> Result<BTreeMap<String, i64>, RequestError> {
    let one = |pod: &Arc<Pod>| {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let request = match &pod.spec {
            Some(spec) if container.is_empty() && has_own(spec) => own(pod, &name, resource)?,
            Some(spec) => of_containers(spec, &name, container, resource)?,
            None => 0,
        };
        Ok((name, request))
    };
    pods.iter().map(one).collect()
}

/// True if the pod itself has requests of a kind that pods may have.
fn has_own(spec: &PodSpec) -> bool {
    let requests = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let may = |name: &String| matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-");
    requests.is_some_and(|requests| requests.keys().any(may))
}

fn own(pod: &Pod, name: &str, resource: &str) -> Result<i64, RequestError> {
    // Pods with requests of their own are few; the sum is defined on trees.
    let total =
        serde_json::to_value(pod).map_or_else(|_| Amounts::default(), |tree| api::amounts::pod::pod_requests(&tree));
    let missing = || RequestError::Pod { resource: resource.to_owned(), pod: name.to_owned() };
    total.get(resource).map(api::quantity::Written::milli_value).ok_or_else(missing)
}

fn of_containers(spec: &PodSpec, pod: &str, only: &str, resource: &str) -> Result<i64, RequestError> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let mut total = 0_i64;
    for container in spec.containers.iter().chain(sidecars) {
        if !only.is_empty() && only != container.name {
            continue;
        }
        let request = request(container, resource).ok_or_else(|| RequestError::Container {
            resource: resource.to_owned(),
            container: container.name.clone(),
            pod: pod.to_owned(),
        })?;
        if !only.is_empty() {
            return Ok(request);
        }
        total = total.saturating_add(request);
    }
    if only.is_empty() {
        return Ok(total);
    }
    Err(RequestError::NoContainer { container: only.to_owned(), pod: pod.to_owned() })
}

fn request(container: &Container, resource: &str) -> Option<i64> {
    let quantity = container.resources.as_ref()?.requests.as_ref()?.get(resource)?;
    // The API server lets no other text pass than one of a quantity.
    Quantity::parse(&quantity.0).ok().map(Quantity::milli_value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hpa::fixtures::pod;

    fn cpu(pod: &Arc<Pod>, container: &str) -> Result<i64, String> {
        let requests = requests(std::slice::from_ref(pod), container, "cpu").map_err(|error| error.to_string())?;
        Ok(requests["a"])
    }

    #[test]
    fn containers_and_sidecars_add_up_and_init_containers_do_not() {
        let pod =
            pod("a").container("one", "100m").container("two", "1").sidecar("mesh", "50m").init("setup", "4").build();
        assert_eq!(cpu(&pod, ""), Ok(1150));
        assert_eq!(cpu(&pod, "two"), Ok(1000));
        assert_eq!(cpu(&pod, "mesh"), Ok(50));
        assert_eq!(cpu(&pod, "setup"), Err("container setup not found in Pod a".into()));
    }

    #[test]
    fn every_container_must_request_what_is_told_as_a_part_of_it() {
        let pod = pod("a").container("one", "100m").container("two", "").build();
        assert_eq!(cpu(&pod, ""), Err("missing request for cpu in container two of Pod a".into()));
        assert_eq!(cpu(&pod, "one"), Ok(100));
        assert_eq!(cpu(&pod, "two"), Err("missing request for cpu in container two of Pod a".into()));
    }

    #[test]
    fn requests_of_the_pod_itself_replace_those_of_its_containers() {
        let whole = pod("a").container("one", "").container("two", "100m").own("cpu", "2").build();
        assert_eq!(cpu(&whole, ""), Ok(2000));
        assert_eq!(cpu(&whole, "two"), Ok(100));
        let memory = pod("a").container("one", "").own("memory", "1Gi").build();
        assert_eq!(cpu(&memory, ""), Err("missing pod-level request for cpu in Pod a".into()));
    }
}
