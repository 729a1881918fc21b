//! What agent, zygote and shim say to each other: one JSON document per
//! message on a `SOCK_SEQPACKET` socket, descriptors beside it. It neither
//! waits nor retries; that is up to the two ends.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recv, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::runtime::IdRange;

/// Version of this protocol; a newer agent refuses shims it cannot speak to.
pub(crate) const PROTOCOL: u32 = 1;

/// Longest message, bytes. Bounds the command line of an exec; the kernel's
/// own bound for one argument is 128 KiB.
pub(crate) const MAX_MESSAGE: usize = 160 << 10;

/// Most descriptors with one message: three standard streams and a listener.
pub(crate) const MAX_FDS: usize = 4;

/// Asks the zygote for a shim. Its listening socket travels beside it.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
pub(crate) struct SpawnSandbox {
    /// The sandbox.
    pub(crate) id: String,
    /// Make a network namespace (else the machine's).
    pub(crate) new_network: bool,
    /// Make an IPC namespace (else the machine's).
    pub(crate) new_ipc: bool,
    /// One process namespace for all its containers.
    pub(crate) shared_pid: bool,
    /// Host name in a namespace of its own; empty keeps the machine's.
    pub(crate) hostname: String,
    /// Kernel parameters to set inside.
    pub(crate) sysctls: BTreeMap<String, String>,
    /// Bytes of the shared `/dev/shm`.
    pub(crate) shm_bytes: u64,
    /// Make a user namespace with this range (else the machine's).
    pub(crate) users: Option<IdRange>,
}

/// Agent to shim.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct Request {
    /// Repeated in the reply.
    pub(crate) seq: u64,
    /// What to do.
    pub(crate) op: Op,
}

/// Requests to a shim.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) enum Op {
    /// Run a container's process.
    Start(StartContainer),
    /// Run another process in a container. Descriptors: its standard streams
    /// in order, those that `streams` names; none with a terminal.
    Exec(StartExec),
    /// Send a signal to the process of a container or exec.
    Signal {
        /// Container or exec id.
        target: String,
        /// Its number.
        signal: i32,
    },
    /// Copy a container's output. Descriptors: write ends for standard output
    /// and error, those that are asked for.
    Attach {
        /// Container.
        container: String,
        /// Return a descriptor for standard input (the terminal, if it has one).
        stdin: bool,
        /// A descriptor for standard output is beside the message.
        stdout: bool,
        /// A descriptor for standard error is beside the message.
        stderr: bool,
    },
    /// Open the log file anew.
    ReopenLog {
        /// Container.
        container: String,
    },
    /// Name the running containers.
    List,
    /// End: kills what is left. The reply comes first.
    Shutdown,
}

/// Where a container's process numbers come from.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum PidSource {
    /// A namespace of its own.
    #[default]
    Own,
    /// Whatever the sandbox's processes get: the shared one or the machine's.
    Sandbox,
    /// That of another container of the sandbox.
    Container(String),
}

/// Runs a container's process.
#[derive(Serialize, Deserialize, Debug, Clone, Default)]
pub(crate) struct StartContainer {
    /// Its id.
    pub(crate) container: String,
    /// Its state directory: holds `spec.json`, receives `exit.json`.
    pub(crate) dir: PathBuf,
    /// Process namespace.
    pub(crate) pid: PidSource,
    /// Allocate a terminal.
    pub(crate) tty: bool,
    /// Keep standard input open for attach.
    pub(crate) stdin: bool,
    /// Close it when the first attach ends.
    pub(crate) stdin_once: bool,
    /// Log file and its bounds.
    pub(crate) log: Option<LogFile>,
    /// Its directory in the unified hierarchy.
    pub(crate) unified: Option<PathBuf>,
    /// Files to read out-of-memory kills from.
    pub(crate) oom: Option<OomFiles>,
}

/// Where to learn of out-of-memory kills.
#[derive(Serialize, Deserialize, Debug, Clone)]
pub(crate) enum OomFiles {
    /// `memory.events` of cgroup v2.
    Events(PathBuf),
    /// The directory with `memory.oom_control` of cgroup v1.
    Control(PathBuf),
}

/// A log file and its bounds.
#[derive(Serialize, Deserialize, Debug, Clone)]
pub(crate) struct LogFile {
    /// Absolute path.
    pub(crate) path: PathBuf,
    /// Bytes of one file.
    pub(crate) max_bytes: u64,
    /// Files kept, the live one included.
    pub(crate) max_files: u32,
}

/// Runs another process in a container.
#[derive(Serialize, Deserialize, Debug, Clone)]
pub(crate) struct StartExec {
    /// Container.
    pub(crate) container: String,
    /// Name for signals and the exit event.
    pub(crate) exec: String,
    /// Command and arguments.
    pub(crate) args: Vec<String>,
    /// Allocate a terminal.
    pub(crate) tty: bool,
    /// Which standard streams have a descriptor; the others read and write nothing.
    pub(crate) streams: [bool; 3],
}

