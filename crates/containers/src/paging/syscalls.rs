//! The calls that act on another process's memory. No policy.
#![expect(unsafe_code, reason = "raw system calls; each block says what makes it sound")]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use super::Range;

/// Most ranges of one call; the kernel's own limit (UIO_MAXIOV) is 1024.
pub(super) const MAX_RANGES: usize = 512;

/// Bytes of a page of this machine.
pub(crate) fn page_size() -> usize {
    // SAFETY: sysconf has no preconditions.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}

fn vector(range: &Range) -> libc::iovec {
    libc::iovec { iov_base: range.start as *mut libc::c_void, iov_len: (range.end - range.start) as usize }
}

fn check(result: isize) -> io::Result<u64> {
    u64::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Asks the kernel to page `ranges` (at most [`MAX_RANGES`]) of a process out.
/// Returns how many bytes it went through; less than all when a range is not
/// what it should be. Needs CAP_SYS_NICE and the right to trace the process.
pub(super) fn page_out(process: BorrowedFd<'_>, ranges: &[Range]) -> io::Result<u64> {
    let vectors: Vec<libc::iovec> = ranges.iter().take(MAX_RANGES).map(vector).collect();
    // SAFETY: pointer and length describe `vectors`. The addresses in it are
    // of the other process, and the advice changes no content.
    check(unsafe {
        libc::syscall(
            libc::SYS_process_madvise,
            process.as_raw_fd(),
            vectors.as_ptr(),
            vectors.len(),
            libc::MADV_PAGEOUT,
            0,
        )
    } as isize)
}

/// Copies `ranges` (at most [`MAX_RANGES`]) of a process into `buffer`, one
/// after the other, and by that maps their pages into the process. Returns how
/// many bytes could be read; less than all when memory is not there. Needs the
/// right to trace the process.
pub(super) fn read_memory(pid: i32, ranges: &[Range], buffer: &mut [u8]) -> io::Result<u64> {
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let remote: Vec<libc::iovec> = ranges.iter().take(MAX_RANGES).map(vector).collect();
    // SAFETY: the kernel writes at most `buffer.len()` bytes to `buffer`; the
    // other vectors name memory of the other process, which is only read.
    check(unsafe {
        libc::process_vm_readv(pid, &raw const local, 1, remote.as_ptr(), remote.len() as libc::c_ulong, 0)
    })
}

/// Goes through `ranges` with a call that takes many and may stop early, as
/// both of the above do: past what was done, and past the range at which it
/// stopped. Returns the bytes done in all.
pub(super) fn each_part(mut ranges: &[Range], mut call: impl FnMut(&[Range]) -> io::Result<u64>) -> io::Result<u64> {
    let mut total = 0;
    while !ranges.is_empty() {
        let mut done = match call(ranges) {
            Ok(done) => done,
            // Mapped differently since it was looked at: the first of them.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::EINVAL | libc::EFAULT)) => 0,
            Err(error) => return Err(error),
        };
        total += done;
        while let [first, rest @ ..] = ranges {
            let length = first.end - first.start;
            ranges = rest;
            if done < length {
                break;
            }
            done -= length;
        }
    }
    Ok(total)
}

/// How the calling thread was scheduled before [`go_first`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Scheduling {
    policy: i32,
    parameters: libc::sched_param,
}

/// Lets the calling thread run before everything of ordinary priority, and
/// threads that it starts as well. `None` when that is not allowed.
pub(super) fn go_first() -> Option<Scheduling> {
    let mut parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is the calling thread; `parameters` outlives both calls.
    unsafe {
        let policy = libc::sched_getscheduler(0);
        if policy < 0 || libc::sched_getparam(0, &raw mut parameters) < 0 {
            return None;
        }
        let first = libc::sched_param { sched_priority: 1 };
        let set = libc::sched_setscheduler(0, libc::SCHED_RR, &raw const first);
        (set == 0).then_some(Scheduling { policy, parameters })
    }
}

impl Scheduling {
    /// Gives the calling thread its place back.
    pub(super) fn restore(self) {
        // SAFETY: 0 is the calling thread; the parameters are what the kernel
        // gave for this policy.
        let set = unsafe { libc::sched_setscheduler(0, self.policy, &raw const self.parameters) };
        if set < 0 {
            tracing::warn!(err = %io::Error::last_os_error(), "a thread keeps its higher priority");
        }
    }
}

/// Interrupts the calling thread's system calls at an interval while it lives:
/// a call that the kernel would finish in its own time comes back then. Stays
/// on the thread that started it. (A clock of processor time would tell only
/// once the call is over.)
pub(super) struct Interrupter {
    timer: libc::timer_t,
    /// A timer of one thread is of no use to another.
    _thread: std::marker::PhantomData<*const ()>,
}

/// Ignored by default and used by nothing else here; a handler that does
/// nothing makes it end a call.
const INTERRUPT: i32 = libc::SIGURG;

extern "C" fn interrupted(_: i32) {}

impl Interrupter {
    pub(super) fn start(interval: std::time::Duration) -> io::Result<Self> {
        let mut timer: libc::timer_t = std::ptr::null_mut();
        let every = libc::timespec {
            tv_sec: interval.as_secs() as libc::time_t,
            tv_nsec: interval.subsec_nanos() as libc::c_long,
        };
        let setting = libc::itimerspec { it_interval: every, it_value: every };
        // SAFETY: zeroed bytes are valid for both structures, whose fields are
        // then set. The handler does nothing, which is safe at any instant; it
        // is of the whole process, where this signal is ignored otherwise.
        // `timer` and the structures outlive the calls.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = interrupted as extern "C" fn(i32) as usize;
            check(libc::sigaction(INTERRUPT, &raw const action, std::ptr::null_mut()) as isize)?;
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = INTERRUPT;
            event.sigev_notify_thread_id = libc::gettid();
            check(libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) as isize)?;
            let started = Self { timer, _thread: std::marker::PhantomData };
            check(libc::timer_settime(timer, 0, &raw const setting, std::ptr::null_mut()) as isize)?;
            Ok(started)
        }
    }
}

