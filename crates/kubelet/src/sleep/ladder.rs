//! Which rung comes next: decided from the rules, from what this app's wakes
//! took, and from a clock value. Nothing is frozen or woken here.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use api::elastic::Rung;

use super::rules::Rules;

/// A sleeper goes to the next deeper rung after this many idle times on the one
/// above: going deeper costs CPU that a wake soon after would waste, so it must
/// have been asleep for a multiple of what was taken for idle.
const DEEPER_AFTER_IDLE_TIMES: u32 = 4;
/// Wakes remembered for each rung.
const REMEMBERED: usize = 128;
/// Of the remembered wakes, so many may miss the objective: 1 of 100.
const MISSES_ALLOWED: usize = REMEMBERED / 100;
/// How long a rung that missed the objective is left out; doubled each time it
/// misses again, up to the limit. Then the next real wake tries it.
const FIRST_BAR: Duration = Duration::from_secs(10 * 60);
const LAST_BAR: Duration = Duration::from_secs(24 * 60 * 60);

/// Paging out must free this part of what was resident, one in so many.
const LEAST_FREED_PART: u64 = 4;

/// Rungs of a pod that is there, by depth. Being gone is the workload's.
const OWN_RUNGS: [Rung; 2] = [Rung::Frozen, Rung::PagedOut];

/// What is known of one app's wakes.
#[derive(Default, Debug)]
pub(crate) struct Learned {
    frozen: Record,
    paged_out: Record,
}

#[derive(Default, Debug)]
struct Record {
    recent: VecDeque<Duration>,
    barred_until: Option<Instant>,
    bars: u32,
}

impl Learned {
    fn record(&self, rung: Rung) -> Option<&Record> {
        match rung {
            Rung::Frozen => Some(&self.frozen),
            Rung::PagedOut => Some(&self.paged_out),
            Rung::Hot | Rung::Cool | Rung::Gone => None,
        }
    }

    /// A wake from `rung` took so long. True: the rung misses the objective and
    /// is left out for a while.
    pub(crate) fn woke(&mut self, rung: Rung, took: Duration, objective: Option<Duration>, now: Instant) -> bool {
        let record = match rung {
            Rung::Frozen => &mut self.frozen,
            Rung::PagedOut => &mut self.paged_out,
            Rung::Hot | Rung::Cool | Rung::Gone => return false,
        };
        if record.recent.len() == REMEMBERED {
            record.recent.pop_front();
        }
        record.recent.push_back(took);
        let Some(objective) = objective else { return false };
        let misses = record.recent.iter().filter(|took| **took > objective).count();
        if misses <= MISSES_ALLOWED {
            return false;
        }
        let bar = FIRST_BAR.saturating_mul(1 << record.bars.min(16)).min(LAST_BAR);
        record.bars += 1;
        record.barred_until = Some(now + bar);
        // What it takes by then is what counts then.
        record.recent.clear();
        true
    }

    /// Paging out freed so many of the bytes that were resident. Where that is
    /// little (what the app holds does not compress) it is not done again soon.
    pub(crate) fn paged_out(&mut self, freed: u64, resident: u64, now: Instant) {
        if freed < resident / LEAST_FREED_PART {
            self.paged_out.barred_until = Some(now + LAST_BAR);
        }
    }

    fn allows(&self, rung: Rung, now: Instant) -> bool {
        let barred = self.record(rung).and_then(|record| record.barred_until);
        barred.is_none_or(|until| now >= until)
    }

    /// When a rung that is left out may be tried again.
    fn next_end_of_bar(&self, now: Instant) -> Option<Instant> {
        [&self.frozen, &self.paged_out].into_iter().filter_map(|r| r.barred_until).filter(|at| *at > now).min()
    }
}

/// A step down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Step {
    /// To this rung.
    pub(crate) to: Rung,
    /// After so long without activity (from hot) or on the present rung.
    pub(crate) after: Duration,
}

/// The next step down from `rung`, if there is one. A rung is used only if those
/// above it are: it is never faster than they.
pub(crate) fn down(rung: Rung, rules: &Rules, learned: &Learned, paging: bool, now: Instant) -> Option<Step> {
    let to = OWN_RUNGS.into_iter().find(|to| *to > rung)?;
    let offered = to != Rung::PagedOut || paging;
    if to > rules.lowest || !offered || !OWN_RUNGS.iter().all(|r| *r > to || learned.allows(*r, now)) {
        return None;
    }
    let after = match to {
        Rung::Frozen => rules.after,
        _ => rules.after.saturating_mul(DEEPER_AFTER_IDLE_TIMES),
    };
    Some(Step { to, after })
}

/// When `down` may say something else though nothing happens.
pub(crate) fn look_again(learned: &Learned, now: Instant) -> Option<Instant> {
    learned.next_end_of_bar(now)
}

/// What a pod did over a time in which no packet came.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Work {
    /// CPU time used, nanoseconds.
    pub(crate) cpu_ns: u64,
    /// Over so long.
    pub(crate) over: Duration,
    /// TCP connections with others that are open now.
    pub(crate) connections: usize,
}

