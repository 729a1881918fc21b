//! What the machine is and has: processors, memory, disk, names. Read from
//! `/proc` and `/etc`; nothing is measured over time.

use std::collections::BTreeMap;
use std::fs;

use crate::config::KubeletConfig;

fn read(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// Bytes of a line of `/proc/meminfo`, for example `MemTotal`.
pub(crate) fn memory_info(name: &str) -> i64 {
    let table = read("/proc/meminfo");
    let line = table.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<i64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

/// Memory of the machine.
pub(crate) fn memory_bytes() -> i64 {
    memory_info("MemTotal")
}

/// Processors that this process may use.
pub(crate) fn cpus() -> i64 {
    std::thread::available_parallelism().map_or(1, |n| i64::try_from(n.get()).unwrap_or(1))
}

/// Size, free bytes, inodes and free inodes of the file system of the root
/// directory, which need not be there yet.
pub(crate) fn disk(config: &KubeletConfig) -> Option<containers::mounts::DiskSpace> {
    let root = std::path::absolute(&config.root_dir).ok()?;
    let there = root.ancestors().find(|path| path.exists())?;
    containers::mounts::disk_space(there).ok()
}

/// What the node has, in thousandths of a unit.
pub(crate) fn capacity_milli(config: &KubeletConfig) -> BTreeMap<String, i64> {
    let disk = disk(config).map_or(0, |d| i64::try_from(d.total_bytes).unwrap_or(i64::MAX));
    BTreeMap::from([
        ("cpu".to_owned(), cpus() * 1000),
        ("memory".to_owned(), memory_bytes().saturating_mul(1000)),
        ("ephemeral-storage".to_owned(), disk.saturating_mul(1000)),
        ("pods".to_owned(), i64::from(config.max_pods) * 1000),
        ("hugepages-1Gi".to_owned(), 0),
        ("hugepages-2Mi".to_owned(), 0),
    ])
}

/// What pods may have of it.
pub(crate) fn allocatable_milli(config: &KubeletConfig) -> BTreeMap<String, i64> {
    let mut all = capacity_milli(config);
    let mut less = |name: &str, by: i64| {
        if let Some(amount) = all.get_mut(name) {
            *amount = (*amount - by).max(0);
        }
    };
    less("cpu", config.reserved_cpu_milli);
    let memory = config.reserved_memory_bytes.saturating_add(i64::try_from(config.eviction_memory_bytes).unwrap_or(0));
    less("memory", memory.saturating_mul(1000));
    if let Some(disk) = all.get_mut("ephemeral-storage") {
        // Upstream keeps the eviction threshold of the disk free.
        *disk -= *disk / 100 * i64::from(config.eviction_disk_percent);
    }
    all
}

/// Facts for `status.nodeInfo`.
pub(crate) struct Facts {
    pub(crate) machine_id: String,
    pub(crate) system_uuid: String,
    pub(crate) boot_id: String,
    pub(crate) kernel: String,
    pub(crate) os_image: String,
}

/// Reads them.
pub(crate) fn facts() -> Facts {
    let machine_id = read("/etc/machine-id");
    let uuid = read("/sys/class/dmi/id/product_uuid");
    let release = read("/etc/os-release");
    let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux");
    Facts {
        system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
        machine_id,
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        kernel: read("/proc/sys/kernel/osrelease"),
        os_image: pretty.trim_matches('"').to_owned(),
    }
}

/// Whether a kernel of this release can show image layers under other owners,
/// which user namespaces need: 6.13 takes layers as descriptors.
pub(crate) fn maps_layers(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 13)
}

/// `amd64`, `arm64`, …: as Kubernetes names them.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_mapped_from_6_13_on() {
        for (release, can) in [("6.12.9", false), ("6.13.0-1-amd64", true), ("7.0", true), ("5.20", false), ("", false)]
        {
            assert_eq!(maps_layers(release), can, "{release:?}");
        }
    }
}
