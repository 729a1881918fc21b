//! The shim of one sandbox: holds its namespaces, runs its processes, writes
//! their logs and reports their ends. One thread, one poll loop. It decides
//! nothing: no restarts, no limits, no network.

mod container;
mod sandbox;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{SocketFlags, accept_with};

use self::container::{Container, Exec, Launch};
use self::sandbox::Namespaces;
use super::protocol::{
    Failure, Message, Op, PROTOCOL, Reply, Request, Running, SpawnSandbox, StartContainer, StartExec, receive, send,
};
use crate::sys;

/// Most containers and execs of one sandbox at a time; a caller beyond it gets
/// an error. Far above any real pod, below the default descriptor limit.
const MAX_PROCESSES: usize = 128;

/// Runs the shim in the process that the zygote just forked.
pub(super) fn run(request: SpawnSandbox, listener: OwnedFd) -> ! {
    let code = match prepare() {
        Ok(signals) => {
            let namespaces = sandbox::enter(&request);
            drop(request);
            Shim::new(listener, signals, namespaces).serve()
        }
        Err(error) => {
            eprintln!("shim: cannot start: {error}");
            1
        }
    };
    sys::exit_now(code)
}

/// Detaches from the zygote: own session, own children.
fn prepare() -> io::Result<OwnedFd> {
    rustix::process::setsid()?;
    sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0)?;
    rustix::thread::set_name(c"darter-shim")?;
    let null = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC, 0.into())?;
    sys::duplicate_onto(null.as_fd(), 0)?;
    drop(null);
    sys::default_children();
    sys::signal_fd(&[libc::SIGCHLD])
}

/// What a ready descriptor belongs to.
#[derive(Clone, Debug)]
enum Source {
    Listener,
    Agent,
    Signals,
    /// A starting container's or exec's status socket.
    Status(String),
    /// Output 0 or 1 of a container.
    Output(String, usize),
    /// A client of output 0 or 1 whose pipe was full.
    Client(String, usize),
    /// A container's out-of-memory notifier.
    Oom(String),
}

type Interests<'a> = Vec<(Source, BorrowedFd<'a>, PollFlags)>;

struct Shim {
    listener: OwnedFd,
    agent: Option<OwnedFd>,
    signals: OwnedFd,
    /// What went wrong while the namespaces were set up is told to the agent
    /// in place of the greeting.
    namespaces: Result<Namespaces, (&'static str, i32)>,
    containers: BTreeMap<String, Container>,
    execs: BTreeMap<String, Exec>,
    /// Set once the agent asked for the end.
    ending: bool,
}

impl Shim {
    fn new(listener: OwnedFd, signals: OwnedFd, namespaces: Result<Namespaces, (&'static str, i32)>) -> Self {
        let (containers, execs) = (BTreeMap::new(), BTreeMap::new());
        Self { listener, agent: None, signals, namespaces, containers, execs, ending: false }
    }

    fn serve(mut self) -> i32 {
        while !self.ending {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(error) => {
                    eprintln!("shim: poll: {error}");
                    return 1;
                }
            };
            for source in ready {
                self.handle(source);
            }
        }
        if let Ok(namespaces) = &self.namespaces {
            namespaces.end();
        }
        0
    }

    /// Waits until something can be done; returns what.
    fn wait(&self) -> io::Result<Vec<Source>> {
        let mut interests: Interests<'_> = vec![
            (Source::Signals, self.signals.as_fd(), PollFlags::IN),
            (Source::Listener, self.listener.as_fd(), PollFlags::IN),
        ];
        if let Some(agent) = &self.agent {
            interests.push((Source::Agent, agent.as_fd(), PollFlags::IN));
        }
        for (id, container) in &self.containers {
            container.interests(id, &mut interests);
        }
        for (id, exec) in &self.execs {
            if let Some(launch) = &exec.launch {
                interests.push((Source::Status(id.clone()), launch.status.as_fd(), PollFlags::IN));
            }
        }
        let mut fds: Vec<PollFd<'_>> =
            interests.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = fds.iter().map(|fd| !fd.revents().is_empty()).collect::<Vec<_>>();
        Ok(interests.into_iter().zip(ready).filter(|(_, ready)| *ready).map(|((source, ..), _)| source).collect())
    }

