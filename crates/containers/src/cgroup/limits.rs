//! Limits as values of control files, for both layouts. Refused values are
//! errors; nothing is rounded here.

use std::io;
use std::path::Path;

use super::Cgroups;
use crate::runtime::Resources;

/// CPU shares of v1 as a weight of v2: 2..262144 onto 1..10000, linearly, as
/// the OCI runtimes do.
pub(crate) fn weight(shares: u64) -> u64 {
    if shares == 0 {
        return 0;
    }
    let shares = shares.clamp(2, 262_144);
    1 + (shares - 2) * 9999 / 262_142
}

fn write(dir: &Path, file: &str, value: &str) -> io::Result<()> {
    let path = dir.join(file);
    std::fs::write(&path, value)
        .map_err(|error| io::Error::new(error.kind(), format!("write {value:?} to {}: {error}", path.display())))
}

/// A new v1 cpuset is empty and refuses processes until it has values.
pub(super) fn inherit_cpuset(parent: &Path, child: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let current = std::fs::read_to_string(child.join(file))?;
        if current.trim().is_empty() {
            let inherited = std::fs::read_to_string(parent.join(file))?;
            write(child, file, inherited.trim())?;
        }
    }
    Ok(())
}

impl Cgroups {
    /// Sets what `resources` names; the rest stays as it is.
    pub(crate) fn set(&self, path: &str, resources: &Resources) -> io::Result<()> {
        if self.v2_only {
            if let Some(dir) = self.unified(path) {
                set_v2(&dir, resources)?;
            }
            return Ok(());
        }
        if let Some(dir) = self.controller("cpu", path) {
            if let Some(shares) = resources.cpu_shares.filter(|shares| *shares > 0) {
                write(&dir, "cpu.shares", &shares.to_string())?;
            }
            set_quota_v1(&dir, resources)?;
        }
        if let (Some(dir), Some(limit)) = (self.controller("memory", path), nonzero(resources.memory_limit_bytes)) {
            write(&dir, "memory.limit_in_bytes", &limit.to_string())?;
        }
        if let (Some(dir), Some(limit)) = (self.controller("pids", path), nonzero(resources.pids_limit)) {
            write(&dir, "pids.max", &or_max(limit))?;
        }
        if let Some(dir) = self.controller("cpuset", path) {
            set_cpuset(&dir, resources)?;
        }
        if let Some(dir) = self.controller("hugetlb", path) {
            for (size, bytes) in &resources.hugepage_limits {
                write(&dir, &format!("hugetlb.{size}.limit_in_bytes"), &bytes.to_string())?;
            }
        }
        Ok(())
    }

    /// A memory kill in v2 takes the whole group, as upstream's kubelet asks
    /// for by default; v1 has no such thing.
    pub(crate) fn kill_as_one(&self, path: &str) -> io::Result<()> {
        match self.unified(path) {
            Some(dir) if self.v2_only && dir.join("memory.oom.group").exists() => write(&dir, "memory.oom.group", "1"),
            _ => Ok(()),
        }
    }
}

/// CRI's 0 means "not given".
fn nonzero(value: Option<i64>) -> Option<i64> {
    value.filter(|value| *value != 0)
}

fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

fn set_quota_v1(dir: &Path, resources: &Resources) -> io::Result<()> {
    let period = resources.cpu_period_us.filter(|period| *period > 0);
    let quota = nonzero(resources.cpu_quota_us);
    let write_period = || period.map_or(Ok(()), |period| write(dir, "cpu.cfs_period_us", &period.to_string()));
    let first = write_period();
    if let Some(quota) = quota {
        write(dir, "cpu.cfs_quota_us", &quota.to_string())?;
    }
    // Which order the kernel takes depends on whether the share of CPU grows.
    if first.is_err() { write_period() } else { Ok(()) }
}

fn set_cpuset(dir: &Path, resources: &Resources) -> io::Result<()> {
    for (file, value) in [("cpuset.cpus", &resources.cpuset_cpus), ("cpuset.mems", &resources.cpuset_mems)] {
        if !value.is_empty() {
            write(dir, file, value)?;
        }
    }
    Ok(())
}

fn set_v2(dir: &Path, resources: &Resources) -> io::Result<()> {
    if let Some(shares) = resources.cpu_shares.filter(|shares| *shares > 0) {
        write(dir, "cpu.weight", &weight(shares).to_string())?;
    }
    if let Some(quota) = nonzero(resources.cpu_quota_us) {
        let period = resources.cpu_period_us.filter(|period| *period > 0).unwrap_or(100_000);
        write(dir, "cpu.max", &format!("{} {period}", or_max(quota)))?;
    }
    if let Some(limit) = nonzero(resources.memory_limit_bytes) {
        write(dir, "memory.max", &or_max(limit))?;
    }
    if let Some(limit) = nonzero(resources.pids_limit) {
        write(dir, "pids.max", &or_max(limit))?;
    }
    set_cpuset(dir, resources)?;
    for (size, bytes) in &resources.hugepage_limits {
        write(dir, &format!("hugetlb.{size}.max"), &bytes.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::weight;

    #[test]
    fn shares_map_onto_the_whole_range_of_weights() {
        assert_eq!([weight(2), weight(1024), weight(262_144), weight(1)], [1, 39, 10_000, 1]);
    }
}
