//! The states of one sleeping pod and the moves between them. It freezes and
//! thaws nothing; each move says what its caller has to do.

use std::time::{Duration, Instant};

use api::elastic::Rung;

/// Where the pod is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Runs.
    Hot,
    /// Is being frozen; `wake` if a packet came meanwhile.
    Freezing { wake: bool },
    /// Sleeps on this rung.
    Asleep(Rung),
    /// Is being woken from a rung that takes a while to leave.
    Rising,
}

/// Why a pod left or reached a rung; the word that events and status carry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reason {
    /// No activity for long enough.
    Idle,
    /// Longer asleep, so deeper.
    LongIdle,
    /// A packet came.
    Packet,
    /// exec, attach, port-forward or the like needs it awake.
    Session,
    /// A window in which nothing sleeps began.
    KeepWarm,
    /// Nobody watches for packets any more, or the rules changed.
    Released,
}

impl Reason {
    /// One word.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Reason::Idle => "Idle",
            Reason::LongIdle => "LongIdle",
            Reason::Packet => "Packet",
            Reason::Session => "Session",
            Reason::KeepWarm => "KeepWarm",
            Reason::Released => "Released",
        }
    }
}

/// A change of rung that happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Change {
    /// Left.
    pub(crate) from: Rung,
    /// Reached.
    pub(crate) to: Rung,
    /// Why.
    pub(crate) reason: Reason,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Machine {
    state: State,
    /// In this state, or last disturbed, since.
    since: Instant,
    /// When it last woke or began to be watched.
    risen: Instant,
    /// Sessions that need the pod awake.
    holds: u32,
    /// How often it changed its rung.
    changes: u64,
    last: Option<Change>,
}

/// What follows from a move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// Nothing.
    Stay,
    /// Thaw it now; it slept on this rung.
    Thaw(Rung),
}

impl Machine {
    /// A pod that runs, or one that a former run of the agent froze.
    pub(super) fn new(frozen: bool, now: Instant) -> Self {
        Self {
            state: if frozen { State::Asleep(Rung::Frozen) } else { State::Hot },
            since: now,
            risen: now,
            holds: 0,
            changes: u64::from(frozen),
            last: None,
        }
    }

    pub(super) fn rung(&self) -> Rung {
        match self.state {
            State::Hot | State::Freezing { .. } | State::Rising => Rung::Hot,
            State::Asleep(rung) => rung,
        }
    }

    /// How often it changed its rung; a pod found frozen counts as one.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// When it last woke or began to be watched.
    pub(super) fn risen(&self) -> Instant {
        self.risen
    }

    /// The latest change.
    pub(super) fn last(&self) -> Option<Change> {
        self.last
    }

    /// When the pod may go deeper, if nothing happens: hot, after so long since
    /// its last packet and since it was last woken or held; asleep, after so
    /// long on its rung. `None` while it is held awake or on its way.
    pub(super) fn due(&self, after: Duration, since_packet: Duration, now: Instant) -> Option<Instant> {
        let here = now.duration_since(self.since);
        match self.state {
            State::Hot if self.holds == 0 => Some(now + after.saturating_sub(since_packet.min(here))),
            State::Asleep(_) => Some(now + after.saturating_sub(here)),
            State::Hot | State::Freezing { .. } | State::Rising => None,
        }
    }

    /// The pod turned out to be busy: its idle time begins again.
    pub(super) fn busy(&mut self, now: Instant) {
        if self.state == State::Hot {
            self.since = now;
        }
    }

    /// Freezing begins; false if it must not.
    pub(super) fn begin_freeze(&mut self) -> bool {
        let may = self.state == State::Hot && self.holds == 0;
        if may {
            self.state = State::Freezing { wake: false };
        }
        may
    }

    /// The kernel has frozen it.
    pub(super) fn frozen(&mut self, now: Instant) -> Next {
        match self.state {
            State::Freezing { wake: true } => self.rise(now, None),
            State::Freezing { wake: false } => {
                self.moved(State::Asleep(Rung::Frozen), Reason::Idle, now);
                Next::Stay
            }
            State::Hot | State::Asleep(_) | State::Rising => Next::Stay,
        }
    }

    /// It could not be frozen, and may be so in part.
    pub(super) fn not_frozen(&mut self, now: Instant) -> Next {
        self.rise(now, None)
    }

    /// It reached a deeper rung, if it did not change its rung since the
    /// `changes`-th time.
    pub(super) fn deeper(&mut self, rung: Rung, changes: u64, now: Instant) -> bool {
        let asleep = matches!(self.state, State::Asleep(_)) && self.changes == changes;
        if asleep {
            self.moved(State::Asleep(rung), Reason::LongIdle, now);
        }
        asleep
    }

    /// It stays on its rung: the deeper one could not be had.
    pub(super) fn not_deeper(&mut self, now: Instant) {
        if matches!(self.state, State::Asleep(_)) {
            self.since = now;
        }
    }

