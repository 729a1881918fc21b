//! `darter demo`: the product in one command. A throw-away cluster, an app from
//! a manifest, asleep, woken by a plain TCP request many times, beside a cold
//! start of the same pod. A client like any other; it knows no inside.

mod cluster;
mod image;
mod probe;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use api::elastic::{RUNG_ANNOTATION, RUNG_SINCE_ANNOTATION, Rung};
use api::types::api::apps::v1::Deployment;
use api::types::api::core::v1::{Pod, Service};
use client::Client;
use client::{WatchEvent, WatchParams};
use futures_util::StreamExt;
use serde_json::json;

use crate::arguments;
use crate::progress::Progress;
use cluster::Cluster;

/// What the demo applies; also for users to start from.
const MANIFEST: &str = include_str!("../../../examples/web.yaml");
/// Cold starts measured.
const COLDS: usize = 5;
/// Requests to the awake app, for comparison.
const AWAKES: usize = 50;
/// Anything that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(30);

/// Why the demo ended early.
#[derive(thiserror::Error, Debug)]
pub(crate) enum DemoError {
    /// A file, process or socket.
    #[error("{step}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The cluster did not do its part.
    #[error("the demo's cluster {what}; the end of its log:\n{log}")]
    Cluster {
        /// What it did.
        what: String,
        /// Last lines of its log.
        log: String,
    },
    /// The API refused a request.
    #[error("{step}")]
    Api {
        /// What was being done.
        step: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something expected did not happen in time.
    #[error("{what} took longer than {LIMIT:?}")]
    Late {
        /// What.
        what: &'static str,
    },
}

fn api_error<E: std::error::Error + Send + Sync + 'static>(step: &'static str) -> impl FnOnce(E) -> DemoError {
    move |source| DemoError::Api { step, source: Box::new(source) }
}

/// Runs it all; what was made is removed also after a failure.
pub(crate) async fn run(arguments: &arguments::Demo) -> Result<(), DemoError> {
    let io = |step| move |source| DemoError::Io { step, source };
    if let Some(file) = &arguments.write_image {
        return image::write(file).map_err(io("writing the image"));
    }
    if !rustix::process::geteuid().is_root() {
        let source = io::Error::from(io::ErrorKind::PermissionDenied);
        return Err(DemoError::Io { step: "starting containers needs root; run it again with sudo", source });
    }
    let progress = Progress::new(arguments.output);
    let folder = tempfile::Builder::new().prefix("darter-demo-").tempdir().map_err(io("making a folder"))?;
    let mut cluster = Cluster::start(folder.path())?;
    let outcome = play(&mut cluster, folder.path(), arguments.wakes, &progress).await;
    let removed = cluster.remove().await;
    outcome?;
    removed?;
    progress.step("removed", "cluster removed, nothing is left", json!({}));
    Ok(())
}

