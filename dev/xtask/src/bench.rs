//! `bench NAME`: figures of the product beside their goals. It starts its own
//! throw-away clusters from a release build and never measures a running one.

mod figure;
mod idle;
mod load;
mod start;
mod wake;

use std::path::PathBuf;

use crate::check::Failure;
use crate::cluster;

use figure::Figure;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Which figures.
    #[arg(value_parser = ["start", "idle", "api", "sched", "pods", "wake"])]
    name: String,
    /// Also write them as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Folder with the load generator.
    #[arg(long, default_value = "../shared")]
    shared: PathBuf,
}

/// Measures, prints, and fails only if measuring failed: a goal that is not
/// reached is a figure, not an error.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let binary = cluster::build(cluster::Profile::Release)?;
    let figures = match arguments.name.as_str() {
        "start" => start::measure(&binary)?,
        "idle" => idle::measure(&binary)?,
        "wake" => wake::measure(&binary)?,
        name => load::measure(name, &binary, &arguments.shared)?,
    };
    figure::print(&figures);
    match &arguments.json {
        Some(path) => figure::write(&arguments.name, &figures, path),
        None => Ok(()),
    }
}

/// Kept here so that every bench states its figures in one shape.
fn lower(name: &str, value: f64, goal: f64, unit: &'static str, n: usize) -> Figure {
    Figure { name: name.to_owned(), value, goal: Some(goal), better: "lower", unit, n }
}
