//! `darter up`: the whole cluster in the foreground. Composes the parts in the
//! order in which they need each other and drains them in reverse; each part
//! is its own crate and none knows that it shares a process.

mod addons;
mod control;
mod files;
mod node;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::arguments;
use crate::instance::Instance;
use crate::pki::PkiError;
use crate::progress::Progress;
use control::Control;

/// Requests in flight have this long to end after SIGTERM. Nothing depends on
/// it: whatever is cut off is safe to be cut off.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// Why the cluster did not start or run on.
#[derive(thiserror::Error, Debug)]
pub(crate) enum UpError {
    /// A flag cannot be used.
    #[error("--{flag} {value:?}: {reason}")]
    Flag {
        /// Its name.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A file or folder.
    #[error("{step} {path}")]
    File {
        /// What was being done.
        step: &'static str,
        /// Where.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A port.
    #[error("cannot listen on {address}; is another server running there? Choose another with --{flag}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// Which flag chooses it.
        flag: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Keys and certificates.
    #[error("keys and certificates")]
    Pki(#[from] PkiError),
    /// A part could not be started.
    #[error("starting {part}")]
    Start {
        /// Which.
        part: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The machine lacks something.
    #[error("{what}")]
    Host {
        /// What, why it is needed, what to do.
        what: String,
    },
    /// A part ended although nobody asked it to.
    #[error("{part} ended unexpectedly")]
    Ended {
        /// Which.
        part: &'static str,
    },
}

impl UpError {
    pub(crate) fn start<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        part: &'static str,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Start { part, source: source.into() }
    }
}

/// The running parts, by name. One that ends early ends the cluster.
pub(crate) type Parts = JoinSet<&'static str>;

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn run(arguments: &arguments::Up) -> Result<(), UpError> {
    let progress = Progress::new(arguments.output);
    let stop = |kind| signal(kind).map_err(UpError::start("signal handling"));
    let (mut terminate, mut interrupt) = (stop(SignalKind::terminate())?, stop(SignalKind::interrupt())?);
    if !arguments.no_node {
        node::preflight(arguments)?;
    }
    let instance = Instance::new(&arguments.place.data_dir).map_err(|source| UpError::File {
        step: "finding",
        path: arguments.place.data_dir.clone(),
        source,
    })?;
    let shutdown = CancellationToken::new();
    let mut parts = Parts::new();
    let control = Control::start(arguments, &instance, &shutdown, &mut parts).await?;
    progress.step("api", &format!("API ready at {}", control.url), json!({"server": control.url}));
    let kubeconfig = files::write_credentials(arguments, &instance, &control)?;
    addons::apply(&control).await?;
    if !arguments.api_only {
        start_deciders(&control, arguments, &shutdown, &mut parts)?;
    }
    if !arguments.no_node {
        let name = node::start(arguments, &instance, &control, &shutdown, &mut parts).await?;
        progress.step("node", &format!("node {name} ready"), json!({"node": name}));
    }
    let hint = format!("ready: export KUBECONFIG={}", kubeconfig.display());
    progress.step("ready", &hint, json!({"server": control.url, "kubeconfig": kubeconfig}));

    let early = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        ended = parts.join_next() => ended.map(|ended| ended.unwrap_or("a part of the cluster")),
    };
    shutdown.cancel();
    let drained = tokio::time::timeout(DRAIN_LIMIT, async { while parts.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!(limit_s = DRAIN_LIMIT.as_secs(), "not every part ended in time; cut off");
    }
    progress.step("stopped", "stopped; containers run on, `darter up` adopts them", json!({}));
    match early {
        Some(part) => Err(UpError::Ended { part }),
        None => Ok(()),
    }
}

/// Signs tokens for Secrets with the API server's key.
struct Signer(Arc<apiserver::ApiServer>);

impl controllers::TokenSigner for Signer {
    fn sign(&self, claims: &serde_json::Value) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
        self.0.sign_token(claims).map_err(Into::into)
    }
}

/// Scheduler, controllers and autoscaler, each with its own identity.
fn start_deciders(
    control: &Control,
    arguments: &arguments::Up,
    shutdown: &CancellationToken,
    parts: &mut Parts,
) -> Result<(), UpError> {
    let scheduler =
        scheduler::Scheduler::new(control.part("system:kube-scheduler"), scheduler::SchedulerConfig::default());
    let token = shutdown.clone();
    parts.spawn(async move {
        scheduler.run(token).await;
        "the scheduler"
    });
    let config = controllers::ControllersConfig {
        cluster_domain: arguments.cluster_domain.clone(),
        root_ca: Some(control.authority_pem.clone()),
        cluster_cidr: Some(arguments.cluster_cidr.clone()),
        token_signer: Some(Arc::new(Signer(Arc::clone(&control.server)))),
        ..controllers::ControllersConfig::default()
    };
    let controllers = controllers::Controllers::new(control.part("system:kube-controller-manager"), config);
    let token = shutdown.clone();
    parts.spawn(async move {
        controllers.run(token).await;
        "the controllers"
    });
    let user = "system:serviceaccount:kube-system:horizontal-pod-autoscaler";
    let autoscaler = autoscaler::hpa::Autoscaler::new(control.part(user), arguments.autoscaling.config());
    let token = shutdown.clone();
    parts.spawn(async move {
        autoscaler.run(token).await;
        "the autoscaler"
    });
    let sleep = autoscaler::sleep::SleepController::new(control.part("system:darter:sleep-controller"));
    let token = shutdown.clone();
    parts.spawn(async move {
        sleep.run(token).await;
        "the sleep controller"
    });
    Ok(())
}
