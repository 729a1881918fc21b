//! The states of one sleeping pod and the moves between them. It freezes and
//! thaws nothing; each move says what its caller has to do.

use std::time::{Duration, Instant};

/// Where the pod is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Runs.
    Hot,
    /// Is being frozen; `wake` if a packet came meanwhile.
    Freezing { wake: bool },
    /// Is frozen.
    Frozen,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Machine {
    state: State,
    /// In this state, or last disturbed, since.
    since: Instant,
    /// Sessions that need the pod awake.
    holds: u32,
    /// How often it fell asleep or woke.
    changes: u64,
}

/// What follows from a move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// Nothing.
    Stay,
    /// Thaw it now.
    Thaw,
}

impl Machine {
    /// A pod that runs, or one that a former run of the agent froze.
    pub(super) fn new(frozen: bool, now: Instant) -> Self {
        Self {
            state: if frozen { State::Frozen } else { State::Hot },
            since: now,
            holds: 0,
            changes: u64::from(frozen),
        }
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.state == State::Frozen
    }

    /// How often it fell asleep or woke; a pod found frozen counts as one.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// When the pod may be frozen, if nothing happens: after so long since its
    /// last packet, and since it was last woken. `None` while it is held awake
    /// or does not run.
    pub(super) fn due(&self, after: Duration, since_packet: Duration, now: Instant) -> Option<Instant> {
        if self.state != State::Hot || self.holds > 0 {
            return None;
        }
        let quiet = since_packet.min(now.duration_since(self.since));
        Some(now + after.saturating_sub(quiet))
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
            State::Freezing { wake: true } => self.wake(now),
            State::Freezing { wake: false } => {
                self.state = State::Frozen;
                self.since = now;
                self.changes += 1;
                Next::Stay
            }
            State::Hot | State::Frozen => Next::Stay,
        }
    }

    /// It could not be frozen, and may be so in part.
    pub(super) fn not_frozen(&mut self, now: Instant) -> Next {
        self.wake(now)
    }

    /// A packet came, or someone needs it awake.
    pub(super) fn disturbed(&mut self, now: Instant) -> Next {
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
            State::Frozen => self.wake(now),
        }
    }

    fn wake(&mut self, now: Instant) -> Next {
        self.changes += u64::from(self.state == State::Frozen);
        self.state = State::Hot;
        self.since = now;
        Next::Thaw
    }

    /// A session begins.
    pub(super) fn hold(&mut self, now: Instant) -> Next {
        self.holds += 1;
        self.disturbed(now)
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

    #[test]
    fn an_idle_pod_freezes_and_a_packet_thaws_it() {
        let now = Instant::now();
        let mut machine = Machine::new(false, now);
        let later = now + AFTER;
        assert_eq!(machine.due(AFTER, Duration::from_secs(3), later), Some(later + Duration::from_secs(7)));
        assert_eq!(machine.due(AFTER, AFTER, later), Some(later));
        assert!(machine.begin_freeze());
        assert_eq!(machine.frozen(later), Next::Stay);
        assert!(machine.is_frozen());
        assert_eq!(machine.disturbed(later), Next::Thaw);
        assert!(!machine.is_frozen());
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
        assert_eq!(machine.disturbed(now), Next::Stay);
        assert_eq!(machine.frozen(now), Next::Thaw);
        assert!(!machine.is_frozen());
    }

    #[test]
    fn a_session_keeps_it_awake() {
        let now = Instant::now();
        let mut machine = Machine::new(true, now);
        assert_eq!(machine.hold(now), Next::Thaw);
        assert_eq!(machine.hold(now), Next::Stay);
        assert_eq!(machine.due(AFTER, AFTER, now + AFTER), None);
        assert!(!machine.begin_freeze());
        machine.release(now);
        assert!(!machine.begin_freeze());
        machine.release(now);
        assert!(machine.begin_freeze());
        assert_eq!(machine.not_frozen(now), Next::Thaw);
    }
}
