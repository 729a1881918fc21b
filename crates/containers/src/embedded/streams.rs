//! Streams into sandboxes: exec, attach, port-forward. The shim hands over the
//! ends; data never passes through it, except an attached container's output.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, oneshot};

use super::containers::{Container, Phase};
use super::sandboxes::{Sandbox, netns};
use super::shim_client::{CallError, ShimClient};
use super::{Inner, io_error, lock};
use crate::runtime::{
    ContainerId, Duplex, ExecOutput, ExecRequest, NamespaceMode, ReadStream, RuntimeError, SandboxId, Session, WriteStream,
};
use crate::shim::protocol::{Op, StartExec};
use crate::sys;

/// Bytes kept of each stream by `exec_sync`: CRI's bound.
const MAX_OUTPUT: usize = 16 << 20;

/// Bytes read past that bound before the process is considered runaway and
/// its pipe is closed.
const RESIZE_QUEUE: usize = 4;

/// How long output may follow after a process was killed or has ended.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a connection inside a sandbox may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A pipe or terminal as an async stream.
struct FdStream(AsyncFd<OwnedFd>);

impl FdStream {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?;
        Ok(Self(sys::async_fd(fd)?))
    }
}

impl AsyncRead for FdStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(context))?;
            match ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), buffer.initialize_unfilled())?)) {
                Ok(Ok(length)) => {
                    buffer.advance(length);
                    return Poll::Ready(Ok(()));
                }
                // A terminal whose other side closed.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for FdStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_write_ready(context))?;
            match ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Ends of pipes: ours, and those that go to the shim.
#[derive(Default)]
struct Pipes {
    ours: [Option<OwnedFd>; 3],
    theirs: [Option<OwnedFd>; 3],
}

impl Pipes {
    fn new(wanted: [bool; 3]) -> io::Result<Self> {
        let mut pipes = Self::default();
        for (index, _) in wanted.iter().enumerate().filter(|(_, wanted)| **wanted) {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            let (ours, theirs) = if index == 0 { (write, read) } else { (read, write) };
            pipes.ours[index] = Some(ours);
            pipes.theirs[index] = Some(theirs);
        }
        Ok(pipes)
    }

    fn lent(&self) -> Vec<BorrowedFd<'_>> {
        self.theirs.iter().flatten().map(AsFd::as_fd).collect()
    }
}

struct RunningExec {
    shim: Arc<ShimClient>,
    id: String,
    master: Option<OwnedFd>,
    exit: oneshot::Receiver<i32>,
}

impl Inner {
    async fn start_exec(
        &self,
        container: &Container,
        sandbox: &Sandbox,
        command: Vec<String>,
        tty: bool,
        pipes: &mut Pipes,
    ) -> Result<RunningExec, RuntimeError> {
        if !matches!(container.phase(), Phase::Running { .. }) {
            return Err(RuntimeError::State {
                what: "container",
                id: container.id.clone(),
                state: "not running".to_owned(),
                needed: "running",
            });
        }
        if command.is_empty() {
            return Err(RuntimeError::Invalid { field: "command".to_owned(), reason: "no command specified".to_owned() });
        }
        let shim = sandbox.shim()?;
        sandbox.thaw()?;
        let id = crate::random_hex(8).map_err(io_error("choose an id"))?;
        let exit = shim.exec_exit(&id);
        let streams = [0, 1, 2].map(|index: usize| pipes.theirs[index].is_some());
        let op = Op::Exec(StartExec { container: container.id.clone(), exec: id.clone(), args: command, tty, streams });
        let result = shim.call(op, &pipes.lent()).await;
        // Ours alone from here on, so that their ends close with the process.
        pipes.theirs = Default::default();
        match result {
            Ok((_, fds)) => Ok(RunningExec { shim, id, master: fds.into_iter().next(), exit }),
            Err(error) => {
                shim.forget_exec(&id);
                if let CallError::Lost(error) = &error
                    && error.kind() == io::ErrorKind::InvalidInput
                {
                    let reason = "argument list too long".to_owned();
                    return Err(RuntimeError::Invalid { field: "command".to_owned(), reason });
                }
                Err(error.into_runtime("exec in the container", &container.id))
            }
        }
    }

    fn container_and_sandbox(&self, id: &ContainerId) -> Result<(Arc<Container>, Arc<Sandbox>), RuntimeError> {
        let container = self.find_container(id)?;
        let sandbox = self.find_sandbox(&SandboxId(lock(&container.record).sandbox.clone()))?;
        Ok((container, sandbox))
    }