    /// A packet came, or someone needs it awake.
    pub(super) fn disturbed(&mut self, reason: Reason, now: Instant) -> Next {
        match self.state {
            State::Hot => {
                self.since = now;
                Next::Stay
            }
            // Thawed by the one who freezes, once that is through: the other
            // way round the freeze would win.
            State::Freezing { .. } => {
                self.state = State::Freezing { wake: true };
                Next::Stay
            }
            State::Rising => Next::Stay,
            State::Asleep(_) => self.rise(now, Some(reason)),
        }
    }

    fn rise(&mut self, now: Instant, reason: Option<Reason>) -> Next {
        let rung = self.rung();
        self.risen = now;
        let up = if rung == Rung::PagedOut { State::Rising } else { State::Hot };
        match reason {
            Some(reason) => self.moved(up, reason, now),
            None => {
                self.state = State::Hot;
                self.since = now;
            }
        }
        Next::Thaw(rung)
    }

    /// It runs again after a rung that takes a while to leave.
    pub(super) fn risen_from_swap(&mut self, now: Instant) {
        if self.state == State::Rising {
            self.state = State::Hot;
            self.since = now;
            self.risen = now;
        }
    }

    fn moved(&mut self, state: State, reason: Reason, now: Instant) {
        let from = self.rung();
        self.state = state;
        self.since = now;
        self.changes += 1;
        self.last = Some(Change { from, to: self.rung(), reason });
    }

    /// A session begins.
    pub(super) fn hold(&mut self, now: Instant) -> Next {
        self.holds += 1;
        self.disturbed(Reason::Session, now)
    }

    /// A session ends; idleness counts from here.
    pub(super) fn release(&mut self, now: Instant) {
        self.holds = self.holds.saturating_sub(1);
        if self.state == State::Hot {
            self.since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(10);

    fn asleep(now: Instant) -> Machine {
        let mut machine = Machine::new(false, now);
        assert!(machine.begin_freeze());
        assert_eq!(machine.frozen(now), Next::Stay);
        machine
    }

    #[test]
    fn an_idle_pod_freezes_and_a_packet_thaws_it() {
        let now = Instant::now();
        let mut machine = Machine::new(false, now);
        let later = now + AFTER;
        assert_eq!(machine.due(AFTER, Duration::from_secs(3), later), Some(later + Duration::from_secs(7)));
        assert_eq!(machine.due(AFTER, AFTER, later), Some(later));
        assert!(machine.begin_freeze());
        assert_eq!(machine.frozen(later), Next::Stay);
        assert_eq!(machine.rung(), Rung::Frozen);
        assert_eq!(machine.disturbed(Reason::Packet, later), Next::Thaw(Rung::Frozen));
        assert_eq!(machine.last(), Some(Change { from: Rung::Frozen, to: Rung::Hot, reason: Reason::Packet }));
        assert_eq!(
            machine.due(AFTER, Duration::from_secs(99), later),
            Some(later + AFTER),
            "idleness counts from the wake"
        );
    }

    #[test]
    fn a_packet_during_the_freeze_is_not_lost() {
        let now = Instant::now();
        let mut machine = Machine::new(false, now);
        assert!(machine.begin_freeze());
        assert_eq!(machine.disturbed(Reason::Packet, now), Next::Stay);
        assert_eq!(machine.frozen(now), Next::Thaw(Rung::Hot));
        assert_eq!((machine.rung(), machine.changes()), (Rung::Hot, 0));
    }

    #[test]
    fn a_sleeper_goes_deeper_unless_it_woke_meanwhile() {
        let now = Instant::now();
        let mut machine = asleep(now);
        assert_eq!(machine.due(AFTER, Duration::ZERO, now), Some(now + AFTER));
        let changes = machine.changes();
        assert!(machine.deeper(Rung::PagedOut, changes, now));
        assert_eq!(machine.disturbed(Reason::Packet, now), Next::Thaw(Rung::PagedOut));
        assert!(!machine.begin_freeze(), "it is on its way up");
        assert_eq!(machine.disturbed(Reason::Packet, now), Next::Stay);
        machine.risen_from_swap(now);
        assert!(machine.begin_freeze());
        let mut machine = asleep(now);
        let changes = machine.changes();
        machine.disturbed(Reason::Packet, now);
        assert!(machine.begin_freeze());
        machine.frozen(now);
        assert!(!machine.deeper(Rung::PagedOut, changes, now), "that was another sleep");
        assert_eq!(machine.rung(), Rung::Frozen);
    }

    #[test]
    fn a_busy_pod_gets_another_idle_time() {
        let now = Instant::now();
        let mut machine = Machine::new(false, now);
        machine.busy(now + AFTER);
        assert_eq!(machine.due(AFTER, AFTER * 9, now + AFTER), Some(now + AFTER * 2));
    }

    #[test]
    fn a_session_keeps_it_awake() {
        let now = Instant::now();
        let mut machine = Machine::new(true, now);
        assert_eq!(machine.hold(now), Next::Thaw(Rung::Frozen));
        assert_eq!(machine.hold(now), Next::Stay);
        assert_eq!(machine.due(AFTER, AFTER, now + AFTER), None);
        assert!(!machine.begin_freeze());
        machine.release(now);
        assert!(!machine.begin_freeze());
        machine.release(now);
        assert!(machine.begin_freeze());
        assert_eq!(machine.not_frozen(now), Next::Thaw(Rung::Hot));
    }
}
