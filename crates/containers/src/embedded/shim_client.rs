//! The agent's end of a shim's socket: requests with replies, and a task that
//! reads what the shim reports.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with};
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use super::lock;
use crate::runtime::RuntimeError;
use crate::sys;
use crate::shim::protocol::{Failure, Message, Op, PROTOCOL, Reply, Request, receive, send};

/// How long a shim may take to answer. It answers between two polls of its
/// loop; only a start waits for the new process.
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// Connections waiting to be accepted by a shim: the agent's, and the next
/// agent's.
const BACKLOG: i32 = 4;

const SOCKET: &str = "shim.sock";

type Answer = (Result<Reply, Failure>, Vec<OwnedFd>);

#[derive(Default)]
struct Waiting {
    replies: HashMap<u64, oneshot::Sender<Answer>>,
    execs: HashMap<String, oneshot::Sender<i32>>,
    closed: bool,
}

/// A connection to a shim.
pub(super) struct ShimClient {
    socket: AsyncFd<OwnedFd>,
    next: AtomicU64,
    waiting: Mutex<Waiting>,
    /// Of the shim.
    pub(super) pid: u32,
}

/// Why a request brought no result.
#[derive(Debug)]
pub(super) enum CallError {
    /// The shim said no.
    Failed(Failure),
    /// The connection broke.
    Lost(io::Error),
}

fn unix_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// The socket's address through a descriptor of its directory: a sandbox's
/// path may exceed the 108 bytes that an address has.
fn address(dir: &OwnedFd) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()))?)
}

fn open_dir(dir: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Makes the socket that a shim will listen on.
pub(super) fn listener(dir: &Path) -> io::Result<OwnedFd> {
    let socket = unix_socket()?;
    let dir = open_dir(dir)?;
    bind(&socket, &address(&dir)?)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

impl ShimClient {
    /// Connects and reads the greeting.
    pub(super) async fn connect(dir: &Path) -> io::Result<Self> {
        let socket = unix_socket()?;
        connect(&socket, &address(&open_dir(dir)?)?)?;
        let mut client = Self { socket: sys::async_fd(socket)?, next: AtomicU64::new(1), waiting: Mutex::default(), pid: 0 };
        let greeting = tokio::time::timeout(REPLY_TIMEOUT, client.read()).await.map_err(|_| io::ErrorKind::TimedOut)??;
        match greeting {
            Some((Message::Hello { protocol: PROTOCOL, pid }, _)) => {
                client.pid = pid;
                Ok(client)
            }
            Some((Message::Hello { protocol, .. }, _)) => {
                Err(io::Error::new(io::ErrorKind::Unsupported, format!("shim speaks protocol {protocol}, not {PROTOCOL}")))
            }
            Some((Message::SetupFailed { step, errno }, _)) => {
                let cause = io::Error::from_raw_os_error(errno);
                Err(io::Error::new(cause.kind(), format!("{step}: {cause}")))
            }
            Some((message, _)) => Err(io::Error::new(io::ErrorKind::InvalidData, format!("unexpected {message:?}"))),
            None => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }

    /// The next message; `None` when the shim is gone.
    async fn read(&self) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
        let mut buffer = Vec::new();
        loop {
            let mut ready = self.socket.readable().await?;
            match ready.try_io(|socket| receive::<Message>(socket.get_ref(), &mut buffer)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }

    /// Reads until the shim or the connection is gone; passes on what is not an
    /// answer to someone.
    pub(super) async fn run(&self, mut report: impl FnMut(Message)) {
        loop {
            match self.read().await {
                Ok(Some((Message::Reply { seq, result }, fds))) => {
                    let waiter = lock(&self.waiting).replies.remove(&seq);
                    if let Some(waiter) = waiter {
                        // A caller that left has no use for the answer.
                        drop(waiter.send((result, fds)));
                    }
                }
                Ok(Some((Message::ExecExited { exec, code }, _))) => {
                    let waiter = lock(&self.waiting).execs.remove(&exec);
                    if let Some(waiter) = waiter {
                        waiter.send(code).ok();
                    }
                }
                Ok(Some((message, _))) => report(message),
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(err = %error, pid = self.pid, "connection to a shim broke");
                    break;
                }
            }
        }
        let mut waiting = lock(&self.waiting);
        waiting.closed = true;
        waiting.replies.clear();
        waiting.execs.clear();
    }

    /// Ends the connection; [`ShimClient::run`] returns.
    pub(super) fn disconnect(&self) {
        if let Err(error) = rustix::net::shutdown(self.socket.get_ref(), rustix::net::Shutdown::Both) {
            tracing::debug!(err = %error, "shim connection was closed already");
        }
    }

    /// Resolves to the exit code of `exec`. Call before the exec is asked for.
    pub(super) fn exec_exit(&self, exec: &str) -> oneshot::Receiver<i32> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = lock(&self.waiting);
        if !waiting.closed {
            waiting.execs.insert(exec.to_owned(), sender);
        }
        receiver
    }

    /// Forgets an exec that never came to be.
    pub(super) fn forget_exec(&self, exec: &str) {
        lock(&self.waiting).execs.remove(exec);
    }

    /// Sends a request and waits for its answer.
    pub(super) async fn call(&self, op: Op, fds: &[BorrowedFd<'_>]) -> Result<(Reply, Vec<OwnedFd>), CallError> {
        let seq = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiting = lock(&self.waiting);
            if waiting.closed {
                return Err(CallError::Lost(io::ErrorKind::NotConnected.into()));
            }
            waiting.replies.insert(seq, sender);
        }
        if let Err(error) = self.send(&Request { seq, op }, fds).await {
            lock(&self.waiting).replies.remove(&seq);
            return Err(CallError::Lost(error));
        }
        match tokio::time::timeout(REPLY_TIMEOUT, receiver).await {
            Ok(Ok((Ok(reply), fds))) => Ok((reply, fds)),
            Ok(Ok((Err(failure), _))) => Err(CallError::Failed(failure)),
            Ok(Err(_)) => Err(CallError::Lost(io::ErrorKind::ConnectionReset.into())),
            Err(_) => {
                lock(&self.waiting).replies.remove(&seq);
                Err(CallError::Lost(io::ErrorKind::TimedOut.into()))
            }
        }
    }

    async fn send(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        loop {
            let mut ready = self.socket.writable().await?;
            if let Ok(result) = ready.try_io(|socket| send(socket.get_ref().as_fd(), request, fds)) {
                return result;
            }
        }
    }
}

impl CallError {
    /// As the runtime's error.
    pub(super) fn into_runtime(self, step: &str, container: &str) -> RuntimeError {
        match self {
            Self::Failed(Failure::Start(text)) => RuntimeError::Start(text.into()),
            Self::Failed(Failure::NotRunning) => RuntimeError::State {
                what: "container",
                id: container.to_owned(),
                state: "not running".to_owned(),
                needed: "running",
            },
            Self::Failed(Failure::Internal(text)) => {
                RuntimeError::Io { step: step.to_owned(), source: io::Error::other(text) }
            }
            Self::Lost(source) => RuntimeError::Io { step: format!("{step}: the sandbox's shim does not answer"), source },
        }
    }
}
