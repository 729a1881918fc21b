//! The kernel side of sleep: when a pod last had traffic, and a call at once
//! when a sleeping one gets some. Packets are only looked at, never held: the
//! kernel of a frozen pod completes the handshake and queues the request.
//!
//! Two sets of addresses in one nftables table do the work. `tracked` remembers
//! in each element when a rule last found it, so an awake pod costs one hash
//! lookup a packet and nothing in user space; its age is read only when an idle
//! deadline is due. `armed` holds the sleepers: a packet to one logs itself to a
//! socket that a thread of ours waits on. The thread reports the first, then
//! takes the address out of the set. (The packet itself could take it out, but
//! the kernel refuses to add an address again until it has swept the set, which
//! is up to a second later.) The elements remember their packets too, so a
//! report that nobody was there to receive is not lost. A third set, `answers`,
//! reports the first packet with data that a woken pod sends: what its client
//! waited for.
//!
//! Traffic is TCP, UDP or SCTP. A TCP segment without data and without SYN
//! (keep-alives, acknowledgements, a peer's FIN or RST) is not: nobody waits for
//! an answer to it. Neither are packets of connections whose first packet
//! carried the ignored mark, which is how probes stay unseen. Freezing and
//! thawing are not done here.

mod rules;
#[cfg(test)]
mod tests;

use crate::cidr::Cidr;
use crate::netlink::log::{Logged, PacketLog};
use crate::netlink::nftables::{self, Batch, Family};
use crate::netlink::socket::set_option;
use crate::netlink::{NetlinkError, Protocol, Socket, namespace, route};
use crate::precedence;
use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::fd::{AsFd, OwnedFd};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Log groups that are tried, upwards from the configured one, until one is
/// free: one per cluster on the machine.
const LOG_GROUP_ATTEMPTS: u16 = 64;
/// Bytes asked for of a logged packet: an IPv4 header without options.
const LOGGED_BYTES: u32 = 20;
/// Steps in which the kernel counts time; an age may be short by one.
const CLOCK_STEP: Duration = Duration::from_millis(10);

/// What is watched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ActivityConfig {
    /// The nftables table.
    pub table: String,
    /// This node's pods; IPv4.
    pub pod_cidr: Cidr,
    /// Connections whose first packet has all these mark bits (`SO_MARK`) are
    /// not activity. The same bits of the connection mark are used to remember
    /// it. 0 ignores none.
    pub ignored_mark: u32,
    /// First `nfnetlink_log` group to try.
    pub log_group: u16,
    /// The node's network namespace; the caller's own if absent.
    pub namespace: Option<PathBuf>,
}

impl ActivityConfig {
    /// Mark bit for probes, unless configured otherwise.
    pub const PROBE_MARK: u32 = 0x0800_0000;

    /// Table `darter-activity` in the caller's namespace.
    pub fn new(pod_cidr: Cidr) -> Self {
        Self {
            table: "darter-activity".into(),
            pod_cidr,
            ignored_mark: Self::PROBE_MARK,
            log_group: 3500,
            namespace: None,
        }
    }
}

