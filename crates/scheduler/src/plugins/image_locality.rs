//! ImageLocality: prefers nodes that have the pod's images, the larger the
//! more, and the more nodes have them the better (so that one does not heat).

use crate::plugin::{MAX_SCORE, Plugin};
use crate::pod::Shape;
use crate::snapshot::{NodeId, Snapshot};

/// Images below this many bytes count nothing.
const MIN_THRESHOLD: i64 = 23 * 1024 * 1024;
/// Bytes per container from which on more counts nothing.
const MAX_CONTAINER_THRESHOLD: i64 = 1000 * 1024 * 1024;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct ImageLocality;

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn scores(&self, shape: &Shape) -> bool {
        !shape.images.is_empty()
    }

    fn score(&self, snapshot: &Snapshot, shape: &Shape, nodes: &[NodeId], scores: &mut [i64]) {
        scores.fill(0);
        let total = snapshot.nodes().len() as f64;
        let images: Vec<_> = shape
            .images
            .iter()
            .filter_map(|name| snapshot.image(name))
            .map(|(symbol, state)| (symbol, (state.size as f64 * (f64::from(state.nodes) / total)) as i64))
            .collect();
        if images.is_empty() {
            return;
        }
        let most = MAX_CONTAINER_THRESHOLD * shape.container_count as i64;
        for (node, score) in nodes.iter().zip(scores) {
            let on_node = &snapshot.columns.images[node.index()];
            let has = |symbol| on_node.binary_search_by_key(symbol, |(name, _)| *name).is_ok();
            let sum: i64 = images.iter().filter(|(symbol, _)| has(symbol)).map(|(_, size)| size).sum();
            *score = MAX_SCORE * (sum.clamp(MIN_THRESHOLD, most.max(MIN_THRESHOLD)) - MIN_THRESHOLD)
                / (most - MIN_THRESHOLD);
        }
    }

    fn depends_on_images(&self) -> bool {
        true
    }
}
