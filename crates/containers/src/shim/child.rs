//! The way of a freshly cloned process to a container's program: cgroups,
//! root, streams, rights, exec. Runs in a copy of the single-threaded shim and
//! ends in exec or exit; it never returns into the shim's loop.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use serde::{Deserialize, Serialize};

use super::protocol::{StartExec, send};
use super::rootfs;
use crate::spec::{Capabilities, ContainerSpec, ProcessSpec};
use crate::{files, sys};

/// Exit code of a process whose program could not be executed after its
/// start was reported.
const EXEC_FAILED: i32 = 255;

/// File descriptors a container may open: soft and hard, as a service gets
/// from systemd by default.
const OPEN_FILES: (u64, u64) = (1024, 524_288);

/// What the child tells the shim before exec closes the socket.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) enum Report {
    /// The terminal's master is beside this message.
    Terminal,
    /// It can't be started, in words for the user.
    Failed(String),
}

/// The child's standard streams.
pub(crate) enum ChildStreams {
    /// A terminal, allocated inside.
    Terminal,
    /// These; `None` reads and writes nothing.
    Files([Option<OwnedFd>; 3]),
}

/// What a container gets of its sandbox.
pub(crate) struct Inherited<'a> {
    /// The shared `/dev/shm`.
    pub(crate) shm: Option<&'a OwnedFd>,
    /// The user namespace, if it is not the machine's.
    pub(crate) users: Option<&'a OwnedFd>,
}

/// A failed step in words for the user.
pub(crate) struct Failed(pub(crate) String);

/// Adds the step to an error.
pub(crate) trait Step<T> {
    /// `step` says what was being done, with its path.
    fn step(self, step: impl FnOnce() -> String) -> Result<T, Failed>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T, Failed> {
        self.map_err(|error| Failed(format!("{}: {}", step(), describe(&error.into()))))
    }
}

/// The system's words without Rust's ` (os error N)`, first letter small: the
/// form that the same failure has everywhere else.
pub(crate) fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

/// Becomes the first process of the container whose state is in `dir`.
pub(super) fn become_container(
    dir: &Path,
    streams: ChildStreams,
    status: &OwnedFd,
    inherited: Inherited<'_>,
    in_cgroup: bool,
) -> ! {
    let steps = || {
        let spec = enter(dir, in_cgroup)?;
        let seccomp = read_seccomp(&spec.process)?;
        rootfs::build(&spec, &inherited)?;
        if let Some(terminal) = connect(streams, spec.process.tty, status)? {
            rootfs::mount_console(&spec, &terminal)?;
        }
        rootfs::finish(&spec)?;
        become_inner_user(&spec, inherited.users, libc::CLONE_NEWNS)?;
        run(&spec.process, &spec.process.args, seccomp.as_deref())
    };
    fail(steps(), status)
}

/// Becomes another process of the container whose first process is `init`.
pub(super) fn become_exec(
    dir: &Path,
    start: &StartExec,
    streams: ChildStreams,
    status: &OwnedFd,
    (init, users): (&OwnedFd, Option<&OwnedFd>),
    in_cgroup: bool,
) -> ! {
    let steps = || {
        let mut spec = enter(dir, in_cgroup)?;
        let seccomp = read_seccomp(&spec.process)?;
        sys::setns(init.as_fd(), libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP)
            .step(|| "enter the container".to_owned())?;
        connect(streams, start.tty, status)?;
        if start.tty && !spec.process.env.iter().any(|variable| variable.starts_with("TERM=")) {
            spec.process.env.push("TERM=xterm".to_owned());
        }
        become_inner_user(&spec, users, 0)?;
        run(&spec.process, &start.args, seccomp.as_deref())
    };
    fail(steps(), status)
}

fn fail(result: Result<std::convert::Infallible, Failed>, status: &OwnedFd) -> ! {
    let Err(Failed(text)) = result;
    if let Err(error) = send(status, &Report::Failed(text), &[]) {
        eprintln!("shim: report of a failed start: {error}");
    }
    sys::exit_now(128)
}