/// Why activity cannot be seen.
#[derive(thiserror::Error, Debug)]
pub enum ActivityError {
    /// The kernel did not do its part.
    #[error("cannot {step}{}", address.map(|address| format!(" {address}")).unwrap_or_default())]
    Kernel {
        /// What was being done.
        step: &'static str,
        /// For which address, if for one.
        address: Option<IpAddr>,
        /// The cause.
        #[source]
        source: NetlinkError,
    },
    /// The address was never tracked, or no longer is.
    #[error("{address} is not tracked")]
    Untracked {
        /// The address.
        address: IpAddr,
    },
    /// Only IPv4 addresses of the node's range can be watched.
    #[error("{address} is outside {range}")]
    Outside {
        /// The address.
        address: IpAddr,
        /// The watched range.
        range: Cidr,
    },
    /// The thread that waits for wakes could not be started.
    #[error("cannot start the thread that waits for packets")]
    Thread {
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// Hears of sleepers. It is called on the receiving thread: work that takes
/// longer than a system call belongs elsewhere.
pub trait Watcher: Send + Sync {
    /// The first packet came to a sleeper's address.
    fn woken(&self, address: IpAddr);
    /// The pod sent its first data so long after that packet.
    fn answered(&self, address: IpAddr, after: Duration);
}

/// Watches the traffic of one node's pods. Calls block for microseconds.
pub struct Activity {
    config: ActivityConfig,
    socket: Mutex<Socket>,
    tracked: Mutex<BTreeMap<IpAddr, Instant>>,
    sleepers: Arc<Mutex<Sleepers>>,
    stop: Arc<OwnedFd>,
    receiver: Option<JoinHandle<()>>,
}

/// Marks a socket's packets, so that a connection made with it is no activity
/// (see [`ActivityConfig::ignored_mark`]). Call it before connecting. Needs
/// `CAP_NET_ADMIN`.
pub fn set_mark(socket: impl AsFd, mark: u32) -> std::io::Result<()> {
    set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_MARK, mark.cast_signed())
}

/// Who is in the kernel's set. Held while the set is changed, so that an address
/// armed again is not taken out by the end of its last wake.
#[derive(Default)]
struct Sleepers {
    /// A packet would be reported.
    armed: BTreeSet<IpAddr>,
    /// A packet was reported; the element is still there.
    reported: BTreeSet<IpAddr>,
}

fn kernel(step: &'static str, address: Option<IpAddr>) -> impl FnOnce(NetlinkError) -> ActivityError {
    move |source| ActivityError::Kernel { step, address, source }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every holder leaves the value whole at each step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Activity {
    /// Installs the rules and starts the receiving thread. Addresses that an
    /// earlier run armed stay armed if no packet came meanwhile; ask
    /// [`Activity::armed`] for them. Needs `CAP_NET_ADMIN`.
    pub fn open(config: ActivityConfig, watcher: Arc<dyn Watcher>) -> Result<Self, ActivityError> {
        let step = "watch the pods' traffic";
        let (mut socket, log, group, list) = namespace::within(config.namespace.as_deref(), || {
            let socket = Socket::open(Protocol::Netfilter)?;
            let (log, group) = PacketLog::open(config.log_group, LOG_GROUP_ATTEMPTS, LOGGED_BYTES)?;
            Ok((socket, log, group, Socket::open(Protocol::Netfilter)?))
        })
        .map_err(kernel(step, None))?;
        let armed = armed(&mut socket, &config.table).map_err(kernel(step, None))?;
        let rules = rules::plan(&config, group, &armed);
        Batch::replace(Family::Ipv4, &config.table, &rules).commit(&mut socket).map_err(kernel(step, None))?;
        let sleepers = Arc::new(Mutex::new(Sleepers { armed, reported: BTreeSet::new() }));
        let failed = |source: std::io::Error| ActivityError::Thread { source };
        let stop = Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC).map_err(|source| failed(source.into()))?);
        let table = config.table.clone();
        let receiver = Receiver {
            log,
            socket: list,
            table,
            sleepers: sleepers.clone(),
            stop: stop.clone(),
            watcher,
            woken: BTreeMap::new(),
        };
        let receiver = std::thread::Builder::new().name("wake".into()).spawn(move || receiver.run()).map_err(failed)?;
        Ok(Self {
            config,
            socket: Mutex::new(socket),
            tracked: Mutex::new(BTreeMap::new()),
            sleepers,
            stop,
            receiver: Some(receiver),
        })
    }

    /// Starts remembering when this address last had traffic; the clock starts
    /// now. Tracking twice is once.
    pub fn track(&self, address: IpAddr) -> Result<(), ActivityError> {
        self.change(rules::TRACKED, address, "track", true)?;
        lock(&self.tracked).entry(address).or_insert_with(Instant::now);
        Ok(())
    }

