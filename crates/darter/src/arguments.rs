//! What the user said: the command line as one table. Help, completion and the
//! manual come from it; nothing here opens a file or a port.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// The whole command line.
#[derive(Parser)]
#[command(
    name = "darter",
    version,
    about = "A whole Kubernetes in one binary, whose sleeping apps answer in milliseconds",
    after_help = "Exit codes: 0 ok, 1 failed, 2 usage, 3 not running, 4 timed out, 5 not found, 6 conflict, 7 permission, 8 unsupported host"
)]
pub(crate) struct Arguments {
    /// How much to say on standard error: error, warn, info, debug or trace.
    #[arg(long, global = true, env = "DARTER_LOG", default_value = "info", value_name = "LEVEL")]
    pub(crate) log: String,
    /// Log format.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// How results look.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// The main job in one command: a throw-away cluster, an app asleep, woken, measured.
    Demo(Demo),
    /// Run the whole cluster in the foreground.
    Up(Box<Up>),
    /// Run the scheduler alone against any Kubernetes.
    Scheduler(Part),
    /// Run the controllers alone against any Kubernetes.
    Controllers(Part),
    /// Run the autoscaler alone against any Kubernetes.
    Autoscaler(Autoscaler),
    /// Show what runs and what sleeps.
    Status(Status),
    /// Images on this machine.
    #[command(subcommand)]
    Image(Image),
    /// Remove everything that `up` made: processes, networks, mounts, files.
    Reset(Reset),
    /// Print versions.
    Version(Version),
    /// Print a completion script.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Holds one pod; started by the node agent.
    #[command(hide = true)]
    Shim {
        /// Passed through.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Answers HTTP; the app of the demo.
    #[command(hide = true)]
    DemoApp {
        /// Where to listen.
        #[arg(default_value = "0.0.0.0:8080")]
        listen: SocketAddr,
    },
}

#[derive(Args)]
pub(crate) struct Demo {
    /// Print one JSON object a step and one for the result.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
    /// How many times the app is put to sleep and woken.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) wakes: u32,
    /// Start nothing; only write the demo's image there, a docker-archive that
    /// `darter image import` takes.
    #[arg(long, value_name = "FILE", conflicts_with = "wakes")]
    pub(crate) write_image: Option<PathBuf>,
}

/// Where a cluster lives.
#[derive(Args, Clone)]
pub(crate) struct Place {
    /// Where state, keys and images are kept.
    #[arg(long, env = "DARTER_DATA_DIR", default_value = "/var/lib/darter", value_name = "D")]
    pub(crate) data_dir: PathBuf,
}

#[derive(Args, Clone)]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) place: Place,
    /// Address and port of the API; port 0 takes a free one.
    #[arg(long, default_value = "0.0.0.0:6443", value_name = "IP:PORT")]
    pub(crate) listen: SocketAddr,
    /// Where to write the administrator's kubeconfig; `admin.token` goes beside it.
    /// Without it: admin.kubeconfig in the data directory, and the token in its
    /// folder pki as well.
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Where state is kept; this version has `embedded` alone.
    #[arg(long, default_value = "embedded")]
    pub(crate) store: String,
    /// The control plane alone; needs no root.
    #[arg(long)]
    pub(crate) no_node: bool,
    /// The control plane without scheduler, controllers and autoscaler as well.
    #[arg(long, requires = "no_node")]
    pub(crate) api_only: bool,
    /// Name of this node.
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// Address of this node; without it that of the default route.
    #[arg(long, value_name = "IP")]
    pub(crate) node_ip: Option<IpAddr>,
    /// Port of the node agent's HTTPS API; 0 takes a free one.
    #[arg(long, default_value_t = 10250)]
    pub(crate) node_port: u16,
    /// Addresses of pods.
    #[arg(long, default_value = "10.244.0.0/16", value_name = "CIDR")]
    pub(crate) cluster_cidr: String,
    /// Addresses of Services.
    #[arg(long, default_value = "10.96.0.0/16", value_name = "CIDR")]
    pub(crate) service_cidr: String,
    /// DNS domain of the cluster.
    #[arg(long, default_value = "cluster.local")]
    pub(crate) cluster_domain: String,
    /// Mirrors and credentials of registries, in the form of k3s.
    #[arg(long, value_name = "FILE")]
    pub(crate) registries: Option<PathBuf>,
    /// Print one JSON object an event instead of lines.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) autoscaling: Autoscaling,
}

