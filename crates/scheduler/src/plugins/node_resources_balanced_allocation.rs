//! NodeResourcesBalancedAllocation: prefers nodes whose use of CPU and memory
//! the pod evens out. 75 where the balance stays, towards 100 where it gets
//! better, towards 50 where it gets worse.

use crate::plugin::{MAX_SCORE, Plugin};
use crate::pod::Shape;
use crate::snapshot::{NodeId, Snapshot};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct NodeResourcesBalancedAllocation;

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn scores(&self, shape: &Shape) -> bool {
        shape.usage.requests.milli_cpu != 0 || shape.usage.requests.memory != 0
    }

    fn score(&self, snapshot: &Snapshot, shape: &Shape, nodes: &[NodeId], scores: &mut [i64]) {
        let columns = &snapshot.columns;
        let wanted = &shape.usage.requests;
        for (node, score) in nodes.iter().zip(scores) {
            let row = node.index();
            let cpu = (columns.used_cpu[row], columns.allocatable_cpu[row]);
            let memory = (columns.used_memory[row], columns.allocatable_memory[row]);
            let with = balance((cpu.0 + wanted.milli_cpu, cpu.1), (memory.0 + wanted.memory, memory.1));
            let without = balance(cpu, memory);
            *score = MAX_SCORE / 2 + (MAX_SCORE / 2 + with - without) / 2;
        }
    }
}

/// 100 if both are used to the same part, 50 if one is full and one empty.
/// Of two values the standard deviation is half their distance.
fn balance(cpu: (i64, i64), memory: (i64, i64)) -> i64 {
    if cpu.1 == 0 || memory.1 == 0 {
        return MAX_SCORE;
    }
    let part = |(used, of): (i64, i64)| (used as f64 / of as f64).min(1.0);
    let deviation = ((part(cpu) - part(memory)) / 2.0).abs();
    ((1.0 - deviation) * MAX_SCORE as f64) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balance_falls_with_the_distance_of_the_two_parts() {
        assert_eq!(balance((5, 10), (50, 100)), 100);
        assert_eq!(balance((10, 10), (0, 100)), 50);
        assert_eq!(balance((2, 10), (60, 100)), 80);
        assert_eq!(balance((20, 10), (100, 100)), 100);
        assert_eq!(balance((1, 0), (60, 100)), 100);
    }
}
