//! The Linux calls that rustix does not offer, one typed function each. It
//! holds no policy: what to mount, which rights to drop and when is decided
//! by the callers.
#![expect(unsafe_code, reason = "raw system calls; each block says what makes it sound")]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Which side of [`clone_process`] returned.
pub(crate) enum Side {
    /// In the new process.
    Child,
    /// In the caller: the new process's id and a pidfd of it.
    Parent(i32, OwnedFd),
}

/// `struct clone_args` up to `cgroup` (Linux 5.7).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_PIDFD: u64 = 0x1000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Forks with new namespaces, optionally straight into a cgroup of the unified
/// hierarchy. The caller must be single-threaded, which the shim is: the child
/// gets a copy of a heap whose locks nobody holds.
pub(crate) fn clone_process(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Side> {
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: namespaces | CLONE_PIDFD,
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `args` has the kernel's layout and outlives the call; neither
    // CLONE_VM nor a new stack is asked for, so the child continues on its own
    // copy of this stack, as after fork. `pidfd` is written by the kernel
    // before the call returns in the parent.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) })?;
    if pid == 0 {
        return Ok(Side::Child);
    }
    // SAFETY: the kernel stored a new descriptor that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Side::Parent(pid as i32, pidfd))
}

/// Ends the calling process at once, running no destructors or exit handlers:
/// they belong to the process it was forked from.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// setns(2). `flags` of CLONE_NEW*.
pub(crate) fn setns(fd: BorrowedFd<'_>, flags: i32) -> io::Result<()> {
    // SAFETY: the descriptor is valid for the call; no memory is passed.
    check(unsafe { libc::setns(fd.as_raw_fd(), flags) }.into()).map(drop)
}

/// unshare(2) of namespaces.
pub(crate) fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: only CLONE_NEW* flags are passed (never CLONE_FILES), so no
    // other thread's view of descriptors changes.
    check(unsafe { libc::unshare(flags) }.into()).map(drop)
}

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// `MOUNT_ATTR_RDONLY`.
pub(crate) const ATTR_RDONLY: u64 = 0x1;
/// `MOUNT_ATTR_NOSUID`.
pub(crate) const ATTR_NOSUID: u64 = 0x2;
/// `MOUNT_ATTR_NODEV`.
pub(crate) const ATTR_NODEV: u64 = 0x4;
/// `MOUNT_ATTR_NOEXEC`.
pub(crate) const ATTR_NOEXEC: u64 = 0x8;

/// mount_setattr(2) on the mount that `mount` refers to.
pub(crate) fn mount_setattr(mount: BorrowedFd<'_>, recursive: bool, set: u64, propagation: u64) -> io::Result<()> {
    let attr = MountAttr { set, clear: 0, propagation, userns_fd: 0 };
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the path is an empty C string and `attr` has the kernel's layout;
    // both outlive the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// Shows the owners of the detached mount `mount` as the user namespace maps
/// them (mount_setattr(2) with `MOUNT_ATTR_IDMAP`). Not every file system can.
pub(crate) fn map_owners(mount: BorrowedFd<'_>, users: BorrowedFd<'_>) -> io::Result<()> {
    const ATTR_IDMAP: u64 = 0x0010_0000;
    let attr = MountAttr { set: ATTR_IDMAP, clear: 0, propagation: 0, userns_fd: users.as_raw_fd() as u64 };
    // SAFETY: the path is an empty C string and `attr` has the kernel's layout;
    // both outlive the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// Kills a child that nobody else waits for, and waits for its end.
pub(crate) fn end_child(pid: i32) -> io::Result<()> {
    kill(pid, libc::SIGKILL)?;
    // SAFETY: no status is asked for.
    check(unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) }.into()).map(drop)
}

/// prctl(2) with up to two integer arguments.
pub(crate) fn prctl(option: i32, first: u64, second: u64) -> io::Result<i32> {
    // SAFETY: only options with integer arguments are used through this function.
    check(unsafe { libc::prctl(option, first, second, 0, 0) }.into()).map(|value| value as i32)
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Default, Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAP_VERSION_3: u32 = 0x2008_0522;

/// The permitted capability set of the caller, as a bit mask.
pub(crate) fn permitted_capabilities() -> io::Result<u64> {
    let header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 uses two data elements, which is what is passed.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) })?;
    Ok(u64::from(data[0].permitted) | (u64::from(data[1].permitted) << 32))
}

/// Sets the caller's effective, permitted and inheritable capabilities.
pub(crate) fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    let header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let half = |shift: u32| CapData {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 uses two data elements, which is what is passed.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// Becomes another user for good: supplementary groups, then group, then user.
pub(crate) fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: pointer and length describe `groups`; the other calls take
    // integers. The process is single-threaded, so the raw calls, which change
    // one thread only, change the process.
    unsafe {
        check(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()))?;
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    Ok(())
}

/// Installs a seccomp program given as native-endian `sock_filter` bytes.
pub(crate) fn install_seccomp(program: &[u8]) -> io::Result<()> {
    let filters: Vec<libc::sock_filter> = program
        .chunks_exact(8)
        .map(|bytes| libc::sock_filter {
            code: u16::from_ne_bytes([bytes[0], bytes[1]]),
            jt: bytes[2],
            jf: bytes[3],
            k: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        })
        .collect();
    let program = libc::sock_fprog { len: filters.len() as u16, filter: filters.as_ptr().cast_mut() };
    // SAFETY: `program` describes `filters`, which outlives the call; the
    // kernel copies and verifies it.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) }).map(drop)
}