impl Drop for Interrupter {
    fn drop(&mut self) {
        // SAFETY: made by `start` and deleted once.
        unsafe { libc::timer_delete(self.timer) };
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[test]
    fn a_range_that_is_refused_is_passed_by() {
        let ranges = [0..10, 10..20, 30..40, 50..60];
        let mut calls = Vec::new();
        let total = each_part(&ranges, |rest| {
            calls.push(rest.len());
            match rest[0].start {
                // Five bytes of the second, then the third is not there.
                0 => Ok(15),
                30 => Err(io::Error::from_raw_os_error(libc::EFAULT)),
                _ => Ok(10),
            }
        });
        assert_eq!((total.expect("bytes"), calls), (25, vec![4, 2, 1]));
        assert!(each_part(&ranges, |_| Err(io::Error::from_raw_os_error(libc::ESRCH))).is_err());
    }

    /// Anonymous memory of the test.
    pub(crate) struct Mapping {
        address: *mut libc::c_void,
        length: usize,
    }

    impl Mapping {
        pub(crate) fn new(length: usize) -> Self {
            let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            // SAFETY: a new mapping at an address of the kernel's choice.
            let address = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
            assert_ne!(address, libc::MAP_FAILED);
            Self { address, length }
        }

        pub(crate) fn touch(&self, offset: usize) {
            assert!(offset < self.length);
            // SAFETY: inside of the mapping, which nobody else uses.
            unsafe { self.address.cast::<u8>().add(offset).write_volatile(1) };
        }

        pub(crate) fn address(&self) -> u64 {
            self.address as u64
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            // SAFETY: made by `new` with this length.
            unsafe { libc::munmap(self.address, self.length) };
        }
    }
}
