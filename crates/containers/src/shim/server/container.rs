//! One running container, or one more process in it: its process id, streams,
//! log and attached clients.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};

use super::super::child::{self, ChildStreams, Report};
use super::super::log::{Log, Stream};
use super::super::protocol::{Exit, OomFiles, PidSource, StartContainer, StartExec, receive};
use super::sandbox::Namespaces;
use super::{Interests, Source, now_ns};
use crate::{cgroup, sys};

/// Bytes read at a time from a container's output.
const CHUNK: usize = 16 << 10;

/// Clients attached to one stream at a time; the next is not served.
const MAX_CLIENTS: usize = 16;

/// A process between clone and exec.
pub(super) struct Launch {
    /// Of the request that waits for it.
    pub(super) seq: u64,
    /// The child reports here; closes on exec.
    pub(super) status: OwnedFd,
    /// The terminal, once the child allocated it.
    pub(super) master: Option<OwnedFd>,
}

impl Launch {
    /// What the child said: `None` for nothing final yet, `Ok` when its program
    /// runs, `Err` with the reason why not.
    pub(super) fn read(&mut self) -> Option<Result<(), String>> {
        loop {
            match receive::<Report>(&self.status, &mut Vec::new()) {
                Ok(None) => return Some(Ok(())),
                Ok(Some((Report::Terminal, fds))) => self.master = fds.into_iter().next(),
                Ok(Some((Report::Failed(text), _))) => return Some(Err(text)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Some(Err(format!("the starting process was lost: {error}"))),
            }
        }
    }
}

/// Another process in a container.
pub(super) struct Exec {
    pub(super) pid: i32,
    pub(super) launch: Option<Launch>,
}

struct Client {
    pipe: OwnedFd,
    /// Output that did not fit into the pipe; while there is any, the
    /// container's output is not read: a slow reader slows the writer.
    backlog: Vec<u8>,
}

#[derive(Default)]
struct Output {
    fd: Option<OwnedFd>,
    clients: Vec<Client>,
}

impl Output {
    fn blocked(&self) -> bool {
        self.clients.iter().any(|client| !client.backlog.is_empty())
    }
}

/// A container whose process was cloned and has not been reaped.
pub(super) struct Container {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    pub(super) started_ns: u64,
    pub(super) tty: bool,
    /// `Some` until its program runs.
    pub(super) launch: Option<Launch>,
    dir: PathBuf,
    /// Its processes do not end with the first one by themselves.
    shared_pid: bool,
    unified: Option<PathBuf>,
    oom: Option<cgroup::OomWatch>,
    log: Option<Log>,
    outputs: [Output; 2],
    stdin: Option<OwnedFd>,
    stdin_once: bool,
}

/// Both ends of the streams of a new process.
struct Streams {
    ours: [Option<OwnedFd>; 3],
    theirs: ChildStreams,
}

fn nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK)?)
}

fn container_streams(tty: bool, stdin: bool) -> io::Result<Streams> {
    if tty {
        return Ok(Streams { ours: [None, None, None], theirs: ChildStreams::Terminal });
    }
    let pipe = || pipe_with(PipeFlags::CLOEXEC);
    let (in_read, in_write) = if stdin { pipe().map(|(r, w)| (Some(r), Some(w)))? } else { (None, None) };
    let (out_read, out_write) = pipe()?;
    let (err_read, err_write) = pipe()?;
    nonblocking(&out_read)?;
    nonblocking(&err_read)?;
    Ok(Streams {
        ours: [in_write, Some(out_read), Some(err_read)],
        theirs: ChildStreams::Files([in_read, Some(out_write), Some(err_write)]),
    })
}

fn status_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    nonblocking(&ours)?;
    Ok((ours, theirs))
}

/// Clones into `pid_namespace` for this once, and into the cgroup where the
/// kernel allows it. The bool tells the child whether it is in the cgroup.
fn clone_in(
    namespaces: &Namespaces,
    pid_namespace: Option<&OwnedFd>,
    flags: i32,
    unified: Option<&PathBuf>,
) -> io::Result<(sys::Side, bool)> {
    if let Some(other) = pid_namespace {
        sys::setns(other.as_fd(), libc::CLONE_NEWPID)?;
    }
    let cgroup = unified.and_then(|dir| File::open(dir).ok());
    let mut in_cgroup = cgroup.is_some();
    let mut result = sys::clone_process(flags as u64, cgroup.as_ref().map(AsFd::as_fd));
    if in_cgroup && result.is_err() {
        // Some kernels refuse (domain controllers, older than 5.7): the child
        // moves itself instead.
        in_cgroup = false;
        result = sys::clone_process(flags as u64, None);
    }
    if pid_namespace.is_some() && !matches!(result, Ok(sys::Side::Child)) {
        sys::setns(namespaces.pid_for_children.as_fd(), libc::CLONE_NEWPID)?;
    }
    Ok((result?, in_cgroup))
}

