//! What one autoscaler recommended and did lately, in bounded memory. It is
//! lost with the process, as upstream's is: the first recommendation after a
//! start is the size that is found. What follows from it is `normalize`'s.
//!
//! Times are of a steady clock, so that a clock that is set moves no window.

use std::collections::VecDeque;
use std::time::Duration;

/// Recommendations kept for each direction. Past it the two oldest become one,
/// so that a window holds a little longer, never shorter.
const RECOMMENDATIONS_LIMIT: usize = 256;
/// Changes kept for each direction; past it the two oldest become one.
const CHANGES_LIMIT: usize = 256;
/// Longest stabilisation window and longest period of a policy that the API
/// allows; what is older says nothing.
const LONGEST_WINDOW: Duration = Duration::from_secs(3600);

/// Whether what happened exactly at a window's beginning is in it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Edge {
    /// It is.
    Inside,
    /// It is not.
    Outside,
}

/// A span that ends now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// Its end.
    pub(crate) now: Duration,
    /// How far it reaches back.
    pub(crate) length: Duration,
    /// What its beginning belongs to.
    pub(crate) edge: Edge,
}

impl Span {
    fn holds(&self, at: Duration) -> bool {
        let age = self.now.saturating_sub(at);
        match self.edge {
            Edge::Inside => age <= self.length,
            Edge::Outside => age < self.length,
        }
    }
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct History {
    started: bool,
    /// Values fall and times rise from front to back: each was the greatest
    /// since its time. So the greatest of any span is its first.
    high: VecDeque<(i32, Duration)>,
    /// Values rise: each was the least since its time.
    low: VecDeque<(i32, Duration)>,
    up: Changes,
    down: Changes,
}

/// Replicas added or removed, and when.
#[derive(Clone, Debug, Default, PartialEq)]
struct Changes(VecDeque<(i32, Duration)>);

impl History {
    /// The size found at the first look counts as recommended then.
    pub(crate) fn start(&mut self, replicas: i32, now: Duration) {
        if !self.started {
            self.recommend(replicas, now);
        }
    }

    /// Notes what was recommended.
    pub(crate) fn recommend(&mut self, replicas: i32, now: Duration) {
        self.started = true;
        push(&mut self.high, replicas, now, |kept, new| kept <= new);
        push(&mut self.low, replicas, now, |kept, new| kept >= new);
    }

    /// Notes that the number was changed.
    pub(crate) fn rescaled(&mut self, from: i32, to: i32, now: Duration) {
        if to > from {
            self.up.push(to.saturating_sub(from), now);
        } else {
            self.down.push(from.saturating_sub(to), now);
        }
    }

    /// The greatest recommendation of a span.
    pub(crate) fn highest(&self, span: Span) -> Option<i32> {
        first(&self.high, span)
    }

    /// The least recommendation of a span.
    pub(crate) fn lowest(&self, span: Span) -> Option<i32> {
        first(&self.low, span)
    }

    /// Replicas added in a span.
    pub(crate) fn added(&self, span: Span) -> i64 {
        self.up.sum(span)
    }

    /// Replicas removed in a span.
    pub(crate) fn removed(&self, span: Span) -> i64 {
        self.down.sum(span)
    }
}

fn first(queue: &VecDeque<(i32, Duration)>, span: Span) -> Option<i32> {
    queue.iter().find(|(_, at)| span.holds(*at)).map(|(value, _)| *value)
}

/// Appends, and drops those that the new one takes the place of for every
/// span that ends now or later.
fn push(queue: &mut VecDeque<(i32, Duration)>, value: i32, now: Duration, replaced: fn(i32, i32) -> bool) {
    while queue.back().is_some_and(|(kept, _)| replaced(*kept, value)) {
        queue.pop_back();
    }
    queue.push_back((value, now));
    while queue.front().is_some_and(|(_, at)| now.saturating_sub(*at) > LONGEST_WINDOW) {
        queue.pop_front();
    }
    if queue.len() > RECOMMENDATIONS_LIMIT
        && let (Some((oldest, _)), Some(next)) = (queue.pop_front(), queue.front_mut())
    {
        next.0 = oldest;
    }
}

impl Changes {
    fn push(&mut self, replicas: i32, now: Duration) {
        self.0.push_back((replicas, now));
        while self.0.front().is_some_and(|(_, at)| now.saturating_sub(*at) > LONGEST_WINDOW) {
            self.0.pop_front();
        }
        if self.0.len() > CHANGES_LIMIT
            && let (Some((oldest, _)), Some(next)) = (self.0.pop_front(), self.0.front_mut())
        {
            next.0 = next.0.saturating_add(oldest);
        }
    }

    fn sum(&self, span: Span) -> i64 {
        self.0.iter().filter(|(_, at)| span.holds(*at)).map(|(replicas, _)| i64::from(*replicas)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(now: u64, length: u64, edge: Edge) -> Span {
        Span { now: Duration::from_secs(now), length: Duration::from_secs(length), edge }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_greatest_and_the_least_of_any_span_are_those_of_all_that_was_recommended_in_it() {
        // Numbers that jump about, the same each run.
        let values: Vec<i32> = (0..400_u64).map(|step| (step * step * 7919 % 101) as i32).collect();
        let mut history = History::default();
        for (second, value) in values.iter().enumerate() {
            history.recommend(*value, at(second as u64));
            for length in [0, 1, 5, 60, 300] {
                for edge in [Edge::Inside, Edge::Outside] {
                    let span = span(second as u64, length, edge);
                    let inside = || (0..=second).filter(|then| span.holds(at(*then as u64))).map(|then| values[then]);
                    assert_eq!(history.highest(span), inside().max(), "{second} {length} {edge:?}");
                    assert_eq!(history.lowest(span), inside().min(), "{second} {length} {edge:?}");
                }
            }
        }
    }

    #[test]
    fn a_fall_of_any_length_is_kept_in_bounded_memory_and_holds_no_shorter() {
        let mut history = History::default();
        for step in 0..2000 {
            history.recommend(2000 - step, at(step as u64));
        }
        assert_eq!(history.high.len(), RECOMMENDATIONS_LIMIT);
        assert_eq!(history.low.len(), 1);
        assert_eq!(history.highest(span(1999, 3600, Edge::Outside)), Some(2000));
        assert_eq!(history.highest(span(1999, 10, Edge::Outside)), Some(10));
        assert_eq!(history.highest(span(1999 + 3600, 3600, Edge::Outside)), None);
    }

    #[test]
    fn the_first_size_counts_once() {
        let mut history = History::default();
        history.start(5, at(0));
        history.start(7, at(1));
        assert_eq!(history.highest(span(1, 10, Edge::Outside)), Some(5));
    }

    #[test]
    fn changes_are_summed_over_a_span_and_bounded() {
        let mut history = History::default();
        history.rescaled(1, 5, at(0));
        history.rescaled(5, 6, at(10));
        history.rescaled(6, 2, at(12));
        assert_eq!(history.added(span(14, 15, Edge::Outside)), 5);
        assert_eq!(history.added(span(15, 15, Edge::Outside)), 1);
        assert_eq!(history.removed(span(15, 15, Edge::Outside)), 4);
        for second in 0..1000 {
            history.rescaled(0, 1, at(20 + second));
        }
        assert_eq!(history.up.0.len(), CHANGES_LIMIT);
        assert_eq!(history.added(span(1020, 3600, Edge::Outside)), 1005);
    }
}
