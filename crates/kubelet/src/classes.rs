//! CPU shares of the class of Burstable pods: together they get what they
//! request together, beside the Guaranteed ones (`setCPUCgroupConfig`, 1.36).
//! Cgroups of single pods are not touched here.

use std::sync::Arc;

use api::types::api::core::v1 as core;
use containers::runtime::Resources;
use tokio::sync::Mutex;

use crate::context::Context;
use crate::resources::{self, QosClass};
use crate::spec;
use crate::status;

/// The shares as they were last set.
#[derive(Default)]
pub(crate) struct Classes {
    burstable: Mutex<Option<u64>>,
}

/// Shares of the class with these pods of the node; ended ones do not count.
fn burstable_shares(pods: &[Arc<core::Pod>]) -> u64 {
    let active = pods.iter().filter(|p| !status::is_terminal(spec::status(p).phase.as_deref().unwrap_or_default()));
    let burstable = active.filter(|p| resources::qos_class(p) == QosClass::Burstable);
    let requests = burstable.map(|p| resources::milli(Some(&resources::pod_requests(p)), "cpu"));
    resources::shares(requests.fold(0, i64::saturating_add))
}

/// Brings the class in line with the node's pods, if they changed.
pub(crate) async fn update(context: &Context) {
    // Held while it is written, so that what is written last is what is true last.
    let mut last = context.classes.burstable.lock().await;
    let pods: Vec<Arc<core::Pod>> = context.pods.all().into_iter().map(|entry| entry.pod).collect();
    let shares = burstable_shares(&pods);
    if *last == Some(shares) {
        return;
    }
    let path = resources::class_cgroup_path(&context.config.cgroup_root, QosClass::Burstable);
    let wanted = Resources { cpu_shares: Some(shares), ..Resources::default() };
    match context.runtime.set_cgroup(&path, wanted).await {
        Ok(()) => *last = Some(shares),
        // The next change of pods tries again.
        Err(err) => tracing::warn!(err = %api::error::Chain(&err), "shares of burstable pods could not be set"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plan::tests::pod;

    #[test]
    fn burstable_pods_that_run_add_up() {
        let make = |cpu: &str, phase: &str| {
            let resources = json!({"requests": {"cpu": cpu}});
            let mut pod = pod(json!({"containers": [{"name": "c", "resources": resources}]}));
            pod.status = Some(core::PodStatus { phase: Some(phase.into()), ..core::PodStatus::default() });
            Arc::new(pod)
        };
        let guaranteed = json!({"cpu": "1", "memory": "1Gi"});
        let guaranteed =
            json!({"containers": [{"name": "c", "resources": {"requests": guaranteed, "limits": guaranteed}}]});
        let pods =
            [Arc::new(pod(guaranteed)), make("500m", "Running"), make("1500m", "Pending"), make("4", "Succeeded")];
        assert_eq!(burstable_shares(&pods), 2048);
        assert_eq!(burstable_shares(&[]), 2);
    }
}
