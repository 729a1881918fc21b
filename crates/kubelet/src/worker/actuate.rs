//! Giving what runs the limits that it was allotted (`doPodResizeAction`,
//! 1.36). Which containers change is decided elsewhere.

use std::cmp::Ordering;

use containers::runtime::Resources;

use super::job::JobDone;
use super::steps::Job;
use crate::plan::Resized;
use crate::resize::Amounts;
use crate::resources;
use crate::spec;

/// How a limit goes; one that is not set stays as it is.
fn way(from: Option<i64>, to: Option<i64>) -> Ordering {
    match (from, to) {
        (_, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(from), Some(to)) => to.cmp(&from),
    }
}

/// Those that give back first, so that the others find room.
fn in_order(containers: &[Resized], way: fn(&Resized) -> Option<Ordering>) -> Vec<&Resized> {
    let mut list: Vec<&Resized> = containers.iter().filter(|c| way(c).is_some()).collect();
    list.sort_by_key(|c| way(c));
    list
}

impl Job {
    /// Changes limits of the pod and these containers: where the pod's grow,
    /// its own first, else last. An error leaves what was done up to it; a
    /// repetition does no harm.
    pub(super) async fn resize(&self, containers: &[Resized], done: &mut JobDone) -> Result<(), String> {
        let from = resources::of_pod_cgroup(&self.actual.apply((*self.pod).clone()));
        let to = resources::of_pod_cgroup(&self.pod);
        self.check_memory(containers, from.memory_limit_bytes, to.memory_limit_bytes).await?;

        let memory = Resources { memory_limit_bytes: to.memory_limit_bytes, ..Resources::default() };
        let pod_way = way(from.memory_limit_bytes, to.memory_limit_bytes);
        self.set_pod(pod_way == Ordering::Greater, &memory).await?;
        for container in in_order(containers, |c| c.memory) {
            let all = self.wanted(container);
            let own = Resources { memory_limit_bytes: all.memory_limit_bytes, ..Resources::default() };
            self.set_container(container, own).await?;
        }
        self.set_pod(pod_way == Ordering::Less, &memory).await?;

        let quota =
            Resources { cpu_quota_us: to.cpu_quota_us, cpu_period_us: to.cpu_period_us, ..Resources::default() };
        let shares = Resources { cpu_shares: to.cpu_shares, ..Resources::default() };
        let quota_way = way(from.cpu_quota_us, to.cpu_quota_us);
        let shares_way = to.cpu_shares.cmp(&from.cpu_shares);
        self.set_pod(quota_way == Ordering::Greater, &quota).await?;
        self.set_pod(shares_way == Ordering::Greater, &shares).await?;
        for container in in_order(containers, |c| c.cpu) {
            let all = self.wanted(container);
            let own = Resources {
                cpu_shares: all.cpu_shares,
                cpu_quota_us: all.cpu_quota_us,
                cpu_period_us: all.cpu_period_us,
                ..Resources::default()
            };
            self.set_container(container, own).await?;
        }
        self.set_pod(shares_way == Ordering::Less, &shares).await?;
        self.set_pod(quota_way == Ordering::Less, &quota).await?;
        for container in containers {
            let own = spec::find(&self.pod, &container.name).and_then(|(_, c)| c.resources.clone());
            done.actual.push((container.name.clone(), own));
        }
        Ok(())
    }

    fn wanted(&self, container: &Resized) -> Resources {
        match spec::find(&self.pod, &container.name) {
            Some((_, found)) => resources::of_container(&self.pod, &found, self.context.memory_bytes),
            None => Resources::default(),
        }
    }

    async fn set_pod(&self, due: bool, resources: &Resources) -> Result<(), String> {
        if !due {
            return Ok(());
        }
        let path = resources::cgroup_path(&self.context.config.cgroup_root, &self.pod);
        let set = self.context.runtime.set_cgroup(&path, resources.clone()).await;
        set.map_err(|err| api::error::Chain(&err).to_string())
    }

    async fn set_container(&self, container: &Resized, resources: Resources) -> Result<(), String> {
        let set = self.context.runtime.update_resources(&container.id, resources).await;
        set.map_err(|err| api::error::Chain(&err).to_string())
    }

    /// A limit below what is in use would have the kernel kill; it is refused.
    async fn check_memory(&self, containers: &[Resized], from: Option<i64>, to: Option<i64>) -> Result<(), String> {
        let runtime = &self.context.runtime;
        let unreadable = |_| format!("unable to read memory usage for pod {:?}", spec::full_name(&self.pod));
        let mut errors = Vec::new();
        if let (Ordering::Less, Some(limit)) = (way(from, to), to) {
            let path = resources::cgroup_path(&self.context.config.cgroup_root, &self.pod);
            let used = runtime.cgroup_stats(&path).await.map_err(unreadable)?.memory_usage_bytes;
            if i64::try_from(used).unwrap_or(i64::MAX) >= limit {
                errors.push(format!("attempting to set pod memory limit ({limit}) below current usage ({used})"));
            }
        }
        for container in containers {
            let own = spec::spec(&self.pod).resources.as_ref();
            let Some((_, wanted)) = spec::find(&self.pod, &container.name) else { continue };
            let limit = Amounts::of(own, wanted.resources.as_ref()).memory_limit;
            let before = self.actual.amounts(&container.name).memory_limit;
            if limit == 0 || (before != 0 && limit >= before) {
                continue;
            }
            let used = runtime.stats(&container.id).await.map_err(unreadable)?.memory_usage_bytes;
            if i64::try_from(used).unwrap_or(i64::MAX) >= limit {
                let name = &container.name;
                errors.push(format!(
                    "attempting to set container {name:?} memory limit ({limit}) below current usage ({used})"
                ));
            }
        }
        match errors.as_slice() {
            [] => Ok(()),
            [one] => Err(format!("cannot decrease memory limits: {one}")),
            // As Go prints several errors as one.
            _ => Err(format!("cannot decrease memory limits: [{}]", errors.join(", "))),
        }
    }
}
