//! One part alone against any Kubernetes: the same code as in `up`, behind the
//! HTTPS transport. No part knows the difference.

use std::path::PathBuf;

use client::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::arguments::{Autoscaler, Part};

/// Why a part could not run.
#[derive(thiserror::Error, Debug)]
pub(crate) enum PartError {
    /// The kubeconfig cannot be used.
    #[error("kubeconfig {path}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Signals cannot be received.
    #[error("signal handling")]
    Signal(#[source] std::io::Error),
}

/// A client of the cluster that the kubeconfig names.
pub(crate) fn client(path: &std::path::Path) -> Result<Client, PartError> {
    let fail = |source| PartError::Kubeconfig { path: path.to_path_buf(), source };
    let config = client::kubeconfig::load(path, None).map_err(|error| fail(error.into()))?;
    Client::https(&config).map_err(|error| fail(error.into()))
}

/// The scheduler, until SIGTERM or SIGINT.
pub(crate) async fn scheduler(part: &Part) -> Result<(), PartError> {
    let scheduler = scheduler::Scheduler::new(client(&part.kubeconfig)?, scheduler::SchedulerConfig::default());
    until_signal(|shutdown| scheduler.run(shutdown)).await
}

/// The controllers, until SIGTERM or SIGINT.
pub(crate) async fn controllers(part: &Part) -> Result<(), PartError> {
    let controllers =
        controllers::Controllers::new(client(&part.kubeconfig)?, controllers::ControllersConfig::default());
    until_signal(|shutdown| controllers.run(shutdown)).await
}

/// The autoscaler, until SIGTERM or SIGINT.
pub(crate) async fn autoscaler(arguments: &Autoscaler) -> Result<(), PartError> {
    let client = client(&arguments.part.kubeconfig)?;
    let autoscaler = autoscaler::hpa::Autoscaler::new(client, arguments.autoscaling.config());
    until_signal(|shutdown| autoscaler.run(shutdown)).await
}

async fn until_signal<F: Future<Output = ()>>(run: impl FnOnce(CancellationToken) -> F) -> Result<(), PartError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(PartError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(PartError::Signal)?;
    let shutdown = CancellationToken::new();
    let running = run(shutdown.clone());
    tokio::pin!(running);
    tokio::select! {
        () = &mut running => return Ok(()),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    shutdown.cancel();
    running.await;
    Ok(())
}
