//! The queue's owner: one thread that receives held packets, and the verdicts
//! on them. What is to be held it is told by the Services' proxy.

use super::packet::{Arrival, BYTES, Place};
use super::waiting::{Fate, LetGo, Step, Waiting};
use super::{HoldError, HoldLimits, Holding, Released};
use crate::netlink::NetlinkError;
use crate::netlink::queue::{FromQueue, PacketQueue, PacketVerdict, Queued, Verdicts};
use crate::precedence;
use api::error::Chain;
use client::ObjectKey;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, OwnedFd};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

/// Packets that may wait in the kernel beyond the limit until the thread has
/// read and refused them.
const UNREAD_PACKETS: usize = 8192;
/// Packets in a row with which the thread counts as flooded; it has precedence
/// only while it is not.
const FLOOD: usize = 1024;
/// Packets in a row between two looks at deadlines and the end.
const PACKETS_PER_TURN: usize = 64;

/// Owns the queue. Dropping it drops the packets that wait.
pub(crate) struct Holder {
    shared: Arc<Shared>,
    stop: Arc<OwnedFd>,
    receiver: Option<JoinHandle<()>>,
}

struct Shared {
    /// Held while verdicts are carried out, so that a packet is not let go by
    /// rules that are being replaced, and during the calls, so that they come
    /// in the order of what they report.
    waiting: Mutex<Waiting>,
    verdicts: Verdicts,
    /// Mark bit of packets that do not wait again.
    mark: u32,
    on_held: Arc<dyn Fn(&ObjectKey) + Send + Sync>,
    on_released: Arc<dyn Fn(&ObjectKey, Released) + Send + Sync>,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Every holder leaves the value whole at each step.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decide(&self, verdicts: &[(u32, PacketVerdict)]) {
        if let Err(error) = self.verdicts.decide(verdicts) {
            tracing::error!(err = %Chain(&error), count = verdicts.len(), "cannot decide about held packets");
        }
    }

    fn let_go(&self, packets: &[(u32, u32)]) {
        let verdicts: Vec<_> = packets.iter().map(|(id, mark)| (*id, PacketVerdict::Again(mark | self.mark))).collect();
        self.decide(&verdicts);
    }

    /// Lets packets go that `pick` takes out, and reports them.
    fn release(&self, pick: impl FnOnce(&mut Waiting) -> LetGo) {
        let mut waiting = self.waiting();
        let gone = pick(&mut waiting);
        self.let_go(&gone.packets);
        for (service, released) in gone.reports {
            (self.on_released)(&service, released);
        }
    }
}

impl Holder {
    /// Starts receiving. Packets to `former`, which rules of an earlier run
    /// send, wait until their Service is known.
    pub(crate) fn start(
        queue: PacketQueue,
        mark: u32,
        holding: &Holding,
        former: impl IntoIterator<Item = Place>,
    ) -> Result<Self, HoldError> {
        let failed = |source: std::io::Error| HoldError::Thread { source };
        let stop = Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC).map_err(|source| failed(source.into()))?);
        let HoldLimits { packets, .. } = holding.limits;
        let most = u32::try_from(packets + UNREAD_PACKETS).unwrap_or(u32::MAX);
        let verdicts = queue
            .listen(BYTES, most)
            .map_err(|source| HoldError::Queue { step: "receive packets from the queue", source })?;
        let shared = Arc::new(Shared {
            waiting: Mutex::new(Waiting::new(holding.limits, former)),
            verdicts,
            mark,
            on_held: holding.on_held.clone(),
            on_released: holding.on_released.clone(),
        });
        let receiver = Receiver { queue, shared: shared.clone(), stop: stop.clone(), streak: 0, precedes: false };
        let receiver = std::thread::Builder::new().name("hold".into()).spawn(move || receiver.run()).map_err(failed)?;
        Ok(Self { shared, stop, receiver: Some(receiver) })
    }

    /// How many packets are held.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.shared.waiting().len()
    }

    /// Before a transaction: what will be held once it is made, and what will
    /// neither be held nor served.
    pub(crate) fn prepare(&self, fates: &BTreeMap<Place, Fate>) {
        self.shared.release(|waiting| waiting.turn_away(fates, Instant::now()));
        let mut waiting = self.shared.waiting();
        for service in waiting.prepare(fates) {
            (self.shared.on_held)(&service);
        }
    }

    /// After a transaction: what is no longer held goes on.
    pub(crate) fn settle(&self, fates: &BTreeMap<Place, Fate>) {
        self.shared.release(|waiting| waiting.settle(fates, Instant::now()));
    }

    /// After the table was written anew, which made the kernel drop what
    /// waited: clients that repeat their packets are held anew.
    pub(crate) fn clear(&self) {
        let mut waiting = self.shared.waiting();
        let lost = waiting.clear(Instant::now());
        let verdicts: Vec<_> = lost.packets.iter().map(|(id, _)| (*id, PacketVerdict::Drop)).collect();
        if !verdicts.is_empty() {
            tracing::debug!(count = verdicts.len(), "held packets dropped with the rules that held them");
            // Should the kernel have kept some, they must not stay for ever.
            self.shared.decide(&verdicts);
        }
        for (service, released) in lost.reports {
            (self.shared.on_released)(&service, released);
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if let Err(error) = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes()) {
            tracing::warn!(err = %error, "cannot stop the thread that receives held packets");
            return;
        }
        if let Some(receiver) = self.receiver.take()
            && receiver.join().is_err()
        {
            tracing::error!("the thread that receives held packets panicked");
        }
    }
}

