//! A bounded log of changes. Whoever keeps derived work remembers how far it
//! has read; who has fallen too far behind starts anew.

use std::collections::VecDeque;

use crate::pod::Class;
use crate::snapshot::NodeId;

/// Changes kept. A reader further behind would hardly be faster replaying
/// them than starting anew at a few thousand nodes.
const KEPT_CHANGES: usize = 8192;

/// One change of the snapshot.
#[derive(Clone, Debug)]
pub enum Change {
    /// A node came, went, or changed in anything but its images.
    Node(NodeId),
    /// Images on nodes changed, or the number of nodes did.
    Images,
    /// A pod came to a node or left it.
    Pod {
        /// The pod's class.
        class: Class,
        /// The node.
        node: NodeId,
        /// Came, or left.
        added: bool,
    },
}

/// The log. Positions count all changes ever made.
#[derive(Debug, Default)]
pub struct ChangeLog {
    kept: VecDeque<Change>,
    end: u64,
}

impl ChangeLog {
    /// Appends a change and drops the oldest if there are too many.
    pub fn push(&mut self, change: Change) {
        if self.kept.len() == KEPT_CHANGES {
            self.kept.pop_front();
        }
        self.kept.push_back(change);
        self.end += 1;
    }

    /// The position after the newest change.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The changes since a position, oldest first; none if some of them are
    /// not kept any more.
    pub fn since(&self, position: u64) -> Option<impl Iterator<Item = &Change>> {
        let behind = usize::try_from(self.end - position).ok()?;
        let skipped = self.kept.len().checked_sub(behind)?;
        Some(self.kept.range(skipped..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_too_far_behind_is_told_so() {
        let mut log = ChangeLog::default();
        for node in 0..KEPT_CHANGES as u32 {
            log.push(Change::Node(NodeId(node)));
        }
        assert_eq!(log.since(0).unwrap().count(), KEPT_CHANGES);
        log.push(Change::Images);
        assert!(log.since(0).is_none());
        assert!(matches!(log.since(log.end() - 1).unwrap().next(), Some(Change::Images)));
        assert_eq!(log.since(log.end()).unwrap().count(), 0);
    }
}
