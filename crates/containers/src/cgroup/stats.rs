//! Usage figures of a control group.

use std::io;
use std::path::Path;

use super::Cgroups;
use crate::runtime::ContainerStats;

fn number(dir: &Path, file: &str) -> u64 {
    std::fs::read_to_string(dir.join(file)).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

impl Cgroups {
    /// Usage of `path` and everything below. Errors when it does not exist.
    pub(crate) fn stats(&self, path: &str) -> io::Result<ContainerStats> {
        if !self.exists(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut stats = ContainerStats::default();
        if let (true, Some(dir)) = (self.v2_only, self.unified(path)) {
            let cpu = std::fs::read_to_string(dir.join("cpu.stat")).unwrap_or_default();
            stats.cpu_usage_ns = field(&cpu, "usage_usec").unwrap_or(0) * 1000;
            stats.process_count = number(&dir, "pids.current");
            stats.memory_usage_bytes = number(&dir, "memory.current");
            let memory = std::fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
            stats.swap_bytes = number(&dir, "memory.swap.current");
            memory_fields(&mut stats, &memory, ["anon", "inactive_file", "pgfault", "pgmajfault"]);
            return Ok(stats);
        }
        if let Some(dir) = self.controller("cpuacct", path) {
            stats.cpu_usage_ns = number(&dir, "cpuacct.usage");
        }
        if let Some(dir) = self.controller("pids", path) {
            stats.process_count = number(&dir, "pids.current");
        }
        if let Some(dir) = self.controller("memory", path) {
            stats.memory_usage_bytes = number(&dir, "memory.usage_in_bytes");
            let memory = std::fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
            // Shown by kernels that account for swap.
            stats.swap_bytes = field(&memory, "total_swap").unwrap_or(0);
            let names = ["total_rss", "total_inactive_file", "total_pgfault", "total_pgmajfault"];
            memory_fields(&mut stats, &memory, names);
        }
        Ok(stats)
    }
}

fn memory_fields(stats: &mut ContainerStats, text: &str, [anonymous, inactive, faults, major]: [&str; 4]) {
    stats.memory_rss_bytes = field(text, anonymous).unwrap_or(0);
    stats.memory_working_set_bytes = stats.memory_usage_bytes.saturating_sub(field(text, inactive).unwrap_or(0));
    stats.page_faults = field(text, faults).unwrap_or(0);
    stats.major_page_faults = field(text, major).unwrap_or(0);
}