async fn play(cluster: &mut Cluster, folder: &Path, wakes: u32, progress: &Progress) -> Result<(), DemoError> {
    let archive = folder.join("image.tar");
    image::write(&archive).map_err(|source| DemoError::Io { step: "making the image", source })?;
    progress.step("image", "image made of this program's own files", json!({"reference": image::REFERENCE}));
    cluster.wait_for("ready").await?;
    progress.step("ready", "cluster ready: API, scheduler, controllers, node, network, DNS", json!({}));
    cluster.import(&archive).await?;
    progress.step("imported", "image imported", json!({}));
    let config = client::kubeconfig::load(&cluster.kubeconfig, None).map_err(api_error("reading the kubeconfig"))?;
    let client = Client::https(&config).map_err(api_error("making a client"))?;
    cli::apply::manifest(&client, MANIFEST, "darter-demo").await.map_err(api_error("applying examples/web.yaml"))?;
    progress.step("applied", "applied examples/web.yaml: Deployment, Service, sleep policy", json!({}));

    let web = service(&client, "default", "web").await?;
    probe::first_answer(web)
        .await
        .map_err(|source| DemoError::Io { step: "asking the app for the first time", source })?;
    let first_answer_ms = progress.elapsed_ms();
    progress.step("answered", &format!("first answer from the Service at {web}"), json!({"service": web.to_string()}));
    let dns = service(&client, "kube-system", "kube-dns").await?;
    let named = probe::resolve(SocketAddr::new(dns.ip(), 53), "web.default.svc.cluster.local")
        .await
        .map_err(|source| DemoError::Io { step: "asking the cluster's DNS", source })?;
    if IpAddr::V4(named) != web.ip() {
        let source =
            io::Error::other(format!("web.default.svc.cluster.local is {named}, the Service has {}", web.ip()));
        return Err(DemoError::Io { step: "asking the cluster's DNS", source });
    }
    progress.step("named", &format!("web.default.svc.cluster.local is {named}"), json!({"address": named.to_string()}));

    let mut awake = Vec::with_capacity(AWAKES);
    for _ in 0..AWAKES {
        awake.push(ask(web).await?);
    }
    let mut woken = Vec::new();
    let mut asked = jiff::Timestamp::now();
    for wake in 0..wakes {
        asleep(&client, asked).await?;
        if wake == 0 {
            progress.step("asleep", "the app sleeps: frozen, Running and Ready, no CPU", json!({}));
        }
        asked = jiff::Timestamp::now();
        woken.push(ask(web).await?);
    }
    progress.step("woken", &format!("woken {wakes} times by a plain TCP request"), json!({"wakes": wakes}));
    let mut cold = Vec::new();
    for _ in 0..COLDS {
        cold.push(cold_start(&client, web).await?);
    }
    progress.step("cold", &format!("started {COLDS} times from nothing, image present"), json!({"colds": COLDS}));
    report(progress, first_answer_ms, &mut awake, &mut woken, &mut cold);
    Ok(())
}

async fn ask(web: SocketAddr) -> Result<Duration, DemoError> {
    probe::request(web).await.map_err(|source| DemoError::Io { step: "asking the app", source })
}

/// Address and first port of a Service; an address is given at its creation.
async fn service(client: &Client, namespace: &str, name: &str) -> Result<SocketAddr, DemoError> {
    let service = client.namespaced::<Service>(namespace).get(name).await.map_err(api_error("reading a Service"))?;
    let spec = service.spec.unwrap_or_default();
    let port = spec.ports.and_then(|ports| ports.first().and_then(|port| u16::try_from(port.port).ok())).unwrap_or(80);
    let ip = spec.cluster_ip.and_then(|ip| ip.parse::<IpAddr>().ok());
    ip.map(|ip| SocketAddr::new(ip, port)).ok_or_else(|| DemoError::Io {
        step: "reading a Service",
        source: io::Error::other(format!("{namespace}/{name} has no address")),
    })
}

/// Waits until the node says that the app's pod fell asleep after this moment.
async fn asleep(client: &Client, after: jiff::Timestamp) -> Result<(), DemoError> {
    watch_pods(client, "falling asleep", |pod| {
        let note = |name| pod.metadata.annotations.as_ref().and_then(|all| all.get(name)).map(String::as_str);
        let since = note(RUNG_SINCE_ANNOTATION).and_then(|since| since.parse::<jiff::Timestamp>().ok());
        note(RUNG_ANNOTATION) == Some(Rung::Frozen.as_str()) && since.is_some_and(|since| since > after)
    })
    .await
}

/// Watches the app's pods until one is as wanted.
async fn watch_pods(client: &Client, what: &'static str, wanted: impl Fn(&Pod) -> bool) -> Result<(), DemoError> {
    let pods = client.namespaced::<Pod>("default");
    let search = async {
        let mut events = pods.watch(&WatchParams::labels("app=web")).await.map_err(api_error(what))?;
        while let Some(event) = events.next().await {
            match event.map_err(api_error(what))? {
                WatchEvent::Added(pod) | WatchEvent::Modified(pod) if wanted(&pod) => return Ok(()),
                _ => {}
            }
        }
        Err(DemoError::Late { what })
    };
    tokio::time::timeout(LIMIT, search).await.unwrap_or(Err(DemoError::Late { what }))
}