/// Leaves the shim behind: signals, session, cgroups.
fn enter(dir: &Path, in_cgroup: bool) -> Result<ContainerSpec, Failed> {
    sys::reset_signals();
    rustix::process::setsid().step(|| "start a session".to_owned())?;
    let spec: ContainerSpec = files::read_json(&dir.join("spec.json"))
        .and_then(|spec| spec.ok_or_else(|| io::ErrorKind::NotFound.into()))
        .step(|| format!("read {}", dir.display()))?;
    let unified = spec.unified.iter().filter(|_| !in_cgroup);
    for cgroup in spec.cgroups_v1.iter().map(|(_, path)| path).chain(unified) {
        std::fs::write(cgroup.join("cgroup.procs"), "0").step(|| format!("join cgroup {}", cgroup.display()))?;
    }
    sys::unshare(libc::CLONE_NEWCGROUP).step(|| "make a cgroup namespace".to_owned())?;
    if let Some(adjustment) = spec.process.oom_score_adj
        && let Err(error) = std::fs::write("/proc/self/oom_score_adj", adjustment.to_string())
    {
        eprintln!("shim: oom_score_adj {adjustment} refused: {error}");
    }
    sys::set_rlimit(libc::RLIMIT_NOFILE, OPEN_FILES.0, OPEN_FILES.1)
        .or_else(|_| sys::set_rlimit(libc::RLIMIT_NOFILE, OPEN_FILES.0, OPEN_FILES.0))
        .step(|| "set the open file limit".to_owned())?;
    Ok(spec)
}

fn read_seccomp(process: &ProcessSpec) -> Result<Option<Vec<u8>>, Failed> {
    process.seccomp.as_ref().map(|path| std::fs::read(path).step(|| format!("read {}", path.display()))).transpose()
}

/// Puts the streams at 0, 1 and 2. Returns the terminal's slave, if any.
fn connect(streams: ChildStreams, tty: bool, status: &OwnedFd) -> Result<Option<OwnedFd>, Failed> {
    let context = || "connect standard streams".to_owned();
    match streams {
        ChildStreams::Files(files) if !tty => {
            let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).step(context)?;
            for (number, file) in (0..).zip(&files) {
                sys::duplicate_onto(file.as_ref().unwrap_or(&null).as_fd(), number).step(context)?;
            }
            Ok(None)
        }
        _ => {
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            let master = rustix::fs::open("/dev/ptmx", flags, Mode::empty()).step(|| "open /dev/ptmx".to_owned())?;
            rustix::pty::unlockpt(&master).step(|| "unlock the terminal".to_owned())?;
            let slave =
                rustix::pty::ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
                    .step(|| "open the terminal".to_owned())?;
            send(status, &Report::Terminal, &[master.as_fd()]).step(|| "hand over the terminal".to_owned())?;
            for number in 0..3 {
                sys::duplicate_onto(slave.as_fd(), number).step(context)?;
            }
            sys::set_controlling_terminal(slave.as_fd()).step(|| "take the terminal".to_owned())?;
            Ok(Some(slave))
        }
    }
}

