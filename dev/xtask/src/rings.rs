//! `rings NAME`: a running Darter held against recorded behaviour of upstream
//! Kubernetes, against clients that take long to build, and against being
//! killed often. Slow and by name; they confirm, the first ring finds. The
//! recordings and their checkers lie beside the repository, in ../shared.

mod podtrace;

use std::path::{Path, PathBuf};
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
    /// podtrace: only these areas, by comma; `all` for every recorded one.
    #[arg(long, value_delimiter = ',', conflicts_with = "only")]
    area: Vec<String>,
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