/// Shim to agent.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) enum Message {
    /// The first message on a connection.
    Hello {
        /// [`PROTOCOL`] of the shim.
        protocol: u32,
        /// Its process id.
        pid: u32,
    },
    /// Instead of `Hello`: the namespaces could not be set up.
    SetupFailed {
        /// Step that failed.
        step: String,
        /// Its errno.
        errno: i32,
    },
    /// Answer to a request.
    Reply {
        /// Of the request.
        seq: u64,
        /// Outcome; the error is for people.
        result: Result<Reply, Failure>,
    },
    /// A container's process ended.
    Exited {
        /// Container.
        container: String,
        /// What `exit.json` says.
        exit: Exit,
    },
    /// An exec's process ended.
    ExecExited {
        /// Exec.
        exec: String,
        /// Exit code, 128 plus signal when killed.
        code: i32,
    },
    /// The kernel killed something in a container for memory.
    OomKill {
        /// Container.
        container: String,
    },
}

/// Why a request failed.
#[derive(Serialize, Deserialize, Debug, Clone)]
pub(crate) enum Failure {
    /// The process could not be started, in words for the user.
    Start(String),
    /// No such container or exec runs.
    NotRunning,
    /// A step of the shim's own failed.
    Internal(String),
}

/// Successful answers.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) enum Reply {
    /// Nothing to say.
    Done,
    /// The process runs. A terminal's master descriptor may be beside it.
    Started {
        /// Process id on the machine.
        pid: u32,
        /// Nanoseconds since the epoch.
        started_ns: u64,
    },
    /// Attached. A descriptor for standard input may be beside it.
    Attached {
        /// The container has a terminal.
        tty: bool,
    },
    /// Running containers.
    Containers(Vec<Running>),
}

/// A running container.
#[derive(Serialize, Deserialize, Debug, Clone)]
pub(crate) struct Running {
    /// Its id.
    pub(crate) container: String,
    /// Process id on the machine.
    pub(crate) pid: u32,
    /// Nanoseconds since the epoch.
    pub(crate) started_ns: u64,
}

/// How a container's process ended: the content of `exit.json`.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Exit {
    /// Nanoseconds since the epoch; 0 when it never started.
    pub(crate) started_ns: u64,
    /// Nanoseconds since the epoch.
    pub(crate) finished_ns: u64,
    /// Exit code, 128 plus signal when killed.
    pub(crate) code: i32,
    /// Signal that ended it.
    pub(crate) signal: Option<i32>,
    /// The kernel killed something in it for memory.
    pub(crate) oom: bool,
    /// `StartError` and the like; empty where code and `oom` say it all.
    #[serde(default)]
    pub(crate) reason: String,
    /// For people.
    #[serde(default)]
    pub(crate) message: String,
}

/// Sends one message. Errors with `InvalidInput` when it exceeds [`MAX_MESSAGE`].
pub(crate) fn send(socket: impl AsFd, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MAX_MESSAGE || fds.len() > MAX_FDS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "message too long"));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
    }
    sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one message with its descriptors; `None` at the end of the
/// stream. `WouldBlock` passes through.
pub(crate) fn receive<M: DeserializeOwned>(
    socket: impl AsFd,
    buffer: &mut Vec<u8>,
) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
    // The exact length first: a shim should not hold a buffer of the longest
    // message for its whole life.
    let (_, length) = recv(&socket, &mut [0_u8; 0][..], RecvFlags::PEEK | RecvFlags::TRUNC)?;
    buffer.clear();
    buffer.resize(length.min(MAX_MESSAGE), 0);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "message cut off"));
    }
    let message = serde_json::from_slice(&buffer[..received.bytes])?;
    Ok(Some((message, fds)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    #[test]
    fn a_message_arrives_with_its_descriptors_and_a_closed_peer_reads_as_none() {
        let (left, right) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("socketpair");
        let file = tempfile::tempfile().expect("file");
        send(&left, &Request { seq: 7, op: Op::List }, &[file.as_fd()]).expect("send");
        drop(left);
        let mut buffer = Vec::new();
        let (request, fds) = receive::<Request>(&right, &mut buffer).expect("receive").expect("message");
        assert_eq!((request.seq, fds.len()), (7, 1));
        assert!(receive::<Request>(&right, &mut buffer).expect("end").is_none());
    }

    #[test]
    fn a_message_over_the_bound_is_refused() {
        let (left, _right) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("socketpair");
        let error = send(&left, &"x".repeat(MAX_MESSAGE), &[]).expect_err("too long");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