impl Container {
    /// Clones the container's first process. `peer` is a process of the
    /// container whose process namespace it shall share.
    pub(super) fn launch(
        seq: u64,
        start: StartContainer,
        namespaces: &Namespaces,
        peer: Option<&OwnedFd>,
    ) -> io::Result<Self> {
        let log = start.log.map(Log::open).transpose()?;
        let streams = container_streams(start.tty, start.stdin)?;
        let (status, child_status) = status_pair()?;
        let oom = start.oom.as_ref().and_then(|files: &OomFiles| cgroup::OomWatch::open(files).ok());
        let own_pid = start.pid == PidSource::Own;
        let mut flags = libc::CLONE_NEWNS;
        if own_pid {
            flags |= libc::CLONE_NEWPID;
        }
        let (side, in_cgroup) = clone_in(namespaces, peer, flags, start.unified.as_ref())?;
        let sys::Side::Parent(pid, pidfd) = side else {
            let inherited = child::Inherited { shm: namespaces.shm.as_ref(), users: namespaces.users.as_ref() };
            child::become_container(&start.dir, streams.theirs, &child_status, inherited, in_cgroup)
        };
        let [stdin, stdout, stderr] = streams.ours;
        let output = |fd| Output { fd, clients: Vec::new() };
        Ok(Self {
            pid,
            pidfd,
            started_ns: now_ns(),
            tty: start.tty,
            launch: Some(Launch { seq, status, master: None }),
            dir: start.dir,
            shared_pid: !own_pid,
            unified: start.unified,
            oom,
            log,
            outputs: [output(stdout), output(stderr)],
            stdin,
            stdin_once: start.stdin_once,
        })
    }

    /// Clones another process in the container. `fds` are its streams.
    pub(super) fn exec(
        &self,
        seq: u64,
        start: &StartExec,
        namespaces: &Namespaces,
        fds: Vec<OwnedFd>,
    ) -> io::Result<Exec> {
        let mut fds = fds.into_iter();
        let streams = if start.tty {
            ChildStreams::Terminal
        } else {
            ChildStreams::Files(start.streams.map(|given| if given { fds.next() } else { None }))
        };
        let (status, child_status) = status_pair()?;
        let (side, in_cgroup) = clone_in(namespaces, Some(&self.pidfd), 0, self.unified.as_ref())?;
        let sys::Side::Parent(pid, _) = side else {
            let users = namespaces.users.as_ref();
            child::become_exec(&self.dir, start, streams, &child_status, (&self.pidfd, users), in_cgroup)
        };
        Ok(Exec { pid, launch: Some(Launch { seq, status, master: None }) })
    }

    /// Its program runs; takes over the terminal.
    pub(super) fn set_running(&mut self, master: Option<OwnedFd>) {
        self.started_ns = now_ns();
        if let Some(master) = master
            && nonblocking(&master).is_ok()
        {
            self.stdin = rustix::io::fcntl_dupfd_cloexec(&master, 3).ok();
            self.outputs[0].fd = Some(master);
        }
    }