/// The receiving thread.
struct Receiver {
    queue: PacketQueue,
    shared: Arc<Shared>,
    stop: Arc<OwnedFd>,
    /// Packets since there were none.
    streak: usize,
    precedes: bool,
}

impl Receiver {
    fn run(mut self) {
        let failed = |error: &dyn std::error::Error| {
            tracing::error!(err = %Chain(error), "cannot receive held packets any longer, clients are not answered");
        };
        self.precede(true);
        loop {
            match self.wait() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return failed(&error),
            }
            self.shared.release(|waiting| waiting.expire(Instant::now()));
            if let Err(error) = self.turn() {
                return failed(&error);
            }
        }
    }

    /// Takes packets in until there are none, but not for ever.
    fn turn(&mut self) -> Result<(), NetlinkError> {
        for _packet in 0..PACKETS_PER_TURN {
            match self.queue.next()? {
                FromQueue::Packets(packets) => {
                    self.streak = self.streak.saturating_add(packets.len());
                    for packet in packets {
                        take_in(&self.shared, &packet);
                    }
                }
                FromQueue::Nothing => {
                    self.streak = 0;
                    break;
                }
                FromQueue::Lost => {
                    tracing::debug!("more packets than could be received, the kernel dropped some");
                }
            }
        }
        self.precede(self.streak < FLOOD);
        Ok(())
    }

    /// Runs before ordinary threads, or as one of them.
    fn precede(&mut self, wanted: bool) {
        if self.precedes == wanted {
            return;
        }
        let result = if wanted { precedence::raise() } else { precedence::lower() };
        if let Err(error) = result {
            tracing::debug!(err = %error, wanted, "cannot change the precedence of the thread that receives held packets");
        }
        // Not tried again for each packet.
        self.precedes = wanted;
    }

    /// Waits for a packet or a deadline (true), or the end (false).
    fn wait(&self) -> rustix::io::Result<bool> {
        loop {
            let deadline = self.shared.waiting().deadline();
            let rest = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let rest = rest.map(|rest| Timespec {
                tv_sec: rest.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: rest.subsec_nanos().into(),
            });
            let mut events = [
                PollFd::from_borrowed_fd(self.queue.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.stop.as_fd(), PollFlags::IN),
            ];
            match rustix::event::poll(&mut events, rest.as_ref()) {
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error),
                Ok(_) if !events[1].revents().is_empty() => return Ok(false),
                Ok(_) => return Ok(true),
            }
        }
    }
}

fn take_in(shared: &Shared, packet: &Queued<'_>) {
    let mut waiting = shared.waiting();
    let step = Arrival::read(packet).map_or(Step::GoOn, |arrival| waiting.arrive(&arrival, Instant::now()));
    match step {
        // The rules sent it here although it carries the mark: they are not
        // ours.
        Step::GoOn if packet.mark & shared.mark != 0 => shared.decide(&[(packet.id, PacketVerdict::Drop)]),
        Step::Drop => shared.decide(&[(packet.id, PacketVerdict::Drop)]),
        Step::GoOn => shared.let_go(&[(packet.id, packet.mark)]),
        Step::Wait { instead_of, tell } => {
            if let Some(older) = instead_of {
                shared.decide(&[(older, PacketVerdict::Drop)]);
            }
            if let Some(service) = tell {
                (shared.on_held)(&service);
            }
        }
    }
}