/// Why a pod without packets is busy all the same; `None` if it is idle.
pub(crate) fn busy(work: Work, rules: &Rules) -> Option<&'static str> {
    use api::elastic::IdleConnections;
    if work.connections > 0 && rules.idle_connections == IdleConnections::KeepAwake {
        return Some("a connection is open");
    }
    let floor = u128::from(rules.cpu_floor_milli) * work.over.as_nanos() / 1000;
    (u128::from(work.cpu_ns) > floor).then_some("it uses CPU")
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::elastic::IdleConnections;

    fn rules(lowest: Rung, objective_ms: Option<u64>) -> Rules {
        Rules {
            policy: Some("p".into()),
            after: Duration::from_secs(10),
            lowest,
            objective: objective_ms.map(Duration::from_millis),
            warm: Vec::new(),
            idle_connections: IdleConnections::KeepAwake,
            cpu_floor_milli: 50,
        }
    }

    #[test]
    fn a_pod_goes_down_rung_by_rung_to_the_lowest_allowed_and_offered() {
        let (now, learned) = (Instant::now(), Learned::default());
        let to = |rung, lowest, paging| {
            down(rung, &rules(lowest, None), &learned, paging, now).map(|s| (s.to, s.after.as_secs()))
        };
        assert_eq!(to(Rung::Hot, Rung::PagedOut, true), Some((Rung::Frozen, 10)));
        assert_eq!(to(Rung::Frozen, Rung::PagedOut, true), Some((Rung::PagedOut, 40)));
        assert_eq!(to(Rung::Frozen, Rung::Gone, true), Some((Rung::PagedOut, 40)));
        assert_eq!(to(Rung::Frozen, Rung::PagedOut, false), None);
        assert_eq!(to(Rung::Frozen, Rung::Frozen, true), None);
        assert_eq!(to(Rung::PagedOut, Rung::Gone, true), None);
    }

    #[test]
    fn a_rung_that_misses_the_objective_is_left_out_and_tried_again_later() {
        let now = Instant::now();
        let (mut learned, rules) = (Learned::default(), rules(Rung::PagedOut, Some(20)));
        let (fast, slow) = (Duration::from_millis(5), Duration::from_millis(60));
        assert!(!learned.woke(Rung::PagedOut, slow, rules.objective, now), "one of a hundred may");
        assert!(!learned.woke(Rung::PagedOut, fast, rules.objective, now));
        assert!(learned.woke(Rung::PagedOut, slow, rules.objective, now));
        assert_eq!(down(Rung::Frozen, &rules, &learned, true, now), None);
        assert!(down(Rung::Hot, &rules, &learned, true, now).is_some(), "the rung above is still good");
        let later = look_again(&learned, now).expect("an end");
        assert!(down(Rung::Frozen, &rules, &learned, true, later).is_some());
        learned.woke(Rung::PagedOut, slow, rules.objective, later);
        assert!(learned.woke(Rung::PagedOut, slow, rules.objective, later));
        assert_eq!(look_again(&learned, later), Some(later + FIRST_BAR * 2));
    }

    #[test]
    fn an_app_whose_memory_does_not_compress_keeps_it() {
        let now = Instant::now();
        let (mut learned, rules) = (Learned::default(), rules(Rung::PagedOut, None));
        learned.paged_out(60 << 20, 100 << 20, now);
        assert!(down(Rung::Frozen, &rules, &learned, true, now).is_some());
        learned.paged_out(5 << 20, 100 << 20, now);
        assert_eq!(down(Rung::Frozen, &rules, &learned, true, now), None);
        assert!(down(Rung::Hot, &rules, &learned, true, now).is_some());
    }

    #[test]
    fn what_is_below_a_rung_that_misses_is_left_out_too() {
        let now = Instant::now();
        let (mut learned, rules) = (Learned::default(), rules(Rung::PagedOut, Some(1)));
        for _wake in 0..=MISSES_ALLOWED {
            learned.woke(Rung::Frozen, Duration::from_millis(2), rules.objective, now);
        }
        assert_eq!(down(Rung::Hot, &rules, &learned, true, now), None);
        assert_eq!(down(Rung::Frozen, &rules, &learned, true, now), None);
    }

    #[test]
    fn cpu_and_open_connections_keep_awake_where_the_rules_say_so() {
        let over = Duration::from_secs(10);
        let mut rules = rules(Rung::Frozen, None);
        // 50 thousandths of a core over 10 s are 500 ms.
        assert_eq!(busy(Work { cpu_ns: 500_000_000, over, connections: 0 }, &rules), None);
        assert_eq!(busy(Work { cpu_ns: 500_000_001, over, connections: 0 }, &rules), Some("it uses CPU"));
        let open = Work { cpu_ns: 0, over, connections: 1 };
        assert_eq!(busy(open, &rules), Some("a connection is open"));
        rules.idle_connections = IdleConnections::Ignore;
        assert_eq!(busy(open, &rules), None);
    }
}
