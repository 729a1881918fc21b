//! The agent's side of the zygote: starts it, restarts it when it is gone, and
//! asks it for shims.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen, open_tree,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::lock;
use crate::cgroup::Cgroups;
use crate::shim::protocol::{SpawnSandbox, send};
use crate::sys;

/// How to start the process that calls [`crate::shim_main`]: a program and the
/// arguments before the runtime's own.
#[derive(Clone, Debug)]
pub struct ShimCommand {
    /// The program; `/proc/self/exe` for the caller's own.
    pub program: PathBuf,
    /// For example `["shim"]`.
    pub args: Vec<String>,
}

pub(super) struct Zygote {
    command: ShimCommand,
    cgroups: Cgroups,
    cgroup: String,
    log: PathBuf,
    running: Mutex<Option<Running>>,
}

struct Running {
    control: OwnedFd,
    process: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It ends when the control socket closes; it is closed by shutdown
        // here, since the field itself is dropped only after this.
        if rustix::net::shutdown(&self.control, rustix::net::Shutdown::Both).is_ok()
            && let Err(error) = self.process.wait()
        {
            tracing::debug!(err = %error, "zygote was reaped elsewhere");
        }
    }
}

impl Zygote {
    pub(super) fn new(command: ShimCommand, cgroups: Cgroups, cgroup: String, log: PathBuf) -> Self {
        Self { command, cgroups, cgroup, log, running: Mutex::new(None) }
    }

    /// Asks for a shim that listens on `listener`. The zygote is started if it
    /// does not run. Returns before the shim does.
    pub(super) fn spawn(&self, request: &SpawnSandbox, listener: &OwnedFd) -> io::Result<()> {
        let mut running = lock(&self.running);
        for attempt in 0..2 {
            let zygote = match running.take() {
                Some(zygote) => zygote,
                None => self.start()?,
            };
            match send(&zygote.control, request, &[listener.as_fd()]) {
                Ok(()) => {
                    *running = Some(zygote);
                    return Ok(());
                }
                // It was killed since: once more with a new one.
                Err(error) if attempt == 0 => tracing::warn!(err = %error, "the zygote is gone; starting it again"),
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::BrokenPipe.into())
    }

    /// Ends the zygote; shims live on.
    pub(super) fn end(&self) {
        *lock(&self.running) = None;
    }

    fn start(&self) -> io::Result<Running> {
        let (control, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let program = read_only_program(&self.command.program)?;
        let log = File::options().append(true).create(true).open(&self.log)?;
        let process = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
            .arg0("darter")
            .args(&self.command.args)
            .arg("zygote")
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        // Out of the agent's own cgroup: stopping the agent's service must not
        // stop containers' shims.
        self.cgroups.attach(&self.cgroup, process.id())?;
        Ok(Running { control, process })
    }
}

/// The program through a read-only mount that no path leads to: a container
/// that gets hold of its shim's `/proc/<pid>/exe` cannot write to the file.
fn read_only_program(program: &std::path::Path) -> io::Result<OwnedFd> {
    let tree = open_tree(CWD, program, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    sys::mount_setattr(tree.as_fd(), false, sys::ATTR_RDONLY | sys::ATTR_NOSUID | sys::ATTR_NODEV, 0)?;
    Ok(tree)
}

/// Moving a process between cgroups of v1 waits for an RCU grace period, some
/// 5 ms, unless some hierarchy has the option `favordynmods` on. This makes one
/// of our own with that option, mounted nowhere; it lives as long as the
/// descriptor. Forks elsewhere become slightly more expensive.
pub(super) fn fast_cgroup_moves() -> Option<OwnedFd> {
    let make = || -> io::Result<OwnedFd> {
        let fs = fsopen("cgroup", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_flag(fs.as_fd(), "none")?;
        fsconfig_set_string(fs.as_fd(), "name", "darter")?;
        fsconfig_set_flag(fs.as_fd(), "favordynmods")?;
        fsconfig_create(fs.as_fd())?;
        Ok(fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
    };
    match make() {
        Ok(mount) => Some(mount),
        Err(error) => {
            tracing::debug!(err = %error, "moves between cgroups stay slow");
            None
        }
    }
}
