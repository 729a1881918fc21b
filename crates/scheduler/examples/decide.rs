//! Times decisions alone on an imaginary cluster and prints the memory a node
//! and a pod take. `cargo run --release -p scheduler --example decide [NODES]`.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use scheduler::core::{Core, CoreConfig, Step};
use serde_json::json;

const PODS: usize = 30_000;

fn main() -> Result<(), Box<dyn Error>> {
    let nodes: usize = std::env::args().nth(1).map_or(Ok(5000), |text| text.parse())?;
    let before = resident()?;
    let mut core = Core::new(CoreConfig::default());
    for number in 0..nodes {
        let name = format!("node-{number}");
        let node = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {
                "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
                "topology.kubernetes.io/zone": format!("zone-{}", number % 3), "node.kubernetes.io/instance-type": "m",
            }},
            "status": {"allocatable": {"cpu": "32", "memory": "128Gi", "ephemeral-storage": "100Gi", "pods": "110"}},
        }))?;
        core.apply_node(&node, Duration::ZERO);
    }
    let after_nodes = resident()?;
    for (what, kinds) in [("one workload", 1), ("200 workloads", 200)] {
        let mut times = Vec::with_capacity(PODS);
        let started = Instant::now();
        for number in 0..PODS {
            let kind = number % kinds;
            let name = format!("pod-{kinds}-{number}");
            let pod = Arc::new(serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"app": format!("app-{kind}")}},
                "spec": {"containers": [{"name": "c", "image": "app:1",
                    "resources": {"requests": {"cpu": format!("{}m", 100 + kind), "memory": "100Mi"}}}]},
            }))?);
            core.apply_pod(pod, Duration::ZERO);
            let start = Instant::now();
            let step = core.next(Duration::ZERO);
            times.push(start.elapsed());
            match step {
                Some(Step::Bind { pod, node }) => {
                    let mut pod = (*pod).clone();
                    pod.spec.get_or_insert_default().node_name = Some(node.to_string());
                    core.apply_pod(Arc::new(pod), Duration::ZERO);
                }
                other => return Err(format!("expected a binding, got {other:?}").into()),
            }
        }
        let total = started.elapsed();
        times.sort_unstable();
        let at = |part: f64| times[((PODS - 1) as f64 * part) as usize].as_secs_f64() * 1e6;
        println!(
            "{what}: {nodes} nodes, {PODS} pods: decision p50 {:.1} us, p99 {:.1} us, max {:.1} us; {:.0} pods/s with bookkeeping",
            at(0.5),
            at(0.99),
            at(1.0),
            PODS as f64 / total.as_secs_f64()
        );
    }
    let after_pods = resident()?;
    println!(
        "memory: {} bytes a node, {} bytes a pod",
        (after_nodes - before) / nodes,
        (after_pods - after_nodes) / (2 * PODS)
    );
    Ok(())
}

/// Resident memory in bytes.
fn resident() -> Result<usize, Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages: usize = text.split(' ').nth(1).ok_or("statm has no second field")?.parse()?;
    Ok(pages * 4096)
}
