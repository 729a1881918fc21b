//! Paging out of sandboxes: the offer, and what is known of each sandbox.
//! When to page out, and when a wake is worth it, is the caller's to decide.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use tokio::sync::Semaphore;

use super::sandboxes::Sandbox;
use super::{EmbeddedRuntime, Inner, blocking, io_error, lock};
use crate::paging::{self, Usage, WorkingSet};
use crate::runtime::RuntimeError;
use crate::runtime::paging::{PageOutEnd, PagedOut, WorkingSetSize};
use crate::swap::{NotOffered, Offered, Swap, SwapConfig};

/// Records our swap device in the state directory.
const STATE_FILE: &str = "swap.json";

/// A working set that grew to so many times what was first learned is
/// forgotten: what was brought back in vain looks like what was used, so only
/// a wake without it can tell.
const MAX_GROWTH: u64 = 2;

/// Growth by less than this many bytes is none.
const FREE_GROWTH: u64 = 1 << 20;

/// Sandboxes paged out at a time; others wait for their turn. More would not be
/// faster, and would take the processors from those who are awake.
const MAX_AT_ONCE: usize = 2;

/// Whether paging out is offered, and the turns at it.
pub(super) struct Offer {
    /// `None` until someone set it up or failed to.
    swap: Mutex<Option<Result<Arc<Swap>, String>>>,
    setting_up: tokio::sync::Mutex<()>,
    turns: Semaphore,
}

impl Default for Offer {
    fn default() -> Self {
        Self { swap: Mutex::default(), setting_up: tokio::sync::Mutex::default(), turns: Semaphore::new(MAX_AT_ONCE) }
    }
}

impl Offer {
    /// The swap, or the reason why there is none.
    pub(super) fn swap(&self) -> Result<Arc<Swap>, String> {
        let unset = || Err("paged out is not offered: it was not set up".to_owned());
        lock(&self.swap).clone().unwrap_or_else(unset)
    }

    pub(super) fn was_set_up(&self) -> bool {
        lock(&self.swap).is_some()
    }

    /// While it is held, nobody else sets it up for the first time.
    pub(super) async fn setting_up(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.setting_up.lock().await
    }
}

/// How much of a sandbox is paged out.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Depth {
    /// Nothing, or its working set was recorded since.
    None,
    /// Some.
    Part,
    /// All that can be.
    Whole,
}

/// What is known of one sandbox.
#[derive(Default)]
pub(super) struct Paging {
    /// Held while it is paged out or looked at.
    turn: Mutex<()>,
    /// Set by a wake: the paging out that runs ends.
    stopped: AtomicBool,
    /// A [`Depth`].
    depth: AtomicU8,
    learned: Mutex<Option<Arc<Learned>>>,
}

/// A working set, and what it was when it was first learned.
struct Learned {
    set: WorkingSet,
    first_bytes: u64,
}

impl Paging {
    /// Ends a paging out that runs, at its next step. Never waits.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// The right to page it out or to look at its pages; `None` while another
    /// has it.
    fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        match self.turn.try_lock() {
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(error)) => Some(error.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn set_depth(&self, depth: Depth) {
        self.depth.store(depth as u8, Ordering::Release);
    }

    fn is(&self, depth: Depth) -> bool {
        self.depth.load(Ordering::Acquire) == depth as u8
    }

    /// See [`crate::runtime::Runtime::bring_back`].
    pub(super) fn bring_back(&self) -> u64 {
        self.stop();
        if self.is(Depth::None) {
            return 0;
        }
        let learned = lock(&self.learned).clone();
        learned.map_or(0, |learned| paging::bring_back(&learned.set))
    }

    /// Keeps `set`, as far as it is worth it.
    fn learn(&self, set: Option<WorkingSet>) -> WorkingSetSize {
        let mut learned = lock(&self.learned);
        let (bytes, ranges) = set.as_ref().map_or((0, 0), |set| (set.bytes(), set.ranges()));
        let first_bytes = learned.as_ref().map_or(bytes, |before| before.first_bytes);
        let grown = bytes > (first_bytes * MAX_GROWTH).max(first_bytes + FREE_GROWTH);
        *learned = set.filter(|_| !grown).map(|set| Arc::new(Learned { set, first_bytes }));
        if learned.is_some() { WorkingSetSize { bytes, ranges } } else { WorkingSetSize::default() }
    }
}

impl EmbeddedRuntime {
    /// The configuration for [`EmbeddedRuntime::set_up_paging`] with its
    /// defaults; the state file is below the runtime's state directory.
    pub fn swap_config(&self) -> SwapConfig {
        SwapConfig::new(self.inner.state.join(STATE_FILE))
    }

    /// Finds or makes the swap that sandboxes are paged out to. Until then, and
    /// when it fails, paging out is not offered. To be called again it needs
    /// the same configuration; it finds what there is.
    pub async fn set_up_paging(&self, config: SwapConfig) -> Result<(), NotOffered> {
        let opened = tokio::task::spawn_blocking(move || Swap::open(&config)).await;
        let opened = opened.unwrap_or_else(|error| {
            Err(NotOffered::Io { step: "set swap up".to_owned(), source: std::io::Error::other(error) })
        });
        let (offer, result) = match opened {
            Ok(swap) => (Ok(Arc::new(swap)), Ok(())),
            Err(error) => (Err(reason(&error)), Err(error)),
        };
        *lock(&self.inner.paging.swap) = Some(offer);
        result
    }

    /// What there is to page out to, now.
    pub async fn swap(&self) -> Result<Offered, RuntimeError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || offered(&*inner.swap()?)).await
    }
}