    /// Forgets and disarms the address.
    pub fn untrack(&self, address: IpAddr) -> Result<(), ActivityError> {
        lock(&self.tracked).remove(&address);
        self.disarm(address)?;
        for set in [rules::TRACKED, rules::ANSWERS] {
            match self.change(set, address, "stop tracking", false) {
                Err(ActivityError::Kernel { source, .. }) if source.is_absent() => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// How long ago the address last sent or got traffic, or was first tracked.
    /// Exact to 10 ms, never too long.
    pub fn since_last(&self, address: IpAddr) -> Result<Duration, ActivityError> {
        let first = *lock(&self.tracked).get(&address).ok_or(ActivityError::Untracked { address })?;
        let key = route::octets(address);
        let found =
            nftables::elements(&mut lock(&self.socket), Family::Ipv4, &self.config.table, rules::TRACKED, Some(&key))
                .map_err(kernel("read the last traffic of", Some(address)))?;
        let element = found.first().ok_or(ActivityError::Untracked { address })?;
        let tracked = first.elapsed();
        let used = element.used_ms_ago.map(|age| Duration::from_millis(age).saturating_sub(CLOCK_STEP));
        Ok(used.map_or(tracked, |used| used.min(tracked)))
    }

    /// Resolves when the address has had no traffic for `after`. Costs one
    /// lookup per deadline, not per packet.
    pub async fn idle(&self, address: IpAddr, after: Duration) -> Result<(), ActivityError> {
        loop {
            let since = self.since_last(address)?;
            if since >= after {
                return Ok(());
            }
            tokio::time::sleep(after - since + CLOCK_STEP).await;
        }
    }

    /// From now on the first packet to the address is reported. Arm before
    /// freezing, and ask [`Activity::since_last`] after it: what came before
    /// was not reported.
    pub fn arm(&self, address: IpAddr) -> Result<(), ActivityError> {
        let mut sleepers = lock(&self.sleepers);
        if sleepers.armed.contains(&address) {
            return Ok(());
        }
        let key = self.key(address)?;
        let mut batch = Batch::new(Family::Ipv4, &self.config.table);
        if sleepers.reported.contains(&address) {
            batch.delete_elements(rules::ARMED, &[(&key, None)]);
        }
        batch.add_elements(rules::ARMED, &[(&key, None)]);
        batch.add_elements(rules::ANSWERS, &[(&key, None)]);
        // A packet may be logged before the commit returns.
        sleepers.armed.insert(address);
        let result = batch.commit(&mut lock(&self.socket));
        match result {
            Ok(()) => {
                sleepers.reported.remove(&address);
                Ok(())
            }
            Err(error) => {
                sleepers.armed.remove(&address);
                Err(kernel("arm", Some(address))(error))
            }
        }
    }

    /// Stops reporting. True: no packet was reported since it was armed, and
    /// none will be.
    pub fn disarm(&self, address: IpAddr) -> Result<bool, ActivityError> {
        let mut sleepers = lock(&self.sleepers);
        if !sleepers.armed.remove(&address) {
            return Ok(false);
        }
        let key = self.key(address)?;
        let mut batch = Batch::new(Family::Ipv4, &self.config.table);
        batch.delete_elements(rules::ARMED, &[(&key, None)]);
        batch.delete_elements(rules::ANSWERS, &[(&key, None)]);
        batch.commit(&mut lock(&self.socket)).map_err(kernel("disarm", Some(address)))?;
        Ok(true)
    }

    /// The addresses to which no packet came since they were armed, as the
    /// kernel knows them. After a restart, a frozen pod that is not among them
    /// must be thawed.
    pub fn armed(&self) -> Result<BTreeSet<IpAddr>, ActivityError> {
        armed(&mut lock(&self.socket), &self.config.table).map_err(kernel("list the armed addresses", None))
    }

    /// Removes the rules that an earlier run left. Needs `CAP_NET_ADMIN`.
    pub fn remove_rules(config: &ActivityConfig) -> Result<(), ActivityError> {
        let step = "stop watching the pods' traffic";
        let mut socket = namespace::within(config.namespace.as_deref(), || Socket::open(Protocol::Netfilter))
            .map_err(kernel(step, None))?;
        Batch::remove(Family::Ipv4, &config.table).commit(&mut socket).map_err(kernel(step, None))
    }

    fn change(&self, set: &str, address: IpAddr, step: &'static str, add: bool) -> Result<(), ActivityError> {
        let key = self.key(address)?;
        let mut batch = Batch::new(Family::Ipv4, &self.config.table);
        if add {
            batch.add_elements(set, &[(&key, None)]);
        } else {
            batch.delete_elements(set, &[(&key, None)]);
        }
        batch.commit(&mut lock(&self.socket)).map_err(kernel(step, Some(address)))
    }
}

impl Activity {
    fn key(&self, address: IpAddr) -> Result<Vec<u8>, ActivityError> {
        if !self.config.pod_cidr.contains(address) {
            return Err(ActivityError::Outside { address, range: self.config.pod_cidr });
        }
        Ok(route::octets(address))
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        if let Err(error) = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes()) {
            tracing::warn!(err = %error, "cannot stop the thread that waits for packets");
            return;
        }
        if let Some(receiver) = self.receiver.take()
            && receiver.join().is_err()
        {
            tracing::error!("the thread that waits for packets panicked");
        }
    }
}

fn armed(socket: &mut Socket, table: &str) -> Result<BTreeSet<IpAddr>, NetlinkError> {
    let found = nftables::elements(socket, Family::Ipv4, table, rules::ARMED, None)?;
    Ok(found.iter().filter(|element| element.used_ms_ago.is_none()).filter_map(|element| ipv4(&element.key)).collect())
}

fn ipv4(octets: &[u8]) -> Option<IpAddr> {
    Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?)))
}

