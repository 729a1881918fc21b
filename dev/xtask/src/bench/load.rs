//! Figures under load: the load generator beside the repository drives a
//! throw-away cluster and prints one JSON object a scenario.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::figure::Figure;
use crate::check::{Failure, cargo, output, root, run};
use crate::cluster::Cluster;

/// What the demo calls its image: a small server that runs until it is ended.
const IMAGE: &str = "localhost/darter-demo:1";

pub(super) fn measure(name: &str, binary: &Path, shared: &Path) -> Result<Vec<Figure>, Failure> {
    let project = root().join(shared).join("tools/kload");
    if !project.is_dir() {
        return Err(Failure::Missing {
            what: format!("no load generator in {}; name its folder with --shared", project.display()),
        });
    }
    let with_node = name == "pods";
    let cluster = Cluster::start(binary, if with_node { &[] } else { &["--no-node"] })?;
    if with_node {
        import_image(binary, &cluster)?;
    }
    let mut command = cargo();
    command.args(["run", "--release", "--manifest-path"]).arg(project.join("Cargo.toml"));
    command.arg("--target-dir").arg(std::env::temp_dir().join("darter-kload"));
    command
        .arg("--")
        .arg("--kubeconfig")
        .arg(cluster.kubeconfig())
        .args(["--pids", &cluster.pid().to_string()])
        .arg(name);
    if with_node {
        command.args(["--image", IMAGE, "--serial", "100", "--burst", "50"]);
    }
    let text = output(&mut command)?;
    let mut figures = Vec::new();
    for scenario in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        collect(name, &scenario, &mut figures);
    }
    Ok(figures)
}

fn import_image(binary: &Path, cluster: &Cluster) -> Result<(), Failure> {
    let archive = cluster.data_dir().join("bench-image.tar");
    run(Command::new(binary).args(["demo", "--write-image"]).arg(&archive))?;
    run(Command::new(binary).args(["image", "import", "--data-dir"]).arg(cluster.data_dir()).arg(&archive))
}

/// Every number of a scenario is a figure; goals are stated where they are
/// promised, in docs/promises.md.
fn collect(bench: &str, scenario: &Value, figures: &mut Vec<Figure>) {
    let label = scenario["scenario"].as_str().unwrap_or("all");
    let n = scenario["n"].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(1);
    let Some(fields) = scenario.as_object() else { return };
    for (field, value) in fields {
        if let Some(value) = value.as_f64()
            && field != "n"
        {
            let better = if field.contains("per_s") { "higher" } else { "lower" };
            figures.push(Figure { name: format!("{bench}.{label}.{field}"), value, goal: None, better, unit: "", n });
        }
    }
}