/// With its cause, as one line.
fn reason(error: &NotOffered) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn wrong_state(sandbox: &Sandbox, state: &str, needed: &'static str) -> RuntimeError {
    RuntimeError::State { what: "sandbox", id: sandbox.id.clone(), state: state.to_owned(), needed }
}

fn not_offered(reason: &str) -> RuntimeError {
    let reason = reason.strip_prefix("paged out is not offered: ").unwrap_or(reason);
    RuntimeError::NotOffered { what: "paged out", reason: reason.to_owned() }
}

fn offered(swap: &Swap) -> Result<Offered, RuntimeError> {
    swap.offered().map_err(|error| not_offered(&reason(&error)))
}

impl Inner {
    fn swap(&self) -> Result<Arc<Swap>, RuntimeError> {
        self.paging.swap().map_err(|reason| not_offered(&reason))
    }

    /// Removes our device, if we made one.
    pub(super) fn remove_swap(&self) -> Result<(), RuntimeError> {
        *lock(&self.paging.swap) = None;
        crate::swap::remove(&self.state.join(STATE_FILE)).map_err(|error| {
            let source = std::io::Error::other(reason(&error));
            io_error("remove the swap device")(source)
        })
    }

    /// The processes of a sandbox. Its shim is not among them: it lives in a
    /// group of its own, is never frozen, and answers while the sandbox sleeps.
    fn processes_of(&self, sandbox: &Sandbox) -> Vec<u32> {
        self.cgroups.processes_below(&sandbox.cgroup())
    }

    /// See [`crate::runtime::Runtime::page_out`].
    pub(super) async fn page_out(self: &Arc<Self>, sandbox: Arc<Sandbox>) -> Result<PagedOut, RuntimeError> {
        let swap = self.swap()?;
        if !sandbox.stands_still() {
            return Err(wrong_state(&sandbox, "not frozen", "frozen"));
        }
        // Nobody closes it; and were it closed, the bound would be lost and no more.
        let _place = self.paging.turns.acquire().await.ok();
        let inner = Arc::clone(self);
        blocking(move || inner.page_out_now(&sandbox, &swap)).await
    }

    fn page_out_now(&self, sandbox: &Sandbox, swap: &Swap) -> Result<PagedOut, RuntimeError> {
        let Some(_turn) = sandbox.paging.turn() else {
            return Err(wrong_state(sandbox, "being paged out", "left alone"));
        };
        sandbox.paging.stopped.store(false, Ordering::Release);
        if !sandbox.stands_still() {
            // Woken while it waited.
            return Ok(PagedOut::nothing(PageOutEnd::Woken));
        }
        let before = offered(swap)?;
        let pids = self.processes_of(sandbox);
        let usage = Usage::sum(&pids);
        let groups: Vec<String> =
            self.containers_of(&sandbox.id).iter().map(|container| lock(&container.record).cgroup.clone()).collect();
        for group in &groups {
            self.cgroups.allow_swap(group).map_err(io_error("let the container into swap"))?;
        }
        let (mut woken, mut full) = (false, before.full);
        let mut go_on = || {
            woken = sandbox.paging.stopped.load(Ordering::Acquire) || !sandbox.wants_frozen();
            full = full || swap.offered().map_or(true, |offered| offered.full);
            if !woken && !full {
                sandbox.paging.set_depth(Depth::Part);
            }
            !woken && !full
        };
        let pushed = self.push(&pids, &groups, &mut go_on);
        for group in &groups {
            self.cgroups.forbid_swap(group).map_err(io_error("keep the container out of swap"))?;
        }
        let pushed = pushed?;
        if pushed.complete {
            sandbox.paging.set_depth(Depth::Whole);
        }
        let after = Usage::sum(&pids);
        let held = offered(swap)?.held_in_bytes.zip(before.held_in_bytes);
        Ok(PagedOut {
            processes: pushed.processes,
            resident_before_bytes: usage.resident,
            resident_after_bytes: after.resident,
            pushed_bytes: pushed.bytes,
            swapped_bytes: after.swapped,
            held_in_bytes: held.map(|(now, before)| now.saturating_sub(before)),
            end: match (pushed.complete, woken) {
                (true, _) => PageOutEnd::Complete,
                (false, true) => PageOutEnd::Woken,
                (false, false) => PageOutEnd::SwapFull,
            },
        })
    }

    /// First what each process has for itself, then what they share.
    fn push(
        &self,
        pids: &[u32],
        groups: &[String],
        go_on: &mut impl FnMut() -> bool,
    ) -> Result<paging::Pushed, RuntimeError> {
        let mut pushed = paging::push(pids, &mut *go_on).map_err(io_error("page a process out"))?;
        for group in groups.iter().filter(|_| pids.len() > 1) {
            if !pushed.complete {
                break;
            }
            let pids = self.cgroups.processes_below(group);
            let left = || Usage::sum(&pids).anonymous;
            pushed.complete = paging::reclaim(|| self.cgroups.reclaim_some(group), left, &mut *go_on)
                .map_err(io_error(format!("reclaim from cgroup {group}")))?;
        }
        Ok(pushed)
    }

    /// See [`crate::runtime::Runtime::record_working_set`].
    pub(super) fn record_working_set(&self, sandbox: &Sandbox) -> Result<WorkingSetSize, RuntimeError> {
        let Some(_turn) = sandbox.paging.turn() else { return Ok(WorkingSetSize::default()) };
        if !sandbox.paging.is(Depth::Whole) {
            sandbox.paging.set_depth(Depth::None);
            return Ok(WorkingSetSize::default());
        }
        let pids = self.processes_of(sandbox);
        let set = WorkingSet::read(&pids).map_err(io_error("read which pages a sandbox uses"))?;
        sandbox.paging.set_depth(Depth::None);
        Ok(sandbox.paging.learn(set))
    }
}
