//! The namespaces of a sandbox: the shim enters them, and its children inherit
//! them. Addresses and routes are the agent's matter.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};

use super::super::protocol::SpawnSandbox;
use crate::runtime::IdRange;
use crate::sys;

/// What the shim keeps of the namespaces.
pub(super) struct Namespaces {
    /// The process namespace that children get by default.
    pub(super) pid_for_children: OwnedFd,
    /// A detached tmpfs for `/dev/shm`; `None` with the machine's IPC.
    pub(super) shm: Option<OwnedFd>,
    /// The user namespace of containers; `None` for the machine's.
    pub(super) users: Option<OwnedFd>,
    reaper: Option<i32>,
}

impl Namespaces {
    /// Ends the shared process namespace and with it everything inside.
    pub(super) fn end(&self) {
        if let Some(reaper) = self.reaper {
            // It is our child and not reaped before this, so the number is its own.
            let killed = sys::kill(reaper, libc::SIGKILL);
            debug_assert!(killed.is_ok(), "an unreaped child can be signalled");
        }
    }
}

/// Enters new namespaces as asked. The error names the step and its errno.
pub(super) fn enter(request: &SpawnSandbox) -> Result<Namespaces, (&'static str, i32)> {
    fn step<T>(name: &'static str, result: io::Result<T>) -> Result<T, (&'static str, i32)> {
        result.map_err(|error| (name, error.raw_os_error().unwrap_or(0)))
    }
    let mut flags = 0;
    for (wanted, flag) in [
        (request.new_network, libc::CLONE_NEWNET),
        (request.new_ipc, libc::CLONE_NEWIPC),
        (!request.hostname.is_empty(), libc::CLONE_NEWUTS),
        (request.shared_pid, libc::CLONE_NEWPID),
    ] {
        if wanted {
            flags |= flag;
        }
    }
    let users = match request.users {
        None => {
            step("make namespaces", sys::unshare(flags))?;
            None
        }
        Some(range) => {
            let of_users = flags & !libc::CLONE_NEWPID;
            let users = step("make a user namespace", enter_with_users(of_users, range))?;
            step("make namespaces", sys::unshare(flags & libc::CLONE_NEWPID))?;
            Some(users)
        }
    };
    if request.new_network {
        step("bring loopback up", sys::loopback_up())?;
    }
    if !request.hostname.is_empty() {
        step("set the host name", rustix::system::sethostname(request.hostname.as_bytes()).map_err(io::Error::from))?;
    }
    for (name, value) in &request.sysctls {
        step("set a kernel parameter", set_sysctl(name, value))?;
    }
    let shm = if request.new_ipc { Some(step("make /dev/shm", shared_memory(request.shm_bytes))?) } else { None };
    let reaper = if request.shared_pid { Some(step("start the reaper", start_reaper())?) } else { None };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let pid_for_children = step(
        "open the process namespace",
        open("/proc/self/ns/pid_for_children", flags, Mode::empty()).map_err(io::Error::from),
    )?;
    Ok(Namespaces { pid_for_children, shm, users, reaper })
}

/// Makes a user namespace and enters namespaces that belong to it, so that
/// rights inside are rights over these. The shim itself keeps its own user.
fn enter_with_users(flags: i32, range: IdRange) -> io::Result<OwnedFd> {
    let side = sys::clone_process((libc::CLONE_NEWUSER | flags) as u64, None)?;
    let sys::Side::Parent(pid, pidfd) = side else {
        // It only holds the namespaces open until they were taken over.
        let ends_with_parent = sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0);
        sys::exit_now(match ends_with_parent.and_then(|_| sys::block_all_and_reap()) {
            Ok(()) => 0,
            Err(_) => 1,
        })
    };
    let taken = || -> io::Result<OwnedFd> {
        let map = format!("0 {} {}", range.first, range.count);
        std::fs::write(format!("/proc/{pid}/uid_map"), &map)?;
        std::fs::write(format!("/proc/{pid}/gid_map"), &map)?;
        let users = open(format!("/proc/{pid}/ns/user"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        if flags != 0 {
            sys::setns(pidfd.as_fd(), flags)?;
        }
        Ok(users)
    };
    let users = taken();
    sys::end_child(pid)?;
    users
}

/// Writes one parameter. Names use dots or slashes; a name cannot leave `/proc/sys`.
fn set_sysctl(name: &str, value: &str) -> io::Result<()> {
    let path = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    std::fs::write(format!("/proc/sys/{path}"), value)
}

fn shared_memory(bytes: u64) -> io::Result<OwnedFd> {
    let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(fs.as_fd(), "source", "shm")?;
    fsconfig_set_string(fs.as_fd(), "mode", "1777")?;
    fsconfig_set_string(fs.as_fd(), "size", CString::new(bytes.to_string())?)?;
    fsconfig_create(fs.as_fd())?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// The first process of a shared process namespace: adopts and reaps orphans.
fn start_reaper() -> io::Result<i32> {
    match sys::clone_process(libc::CLONE_NEWNS as u64, None)? {
        sys::Side::Parent(pid, _) => Ok(pid),
        sys::Side::Child => {
            // Failing leaves a process namespace without its first process, in
            // which nothing can be started: the shim's first clone then fails.
            sys::exit_now(match reaper_loop() {
                Ok(()) => 0,
                Err(_) => 1,
            })
        }
    }
}

fn reaper_loop() -> io::Result<()> {
    rustix::thread::set_name(c"pause")?;
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0)?;
    // Containers of the sandbox see this process: it keeps no rights, no
    // descriptors, and an empty root.
    let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(fs.as_fd())?;
    let root = fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    crate::shim::rootfs::become_root(root.as_fd(), std::path::Path::new("/proc"))?;
    sys::close_range(0, u32::MAX)?;
    for capability in 0..64 {
        if sys::prctl(libc::PR_CAPBSET_DROP, capability, 0).is_err() {
            break;
        }
    }
    sys::set_capabilities(0, 0, 0)?;
    sys::block_all_and_reap()
}