    /// Adds what this container wants to be woken for.
    pub(super) fn interests<'a>(&'a self, id: &str, all: &mut Interests<'a>) {
        if let Some(launch) = &self.launch {
            all.push((Source::Status(id.to_owned()), launch.status.as_fd(), PollFlags::IN));
        }
        if let Some(oom) = &self.oom {
            all.push((Source::Oom(id.to_owned()), oom.as_fd(), oom.flags()));
        }
        for (index, output) in self.outputs.iter().enumerate() {
            if output.blocked() {
                let full = output.clients.iter().filter(|client| !client.backlog.is_empty());
                all.extend(
                    full.map(|client| (Source::Client(id.to_owned(), index), client.pipe.as_fd(), PollFlags::OUT)),
                );
            } else if let Some(fd) = &output.fd {
                all.push((Source::Output(id.to_owned(), index), fd.as_fd(), PollFlags::IN));
            }
        }
    }

    /// Takes what one output has to give: to the log and to the clients.
    pub(super) fn pump(&mut self, index: usize) {
        let mut chunk = [0_u8; CHUNK];
        let stream = if index == 0 { Stream::Stdout } else { Stream::Stderr };
        let output = &mut self.outputs[index];
        let Some(fd) = &output.fd else { return };
        match rustix::io::read(fd, &mut chunk) {
            Ok(0) => self.close_output(index, stream),
            Ok(length) => {
                let bytes = &chunk[..length];
                if let Some(log) = &mut self.log
                    && let Err(error) = log.write(stream, bytes)
                {
                    // A full disk loses log lines; the container goes on.
                    eprintln!("shim: log: {error}");
                }
                for client in &mut output.clients {
                    client.backlog.extend_from_slice(bytes);
                }
                self.flush_clients(index);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // A terminal whose other side closed reads as EIO.
            Err(_) => self.close_output(index, stream),
        }
    }

    fn close_output(&mut self, index: usize, stream: Stream) {
        self.outputs[index].fd = None;
        if let Some(log) = &mut self.log
            && let Err(error) = log.finish(stream)
        {
            eprintln!("shim: log: {error}");
        }
    }

    /// Writes to clients what they take; forgets those that left.
    pub(super) fn flush_clients(&mut self, index: usize) {
        self.outputs[index].clients.retain_mut(|client| {
            while !client.backlog.is_empty() {
                match rustix::io::write(&client.pipe, &client.backlog) {
                    Ok(written) => drop(client.backlog.drain(..written)),
                    Err(Errno::AGAIN) => return true,
                    Err(Errno::INTR) => {}
                    Err(_) => return false,
                }
            }
            client.backlog = Vec::new();
            true
        });
    }

    /// Copies output 0 or 1 to `pipe` from now on.
    pub(super) fn add_client(&mut self, index: usize, pipe: OwnedFd) {
        let output = &mut self.outputs[index];
        if output.clients.len() < MAX_CLIENTS && nonblocking(&pipe).is_ok() {
            output.clients.push(Client { pipe, backlog: Vec::new() });
        }
    }

    /// A descriptor for the container's input. With `stdin_once` it is the
    /// only one: when it closes, so does the input.
    pub(super) fn take_stdin(&mut self) -> Option<OwnedFd> {
        if self.stdin_once && !self.tty {
            return self.stdin.take();
        }
        self.stdin.as_ref().and_then(|stdin| rustix::io::fcntl_dupfd_cloexec(stdin, 3).ok())
    }

    pub(super) fn reopen_log(&mut self) -> io::Result<()> {
        self.log.as_mut().map_or(Ok(()), Log::reopen)
    }

    /// True when the kernel killed something in it since the last call.
    pub(super) fn take_oom_kill(&mut self) -> bool {
        self.oom.as_mut().is_some_and(cgroup::OomWatch::take)
    }

    /// Kills every process of the container.
    pub(super) fn kill_all(&self) {
        if let Err(error) = sys::kill(self.pid, libc::SIGKILL)
            && error.raw_os_error() != Some(libc::ESRCH)
        {
            eprintln!("shim: kill: {error}");
        }
        if self.shared_pid
            && let Some(dir) = &self.unified
            && let Err(error) = cgroup::kill(dir)
        {
            eprintln!("shim: kill cgroup: {error}");
        }
    }

    /// Its first process was reaped: takes the rest of its output, records the
    /// end durably, then returns it.
    pub(super) fn finish(mut self, status: i32) -> Exit {
        if self.shared_pid {
            self.kill_all();
        }
        for index in [0, 1] {
            let stream = if index == 0 { Stream::Stdout } else { Stream::Stderr };
            // What is in the pipe now was written before the end. A process
            // that escaped with the pipe open cannot hold this loop: it ends
            // when the pipe is empty, and is bounded by the pipe's size.
            for _ in 0..(1 << 20) / CHUNK {
                let before = self.outputs[index].fd.is_some();
                if !before || !self.readable(index) {
                    break;
                }
                self.pump(index);
            }
            if self.outputs[index].fd.is_some() {
                self.close_output(index, stream);
            }
        }
        let (code, signal) = decode_status(status);
        let oom = self.oom.as_ref().is_some_and(cgroup::OomWatch::killed);
        let exit = Exit { started_ns: self.started_ns, finished_ns: now_ns(), code, signal, oom, ..Exit::default() };
        if let Err(error) = crate::files::write_json(&self.dir.join("exit.json"), &exit) {
            eprintln!("shim: exit record: {error}");
        }
        exit
    }

    fn readable(&self, index: usize) -> bool {
        let Some(fd) = &self.outputs[index].fd else { return false };
        let mut poll = [rustix::event::PollFd::new(fd, PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut poll, Some(&now)).is_ok_and(|ready| ready > 0)
    }
}

/// Exit code and signal of a raw wait status.
pub(super) fn decode_status(status: i32) -> (i32, Option<i32>) {
    if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        (128 + signal, Some(signal))
    } else {
        (libc::WEXITSTATUS(status), None)
    }
}
