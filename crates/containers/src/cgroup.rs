//! Control groups of the machine, whichever layout it has: v2, v1, or v1 with
//! an empty v2 beside it. Paths given to it are relative to the hierarchies'
//! roots. It knows no sandboxes or containers.

mod devices;
mod limits;
mod stats;
mod swap;
mod watch;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub(crate) use self::devices::DeviceRule;
pub(crate) use self::watch::{Freezer, OomWatch};

/// How long a killed group may take to become empty before its removal fails.
const EMPTY_TIMEOUT: Duration = Duration::from_secs(5);

/// Controllers turned on for children in v2, where the machine has them.
const CONTROLLERS_V2: [&str; 6] = ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"];

/// The machine's layout.
#[derive(Clone, Debug)]
pub(crate) struct Cgroups {
    /// v1 hierarchies: controllers, name of the mount's directory, mount.
    v1: Vec<Hierarchy>,
    /// The v2 hierarchy.
    unified: Option<PathBuf>,
    /// It is the only one.
    v2_only: bool,
}

#[derive(Clone, Debug)]
struct Hierarchy {
    controllers: Vec<String>,
    directory: String,
    mount: PathBuf,
}

impl Cgroups {
    /// Reads the layout from the calling process's mounts.
    pub(crate) fn detect() -> io::Result<Self> {
        Self::from_mountinfo(&std::fs::read_to_string("/proc/self/mountinfo")?)
    }

    fn from_mountinfo(text: &str) -> io::Result<Self> {
        let mut found = Self { v1: Vec::new(), unified: None, v2_only: false };
        for line in text.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let mount = PathBuf::from(left.split(' ').nth(4).unwrap_or_default());
            if !mount.starts_with("/sys/fs/cgroup") {
                continue;
            }
            let mut right = right.split(' ');
            let kind = right.next().unwrap_or_default();
            let options = right.nth(1).unwrap_or_default();
            match kind {
                "cgroup2" => found.unified = Some(mount),
                "cgroup" => {
                    let directory = mount.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
                    let controllers =
                        options.split(',').filter(|option| !matches!(*option, "rw" | "ro" | "xattr" | "none"));
                    let controllers = controllers.filter(|option| !option.starts_with("release_agent"));
                    let controllers = controllers.map(str::to_owned).collect();
                    found.v1.push(Hierarchy { controllers, directory, mount });
                }
                _ => {}
            }
        }
        found.v2_only = found.unified.is_some() && found.v1.is_empty();
        if found.unified.is_none() && found.v1.is_empty() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "no cgroup hierarchy is mounted at /sys/fs/cgroup"));
        }
        Ok(found)
    }

    /// True when v2 is the only hierarchy.
    pub(crate) fn v2_only(&self) -> bool {
        self.v2_only
    }

    /// The directory of `path` in the unified hierarchy.
    pub(crate) fn unified(&self, path: &str) -> Option<PathBuf> {
        self.unified.as_ref().map(|mount| below(mount, path))
    }

    /// The directories of `path` in the v1 hierarchies, with the names that
    /// the hierarchies have under `/sys/fs/cgroup`.
    pub(crate) fn v1(&self, path: &str) -> Vec<(String, PathBuf)> {
        self.v1.iter().map(|hierarchy| (hierarchy.directory.clone(), below(&hierarchy.mount, path))).collect()
    }

    /// The directory of `path` in the v1 hierarchy of the memory controller.
    pub(crate) fn memory_v1(&self, path: &str) -> Option<PathBuf> {
        self.controller("memory", path)
    }

    /// The v1 directory of `path` for one controller.
    fn controller(&self, name: &str, path: &str) -> Option<PathBuf> {
        let hierarchy = self.v1.iter().find(|hierarchy| hierarchy.controllers.iter().any(|c| c == name))?;
        Some(below(&hierarchy.mount, path))
    }

    /// Every directory of `path`.
    fn all(&self, path: &str) -> impl Iterator<Item = PathBuf> {
        let v1 = self.v1.iter().map(|hierarchy| &hierarchy.mount);
        v1.chain(&self.unified).map(|mount| below(mount, path)).collect::<Vec<_>>().into_iter()
    }

    /// True when `path` exists (in the first hierarchy, which is as good as all).
    pub(crate) fn exists(&self, path: &str) -> bool {
        self.all(path).next().is_some_and(|dir| dir.is_dir())
    }

    /// Makes `path` with its parents in every hierarchy. Idempotent.
    pub(crate) fn create(&self, path: &str) -> io::Result<()> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        if parts.contains(&"..") {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("cgroup path {path:?}")));
        }
        for hierarchy in &self.v1 {
            let is_cpuset = hierarchy.controllers.iter().any(|controller| controller == "cpuset");
            make_below(&hierarchy.mount, &parts, |parent, child| {
                if is_cpuset { limits::inherit_cpuset(parent, child) } else { Ok(()) }
            })?;
        }
        if let Some(unified) = &self.unified {
            if self.v2_only {
                delegate(unified)?;
            }
            let mut last = unified.clone();
            make_below(unified, &parts, |_, child| {
                // The parent passes its controllers on; the leaf does not, so
                // that processes may live in it.
                if self.v2_only && last != *unified {
                    delegate(&last)?;
                }
                child.clone_into(&mut last);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Moves a process into `path` in every hierarchy.
    pub(crate) fn attach(&self, path: &str, pid: u32) -> io::Result<()> {
        for dir in self.all(path) {
            std::fs::write(dir.join("cgroup.procs"), pid.to_string())?;
        }
        Ok(())
    }

    /// Process ids in exactly `path`.
    pub(crate) fn processes(&self, path: &str) -> Vec<u32> {
        let Some(dir) = self.unified(path).or_else(|| self.all(path).next()) else { return Vec::new() };
        let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Kills everything in `path` and below and waits until it is empty.
    pub(crate) fn kill_and_wait(&self, path: &str) -> io::Result<()> {
        if let Some(dir) = self.unified(path) {
            if !dir.is_dir() {
                return Ok(());
            }
            kill(&dir)?;
            return wait_empty(&dir, EMPTY_TIMEOUT);
        }
        match self.controller("pids", path).or_else(|| self.all(path).next()) {
            Some(dir) if dir.is_dir() => kill(&dir),
            _ => Ok(()),
        }
    }

    /// Removes `path` and what is below, in every hierarchy. The groups must
    /// hold no process. Idempotent.
    pub(crate) fn remove(&self, path: &str) -> io::Result<()> {
        if path.split('/').all(str::is_empty) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the root cgroup"));
        }
        let mut result = Ok(());
        for dir in self.all(path) {
            if let Err(error) = remove_below(&dir) {
                result = Err(io::Error::new(error.kind(), format!("{}: {error}", dir.display())));
            }
        }
        result
    }
}

fn below(mount: &Path, path: &str) -> PathBuf {
    mount.join(path.trim_start_matches('/'))
}

fn make_below(mount: &Path, parts: &[&str], mut made: impl FnMut(&Path, &Path) -> io::Result<()>) -> io::Result<()> {
    let mut dir = mount.to_owned();
    for part in parts {
        let child = dir.join(part);
        match std::fs::create_dir(&child) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(io::Error::new(error.kind(), format!("make cgroup {}: {error}", child.display())));
            }
        }
        made(&dir, &child)?;
        dir = child;
    }
    Ok(())
}