/// From nothing to an answer: no pod exists, the image does.
async fn cold_start(client: &Client, web: SocketAddr) -> Result<Duration, DemoError> {
    scale(client, 0).await?;
    gone(client).await?;
    let started = std::time::Instant::now();
    scale(client, 1).await?;
    probe::first_answer(web).await.map_err(|source| DemoError::Io { step: "starting the app from nothing", source })?;
    Ok(started.elapsed())
}

async fn scale(client: &Client, replicas: i32) -> Result<(), DemoError> {
    let patch = client::Patch::Merge(json!({"spec": {"replicas": replicas}}));
    client
        .namespaced::<Deployment>("default")
        .patch("web", &patch)
        .await
        .map(drop)
        .map_err(api_error("scaling the app"))
}

/// Waits until the app has no pod.
async fn gone(client: &Client) -> Result<(), DemoError> {
    const WHAT: &str = "removing the app's pod";
    let pods = client.namespaced::<Pod>("default");
    let search = async {
        let mut events = pods.watch(&WatchParams::labels("app=web")).await.map_err(api_error(WHAT))?;
        loop {
            let left =
                pods.list(&client::ListParams { label_selector: Some("app=web".to_owned()), ..Default::default() });
            if left.await.map_err(api_error(WHAT))?.items.is_empty() {
                return Ok(());
            }
            if events.next().await.is_none() {
                return Err(DemoError::Late { what: WHAT });
            }
        }
    };
    tokio::time::timeout(LIMIT, search).await.unwrap_or(Err(DemoError::Late { what: WHAT }))
}

fn report(
    progress: &Progress,
    first_answer_ms: f64,
    awake: &mut [Duration],
    woken: &mut [Duration],
    cold: &mut [Duration],
) {
    let rows = [("awake", sorted(awake)), ("frozen", sorted(woken)), ("cold", sorted(cold))];
    progress.text("");
    progress.text("                          n     p50 ms     p90 ms     p99 ms     max ms");
    for (name, samples) in rows {
        let text = match name {
            "awake" => "request to awake app",
            "frozen" => "request to frozen app",
            _ => "cold start",
        };
        let [p50, p90, p99, max] = [50, 90, 99, 100].map(|p| percentile(samples, p));
        progress.text(&format!("{text:<22} {:>4} {p50:>10.2} {p90:>10.2} {p99:>10.2} {max:>10.2}", samples.len()));
    }
    progress.text("");
    let [awake, frozen, cold] = rows.map(|(_, samples)| samples);
    progress.step(
        "result",
        &format!("frozen app to first byte: p99 {:.2} ms", percentile(frozen, 99)),
        json!({
            "firstAnswerMs": first_answer_ms,
            "awakeP50Ms": percentile(awake, 50), "awakeP99Ms": percentile(awake, 99), "awakes": awake.len(),
            "frozenP50Ms": percentile(frozen, 50), "frozenP90Ms": percentile(frozen, 90),
            "frozenP99Ms": percentile(frozen, 99), "frozenMaxMs": percentile(frozen, 100), "wakes": frozen.len(),
            "coldP50Ms": percentile(cold, 50), "coldMaxMs": percentile(cold, 100), "colds": cold.len(),
        }),
    );
}

fn sorted(samples: &mut [Duration]) -> &[Duration] {
    samples.sort();
    samples
}

/// By nearest rank, milliseconds; of sorted samples.
fn percentile(sorted: &[Duration], p: usize) -> f64 {
    let rank = (sorted.len() * p).div_ceil(100).max(1);
    sorted.get(rank - 1).map_or(f64::NAN, |sample| sample.as_secs_f64() * 1000.0)
}
