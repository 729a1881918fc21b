//! Which pages of a process are in RAM, from `/proc/PID/pagemap`. It changes
//! nothing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::Range;
use super::areas::Area;
use super::syscalls::page_size;

/// Entries read at a time: 64 KiB of entries are 32 MiB of a process.
const ENTRIES: usize = 8192;

/// Of one mapping not more than this is looked at, bytes. Larger ones are
/// reservations of a runtime, used from their beginning.
const MAX_AREA: u64 = 64 << 30;

/// Bits of an entry, `Documentation/admin-guide/mm/pagemap.rst`.
const PRESENT: u64 = 1 << 63;
const EXCLUSIVE: u64 = 1 << 56;

/// Pages of one process that are in RAM.
pub(super) struct Pagemap {
    file: File,
    entries: Vec<u8>,
}

/// What a page must be to be found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Which {
    /// In RAM.
    Present,
    /// In RAM, and mapped by no other process: the kernel pages nothing else
    /// out when it is asked for one process.
    PresentAlone,
}

impl Pagemap {
    pub(super) fn open(pid: u32) -> io::Result<Self> {
        let file = File::open(format!("/proc/{pid}/pagemap"))?;
        Ok(Self { file, entries: vec![0; ENTRIES * 8] })
    }

    /// Calls `found` with each run of such pages in `area`, cut where huge
    /// pages begin, in the order of addresses, until it returns false.
    /// Returns whether it never did.
    pub(super) fn each(&mut self, area: &Area, which: Which, mut found: impl FnMut(Range) -> bool) -> io::Result<bool> {
        let page = page_size() as u64;
        let wanted = match which {
            Which::Present => PRESENT,
            Which::PresentAlone => PRESENT | EXCLUSIVE,
        };
        let end = area.range.end.min(area.range.start.saturating_add(MAX_AREA));
        let mut run: Option<Range> = None;
        let mut position = area.range.start;
        while position < end {
            let count = ((end - position) / page).min(ENTRIES as u64) as usize;
            if count == 0 {
                break;
            }
            let read = self.file.read_at(&mut self.entries[..count * 8], position / page * 8)?;
            if read < 8 {
                break;
            }
            for entry in self.entries[..read].chunks_exact(8) {
                let entry = u64::from_ne_bytes(entry.try_into().expect("eight bytes each"));
                let next = position + page;
                let matches = entry & wanted == wanted;
                match &mut run {
                    Some(open) if matches && !position.is_multiple_of(super::HUGE_PAGE) => open.end = next,
                    _ => {
                        if let Some(done) = run.take()
                            && !found(done)
                        {
                            return Ok(false);
                        }
                        run = matches.then_some(position..next);
                    }
                }
                position = next;
            }
        }
        Ok(run.is_none_or(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_were_touched_are_found_and_no_others() {
        let page = page_size();
        let memory = super::super::syscalls::tests::Mapping::new(64 * page);
        for index in [3, 4, 5, 40] {
            memory.touch(index * page);
        }
        let start = memory.address();
        let area = Area { range: start..start + 64 * page as u64, resident: 0 };
        let mut pagemap = Pagemap::open(std::process::id()).expect("pagemap");
        let mut pages = Vec::new();
        let whole = pagemap.each(&area, Which::PresentAlone, |range| {
            pages.extend(range.step_by(page).map(|address| (address - start) / page as u64));
            true
        });
        assert!(whole.expect("read"));
        assert_eq!(pages, [3, 4, 5, 40]);
        assert!(!pagemap.each(&area, Which::Present, |_| false).expect("read"));
    }
}
