//! One node agent against any API server, with the embedded runtime and the
//! pod network, for trying the agent alone:
//! `node KUBECONFIG DATA_DIR NODE_NAME NODE_IP POD_CIDR [IMAGE_TAR...]`.
//! Runs until interrupted; containers stay.

use std::error::Error;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use containers::runtime::{Protocol, Runtime, SandboxConfig, SandboxId, SandboxNetwork};
use containers::{EmbeddedConfig, EmbeddedRuntime, ShimCommand};
use kubelet::agent::Kubelet;
use kubelet::config::KubeletConfig;
use network::activity::{Activity, ActivityConfig};
use network::cidr::Cidr;
use network::pod::{HostPort, PodNetwork, PodNetworkConfig, TransportProtocol};
use tokio_util::sync::CancellationToken;

type Failure = Box<dyn Error + Send + Sync>;

struct Attach(PodNetwork);

#[async_trait::async_trait]
impl SandboxNetwork for Attach {
    async fn attach(&self, id: &SandboxId, netns: &Path, config: &SandboxConfig) -> Result<Vec<IpAddr>, Failure> {
        let ports: Vec<HostPort> = config
            .port_mappings
            .iter()
            .map(|mapping| HostPort {
                protocol: match mapping.protocol {
                    Protocol::Tcp => TransportProtocol::Tcp,
                    Protocol::Udp => TransportProtocol::Udp,
                    Protocol::Sctp => TransportProtocol::Sctp,
                },
                pod_port: mapping.container_port,
                host_port: mapping.host_port,
                host_address: match mapping.host_ip {
                    Some(IpAddr::V4(address)) if !address.is_unspecified() => Some(address),
                    _ => None,
                },
            })
            .collect();
        Ok(self.0.attach(&id.0, netns, &ports)?.addresses)
    }

    async fn detach(&self, id: &SandboxId) -> Result<(), Failure> {
        Ok(self.0.detach(&id.0)?)
    }
}

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).map(String::as_str) == Some("shim") {
        containers::shim_main(&args[2..]);
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(&args))
}

async fn run(args: &[String]) -> Result<(), Failure> {
    let [_, kubeconfig, data, name, ip, range, images @ ..] = args else {
        return Err("usage: node KUBECONFIG DATA_DIR NODE_NAME NODE_IP POD_CIDR [IMAGE_TAR...]".into());
    };
    tracing_subscriber::fmt().with_env_filter(std::env::var("LOG").unwrap_or_else(|_| "info".into())).init();
    let (address, prefix) = range.split_once('/').ok_or("POD_CIDR is ADDRESS/PREFIX")?;
    let cidr = Cidr::new(address.parse()?, prefix.parse()?).ok_or("POD_CIDR is not a range")?;
    let data = PathBuf::from(data);
    let group = format!("/{name}");
    let tag: String = name.chars().take(9).collect();
    let network =
        PodNetworkConfig { interface: tag.clone(), table: format!("{name}-pods"), ..PodNetworkConfig::new(cidr, cidr) };
    let runtime = EmbeddedRuntime::open(EmbeddedConfig {
        root: data.join("containers"),
        state: data.join("run"),
        cgroup_root: group.clone(),
        registries: None,
        network: Arc::new(Attach(PodNetwork::open(network)?)),
        shim: ShimCommand { program: "/proc/self/exe".into(), args: vec!["shim".into()] },
    })
    .await?;
    for image in images {
        runtime.import_image(Path::new(image)).await?;
    }
    let config = client::kubeconfig::load(Path::new(kubeconfig), None)?;
    let client = client::Client::https(&config)?;
    let mut settings = KubeletConfig::new(name, data.join("kubelet"), ip.parse()?);
    settings.cgroup_root = group;
    settings.cluster_dns = vec!["10.96.0.10".parse()?];
    let kubelet = Kubelet::new(client, runtime.clone(), settings);
    let sleep = kubelet.sleep();
    let activity = ActivityConfig { table: format!("{name}-activity"), ..ActivityConfig::new(cidr) };
    sleep.enable(Arc::new(Activity::open(activity, sleep.watcher())?));
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let interrupt = tokio::spawn(async move {
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = async { match &mut term { Ok(term) => term.recv().await, Err(_) => std::future::pending().await } } => {}
        }
        stop.cancel();
    });
    kubelet.run(shutdown).await?;
    interrupt.abort();
    runtime.close().await;
    Ok(())
}