    fn handle(&mut self, source: Source) {
        match source {
            Source::Listener => self.accept(),
            Source::Agent => self.read_agent(),
            Source::Signals => self.reap(),
            Source::Status(id) => self.read_status(&id),
            Source::Output(id, index) => {
                if let Some(container) = self.containers.get_mut(&id) {
                    container.pump(index);
                }
            }
            Source::Client(id, index) => {
                if let Some(container) = self.containers.get_mut(&id) {
                    container.flush_clients(index);
                }
            }
            Source::Oom(id) => {
                if self.containers.get_mut(&id).is_some_and(Container::take_oom_kill) {
                    self.tell(&Message::OomKill { container: id }, &[]);
                }
            }
        }
    }

    /// A new agent takes the place of the old one.
    fn accept(&mut self) {
        let Ok(agent) = accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) else { return };
        self.agent = Some(agent);
        let greeting = match &self.namespaces {
            Ok(_) => Message::Hello { protocol: PROTOCOL, pid: std::process::id() },
            Err((step, errno)) => {
                // Nothing was made; the agent removes what it prepared.
                self.ending = true;
                Message::SetupFailed { step: (*step).to_owned(), errno: *errno }
            }
        };
        self.tell(&greeting, &[]);
    }

    /// Sends to the agent, if one is there. An agent that does not read is
    /// dropped; it learns what it missed when it connects again, since exits
    /// are on disk before they are told.
    fn tell(&mut self, message: &Message, fds: &[BorrowedFd<'_>]) {
        if let Some(agent) = &self.agent
            && send(agent, message, fds).is_err()
        {
            self.agent = None;
        }
    }

    fn reply(&mut self, seq: u64, result: Result<Reply, Failure>, fds: &[BorrowedFd<'_>]) {
        self.tell(&Message::Reply { seq, result }, fds);
    }

    fn read_agent(&mut self) {
        let Some(agent) = &self.agent else { return };
        match receive::<Request>(agent, &mut Vec::new()) {
            Ok(Some((request, fds))) => self.serve_request(request, fds),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Ok(None) | Err(_) => self.agent = None,
        }
    }

    fn serve_request(&mut self, request: Request, fds: Vec<OwnedFd>) {
        let seq = request.seq;
        let done = |found: bool| if found { Ok(Reply::Done) } else { Err(Failure::NotRunning) };
        match request.op {
            Op::Start(start) => {
                if let Err(failure) = self.start(seq, start) {
                    self.reply(seq, Err(failure), &[]);
                }
            }
            Op::Exec(start) => {
                if let Err(failure) = self.exec(seq, start, fds) {
                    self.reply(seq, Err(failure), &[]);
                }
            }
            Op::Signal { target, signal } => {
                let pid = self.containers.get(&target).map(|container| container.pid);
                let pid = pid.or_else(|| self.execs.get(&target).map(|exec| exec.pid));
                let sent = pid.is_some_and(|pid| sys::kill(pid, signal).is_ok());
                self.reply(seq, done(sent), &[]);
            }
            Op::Attach { container, stdin, stdout, stderr } => {
                self.attach(seq, &container, [stdin, stdout, stderr], fds)
            }
            Op::ReopenLog { container } => {
                let result = match self.containers.get_mut(&container) {
                    Some(container) => container.reopen_log().map(|()| Reply::Done).map_err(internal("reopen log")),
                    None => Err(Failure::NotRunning),
                };
                self.reply(seq, result, &[]);
            }
            Op::List => {
                let running = self.containers.iter().filter(|(_, container)| container.launch.is_none());
                let running = running
                    .map(|(id, container)| Running {
                        container: id.clone(),
                        pid: container.pid as u32,
                        started_ns: container.started_ns,
                    })
                    .collect();
                self.reply(seq, Ok(Reply::Containers(running)), &[]);
            }
            Op::Shutdown => {
                for container in self.containers.values() {
                    container.kill_all();
                }
                self.ending = true;
                self.reply(seq, Ok(Reply::Done), &[]);
            }
        }
    }

    fn room(&self) -> Result<&Namespaces, Failure> {
        if self.containers.len() + self.execs.len() >= MAX_PROCESSES {
            return Err(Failure::Internal(format!("the sandbox already runs {MAX_PROCESSES} processes")));
        }
        self.namespaces.as_ref().map_err(|(step, _)| Failure::Internal((*step).to_owned()))
    }

    fn start(&mut self, seq: u64, start: StartContainer) -> Result<(), Failure> {
        let namespaces = self.room()?;
        let peer = match &start.pid {
            super::protocol::PidSource::Container(id) => {
                Some(&self.containers.get(id).ok_or(Failure::NotRunning)?.pidfd)
            }
            _ => None,
        };
        let id = start.container.clone();
        let container = Container::launch(seq, start, namespaces, peer).map_err(internal("start process"))?;
        self.containers.insert(id, container);
        Ok(())
    }

    fn exec(&mut self, seq: u64, start: StartExec, fds: Vec<OwnedFd>) -> Result<(), Failure> {
        let namespaces = self.room()?;
        let container = self.containers.get(&start.container).ok_or(Failure::NotRunning)?;
        let exec = container.exec(seq, &start, namespaces, fds).map_err(internal("start process"))?;
        self.execs.insert(start.exec, exec);
        Ok(())
    }

    fn attach(&mut self, seq: u64, id: &str, [stdin, stdout, stderr]: [bool; 3], fds: Vec<OwnedFd>) {
        let Some(container) = self.containers.get_mut(id) else {
            return self.reply(seq, Err(Failure::NotRunning), &[]);
        };
        let mut fds = fds.into_iter();
        for (index, wanted) in [stdout, stderr].into_iter().enumerate() {
            if wanted && let Some(fd) = fds.next() {
                container.add_client(index, fd);
            }
        }
        let tty = container.tty;
        let input = if stdin { container.take_stdin() } else { None };
        let borrowed: Vec<BorrowedFd<'_>> = input.iter().map(AsFd::as_fd).collect();
        self.reply(seq, Ok(Reply::Attached { tty }), &borrowed);
    }

    /// A starting process said something, or ran its program.
    fn read_status(&mut self, id: &str) {
        if let Some(container) = self.containers.get_mut(id) {
            let Some(launch) = &mut container.launch else { return };
            let Some(outcome) = launch.read() else { return };
            let seq = launch.seq;
            match outcome {
                Ok(()) => {
                    let master = container.launch.take().and_then(|launch| launch.master);
                    container.set_running(master);
                    let reply = Reply::Started { pid: container.pid as u32, started_ns: container.started_ns };
                    self.reply(seq, Ok(reply), &[]);
                }
                Err(text) => {
                    // The process ends by itself; its status is of no interest.
                    self.containers.remove(id);
                    self.reply(seq, Err(Failure::Start(text)), &[]);
                }
            }
        } else if let Some(exec) = self.execs.get_mut(id) {
            let Some(launch) = &mut exec.launch else { return };
            let Some(outcome) = launch.read() else { return };
            let Launch { seq, master, .. } = match exec.launch.take() {
                Some(launch) => launch,
                None => return,
            };
            let pid = exec.pid as u32;
            match outcome {
                Ok(()) => {
                    let fds: Vec<BorrowedFd<'_>> = master.iter().map(AsFd::as_fd).collect();
                    self.reply(seq, Ok(Reply::Started { pid, started_ns: now_ns() }), &fds);
                }
                Err(text) => {
                    self.execs.remove(id);
                    self.reply(seq, Err(Failure::Start(text)), &[]);
                }
            }
        }
    }

    /// Collects ended children and reports those that have a name.
    fn reap(&mut self) {
        // The signal descriptor is level-triggered by pending signals: drain it
        // before reaping, so that a child that ends meanwhile wakes us again.
        let mut drain = [0_u8; 1024];
        while rustix::io::read(&self.signals, &mut drain).is_ok_and(|read| read > 0) {}
        while let Some((pid, status)) = sys::reap_any() {
            let named = |pids: Vec<(&String, i32)>| pids.into_iter().find(|(_, p)| *p == pid).map(|(id, _)| id.clone());
            if let Some(id) = named(self.containers.iter().map(|(id, container)| (id, container.pid)).collect()) {
                // Whether it failed to start is said on its status socket,
                // which must be heard first.
                self.read_status(&id);
                if let Some(container) = self.containers.remove(&id) {
                    let exit = container.finish(status);
                    self.tell(&Message::Exited { container: id, exit }, &[]);
                }
            } else if let Some(id) = named(self.execs.iter().map(|(id, exec)| (id, exec.pid)).collect()) {
                self.read_status(&id);
                if self.execs.remove(&id).is_some() {
                    let (code, _) = container::decode_status(status);
                    self.tell(&Message::ExecExited { exec: id, code }, &[]);
                }
            }
        }
        sys::trim_heap();
    }
}

fn internal(step: &'static str) -> impl Fn(io::Error) -> Failure {
    move |error| Failure::Internal(format!("{step}: {error}"))
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