/// Turns controllers on for the children of `dir`, those it has.
fn delegate(dir: &Path) -> io::Result<()> {
    let available = std::fs::read_to_string(dir.join("cgroup.controllers"))?;
    let enabled = std::fs::read_to_string(dir.join("cgroup.subtree_control"))?;
    let missing: Vec<String> = CONTROLLERS_V2
        .iter()
        .filter(|name| available.split_whitespace().any(|have| have == **name))
        .filter(|name| !enabled.split_whitespace().any(|have| have == **name))
        .map(|name| format!("+{name}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    std::fs::write(dir.join("cgroup.subtree_control"), missing.join(" "))
        .map_err(|error| io::Error::new(error.kind(), format!("turn controllers on in {}: {error}", dir.display())))
}

fn remove_below(dir: &Path) -> io::Result<()> {
    match rustix::fs::rmdir(dir) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(rustix::io::Errno::BUSY) => {}
        Err(error) => return Err(error.into()),
    }
    // Busy: children, or processes.
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_below(&entry.path())?;
        }
    }
    match rustix::fs::rmdir(dir) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Kills every process in `dir` and below: by `cgroup.kill` where there is
/// one, else one by one until none is left.
pub(crate) fn kill(dir: &Path) -> io::Result<()> {
    const ROUNDS: usize = 100;
    match std::fs::write(dir.join("cgroup.kill"), "1") {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // Without the kernel's help a fork can outrun a round, hence several.
    for _ in 0..ROUNDS {
        let text = match std::fs::read_to_string(dir.join("cgroup.procs")) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if text.trim().is_empty() {
            return Ok(());
        }
        for pid in text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0) {
            if let Err(error) = crate::sys::kill(pid, libc::SIGKILL)
                && error.raw_os_error() != Some(libc::ESRCH)
            {
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Waits for `populated 0` of a group of the unified hierarchy.
fn wait_empty(dir: &Path, limit: Duration) -> io::Result<()> {
    let deadline = Instant::now() + limit;
    let events = match File::open(dir.join("cgroup.events")) {
        Ok(events) => events,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    wait_event(&events, "populated 0", deadline)
}

/// Waits until `cgroup.events` contains `line`.
fn wait_event(events: &File, line: &str, deadline: Instant) -> io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    loop {
        let mut buffer = [0_u8; 128];
        let length = match events.read_at(&mut buffer, 0) {
            // The group was removed meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(()),
            other => other?,
        };
        if String::from_utf8_lossy(&buffer[..length]).lines().any(|have| have == line) {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("cgroup did not become {line:?}")));
        }
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut fds = [PollFd::from_borrowed_fd(events.as_fd(), PollFlags::PRI)];
        match poll(&mut fds, Some(&left)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_read_from_the_mounts() {
        let hybrid = "25 24 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      26 25 0:23 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      27 25 0:24 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                      28 25 0:25 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let cgroups = Cgroups::from_mountinfo(hybrid).expect("layout");
        assert!(!cgroups.v2_only());
        assert_eq!(cgroups.controller("cpuacct", "/a"), Some("/sys/fs/cgroup/cpu,cpuacct/a".into()));
        assert_eq!(cgroups.unified("a/b"), Some("/sys/fs/cgroup/unified/a/b".into()));
        let v2 = Cgroups::from_mountinfo("26 25 0:23 / /sys/fs/cgroup rw shared:3 - cgroup2 cgroup2 rw,nsdelegate\n");
        assert!(v2.expect("layout").v2_only());
        assert!(Cgroups::from_mountinfo("").is_err());
    }
}