/// execve(2); returns only on failure.
pub(crate) fn execve(path: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| {
        let mut all: Vec<*const libc::c_char> = strings.iter().map(|string| string.as_ptr()).collect();
        all.push(std::ptr::null());
        all
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end with a null pointer and point at C strings that
    // outlive the call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Marks every descriptor from `first` on as closed on exec, so that nothing
/// of the machine leaks into a container.
pub(crate) fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: no memory is passed; descriptors stay open until exec.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) }).map(drop)
}

/// Closes every descriptor from `first` to `last`. Only for a process that was just forked
/// and uses none of the values that owned them.
pub(crate) fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: the caller promises that no owner of these descriptors runs again.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// Blocks `signals` and returns a descriptor that reads them.
pub(crate) fn signal_fd(signals: &[i32]) -> io::Result<OwnedFd> {
    // SAFETY: `set` is initialised by sigemptyset before any other use, and
    // the descriptor that signalfd returns is new.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()).into())?;
        let fd = check(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK).into())?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// Gives every signal its default action and blocks none: what a program
/// expects at exec.
pub(crate) fn reset_signals() {
    // SAFETY: SIG_DFL is a valid disposition for every signal (SIGKILL and
    // SIGSTOP refuse, which is harmless), and the set is initialised.
    unsafe {
        for signal in 1..=libc::SIGRTMAX() {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Lets the kernel reap the caller's children by itself.
pub(crate) fn ignore_children() {
    // SAFETY: SIG_IGN is a valid disposition for SIGCHLD.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// One reaped child: process id and raw wait status.
pub(crate) fn reap_any() -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::__WALL) };
    (pid > 0).then_some((pid, status))
}

/// kill(2).
pub(crate) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::kill(pid, signal) }.into()).map(drop)
}

/// Makes the terminal `fd` the controlling one of the calling session.
pub(crate) fn set_controlling_terminal(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSCTTY, 0) }.into()).map(drop)
}

/// dup2(2) onto a standard stream number.
pub(crate) fn duplicate_onto(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: `number` is 0, 1 or 2, which no Rust value owns.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) }.into()).map(drop)
}

/// Takes over the descriptor that the parent put at `number`.
///
/// # Safety
/// Nothing else in this process may own `number`.
pub(crate) unsafe fn adopt_fd(number: RawFd) -> OwnedFd {
    // SAFETY: the caller promises sole ownership.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Returns unused heap pages to the kernel; keeps long-lived shims small.
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim has no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// setrlimit(2) on the caller, for `RLIMIT_*` by number.
pub(crate) fn set_rlimit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` outlives the call; no old limits are asked for.
    check(unsafe {
        libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const limit, std::ptr::null::<libc::rlimit64>())
    })
    .map(drop)
}

/// Loads a device-cgroup program and attaches it to a cgroup of the unified
/// hierarchy. Needs CAP_SYS_ADMIN (or CAP_BPF with CAP_NET_ADMIN).
pub(crate) fn attach_device_program(cgroup: BorrowedFd<'_>, program: &[u64]) -> io::Result<()> {
    const BPF_PROG_LOAD: i32 = 5;
    const BPF_PROG_ATTACH: i32 = 8;
    const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    const ATTACH_CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;

    #[repr(C)]
    #[derive(Default)]
    struct Load {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
    }
    #[repr(C)]
    #[derive(Default)]
    struct Attach {
        target_fd: u32,
        attach_bpf_fd: u32,
        attach_type: u32,
        attach_flags: u32,
        replace_bpf_fd: u32,
        padding: u32,
    }
    let load = Load {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..Load::default()
    };
    // SAFETY: `load` has the layout of union bpf_attr for this command; the
    // instructions and the licence outlive the call and are copied.
    let fd = check(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of::<Load>()) })?;
    // SAFETY: a new descriptor that nobody else owns.
    let program = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    let attach = Attach {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: ALLOW_MULTI,
        ..Attach::default()
    };
    // SAFETY: `attach` has the layout of union bpf_attr for this command.
    check(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attach, size_of::<Attach>()) }).map(drop)
}

/// Brings the loopback interface of the caller's network namespace up.
pub(crate) fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: all-zero bytes are a valid ifreq; the kernel reads the name and
    // flags written below and nothing outside the structure.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request).into())?;
    }
    Ok(())
}

/// Gives SIGCHLD its default action back.
pub(crate) fn default_children() {
    // SAFETY: SIG_DFL is a valid disposition for SIGCHLD.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Waits for children for ever, collecting each. SIGTERM and SIGINT end the
/// caller, which as the first process of a namespace ends that too.
pub(crate) fn block_all_and_reap() -> io::Result<()> {
    // SAFETY: `set` is initialised before use; sigwait writes `signal`, which
    // outlives it.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        check(libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()).into())?;
        loop {
            let mut signal = 0;
            libc::sigwait(&raw const set, &raw mut signal);
            while reap_any().is_some() {}
            if signal == libc::SIGTERM || signal == libc::SIGINT {
                return Ok(());
            }
        }
    }
}

/// Registers an owned descriptor with the event loop.
pub(crate) fn async_fd(fd: OwnedFd) -> io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd always gives the same descriptor and keeps it open
    // until it is dropped, which AsyncFd does after deregistering it.
    unsafe { tokio::io::unix::AsyncFd::register(fd) }.map_err(Into::into)
}
