//! Pages the memory of processes out, in small steps so that a wake does not
//! wait. Memory that several processes share is left: the kernel does not page
//! it out for one of them.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::areas::{self, Area};
use super::resident::{Pagemap, Which};
use super::syscalls::{MAX_RANGES, each_part, page_out};
use super::{HUGE_PAGE, Range};

/// Bytes of pages given to the kernel at a time; between two steps it is asked
/// whether to go on. 2 MiB take about 7 ms on a small machine.
const STEP: u64 = HUGE_PAGE;

/// What was pushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pushed {
    /// Processes looked at.
    pub(crate) processes: u32,
    /// Bytes that the kernel was asked to page out.
    pub(crate) bytes: u64,
    /// Not told to stop before the end.
    pub(crate) complete: bool,
}

/// Pages out what the processes alone have in RAM and no file holds.
/// `go_on` is asked before every step. A process that ends meanwhile is no
/// error.
pub(crate) fn push(pids: &[u32], mut go_on: impl FnMut() -> bool) -> io::Result<Pushed> {
    let mut pushed = Pushed { complete: true, ..Pushed::default() };
    for pid in pids {
        match push_one(*pid, &mut go_on, &mut pushed) {
            Ok(true) => {}
            Ok(false) => {
                pushed.complete = false;
                break;
            }
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(pushed)
}

/// The process ended.
pub(super) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

fn push_one(pid: u32, go_on: &mut impl FnMut() -> bool, pushed: &mut Pushed) -> io::Result<bool> {
    let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(true) };
    let process = pidfd_open(number, PidfdFlags::empty())?;
    let areas: Vec<Area> = areas::read(pid)?;
    let mut pagemap = Pagemap::open(pid)?;
    pushed.processes += 1;
    let mut step = Step { process: process.as_fd(), ranges: Vec::new(), bytes: 0 };
    let mut failure = None;
    let mut add = |range: Range| {
        step.bytes += range.end - range.start;
        step.ranges.push(range);
        if step.bytes < STEP && step.ranges.len() < MAX_RANGES {
            return true;
        }
        go_on()
            && match step.run() {
                Ok(bytes) => {
                    pushed.bytes += bytes;
                    true
                }
                Err(error) => {
                    failure = Some(error);
                    false
                }
            }
    };
    let mut complete = true;
    for area in &areas {
        complete = pagemap.each(area, Which::PresentAlone, &mut add)?;
        if !complete {
            break;
        }
    }
    if let Some(error) = failure {
        return Err(error);
    }
    if complete && !step.ranges.is_empty() {
        complete = go_on();
        if complete {
            pushed.bytes += step.run()?;
        }
    }
    Ok(complete)
}

/// Pages collected for the next call.
struct Step<'a> {
    process: BorrowedFd<'a>,
    ranges: Vec<Range>,
    bytes: u64,
}

impl Step<'_> {
    /// Gives the pages to the kernel and starts anew.
    fn run(&mut self) -> io::Result<u64> {
        let result = each_part(&self.ranges, |ranges| page_out(self.process, ranges));
        self.ranges.clear();
        self.bytes = 0;
        result
    }
}