/// The receiving thread.
struct Receiver {
    log: PacketLog,
    socket: Socket,
    table: String,
    sleepers: Arc<Mutex<Sleepers>>,
    stop: Arc<OwnedFd>,
    watcher: Arc<dyn Watcher>,
    /// Woken addresses that have not answered, and when their packets were seen.
    woken: BTreeMap<IpAddr, Instant>,
}

impl Receiver {
    fn run(mut self) {
        if let Err(error) = precedence::raise() {
            tracing::debug!(err = %error, "the thread that waits for packets has no precedence");
        }
        loop {
            match self.wait() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::error!(err = %error, "cannot wait for packets any longer, sleepers stay asleep");
                    return;
                }
            }
            let seen = Instant::now();
            let packets: Option<Vec<(IpAddr, IpAddr)>> = match self.log.next() {
                Ok(Logged::Packets(packets)) => {
                    let ends = |packet: &&[u8]| Some((ipv4(packet.get(12..16)?)?, ipv4(packet.get(16..20)?)?));
                    Some(packets.iter().filter_map(ends).collect())
                }
                Ok(Logged::Overrun) => None,
                Err(error) => {
                    tracing::error!(err = %error, "cannot receive packets any longer, sleepers stay asleep");
                    return;
                }
            };
            let Some(packets) = packets else {
                // Answers may be among what was lost; a later one would count
                // as slow.
                self.woken.clear();
                for address in self.missed() {
                    self.report(address, seen);
                }
                continue;
            };
            for (source, destination) in packets {
                self.report(destination, seen);
                self.answer(source, seen);
            }
        }
    }

    fn answer(&mut self, address: IpAddr, seen: Instant) {
        let Some(woken) = self.woken.remove(&address) else { return };
        self.watcher.answered(address, seen.duration_since(woken));
        let sleepers = Arc::clone(&self.sleepers);
        let sleepers = lock(&sleepers);
        // Armed again meanwhile, its next answer counts.
        if sleepers.armed.contains(&address) {
            return;
        }
        let mut batch = Batch::new(Family::Ipv4, &self.table);
        batch.delete_elements(rules::ANSWERS, &[(&route::octets(address), None)]);
        if let Err(error) = batch.commit(&mut self.socket)
            && !error.is_absent()
        {
            tracing::warn!(%address, err = %error, "cannot stop looking at an address after its answer");
        }
    }

    fn report(&mut self, address: IpAddr, seen: Instant) {
        {
            let mut sleepers = lock(&self.sleepers);
            // Later packets to a sleeper are logged until its element is gone.
            if !sleepers.armed.remove(&address) {
                return;
            }
            sleepers.reported.insert(address);
        }
        self.woken.insert(address, seen);
        self.watcher.woken(address);
        let mut sleepers = lock(&self.sleepers);
        // It may have been armed again meanwhile, with a new element.
        if sleepers.reported.remove(&address) {
            let mut batch = Batch::new(Family::Ipv4, &self.table);
            batch.delete_elements(rules::ARMED, &[(&route::octets(address), None)]);
            match batch.commit(&mut self.socket) {
                Err(error) if !error.is_absent() => {
                    tracing::warn!(%address, err = %error, "cannot disarm an address after its wake");
                    sleepers.reported.insert(address);
                }
                _ => {}
            }
        }
    }

    /// Waits for a packet (true) or the end (false).
    fn wait(&self) -> rustix::io::Result<bool> {
        loop {
            let mut events = [
                PollFd::from_borrowed_fd(self.log.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.stop.as_fd(), PollFlags::IN),
            ];
            match rustix::event::poll(&mut events, None) {
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error),
                Ok(_) if !events[1].revents().is_empty() => return Ok(false),
                Ok(_) => return Ok(true),
            }
        }
    }

    /// When log messages were lost: the sleepers whose elements had a packet.
    fn missed(&mut self) -> Vec<IpAddr> {
        let still = armed(&mut self.socket, &self.table);
        let sleepers = lock(&self.sleepers);
        match still {
            Ok(still) => sleepers.armed.difference(&still).copied().collect(),
            Err(error) => {
                tracing::warn!(err = %error, "cannot list the sleepers after lost packets, all are woken");
                sleepers.armed.iter().copied().collect()
            }
        }
    }
}
