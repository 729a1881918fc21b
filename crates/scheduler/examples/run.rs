//! Runs the scheduler alone: `cargo run -p scheduler --example run -- KUBECONFIG`.

use std::error::Error;
use std::path::Path;

use client::{Client, kubeconfig};
use scheduler::{Scheduler, SchedulerConfig};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: run KUBECONFIG")?;
    let client = Client::https(&kubeconfig::load(Path::new(&path), None)?)?;
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });
    Scheduler::new(client, SchedulerConfig::default()).run(shutdown).await;
    Ok(())
}
