//! What of a group may go to swap. A container stays in memory unless it is
//! paged out on purpose: swap must not turn a memory limit, which kills, into
//! one that makes slow.

use std::io;
use std::path::Path;

use super::Cgroups;

/// Groups looked at below one; far more than a sandbox has containers.
const MAX_GROUPS: usize = 4096;

impl Cgroups {
    /// Keeps the memory of `path` out of swap, whatever its limits; what is
    /// there stays there. In v1 this bars the kernel's own reclaim and not the
    /// paging out of a process by request; in v2 it bars both. Does nothing
    /// for a group that does not exist or a kernel without swap.
    pub(crate) fn forbid_swap(&self, path: &str) -> io::Result<()> {
        if self.v2_only {
            return self.unified(path).map_or(Ok(()), |dir| set(&dir, "memory.swap.max", "0"));
        }
        // By the share of anonymous memory and not by `memsw`: that limit
        // depends on the other one, and has an order in which they may change.
        self.controller("memory", path).map_or(Ok(()), |dir| set(&dir, "memory.swappiness", "0"))
    }

    /// Lets the memory of `path` go to swap until [`Cgroups::forbid_swap`].
    pub(crate) fn allow_swap(&self, path: &str) -> io::Result<()> {
        match self.unified(path) {
            Some(dir) if self.v2_only => set(&dir, "memory.swap.max", "max"),
            _ => Ok(()),
        }
    }

    /// Process ids in `path` and in every group below.
    pub(crate) fn processes_below(&self, path: &str) -> Vec<u32> {
        let mut pids = Vec::new();
        let Some(dir) = self.unified(path).or_else(|| self.all(path).next()) else { return pids };
        let mut dirs = vec![dir];
        for _ in 0..MAX_GROUPS {
            let Some(dir) = dirs.pop() else { break };
            let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
            let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
            let children = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            dirs.extend(children.map(|entry| entry.path()));
        }
        pids
    }
}

fn set(dir: &Path, file: &str, value: &str) -> io::Result<()> {
    match std::fs::OpenOptions::new().write(true).open(dir.join(file)) {
        Ok(mut file) => io::Write::write_all(&mut file, value.as_bytes()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
