//! How long from exec to a ready API, and to a ready node.

use std::path::Path;

use super::figure::{Figure, percentile};
use super::lower;
use crate::check::Failure;
use crate::cluster::Cluster;

/// Starts per figure.
const RUNS: usize = 10;

pub(super) fn measure(binary: &Path) -> Result<Vec<Figure>, Failure> {
    let (mut api, mut node, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let cluster = Cluster::start(binary, &[])?;
        let at = |name: &str| {
            cluster.events.iter().find(|event| event["event"] == name).and_then(|event| event["elapsedMs"].as_f64())
        };
        api.extend(at("api").map(|ms| ms / 1000.0));
        node.extend(at("node").map(|ms| ms / 1000.0));
        all.push(cluster.start.as_secs_f64());
    }
    Ok(vec![
        lower("start.api.p50_s", percentile(&mut api, 50), 0.3, "s", api.len()),
        lower("start.node.p50_s", percentile(&mut node, 50), 1.0, "s", node.len()),
        lower("start.ready.p50_s", percentile(&mut all, 50), 1.0, "s", all.len()),
    ])
}