#[derive(Args)]
pub(crate) struct Autoscaler {
    #[command(flatten)]
    pub(crate) part: Part,
    #[command(flatten)]
    pub(crate) autoscaling: Autoscaling,
}

/// The HorizontalPodAutoscaler's settings, under upstream's names.
#[derive(Args, Clone)]
#[command(next_help_heading = "Autoscaling")]
pub(crate) struct Autoscaling {
    /// From one sample of metrics to the next; at least 100ms.
    #[arg(long = "horizontal-pod-autoscaler-sync-period", default_value = "15s", value_name = "DURATION", value_parser = duration)]
    pub(crate) sync_period: Duration,
    /// How far back recommendations hold a scale down.
    #[arg(long = "horizontal-pod-autoscaler-downscale-stabilization", default_value = "5m", value_name = "DURATION", value_parser = duration)]
    pub(crate) downscale_stabilization: Duration,
    /// How far usage may be from its target, as a part of it, without a change.
    #[arg(long = "horizontal-pod-autoscaler-tolerance", default_value_t = 0.1, value_name = "PART", value_parser = part)]
    pub(crate) tolerance: f64,
    /// How long after its start a pod's CPU counts only while it is ready.
    #[arg(long = "horizontal-pod-autoscaler-cpu-initialization-period", default_value = "5m", value_name = "DURATION", value_parser = duration)]
    pub(crate) cpu_initialization_period: Duration,
    /// A pod that became unready this soon after its start never was ready.
    #[arg(long = "horizontal-pod-autoscaler-initial-readiness-delay", default_value = "30s", value_name = "DURATION", value_parser = duration)]
    pub(crate) initial_readiness_delay: Duration,
}

impl Autoscaling {
    /// As the autoscaler takes them.
    pub(crate) fn config(&self) -> autoscaler::hpa::AutoscalerConfig {
        autoscaler::hpa::AutoscalerConfig {
            sample_period: self.sync_period,
            downscale_stabilization: self.downscale_stabilization,
            tolerance: self.tolerance,
            cpu_initialization_period: self.cpu_initialization_period,
            initial_readiness_delay: self.initial_readiness_delay,
        }
    }
}

/// `15s`, `1m30s`, `250ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration = text.parse().map_err(|error| format!("{error}; for example 15s or 1m30s"))?;
    Duration::try_from(parsed).map_err(|_| "must not be negative".to_owned())
}

/// A part of 1.
fn part(text: &str) -> Result<f64, String> {
    let parsed: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.0..=1.0).contains(&parsed) { Ok(parsed) } else { Err("must be from 0 to 1".to_owned()) }
}

#[derive(Args)]
pub(crate) struct Part {
    /// How to reach the cluster.
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub(crate) kubeconfig: PathBuf,
}

#[derive(Args)]
pub(crate) struct Status {
    /// How to reach the cluster; without it the data directory's own.
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) place: Place,
    /// Result format.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

#[derive(Subcommand)]
pub(crate) enum Image {
    /// Add images from docker-archive files or OCI layouts.
    Import {
        #[command(flatten)]
        place: Place,
        /// Files or folders.
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// List images.
    Ls {
        #[command(flatten)]
        place: Place,
        /// Result format.
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Remove images.
    Rm {
        #[command(flatten)]
        place: Place,
        /// References or ids.
        #[arg(required = true)]
        references: Vec<String>,
    },
    /// Fetch an image from its registry.
    Pull {
        #[command(flatten)]
        place: Place,
        /// References.
        #[arg(required = true)]
        references: Vec<String>,
        /// Mirrors and credentials of registries, in the form of k3s.
        #[arg(long, value_name = "FILE")]
        registries: Option<PathBuf>,
    },
}

#[derive(Args)]
pub(crate) struct Reset {
    #[command(flatten)]
    pub(crate) place: Place,
    /// Do not ask.
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[derive(Args)]
pub(crate) struct Version {
    /// Result format.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_upstream_writes_them() {
        assert_eq!(duration("15s"), Ok(Duration::from_secs(15)));
        assert_eq!(duration("5m0s"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert!(duration("-1s").is_err() && duration("15").is_err());
    }
}
