//! swapon(2) and swapoff(2). No policy but the priority, and how long to try.
#![expect(unsafe_code, reason = "raw system calls; each block says what makes it sound")]

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

/// Above what distributions give disks (negative) and their own zram (100), so
/// that pages of sleepers go to the device that is bounded for them.
const PRIORITY: i32 = 1000;

const SWAP_FLAG_PREFER: i32 = 0x8000;

/// Someone who looks at new devices (udev) holds them open for a moment
/// (EBUSY), and swap that a process gives up as it ends cannot be read back
/// (ENOMEM). No event tells when that is over: so many tries, so far apart.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// Repeats what fails for such a reason.
pub(super) fn patiently(mut attempt: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    for _ in 1..TRIES {
        match attempt() {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOMEM)) => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
    attempt()
}

fn path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Turns a device with a swap header on. Needs CAP_SYS_ADMIN.
pub(super) fn swap_on(device: &Path) -> io::Result<()> {
    let device = path(device)?;
    // SAFETY: a C string that outlives the call.
    check(unsafe { libc::swapon(device.as_ptr(), SWAP_FLAG_PREFER | PRIORITY) })
}

/// Turns it off; returns once every page came back.
pub(super) fn swap_off(device: &Path) -> io::Result<()> {
    let device = path(device)?;
    // SAFETY: a C string that outlives the call.
    patiently(|| check(unsafe { libc::swapoff(device.as_ptr()) }))
}
