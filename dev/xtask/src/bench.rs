//! `bench NAME`: figures of the product beside their goals. It starts its own
//! throw-away cluster from a release build and never measures a running one.

use std::path::PathBuf;

use crate::check::Failure;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Which figures: start, idle, api, store, watch, sched, pods, wake, hpa or memory.
    name: String,
    /// Also write them as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Measures and prints.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let _ = &arguments.json;
    Err(Failure::Missing { what: format!("no bench is named {}", arguments.name) })
}
