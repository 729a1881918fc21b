//! Pages out what processes share after a fork, which the kernel does only for
//! their group as a whole. It goes through all memory of the group twice and
//! may drop cached files too, so it comes after the rest and only when it pays.

use std::io;
use std::time::Duration;

use super::syscalls::Interrupter;

/// Less than this left of what only swap can take is not worth it, bytes.
const WORTH: u64 = 1 << 20;

/// How long the kernel works before it comes back to see whether a wake came.
const SLICE: Duration = Duration::from_millis(20);

/// Without progress the slice doubles up to this: on a busy machine the kernel
/// takes long to begin, and pages that were used of late pass by twice.
const MAX_SLICE: Duration = Duration::from_millis(320);

/// So many of the longest slices without progress, and the rest is taken to be
/// memory that cannot be paged out.
const MAX_IDLE: u32 = 4;

/// Slices of one group; two minutes of work.
const MAX_SLICES: u32 = 6_000;

/// Goes on until less than [`WORTH`] is `left`, or `go_on` says no: then the
/// answer is false. `some` lets the kernel work until it is interrupted, and
/// says whether there is a way to do it at all.
pub(crate) fn reclaim(
    mut some: impl FnMut() -> io::Result<bool>,
    left: impl Fn() -> u64,
    mut go_on: impl FnMut() -> bool,
) -> io::Result<bool> {
    let mut before = left();
    if before < WORTH {
        return Ok(true);
    }
    let (mut slice, mut idle) = (SLICE, 0);
    for _ in 0..MAX_SLICES {
        if !go_on() {
            return Ok(false);
        }
        let possible = {
            let _interrupter = Interrupter::start(slice)?;
            some()?
        };
        let now = left();
        if now < before {
            (slice, idle) = (SLICE, 0);
        } else if slice < MAX_SLICE {
            slice *= 2;
        } else {
            idle += 1;
        }
        before = now;
        if !possible || now < WORTH || idle == MAX_IDLE {
            break;
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn it_ends_when_little_is_left_when_nothing_moves_and_when_told() {
        let left = Cell::new(10 << 20);
        let some = || {
            left.set(left.get() - (1 << 20));
            Ok(true)
        };
        assert!(reclaim(some, || left.get(), || true).expect("reclaim"));
        assert_eq!(left.get(), WORTH - (1 << 20));
        let calls = Cell::new(0);
        let some = || {
            calls.set(calls.get() + 1);
            Ok(true)
        };
        assert!(reclaim(some, || 5 << 20, || true).expect("reclaim"));
        assert!(calls.replace(0) > 1);
        assert!(!reclaim(some, || 5 << 20, || calls.get() < 3).expect("reclaim"));
        assert_eq!(calls.replace(0), 3);
        assert!(reclaim(some, || WORTH - 1, || true).expect("reclaim"));
        assert_eq!(calls.get(), 0);
    }

    #[test]
    fn a_call_that_would_take_long_is_interrupted() {
        let random = std::fs::File::open("/dev/urandom").expect("open");
        let mut buffer = vec![0_u8; 256 << 20];
        let some = || {
            let read = rustix::io::read(&random, &mut buffer[..]).expect("read");
            assert!(read < 256 << 20, "read to the end");
            Ok(false)
        };
        assert!(reclaim(some, || 5 << 20, || true).expect("reclaim"));
    }
}
