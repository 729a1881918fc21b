//! From instants to waits.

use std::time::Duration;

use jiff::Timestamp;

/// Time until an instant. A little is added: stored times have whole seconds,
/// and waking early would only mean waking twice.
pub(crate) fn until(instant: Timestamp, now: Timestamp) -> Duration {
    const MARGIN: Duration = Duration::from_millis(5);
    Duration::try_from(instant.duration_since(now)).unwrap_or_default() + MARGIN
}
