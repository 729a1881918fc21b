//! Events of a control group: out-of-memory kills, and freezing. Both by
//! notification of the kernel; what follows from an event is decided elsewhere.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFlags, eventfd};

use super::{Cgroups, wait_event};
use crate::shim::protocol::OomFiles;

/// How long the kernel may take to stop every process of a group.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(5);

/// Tells when the kernel killed something in a group for memory.
pub(crate) struct OomWatch {
    /// Becomes readable (v1) or exceptional (v2) at an event.
    notifier: OwnedFd,
    version_two: bool,
    counter: PathBuf,
    seen: u64,
}

impl OomWatch {
    /// Starts to watch.
    pub(crate) fn open(files: &OomFiles) -> io::Result<Self> {
        match files {
            OomFiles::Events(path) => {
                let notifier = File::open(path)?.into();
                Ok(Self { notifier, version_two: true, counter: path.clone(), seen: 0 })
            }
            OomFiles::Control(dir) => {
                let counter = dir.join("memory.oom_control");
                let control = File::open(&counter)?;
                let notifier = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
                let registration = format!("{} {}", notifier.as_raw_fd(), control.as_raw_fd());
                std::fs::write(dir.join("cgroup.event_control"), registration)?;
                Ok(Self { notifier, version_two: false, counter, seen: 0 })
            }
        }
    }

    /// What to poll the descriptor for.
    pub(crate) fn flags(&self) -> PollFlags {
        if self.version_two { PollFlags::PRI } else { PollFlags::IN }
    }

    fn count(&self) -> u64 {
        let text = std::fs::read_to_string(&self.counter).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
    }

    /// Acknowledges an event; true when something was killed since the last call.
    pub(crate) fn take(&mut self) -> bool {
        // Reading is the acknowledgement, in v2 of the file itself.
        let mut buffer = [0_u8; 256];
        let read = if self.version_two {
            rustix::io::pread(&self.notifier, &mut buffer[..], 0)
        } else {
            rustix::io::read(&self.notifier, &mut buffer[..])
        };
        let count = self.count();
        let new = read.is_ok() && count > self.seen;
        self.seen = count;
        new
    }

    /// Something was ever killed in the group.
    pub(crate) fn killed(&self) -> bool {
        self.count() > 0
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.notifier.as_fd()
    }
}

/// Freezes and thaws one group. The control file stays open, so that thawing
/// is one write.
pub(crate) struct Freezer {
    control: File,
    kind: Kind,
}

enum Kind {
    /// With `cgroup.events` of the same group.
    Unified(File),
    /// `freezer.state` of v1.
    State,
}

impl Freezer {
    /// Opens the control files of `path`, which must exist.
    pub(crate) fn open(cgroups: &Cgroups, path: &str) -> io::Result<Self> {
        let write = |path: &Path| File::options().read(true).write(true).open(path);
        if let Some(dir) = cgroups.unified(path)
            && let Ok(control) = write(&dir.join("cgroup.freeze"))
        {
            let events = File::open(dir.join("cgroup.events"))?;
            return Ok(Self { control, kind: Kind::Unified(events) });
        }
        let dir = cgroups.controller("freezer", path);
        let dir = dir.ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "no freezer cgroup on this machine"))?;
        Ok(Self { control: write(&dir.join("freezer.state"))?, kind: Kind::State })
    }

    /// Stops every process; returns when the kernel says that all are stopped.
    /// When that takes too long the group is thawed again.
    pub(crate) fn freeze(&self) -> io::Result<()> {
        let deadline = Instant::now() + FREEZE_TIMEOUT;
        let result = match &self.kind {
            Kind::Unified(events) => {
                (&self.control).write_all(b"1")?;
                wait_event(events, "frozen 1", deadline)
            }
            Kind::State => {
                (&self.control).write_all(b"FROZEN")?;
                self.wait_state(deadline)
            }
        };
        if result.is_err() {
            self.thaw()?;
        }
        result
    }

    /// v1 has no event for it, and the kernel makes progress only when the
    /// state is read: a bounded number of reads, 1 ms apart.
    fn wait_state(&self, deadline: Instant) -> io::Result<()> {
        use std::os::unix::fs::FileExt as _;
        loop {
            let mut buffer = [0_u8; 16];
            let length = self.control.read_at(&mut buffer, 0)?;
            if buffer[..length].starts_with(b"FROZEN") {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "cgroup did not freeze"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets the processes run. A group that was removed holds none.
    pub(crate) fn thaw(&self) -> io::Result<()> {
        let word: &[u8] = match self.kind {
            Kind::Unified(_) => b"0",
            Kind::State => b"THAWED",
        };
        match (&self.control).write_all(word) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            result => result,
        }
    }

    /// True when the kernel reports the group as frozen.
    pub(crate) fn frozen(&self) -> bool {
        use std::os::unix::fs::FileExt as _;
        let mut buffer = [0_u8; 128];
        let file = match &self.kind {
            Kind::Unified(events) => events,
            Kind::State => &self.control,
        };
        let length = file.read_at(&mut buffer, 0).unwrap_or(0);
        let text = String::from_utf8_lossy(&buffer[..length]);
        text.lines().any(|line| matches!(line, "frozen 1" | "FROZEN"))
    }
}
