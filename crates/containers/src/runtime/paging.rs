//! What paging a sandbox out and in reports. Not how it is done.

/// What [`super::Runtime::page_out`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PagedOut {
    /// Processes of the sandbox.
    pub processes: u32,
    /// Their memory in RAM before, bytes; a page of several processes counts
    /// in equal parts.
    pub resident_before_bytes: u64,
    /// And after. What is left is mostly program text, which the kernel drops
    /// by itself, and pages that processes share after a fork.
    pub resident_after_bytes: u64,
    /// Bytes of pages that the kernel was asked to page out.
    pub pushed_bytes: u64,
    /// Their memory in swap now, bytes.
    pub swapped_bytes: u64,
    /// Bytes by which the runtime's own swap in memory grew meanwhile; `None`
    /// when swap is the machine's. What was freed is `resident_before_bytes`
    /// minus `resident_after_bytes` minus this.
    pub held_in_bytes: Option<u64>,
    /// How it ended.
    pub end: PageOutEnd,
}

impl PagedOut {
    /// Nothing was done.
    pub(crate) fn nothing(end: PageOutEnd) -> Self {
        Self {
            processes: 0,
            resident_before_bytes: 0,
            resident_after_bytes: 0,
            pushed_bytes: 0,
            swapped_bytes: 0,
            held_in_bytes: None,
            end,
        }
    }
}

/// How [`super::Runtime::page_out`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageOutEnd {
    /// All that can be paged out was.
    Complete,
    /// The sandbox was woken; some of it may be paged out.
    Woken,
    /// Swap is full, or was before; some of it may be paged out.
    SwapFull,
}

/// What [`super::Runtime::record_working_set`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkingSetSize {
    /// Bytes that a wake will bring back first; 0 when none are kept.
    pub bytes: u64,
    /// Runs of pages that they are in.
    pub ranges: usize,
}
