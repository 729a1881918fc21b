//! `rings NAME`: a running Darter held against recorded behaviour of upstream
//! Kubernetes. Slow and by name; they confirm, the first ring finds. The
//! recordings and their checkers lie beside the repository, in ../shared.

mod podtrace;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::check::{Failure, read, root, run};
use crate::cluster::{self, Cluster};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// replay (API), cluster-trace (scheduler and controllers) or podtrace (node; needs root).
    #[arg(value_parser = ["replay", "cluster-trace", "podtrace"])]
    ring: String,
    /// podtrace: only these areas, by comma.
    #[arg(long, value_delimiter = ',', conflicts_with = "only")]
    area: Vec<String>,
    /// Only recordings whose path matches this expression.
    #[arg(long)]
    only: Option<String>,
    /// Folder with the recordings.
    #[arg(long, default_value = "../shared")]
    shared: PathBuf,
    /// Write the result there as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// podtrace: the static BusyBox that the images are made of, if not the machine's own.
    #[arg(long)]
    busybox: Option<PathBuf>,
    /// podtrace: recordings that run at the same time.
    #[arg(long, default_value_t = 12)]
    jobs: u32,
    /// Set by the ring when it starts itself with a network and mounts of its
    /// own: the folder for everything that it makes.
    #[arg(long, hide = true)]
    inside: Option<PathBuf>,
}

/// Starts a throw-away cluster, runs the ring and prints its result.
pub(crate) fn run_ring(arguments: &Arguments) -> Result<(), Failure> {
    let shared = root().join(&arguments.shared);
    if !shared.join("upstream-1.36").is_dir() {
        return Err(Failure::Missing {
            what: format!("no recordings in {}; name their folder with --shared", shared.display()),
        });
    }
    // What is held here is behaviour, not speed.
    let binary = cluster::build(cluster::Profile::Dev)?;
    if arguments.ring == "podtrace" {
        return podtrace::run(arguments, &shared, &binary);
    }
    let cluster = Cluster::start(&binary, &["--no-node"])?;
    let mut command = checker(arguments, &shared, &cluster)?;
    if let Some(json) = &arguments.json {
        command.arg("--json").arg(json);
    }
    if let Some(only) = &arguments.only {
        command.args(["--only", only]);
    }
    let recordings = shared.join("upstream-1.36");
    match arguments.ring.as_str() {
        "replay" => command.arg(recordings.join("transcripts")).args(["-j", "4"]),
        _ => command.arg(recordings.join("scheduler")).arg(recordings.join("controllers")),
    };
    run(&mut command)
}

/// The ring's checker, told where the cluster is.
fn checker(arguments: &Arguments, shared: &Path, cluster: &Cluster) -> Result<Command, Failure> {
    let mut command = Command::new(shared.join("tools").join(&arguments.ring));
    command.arg("check").args(["--server", &cluster.server]);
    command.arg("--token").arg(read(&cluster.token_file())?.trim());
    command.arg("--ca").arg(cluster.authority());
    Ok(command)
}