    pub(super) async fn exec_sync(
        &self,
        id: &ContainerId,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, RuntimeError> {
        let (container, sandbox) = self.container_and_sandbox(id)?;
        let mut pipes = Pipes::new([false, true, true]).map_err(io_error("make pipes"))?;
        let deadline = timeout.map(|timeout| tokio::time::Instant::now() + timeout);
        let mut exec = self.start_exec(&container, &sandbox, command, false, &mut pipes).await?;
        let stream = |fd: Option<OwnedFd>| fd.map(FdStream::new).transpose().map_err(io_error("read a pipe"));
        let (mut stdout, mut stderr) = (stream(pipes.ours[1].take())?, stream(pipes.ours[2].take())?);
        let mut output = ExecOutput::default();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let exit = {
            let reads = async { tokio::join!(collect(stdout.as_mut(), &mut out), collect(stderr.as_mut(), &mut err)) };
            tokio::pin!(reads);
            let expired = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::pin!(expired);
            let mut reading = true;
            let exit = loop {
                tokio::select! {
                    exit = &mut exec.exit => break exit.ok(),
                    _ = &mut reads, if reading => reading = false,
                    () = &mut expired => {
                        let op = Op::Signal { target: exec.id.clone(), signal: libc::SIGKILL };
                        if let Err(error) = exec.shim.call(op, &[]).await {
                            tracing::debug!(err = ?error, "a process that took too long ended just then");
                        }
                        let limit = timeout.unwrap_or_default();
                        return Err(RuntimeError::Timeout { what: "the command", limit });
                    }
                }
            };
            // A process that it left behind may keep the pipes open for ever.
            if reading && tokio::time::timeout(DRAIN_TIMEOUT, reads).await.is_err() {
                tracing::debug!(container = %container.id, "output of an ended command stays open");
            }
            exit
        };
        let lost = || RuntimeError::Io { step: "wait for the command".to_owned(), source: io::ErrorKind::ConnectionReset.into() };
        output.exit_code = exit.ok_or_else(lost)?;
        (output.stdout, output.stderr) = (out, err);
        Ok(output)
    }

    pub(super) async fn exec(&self, id: &ContainerId, request: ExecRequest) -> Result<Session, RuntimeError> {
        let (container, sandbox) = self.container_and_sandbox(id)?;
        let wanted = [request.stdin, request.stdout, request.stderr].map(|wanted| wanted && !request.tty);
        let mut pipes = Pipes::new(wanted).map_err(io_error("make pipes"))?;
        let exec = self.start_exec(&container, &sandbox, request.command.clone(), request.tty, &mut pipes).await?;
        let (resize, sizes) = mpsc::channel(RESIZE_QUEUE);
        let session = |streams: Streams| Session {
            stdin: streams.stdin,
            stdout: streams.stdout,
            stderr: streams.stderr,
            resize,
            exit: exec.exit,
        };
        if let Some(master) = exec.master {
            let streams = terminal_streams(&master, &request)?;
            self.tasks.spawn(resize_terminal(master, sizes));
            return Ok(session(streams));
        }
        Ok(session(pipe_streams(pipes.ours)?))
    }

    pub(super) async fn attach(self: &Arc<Self>, id: &ContainerId, request: ExecRequest) -> Result<Session, RuntimeError> {
        let (container, sandbox) = self.container_and_sandbox(id)?;
        let record = lock(&container.record).clone();
        let shim = sandbox.shim()?;
        sandbox.thaw()?;
        let wanted = [false, request.stdout, request.stderr && !record.config.tty];
        let mut pipes = Pipes::new(wanted).map_err(io_error("make pipes"))?;
        let stdin = request.stdin && record.config.stdin;
        let op = Op::Attach {
            container: container.id.clone(),
            // The terminal itself is needed for its size, too.
            stdin: stdin || record.config.tty,
            stdout: wanted[1],
            stderr: wanted[2],
        };
        let (_, fds) = shim.call(op, &pipes.lent()).await.map_err(|error| error.into_runtime("attach", &container.id))?;
        pipes.theirs = Default::default();
        let input = fds.into_iter().next();
        let (resize, sizes) = mpsc::channel(RESIZE_QUEUE);
        if let (true, Some(master)) = (record.config.tty, &input) {
            let master = master.try_clone().map_err(io_error("share the terminal"))?;
            self.tasks.spawn(resize_terminal(master, sizes));
        }
        pipes.ours[0] = input.filter(|_| stdin);
        let streams = pipe_streams(pipes.ours)?;
        let (sender, exit) = oneshot::channel();
        self.tasks.spawn(async move {
            let mut sender = sender;
            tokio::select! {
                code = container.exit_code() => if let Some(code) = code {
                    // The session may have ended meanwhile.
                    sender.send(code).ok();
                },
                () = sender.closed() => {}
            }
        });
        Ok(Session { stdin: streams.stdin, stdout: streams.stdout, stderr: streams.stderr, resize, exit })
    }

    pub(super) async fn port_forward(&self, id: &SandboxId, port: u16) -> Result<Box<dyn Duplex>, RuntimeError> {
        let sandbox = self.find_sandbox(id)?;
        sandbox.shim()?;
        sandbox.thaw()?;
        let record = lock(&sandbox.record).clone();
        let own = record.config.network != NamespaceMode::Node;
        let pid = record.pid;
        let step = format!("connect to port {port} inside the sandbox");
        let socket = tokio::task::spawn_blocking(move || connect_inside(own.then_some(pid), port)).await;
        let socket = socket.map_err(io::Error::other).and_then(|result| result).map_err(io_error(step.clone()))?;
        let stream = tokio::net::TcpStream::from_std(socket).map_err(io_error(step))?;
        Ok(Box::new(stream))
    }
}

#[derive(Default)]
struct Streams {
    stdin: Option<WriteStream>,
    stdout: Option<ReadStream>,
    stderr: Option<ReadStream>,
}

fn pipe_streams(ours: [Option<OwnedFd>; 3]) -> Result<Streams, RuntimeError> {
    let [stdin, stdout, stderr] = ours;
    let stream = |fd: Option<OwnedFd>| fd.map(FdStream::new).transpose().map_err(io_error("use a pipe"));
    Ok(Streams {
        stdin: stream(stdin)?.map(|stream| Box::new(stream) as WriteStream),
        stdout: stream(stdout)?.map(|stream| Box::new(stream) as ReadStream),
        stderr: stream(stderr)?.map(|stream| Box::new(stream) as ReadStream),
    })
}

fn terminal_streams(master: &OwnedFd, request: &ExecRequest) -> Result<Streams, RuntimeError> {
    let stream = || master.try_clone().and_then(FdStream::new).map_err(io_error("use the terminal"));
    let mut streams = Streams::default();
    if request.stdin {
        streams.stdin = Some(Box::new(stream()?));
    }
    if request.stdout {
        streams.stdout = Some(Box::new(stream()?));
    }
    Ok(streams)
}

/// Applies sizes until the session's end drops the sender.
async fn resize_terminal(master: OwnedFd, mut sizes: mpsc::Receiver<(u16, u16)>) {
    while let Some((columns, rows)) = sizes.recv().await {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        if let Err(error) = rustix::termios::tcsetwinsize(&master, size) {
            tracing::debug!(err = %error, "terminal is gone");
            return;
        }
    }
}

/// Reads to the end; what exceeds the bound is read and dropped.
async fn collect(stream: Option<&mut FdStream>, into: &mut Vec<u8>) {
    let Some(stream) = stream else { return };
    let mut chunk = vec![0_u8; 16 << 10];
    while let Ok(length @ 1..) = stream.read(&mut chunk).await {
        let room = MAX_OUTPUT - into.len();
        into.extend_from_slice(&chunk[..length.min(room)]);
    }
}

/// Connects to localhost in the network namespace of process `pid`. A socket
/// belongs to the namespace it was made in, so only its making needs a thread
/// that is there; the thread ends afterwards.
fn connect_inside(pid: Option<u32>, port: u16) -> io::Result<std::net::TcpStream> {
    let connect = move || {
        let socket = (std::net::Ipv4Addr::LOCALHOST, port).into();
        let result = std::net::TcpStream::connect_timeout(&socket, CONNECT_TIMEOUT);
        result.or_else(|error| {
            let socket = (std::net::Ipv6Addr::LOCALHOST, port).into();
            std::net::TcpStream::connect_timeout(&socket, CONNECT_TIMEOUT).map_err(|_| error)
        })
    };
    let stream = match pid {
        None => connect()?,
        Some(pid) => {
            let namespace = std::fs::File::open(netns(pid))?;
            let thread = std::thread::Builder::new().name("port-forward".to_owned()).spawn(move || {
                sys::setns(namespace.as_fd(), libc::CLONE_NEWNET)?;
                connect()
            })?;
            thread.join().map_err(|_| io::Error::other("the connecting thread panicked"))??
        }
    };
    stream.set_nonblocking(true)?;
    tracing::trace!(fd = stream.as_raw_fd(), port, "connected inside a sandbox");
    Ok(stream)
}
