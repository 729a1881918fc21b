//! `rings NAME`: a running Darter held against recorded behaviour of upstream
//! Kubernetes, against clients that take long to build, and against being
//! killed often. Slow and by name; they confirm, the first ring finds. The
//! recordings and their checkers lie beside the repository, in ../shared.

use std::path::PathBuf;
use std::process::Command;

use crate::check::{Failure, cargo, read, root, run};
use crate::ci;
use crate::cluster::{self, Cluster};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// replay (API), cluster-trace (scheduler and controllers), podtrace (node),
    /// clients (kube-rs) or loops (kills and leftovers). The last three need root.
    #[arg(value_parser = ["replay", "cluster-trace", "podtrace", "clients", "loops"])]
    ring: String,
    /// Loops only: this many kills of the server and of the node, and ten times
    /// as many pods, in place of 50, 20 and 200.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: Option<u32>,
    /// Clients and loops only: test the release build, as the others do.
    #[arg(long)]
    release: bool,
    /// Only recordings whose path matches this expression.
    #[arg(long)]
    only: Option<String>,
    /// Folder with the recordings.
    #[arg(long, default_value = "../shared")]
    shared: PathBuf,
    /// Write the result there as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What this repository is held to so far, by ring: expressions over the paths
/// of the recordings.
const NODE_AREAS: &str = "^(lifecycle|termination|termination-message|crashloop|start-error|init|env|hooks|probes|logs|exec|image|network|volumes)/";

/// Runs the ring and prints its result.
pub(crate) fn run_ring(arguments: &Arguments) -> Result<(), Failure> {
    match arguments.ring.as_str() {
        "clients" => tests("kube_rs::", arguments),
        "loops" => tests("loops::", arguments),
        _ => recordings(arguments),
    }
}

/// Runs tests of the slow target, one after the other.
fn tests(filter: &str, arguments: &Arguments) -> Result<(), Failure> {
    ci::prepare()?;
    let mut command = cargo();
    command.args(["test", "--locked", "-p", "darter", "--test", "rings"]);
    if arguments.release {
        command.arg("--release");
    }
    if let Some(rounds) = arguments.rounds {
        command.env("DARTER_ROUNDS", rounds.to_string());
    }
    run(command.args(["--", "--test-threads", "1", "--nocapture", filter]))
}

/// Holds a throw-away cluster against recordings.
fn recordings(arguments: &Arguments) -> Result<(), Failure> {
    let shared = root().join(&arguments.shared);
    if !shared.join("upstream-1.36").is_dir() {
        return Err(Failure::Missing {
            what: format!("no recordings in {}; name their folder with --shared", shared.display()),
        });
    }
    let binary = cluster::build()?;
    let with_node = arguments.ring == "podtrace";
    let cluster = Cluster::start(&binary, if with_node { &[] } else { &["--no-node"] })?;
    if with_node {
        import_images(&shared, &binary, &cluster)?;
    }
    let mut command = Command::new(shared.join("tools").join(&arguments.ring));
    command.arg("check").args(["--server", &cluster.server]);
    command.arg("--token").arg(read(&cluster.token_file())?.trim());
    command.arg("--ca").arg(cluster.authority());
    if let Some(json) = &arguments.json {
        command.arg("--json").arg(json);
    }
    let recordings = shared.join("upstream-1.36");
    match arguments.ring.as_str() {
        "replay" => command.arg(recordings.join("transcripts")).args(["-j", "4"]),
        "cluster-trace" => command.arg(recordings.join("scheduler")).arg(recordings.join("controllers")),
        _ => command.arg(recordings.join("pods")),
    };
    match (&arguments.only, with_node) {
        (Some(only), _) => command.args(["--only", only]),
        (None, true) => command.args(["--only", NODE_AREAS]),
        (None, false) => &mut command,
    };
    run(&mut command)
}

/// Builds the images that the recorded pods use and gives them to the node.
fn import_images(shared: &std::path::Path, binary: &std::path::Path, cluster: &Cluster) -> Result<(), Failure> {
    let images = cluster.data_dir().join("test-images");
    run(Command::new(shared.join("tools/testimages")).arg(&images))?;
    let list = std::fs::read_dir(&images).map_err(|source| Failure::File { path: images.clone(), source })?;
    let files: Vec<PathBuf> = list
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "tar"))
        .collect();
    run(Command::new(binary).args(["image", "import", "--data-dir"]).arg(cluster.data_dir()).args(files))
}
