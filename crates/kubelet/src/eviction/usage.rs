//! How much of the disk a pod uses, and whether that is more than it may: its
//! emptyDir volumes, its containers' writable layers and logs (upstream's
//! `localStorageEviction`, 1.36). Whom to evict for the node's sake is not
//! decided here.

use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use api::types::api::core::v1 as core;

use crate::resources;
use crate::spec;

/// The resource.
const STORAGE: &str = "ephemeral-storage";
/// Most files that one measurement looks at; what lies beyond is not counted.
const MAX_FILES: usize = 1 << 20;
/// Bytes of a block as `stat` counts.
const BLOCK_BYTES: u64 = 512;

/// What a pod uses, in bytes.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Usage {
    /// emptyDir volumes, by name.
    pub(crate) volumes: BTreeMap<String, u64>,
    /// Writable layer and logs, by container.
    pub(crate) containers: BTreeMap<String, u64>,
}

/// Whether the pod sets a bound that has to be watched.
pub(crate) fn is_bounded(pod: &core::Pod) -> bool {
    let volumes = spec::spec(pod).volumes.iter().flatten();
    let sized = volumes.filter_map(|v| v.empty_dir.as_ref()).any(|e| e.size_limit.is_some());
    sized || resources::pod_limits(pod).contains_key(STORAGE)
}

/// Why the pod has to go; `None` if it keeps within its bounds.
pub(crate) fn excess(pod: &core::Pod, usage: &Usage) -> Option<String> {
    volume_excess(pod, usage).or_else(|| pod_excess(pod, usage)).or_else(|| container_excess(pod, usage))
}

fn bytes(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn volume_excess(pod: &core::Pod, usage: &Usage) -> Option<String> {
    spec::spec(pod).volumes.iter().flatten().find_map(|volume| {
        let limit = volume.empty_dir.as_ref()?.size_limit.as_ref()?;
        let most = bytes(resources::quantity_value(limit));
        let used = *usage.volumes.get(&volume.name)?;
        (most > 0 && used > most)
            .then(|| format!("Usage of EmptyDir volume {:?} exceeds the limit {:?}. ", volume.name, limit.0))
    })
}

fn pod_excess(pod: &core::Pod, usage: &Usage) -> Option<String> {
    let limits = resources::pod_limits(pod);
    let limit = limits.get(STORAGE)?;
    let on_disk =
        spec::spec(pod).volumes.iter().flatten().filter(|volume| {
            volume.empty_dir.as_ref().is_some_and(|e| e.medium.as_deref().unwrap_or_default().is_empty())
        });
    let volumes: u64 = on_disk.filter_map(|volume| usage.volumes.get(&volume.name)).sum();
    let used = volumes.saturating_add(usage.containers.values().sum());
    (used > bytes(resources::quantity_value(limit)))
        .then(|| format!("Pod ephemeral local storage usage exceeds the total limit of containers {}. ", limit.0))
}

fn container_excess(pod: &core::Pod, usage: &Usage) -> Option<String> {
    spec::main_containers(pod).iter().chain(spec::init_containers(pod)).find_map(|container| {
        let limit = resources::limits(container)?.get(STORAGE)?;
        let used = *usage.containers.get(&container.name)?;
        (used > bytes(resources::quantity_value(limit)))
            .then(|| format!("Container {} exceeded its local ephemeral storage limit {:?}. ", container.name, limit.0))
    })
}

/// Bytes on disk of a directory and all below it on the same file system;
/// files with several names count once, what vanishes meanwhile not at all.
pub(crate) fn disk_bytes(path: &Path) -> u64 {
    let Ok(top) = path.symlink_metadata() else { return 0 };
    let mut seen = HashSet::new();
    let mut sum = top.blocks().saturating_mul(BLOCK_BYTES);
    let mut open = vec![path.to_owned()];
    let mut files = 0;
    while let Some(dir) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            files += 1;
            if files > MAX_FILES {
                return sum;
            }
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.dev() != top.dev()
                || (metadata.nlink() > 1 && !metadata.is_dir() && !seen.insert(metadata.ino()))
            {
                continue;
            }
            sum = sum.saturating_add(metadata.blocks().saturating_mul(BLOCK_BYTES));
            if metadata.is_dir() {
                open.push(entry.path());
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> core::Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("a pod")
    }

    fn usage(volumes: &[(&str, u64)], containers: &[(&str, u64)]) -> Usage {
        let map = |list: &[(&str, u64)]| list.iter().map(|(name, used)| ((*name).to_owned(), *used)).collect();
        Usage { volumes: map(volumes), containers: map(containers) }
    }

    #[test]
    fn a_volume_beyond_its_own_limit_is_named_with_it() {
        let pod = pod(json!({
            "containers": [{"name": "c"}],
            "volumes": [{"name": "free", "emptyDir": {}}, {"name": "v", "emptyDir": {"sizeLimit": "2Mi"}}],
        }));
        assert!(is_bounded(&pod));
        assert_eq!(excess(&pod, &usage(&[("free", 9 << 20), ("v", 2 << 20)], &[])), None);
        let why = excess(&pod, &usage(&[("v", (2 << 20) + 1)], &[]));
        assert_eq!(why.as_deref(), Some("Usage of EmptyDir volume \"v\" exceeds the limit \"2Mi\". "));
    }

    #[test]
    fn layers_logs_and_volumes_on_disk_count_against_the_limits_of_all_containers() {
        let pod = pod(json!({
            "containers": [
                {"name": "a", "resources": {"limits": {"ephemeral-storage": "4Mi"}}},
                {"name": "b", "resources": {"limits": {"ephemeral-storage": "4Mi"}}},
            ],
            "volumes": [{"name": "disk", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}}],
        }));
        assert_eq!(excess(&pod, &usage(&[("memory", 9 << 20)], &[("a", 4 << 20), ("b", 4 << 20)])), None);
        let why = excess(&pod, &usage(&[("disk", 1)], &[("a", 4 << 20), ("b", 4 << 20)]));
        let text = "Pod ephemeral local storage usage exceeds the total limit of containers 8Mi. ";
        assert_eq!(why.as_deref(), Some(text));
        let why = excess(&pod, &usage(&[], &[("b", 5 << 20)]));
        assert_eq!(why.as_deref(), Some("Container b exceeded its local ephemeral storage limit \"4Mi\". "));
    }

    #[test]
    fn a_pod_without_limits_is_not_watched() {
        let pod = pod(json!({"containers": [{"name": "c"}], "volumes": [{"name": "v", "emptyDir": {}}]}));
        assert!(!is_bounded(&pod));
        assert_eq!(excess(&pod, &usage(&[("v", u64::MAX)], &[("c", 1)])), None);
    }

    #[test]
    fn a_file_with_two_names_takes_its_space_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let empty = disk_bytes(dir.path());
        std::fs::write(dir.path().join("a"), vec![1; 1 << 16]).expect("written");
        std::fs::hard_link(dir.path().join("a"), dir.path().join("b")).expect("linked");
        let used = disk_bytes(dir.path()) - empty;
        assert!((1 << 16..1 << 17).contains(&used), "{used} bytes");
    }
}
