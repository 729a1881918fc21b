//! Which pages an app used since it was paged out, kept so that they come back
//! first. In memory only: after a restart it is learned anew. When to learn is
//! decided elsewhere.

use std::io;

use super::areas;
use super::push::is_gone;
use super::resident::{Pagemap, Which};
use super::{Range, page_size};

/// Ranges kept of one set; 16 bytes each. Beyond, ranges with the smallest
/// gaps between them become one.
pub(super) const MAX_RANGES: usize = 4096;

/// A set larger than this is not kept, bytes: to wait for all of it would cost
/// an app more than to fault in what it needs.
const MAX_BYTES: u64 = 32 << 20;

/// Gaps of up to so many pages are closed, in this order, until the bound on
/// ranges holds.
const GAPS: [u64; 5] = [1, 3, 7, 15, 31];

/// Pages of the processes of one sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WorkingSet {
    pub(super) processes: Vec<Process>,
}

/// Pages of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) identity: Identity,
    pub(super) ranges: Vec<Range>,
}

/// Tells a process and the program in it from a later one of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// Clock ticks since boot.
    started: u64,
    /// Address of the stack's bottom; chosen at random at exec.
    stack: u64,
}

impl Identity {
    /// Of the process that has the number now.
    pub(super) fn of(pid: u32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(stat: &str) -> Option<Self> {
        // The name may hold anything, also blanks and parentheses; fields are
        // counted from the third on (proc_pid_stat(5)).
        let mut fields = stat.get(stat.rfind(')')? + 2..)?.split(' ');
        let started = fields.nth(22 - 3)?.parse().ok()?;
        let stack = fields.nth(28 - 23)?.parse().ok()?;
        Some(Self { started, stack })
    }
}

impl WorkingSet {
    /// What of the processes is in RAM now; `None` when that is too much to be
    /// worth keeping.
    pub(crate) fn read(pids: &[u32]) -> io::Result<Option<Self>> {
        let mut set = Self::default();
        let mut bytes = 0;
        for pid in pids {
            match read_one(*pid, &mut bytes) {
                Ok(Some(process)) => set.processes.push(process),
                Ok(None) => return Ok(None),
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        set.bound();
        Ok(Some(set))
    }

    /// Bytes that it names.
    pub(crate) fn bytes(&self) -> u64 {
        let ranges = self.processes.iter().flat_map(|process| &process.ranges);
        ranges.map(|range| range.end - range.start).sum()
    }

    /// Ranges that it is kept in.
    pub(crate) fn ranges(&self) -> usize {
        self.processes.iter().map(|process| process.ranges.len()).sum()
    }

    fn bound(&mut self) {
        for gap in GAPS {
            if self.ranges() <= MAX_RANGES {
                break;
            }
            for process in &mut self.processes {
                close_gaps(&mut process.ranges, gap * page_size() as u64);
            }
        }
        let mut left = MAX_RANGES;
        for process in &mut self.processes {
            process.ranges.truncate(left);
            process.ranges.shrink_to_fit();
            left -= process.ranges.len();
        }
    }
}

fn read_one(pid: u32, bytes: &mut u64) -> io::Result<Option<Process>> {
    let gone = || io::Error::from_raw_os_error(libc::ESRCH);
    let identity = Identity::of(pid).ok_or_else(gone)?;
    let mut pagemap = Pagemap::open(pid)?;
    let mut ranges: Vec<Range> = Vec::new();
    for area in areas::read(pid)? {
        let small = pagemap.each(&area, Which::Present, |range| {
            *bytes += range.end - range.start;
            match ranges.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => ranges.push(range),
            }
            *bytes <= MAX_BYTES
        })?;
        if !small {
            return Ok(None);
        }
    }
    Ok(Some(Process { pid, identity, ranges }))
}

fn close_gaps(ranges: &mut Vec<Range>, gap: u64) {
    ranges.dedup_by(|next, before| {
        let close = next.start - before.end <= gap;
        if close {
            before.end = next.end;
        }
        close
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scattered_set_is_kept_in_a_bounded_number_of_ranges() {
        let page = page_size() as u64;
        let ranges = (0..6000).map(|index| index * 3 * page..(index * 3 + 1) * page).collect();
        let identity = Identity { started: 1, stack: 2 };
        let mut set = WorkingSet { processes: vec![Process { pid: 1, identity, ranges }] };
        set.bound();
        assert_eq!((set.ranges(), set.bytes()), (1, (5999 * 3 + 1) * page), "gaps of two pages are closed");
        let far = (0..6000).map(|index| index * 100 * page..(index * 100 + 1) * page).collect();
        set.processes[0].ranges = far;
        set.bound();
        assert_eq!(set.ranges(), MAX_RANGES);
    }

    #[test]
    fn a_process_is_known_by_its_start_and_its_stack() {
        let fields: Vec<String> = (3..=40).map(|number| number.to_string()).collect();
        let stat = format!("17 (a) b (c) {}\n", fields.join(" "));
        assert_eq!(Identity::parse(&stat), Some(Identity { started: 22, stack: 28 }));
        assert_eq!(Identity::parse("17"), None);
        let own = Identity::of(std::process::id()).expect("own");
        assert!(own.started > 0 && own.stack > 0);
    }
}
