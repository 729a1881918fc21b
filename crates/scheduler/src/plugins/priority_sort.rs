//! PrioritySort: the more important pod first, then the one that waits longer.

use std::cmp::Reverse;
use std::time::Duration;

use crate::plugin::Plugin;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct PrioritySort;

/// Place of a pod in the active queue; the least comes first. The last part
/// makes positions unique.
pub type QueuePosition = (Reverse<i32>, Duration, u64);

impl Plugin for PrioritySort {
    fn name(&self) -> &'static str {
        "PrioritySort"
    }
}
