//! Ranges of users for pods with a user namespace of their own. Which user a
//! container runs as is decided elsewhere.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use containers::runtime::IdRange;

/// Users and groups of one pod: as many as names take 16 bits (upstream's
/// `userNsLength`).
const COUNT: u32 = 65_536;
/// Most pods with a range at one time (upstream's minimum of a node).
const MAX_RANGES: u32 = 1024;

/// Which ranges are in use. The first range, the machine's own, never is.
#[derive(Default)]
pub(crate) struct UserRanges {
    taken: Mutex<BTreeSet<u32>>,
}

impl UserRanges {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<u32>> {
        // Nothing panics while it is held.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A range that nobody has; `None` if there is none left.
    pub(crate) fn take(&self) -> Option<IdRange> {
        let mut taken = self.lock();
        let number = (1..=MAX_RANGES).find(|number| !taken.contains(number))?;
        taken.insert(number);
        Some(IdRange { first: number * COUNT, count: COUNT })
    }

    /// Notes a range that a sandbox of a former run has.
    pub(crate) fn adopt(&self, range: IdRange) {
        self.lock().insert(range.first / COUNT);
    }

    /// Nothing runs with this range any more.
    pub(crate) fn give_back(&self, range: IdRange) {
        self.lock().remove(&(range.first / COUNT));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_do_not_overlap_and_come_back() {
        let ranges = UserRanges::default();
        ranges.adopt(IdRange { first: 2 * COUNT, count: COUNT });
        let first = ranges.take().expect("a range");
        assert_eq!((first.first, first.count), (65_536, 65_536));
        assert_eq!(ranges.take().expect("a range").first, 3 * COUNT);
        ranges.give_back(first);
        assert_eq!(ranges.take(), Some(first));
        assert_eq!((4..=MAX_RANGES).filter(|_| ranges.take().is_some()).count(), MAX_RANGES as usize - 3);
        assert_eq!(ranges.take(), None);
    }
}