/// Drops rights and executes.
fn run(process: &ProcessSpec, args: &[String], seccomp: Option<&[u8]>) -> Result<std::convert::Infallible, Failed> {
    // Before the rights go, so that a directory that only root may enter works
    // as it does under other runtimes.
    let entered = rustix::process::chdir(&process.cwd);
    // Without no_new_privs a filter needs CAP_SYS_ADMIN, with it the filter
    // should see as few of our own calls as possible.
    if let (Some(program), false) = (seccomp, process.no_new_privileges) {
        sys::install_seccomp(program).step(|| "install the seccomp filter".to_owned())?;
    }
    drop_rights(process)?;
    if entered.is_err() {
        rustix::process::chdir(&process.cwd).step(|| format!("chdir to working directory {:?}", process.cwd))?;
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let name = args.first().ok_or_else(|| Failed("no command specified".to_owned()))?;
    let path = look_up(name, &process.env)?;
    let strings = |list: &[String]| -> Result<Vec<CString>, Failed> {
        list.iter()
            .map(|text| CString::new(text.as_str()).map_err(|_| Failed(format!("{text:?} contains a zero byte"))))
            .collect()
    };
    let (args, env) = (strings(args)?, strings(&process.env)?);
    let program =
        CString::new(path.as_os_str().as_bytes()).map_err(|_| Failed("command contains a zero byte".to_owned()))?;
    sys::close_on_exec_from(3).step(|| "close descriptors".to_owned())?;
    if let (Some(filter), true) = (seccomp, process.no_new_privileges) {
        sys::install_seccomp(filter).step(|| "install the seccomp filter".to_owned())?;
    }
    let error = sys::execve(&program, &args, &env);
    // The process counts as started: what is wrong is in the file, and goes
    // to where its output would have gone.
    eprintln!("exec {}: {}", path.display(), describe(&error));
    sys::exit_now(EXEC_FAILED)
}

/// Gives the streams to the user and enters the user namespace, where the
/// process has every right over what belongs to that, and none outside.
/// `more`: namespaces that are made anew so that they belong to it too.
fn become_inner_user(spec: &ContainerSpec, users: Option<&OwnedFd>, more: i32) -> Result<(), Failed> {
    let first = spec.users.map_or(0, |range| range.first);
    own_streams(first.saturating_add(spec.process.uid))?;
    let Some(users) = users else { return Ok(()) };
    let step = || "enter the user namespace".to_owned();
    sys::setns(users.as_fd(), libc::CLONE_NEWUSER).step(step)?;
    if more != 0 {
        sys::unshare(more).step(step)?;
    }
    Ok(())
}

/// Lets the user reopen its own streams (`/dev/stdout` is a link to them).
fn own_streams(uid: u32) -> Result<(), Failed> {
    if uid == 0 {
        return Ok(());
    }
    let null = std::fs::metadata("/dev/null").step(|| "stat /dev/null".to_owned())?.rdev();
    for fd in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        let stat = rustix::fs::fstat(fd).step(|| "stat a standard stream".to_owned())?;
        if stat.st_rdev != null
            && let Err(error) = rustix::fs::fchown(fd, Some(rustix::fs::Uid::from_raw(uid)), None)
            && !matches!(error, rustix::io::Errno::ROFS | rustix::io::Errno::PERM | rustix::io::Errno::INVAL)
        {
            return Err(error).step(|| "own a standard stream".to_owned());
        }
    }
    Ok(())
}

fn drop_rights(process: &ProcessSpec) -> Result<(), Failed> {
    let Capabilities { bounding, effective, permitted, inheritable, ambient } = process.capabilities;
    let ours = sys::permitted_capabilities().step(|| "read capabilities".to_owned())?;
    for capability in 0..64 {
        if bounding & (1 << capability) == 0 && sys::prctl(libc::PR_CAPBSET_DROP, capability, 0).is_err() {
            // The first number that the kernel does not know.
            break;
        }
    }
    sys::prctl(libc::PR_SET_KEEPCAPS, 1, 0).step(|| "keep capabilities".to_owned())?;
    sys::become_user(process.uid, process.gid, &process.groups)
        .step(|| format!("become user {} group {}", process.uid, process.gid))?;
    sys::set_capabilities(effective & ours, permitted & ours, inheritable & ours)
        .step(|| "set capabilities".to_owned())?;
    sys::prctl(libc::PR_SET_KEEPCAPS, 0, 0).step(|| "keep capabilities".to_owned())?;
    for capability in (0..64).filter(|capability| ambient & ours & (1 << capability) != 0) {
        sys::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, capability)
            .step(|| "set ambient capabilities".to_owned())?;
    }
    if process.no_new_privileges {
        sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).step(|| "set no_new_privs".to_owned())?;
    }
    Ok(())
}

/// Finds the program as a shell would. The texts are those that other
/// runtimes give and that users search for.
fn look_up(name: &str, env: &[String]) -> Result<PathBuf, Failed> {
    let failed = |text: &str| Failed(format!("exec: {name:?}: {text}"));
    if name.contains('/') {
        return match executable(Path::new(name)) {
            Ok(()) => Ok(name.into()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(failed("permission denied")),
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => Err(failed("is a directory")),
            Err(error) => Err(failed(&format!("stat {name}: {}", describe(&error)))),
        };
    }
    let path = env.iter().rev().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or_default();
    path.split(':')
        .map(|dir| Path::new(if dir.is_empty() { "." } else { dir }).join(name))
        .find(|candidate| !name.is_empty() && executable(candidate).is_ok())
        .ok_or_else(|| failed("executable file not found in $PATH"))
}

fn executable(path: &Path) -> io::Result<()> {
    let metadata = std::fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if metadata.mode() & 0o111 == 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    rustix::fs::accessat(rustix::fs::CWD, path, rustix::fs::Access::EXEC_OK, rustix::fs::AtFlags::EACCESS)?;
    Ok(())
}
