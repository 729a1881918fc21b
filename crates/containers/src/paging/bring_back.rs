//! Maps the pages of a working set into their processes again, before these
//! run. It pays twice: all processors take part, and the threads go before
//! everything of ordinary priority, while faults of the app would wait for
//! their turn one by one. Reading is enough for it and changes nothing.

use std::num::NonZero;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use super::Range;
use super::syscalls::{MAX_RANGES, Scheduling, each_part, go_first, read_memory};
use super::working_set::{Identity, WorkingSet};

/// Bytes read at a time by one thread.
const PIECE: u64 = 128 << 10;

/// Threads at most: more wait for each other's page table locks.
const MAX_THREADS: usize = 4;

/// Below this many bytes a second thread costs more than it saves.
const MIN_BYTES_OF_THREAD: u64 = 256 << 10;

/// Brings `set` back and returns how many bytes were there to be mapped.
/// Blocking: about 2 ms per MB with two processors. Of processes that ended or
/// run another program now, and of memory that is not there any more, nothing
/// is touched.
pub(crate) fn bring_back(set: &WorkingSet) -> u64 {
    let pieces = pieces(set);
    let bytes: u64 = pieces.iter().map(|piece| piece.bytes).sum();
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let useful = usize::try_from(bytes / MIN_BYTES_OF_THREAD).unwrap_or(MAX_THREADS);
    let threads = processors.min(MAX_THREADS).min(useful).max(1);
    let (next, total) = (AtomicUsize::new(0), AtomicU64::new(0));
    let work = || {
        let mut buffer = vec![0_u8; PIECE as usize];
        while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            // Of a process that was killed since there is nothing to read.
            let read = each_part(&piece.ranges, |ranges| read_memory(piece.pid, ranges, &mut buffer)).unwrap_or(0);
            total.fetch_add(read, Ordering::Relaxed);
        }
    };
    // Threads inherit the place that their maker has.
    let turn = Turn::take();
    std::thread::scope(|scope| {
        for _ in 1..threads {
            let spawned = std::thread::Builder::new().name("bring-back".to_owned()).spawn_scoped(scope, work);
            if let Err(error) = spawned {
                tracing::debug!(err = %error, "a thread less brings pages back");
            }
        }
        work();
    });
    drop(turn);
    total.into_inner()
}

/// When the next may go before the rest; locked while one does.
static NEXT_TURN: Mutex<Option<Instant>> = Mutex::new(None);

/// The right to go before everything else. One at a time has it, and half of
/// the time nobody: when all sleepers wake at once, what wakes them must get
/// on as well. Without it pages are brought back at the caller's own priority.
struct Turn {
    before: Scheduling,
    begun: Instant,
    next: MutexGuard<'static, Option<Instant>>,
}

impl Turn {
    /// `None` when it is not one's turn, or not allowed on this machine.
    fn take() -> Option<Self> {
        let next = NEXT_TURN.try_lock().ok()?;
        let begun = Instant::now();
        if next.is_some_and(|next| next > begun) {
            return None;
        }
        Some(Self { before: go_first()?, begun, next })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.before.restore();
        *self.next = Some(Instant::now() + self.begun.elapsed());
    }
}

/// What one thread reads at a time, [`PIECE`] bytes at most.
#[derive(Default)]
struct Piece {
    pid: i32,
    ranges: Vec<Range>,
    bytes: u64,
}

fn pieces(set: &WorkingSet) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for process in &set.processes {
        let Ok(pid) = i32::try_from(process.pid) else { continue };
        if Identity::of(process.pid) != Some(process.identity) {
            continue;
        }
        let mut piece = Piece { pid, ..Piece::default() };
        for range in &process.ranges {
            let mut start = range.start;
            while start < range.end {
                let end = range.end.min(start + PIECE - piece.bytes);
                piece.ranges.push(start..end);
                piece.bytes += end - start;
                start = end;
                if piece.bytes == PIECE || piece.ranges.len() == MAX_RANGES {
                    pieces.push(std::mem::replace(&mut piece, Piece { pid, ..Piece::default() }));
                }
            }
        }
        pieces.extend(Some(piece).filter(|piece| piece.bytes > 0));
    }
    pieces
}
