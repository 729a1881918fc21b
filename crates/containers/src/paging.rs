//! Moves the memory of stopped processes to swap and back, from outside of
//! them. Which processes, and when, is decided elsewhere; so is where swap
//! comes from.

mod areas;
mod bring_back;
mod push;
mod reclaim;
mod resident;
mod syscalls;
mod working_set;

pub(crate) use self::bring_back::bring_back;
pub(crate) use self::push::{Pushed, push};
pub(crate) use self::reclaim::reclaim;
pub(crate) use self::syscalls::page_size;
pub(crate) use self::working_set::WorkingSet;

/// The largest page that the kernel makes by itself, bytes, on the usual
/// machines. Work is cut where these begin, so that none is split for it.
pub(crate) const HUGE_PAGE: u64 = 2 << 20;

/// Memory of a process, page-aligned: start and end, end exclusive.
type Range = std::ops::Range<u64>;

/// Memory in RAM of one process and what of it is in swap, bytes. A page of
/// several processes counts in equal parts (PSS).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) resident: u64,
    /// Of it what no file holds.
    pub(crate) anonymous: u64,
    pub(crate) swapped: u64,
}

impl Usage {
    /// Of a process; `None` once it is gone.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.strip_suffix("kB"));
            line.and_then(|kib| kib.trim().parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
        };
        let anonymous = field("Pss_Anon") + field("Pss_Shmem");
        Some(Self { resident: field("Pss"), anonymous, swapped: field("SwapPss") })
    }

    /// Of several.
    pub(crate) fn sum(pids: &[u32]) -> Self {
        pids.iter().filter_map(|pid| Self::of(*pid)).fold(Self::default(), |sum, usage| Self {
            resident: sum.resident + usage.resident,
            anonymous: sum.anonymous + usage.anonymous,
            swapped: sum.swapped + usage.swapped,
        })
    }
}
