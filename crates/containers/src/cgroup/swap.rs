//! What of a group may go to swap. A container stays in memory unless it is
//! paged out on purpose: swap must not turn a memory limit, which kills, into
//! one that makes slow.

use std::io;
use std::path::Path;

use super::Cgroups;

/// Groups looked at below one; far more than a sandbox has containers.
const MAX_GROUPS: usize = 4096;

/// What v2 is asked for; older kernels refuse words that they do not know.
const RECLAIM_V2: [&str; 3] = ["4M swappiness=max", "4M swappiness=200", "4M"];

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

    /// Lets the kernel move memory of `path` to swap, anonymous memory before
    /// cached files, for as long as it likes: v1 until it gives up or a signal
    /// comes, v2 a few MB at a time. False when there is no way to do it; that
    /// nothing is left shows in the group's use only. Afterwards [`Cgroups::forbid_swap`] is due.
    pub(crate) fn reclaim_some(&self, path: &str) -> io::Result<bool> {
        let (dir, file, requests) = if self.v2_only {
            (self.unified(path), "memory.reclaim", &RECLAIM_V2[..])
        } else {
            (self.controller("memory", path), "memory.force_empty", &["0"][..])
        };
        let Some(dir) = dir.filter(|dir| dir.join(file).exists()) else { return Ok(false) };
        if !self.v2_only && set(&dir, "memory.swappiness", "200").is_err() {
            // Before Linux 5.8 the most is 100: files and the rest alike.
            set(&dir, "memory.swappiness", "100")?;
        }
        // Reading brings the kernel's counts up to date. By old ones it may hold
        // that there are cached files to drop first, and look at nothing else.
        drop(std::fs::read(dir.join("memory.stat"))?);
        let mut control = std::fs::OpenOptions::new().write(true).open(dir.join(file))?;
        let mut refusal = io::Error::from(io::ErrorKind::Unsupported);
        for request in requests {
            // One call each: to repeat it after a signal is the caller's choice.
            match io::Write::write(&mut control, request.as_bytes()) {
                Ok(_) => return Ok(true),
                // A signal, or less was found than asked for. That says little:
                // pages that were used of late pass by twice.
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {
                    return Ok(true);
                }
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
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
