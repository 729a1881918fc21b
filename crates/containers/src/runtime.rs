//! The [`Runtime`] trait, shaped like CRI v1, and its vocabulary.
//!
//! The node agent drives pods through this trait alone. The embedded runtime
//! implements it here; a CRI socket can take its place.

mod error;
pub mod paging;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::broadcast;

pub use self::error::{ImageError, RuntimeError};
use self::paging::{PagedOut, WorkingSetSize};

/// Names one sandbox; 64 lower-case hex digits, chosen by the runtime.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct SandboxId(pub String);

/// Names one container; 64 lower-case hex digits, chosen by the runtime.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct ContainerId(pub String);

/// Whether a namespace belongs to the sandbox, one container, or the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// Shared by all containers of the sandbox.
    #[default]
    Pod,
    /// One per container.
    Container,
    /// The machine's own.
    Node,
}

/// What a sandbox is made of.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SandboxConfig {
    /// Owner's identity, kept for listing after a restart: name, namespace, uid, attempt.
    pub metadata: SandboxMetadata,
    /// Host name inside; empty for the machine's.
    pub hostname: String,
    /// Directory that receives container logs.
    pub log_directory: PathBuf,
    /// Contents of `/etc/resolv.conf` in every container; `None` keeps the machine's.
    pub dns: Option<DnsConfig>,
    /// Network namespace.
    pub network: NamespaceMode,
    /// Process namespace (`Pod` means shared between containers).
    pub pid: NamespaceMode,
    /// IPC namespace.
    pub ipc: NamespaceMode,
    /// Ports of the machine forwarded to the sandbox.
    pub port_mappings: Vec<PortMapping>,
    /// Kernel parameters set inside its namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// The parent cgroup, relative to the cgroup root, for example
    /// `/darter/kubepods/burstable/pod<uid>`. Made by the caller's
    /// [`Runtime::set_cgroup`] or here if absent.
    pub cgroup_parent: String,
    /// Overhead and pod-level limits, applied to `cgroup_parent`.
    pub resources: Resources,
    /// Kept for listing.
    pub labels: BTreeMap<String, String>,
    /// Kept for listing.
    pub annotations: BTreeMap<String, String>,
    /// Supplemental data for `/etc/hosts`: address and names, in order.
    pub hosts: Vec<(IpAddr, Vec<String>)>,
    /// Which runtime is to run it; empty for the default. Names that are not
    /// known are [`RuntimeError::Invalid`].
    #[serde(default)]
    pub handler: String,
    /// A user namespace of its own: whom of the machine its users and groups
    /// stand for. `None` for the machine's.
    #[serde(default)]
    pub users: Option<IdRange>,
}

/// Users and groups of the machine, one after the other, that stand for those
/// from 0 on inside a user namespace. Users and groups have the same range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The one that 0 inside stands for.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// Who a sandbox belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SandboxMetadata {
    /// Pod name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Unique id of the owner.
    pub uid: String,
    /// Counts sandboxes of the same owner, from 0.
    pub attempt: u32,
}

/// `/etc/resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsConfig {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The `search` line.
    pub searches: Vec<String>,
    /// The `options` line.
    pub options: Vec<String>,
}

/// One forwarded port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Inside.
    pub container_port: u16,
    /// On the machine.
    pub host_port: u16,
    /// Machine address; empty for all.
    pub host_ip: Option<IpAddr>,
}

/// Transport protocol of a port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// Limits of a cgroup. `None` leaves the kernel's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// CPU shares as in cgroup v1 (2 to 262144); converted to weight on v2.
    pub cpu_shares: Option<u64>,
    /// CPU time per period, microseconds; -1 for no limit.
    pub cpu_quota_us: Option<i64>,
    /// The period, microseconds.
    pub cpu_period_us: Option<u64>,
    /// Memory limit, bytes.
    pub memory_limit_bytes: Option<i64>,
    /// Written to `oom_score_adj` of the processes.
    pub oom_score_adj: Option<i64>,
    /// Processes.
    pub pids_limit: Option<i64>,
    /// `cpuset.cpus`.
    pub cpuset_cpus: String,
    /// `cpuset.mems`.
    pub cpuset_mems: String,
    /// Huge page size (`2MB`) to limit in bytes.
    pub hugepage_limits: BTreeMap<String, u64>,
}

/// One bind mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path inside.
    pub container_path: String,
    /// Path on the machine; must exist.
    pub host_path: PathBuf,
    /// Instead of `host_path`: what an image holds, read-only and without
    /// execution.
    #[serde(default)]
    pub image: Option<ImageMount>,
    /// Read-only.
    pub readonly: bool,
    /// Read-only for mounts below as well.
    pub recursive_readonly: bool,
    /// How mounts travel between the two sides.
    pub propagation: Propagation,
}

/// An image as the source of a mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageMount {
    /// Image id or reference that [`Runtime::image`] knows.
    pub image: String,
    /// Only this directory or file of it; empty for all. Links are followed
    /// within the image.
    pub sub_path: String,
}

/// Mount propagation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Propagation {
    /// Neither way.
    #[default]
    Private,
    /// The machine's later mounts appear inside.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// A device node passed through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Path inside.
    pub container_path: String,
    /// Path on the machine.
    pub host_path: PathBuf,
    /// cgroup permissions, of `rwm`.
    pub permissions: String,
}

/// System call filter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    /// None.
    #[default]
    Unconfined,
    /// The runtime's list.
    RuntimeDefault,
    /// An OCI seccomp profile (JSON) on the machine.
    Localhost(PathBuf),
}

/// Who a process is and what it may do.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Security {
    /// Numeric user; wins over `username`.
    pub uid: Option<u32>,
    /// User by name, looked up in the image's `/etc/passwd`.
    pub username: Option<String>,
    /// Primary group.
    pub gid: Option<u32>,
    /// More groups.
    pub supplemental_groups: Vec<u32>,
    /// Whether the image's `/etc/group` adds groups (upstream's `Merge`) or not (`Strict`).
    pub strict_supplemental_groups: bool,
    /// All capabilities and devices, no filter, writable `/sys`.
    pub privileged: bool,
    /// Added to the runtime's default set; `ALL` for all. Without `CAP_`.
    pub add_capabilities: Vec<String>,
    /// Taken from it; `ALL` for all. Without `CAP_`.
    pub drop_capabilities: Vec<String>,
    /// The root file system is read-only.
    pub readonly_rootfs: bool,
    /// Sets `no_new_privs`.
    pub no_new_privileges: bool,
    /// System call filter.
    pub seccomp: Seccomp,
    /// Paths hidden inside; `None` for the runtime's defaults.
    pub masked_paths: Option<Vec<String>>,
    /// Paths read-only inside; `None` for the runtime's defaults.
    pub readonly_paths: Option<Vec<String>>,
    /// Share another container's process namespace instead of the sandbox's setting.
    pub pid_of: Option<ContainerId>,
}

/// What a container is made of.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// Name within the sandbox, and how often it was made, from 0.
    pub name: String,
    /// Attempt, from 0.
    pub attempt: u32,
    /// Image id or reference that [`Runtime::image`] knows.
    pub image: String,
    /// Replaces the image's entrypoint when not empty.
    pub command: Vec<String>,
    /// Replaces the image's arguments when not empty (or when `command` is set).
    pub args: Vec<String>,
    /// Replaces the image's working directory when not empty.
    pub working_dir: String,
    /// Added to the image's environment, in order; later ones win.
    pub env: Vec<(String, String)>,
    /// Bind mounts, in order.
    pub mounts: Vec<Mount>,
    /// Device nodes.
    pub devices: Vec<Device>,
    /// Kept for listing.
    pub labels: BTreeMap<String, String>,
    /// Kept for listing.
    pub annotations: BTreeMap<String, String>,
    /// Log file, relative to the sandbox's log directory. CRI log format.
    pub log_path: PathBuf,
    /// Rotate the log at this size, keep so many files.
    pub log_limits: LogLimits,
    /// Keep standard input open for attach.
    pub stdin: bool,
    /// Close standard input after the first attach ends.
    pub stdin_once: bool,
    /// Give it a terminal.
    pub tty: bool,
    /// Limits.
    pub resources: Resources,
    /// Identity and rights.
    pub security: Security,
    /// Signal that asks it to end, as a name (`SIGTERM`); overrides the image's.
    pub stop_signal: Option<String>,
}

/// Log rotation bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimits {
    /// Bytes of one file.
    pub max_bytes: u64,
    /// Files kept, the live one included.
    pub max_files: u32,
}

impl Default for LogLimits {
    /// Upstream kubelet's defaults: `containerLogMaxSize` 10Mi, `containerLogMaxFiles` 5.
    fn default() -> Self {
        Self { max_bytes: 10 << 20, max_files: 5 }
    }
}

/// State of a sandbox.
#[derive(Clone, Debug)]
pub struct SandboxStatus {
    /// Its id.
    pub id: SandboxId,
    /// Who it belongs to.
    pub metadata: SandboxMetadata,
    /// False once stopped, or when its processes or namespaces are gone.
    pub ready: bool,
    /// When it was made.
    pub created: SystemTime,
    /// Its addresses, the primary first; empty on the machine's network.
    pub ips: Vec<IpAddr>,
    /// As configured.
    pub labels: BTreeMap<String, String>,
    /// As configured.
    pub annotations: BTreeMap<String, String>,
    /// A path that names its network namespace; `None` on the machine's network.
    pub netns: Option<PathBuf>,
    /// True while its processes are frozen.
    pub frozen: bool,
    /// As configured.
    pub users: Option<IdRange>,
}

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Runs since then.
    Running {
        /// Start time.
        started: SystemTime,
        /// Process id on the machine.
        pid: u32,
    },
    /// Ended.
    Exited {
        /// Start time.
        started: SystemTime,
        /// End time.
        finished: SystemTime,
        /// Exit code; 128 plus the signal when a signal ended it.
        exit_code: i32,
        /// The signal that ended it.
        signal: Option<i32>,
        /// `Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerCannotRun`.
        reason: String,
        /// More, for people.
        message: String,
    },
    /// The runtime lost track of it.
    Unknown,
}

/// State of a container.
#[derive(Clone, Debug)]
pub struct ContainerStatus {
    /// Its id.
    pub id: ContainerId,
    /// Its sandbox.
    pub sandbox: SandboxId,
    /// Name within the sandbox.
    pub name: String,
    /// Attempt, from 0.
    pub attempt: u32,
    /// State.
    pub state: ContainerState,
    /// When it was made.
    pub created: SystemTime,
    /// Image as asked for.
    pub image: String,
    /// What the image can be fetched by again, `name@sha256:…`; the image's id
    /// (config digest) when it came from no registry.
    pub image_ref: String,
    /// As configured.
    pub labels: BTreeMap<String, String>,
    /// As configured.
    pub annotations: BTreeMap<String, String>,
    /// Absolute path of its log.
    pub log_path: PathBuf,
    /// The identity it really runs with: uid, gid, supplemental groups.
    pub user: Option<(u32, u32, Vec<u32>)>,
    /// Limits in force.
    pub resources: Resources,
    /// As mounted.
    pub mounts: Vec<Mount>,
    /// The stop signal in force.
    pub stop_signal: Option<String>,
}

/// Something happened to a container or sandbox. An event is a hint to look at
/// the status; events may be dropped when a receiver lags.
#[derive(Clone, Debug)]
pub struct RuntimeEvent {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// The container, `None` for the sandbox itself.
    pub container: Option<ContainerId>,
    /// What.
    pub kind: RuntimeEventKind,
}

/// Kinds of [`RuntimeEvent`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RuntimeEventKind {
    /// Made.
    Created,
    /// Started.
    Started,
    /// Ended, by itself or not.
    Stopped,
    /// Removed.
    Deleted,
    /// The kernel killed something in it for memory; the container may run on.
    OomKill,
}

/// An image on this machine.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Config digest, `sha256:…`.
    pub id: String,
    /// `name:tag` references.
    pub tags: Vec<String>,
    /// `name@sha256:…` references.
    pub digests: Vec<String>,
    /// Bytes on disk.
    pub size_bytes: u64,
    /// Numeric user of the image's config.
    pub uid: Option<i64>,
    /// Non-numeric user of the image's config.
    pub username: String,
    /// Not removed by garbage collection.
    pub pinned: bool,
}

/// Credentials for one pull.
#[derive(Clone, Debug, Default)]
pub struct RegistryAuth {
    /// User, with `password`.
    pub username: String,
    /// Password.
    pub password: String,
    /// A token to exchange at the registry's token service.
    pub identity_token: String,
    /// A token to send as it is.
    pub registry_token: String,
}

/// Usage of one container at one moment.
#[derive(Clone, Debug, Default)]
pub struct ContainerStats {
    /// Cumulative CPU time, nanoseconds.
    pub cpu_usage_ns: u64,
    /// Memory in use, bytes, page cache included.
    pub memory_usage_bytes: u64,
    /// In use minus inactive file pages, bytes.
    pub memory_working_set_bytes: u64,
    /// Anonymous memory, bytes.
    pub memory_rss_bytes: u64,
    /// Memory that is in swap, bytes.
    pub swap_bytes: u64,
    /// Cumulative page faults.
    pub page_faults: u64,
    /// Cumulative major page faults.
    pub major_page_faults: u64,
    /// Processes.
    pub process_count: u64,
    /// Bytes of the writable layer.
    pub rootfs_used_bytes: u64,
    /// Files of the writable layer.
    pub rootfs_inodes_used: u64,
}

/// What a sandbox's processes do that no packet shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SandboxActivity {
    /// Cumulative CPU time, nanoseconds.
    pub cpu_usage_ns: u64,
    /// TCP connections with others that are established now.
    pub connections: usize,
}

/// Space that images and writable layers use.
#[derive(Clone, Debug, Default)]
pub struct FilesystemUsage {
    /// Mount point or directory measured.
    pub mountpoint: PathBuf,
    /// Bytes used by the runtime's own data.
    pub used_bytes: u64,
    /// Inodes used by it.
    pub inodes_used: u64,
}

/// A process to run in a running container.
#[derive(Clone, Debug, Default)]
pub struct ExecRequest {
    /// Command and arguments.
    pub command: Vec<String>,
    /// With a terminal; standard error is then merged into output.
    pub tty: bool,
    /// Give it standard input.
    pub stdin: bool,
    /// Capture standard output.
    pub stdout: bool,
    /// Capture standard error.
    pub stderr: bool,
}

/// A stream end as an owned trait object.
pub type ReadStream = Box<dyn AsyncRead + Send + Unpin>;
/// A stream end as an owned trait object.
pub type WriteStream = Box<dyn AsyncWrite + Send + Unpin>;
/// Both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A running exec or attach.
pub struct Session {
    /// Its standard input, where asked for. Dropping it closes it.
    pub stdin: Option<WriteStream>,
    /// Its standard output.
    pub stdout: Option<ReadStream>,
    /// Its standard error.
    pub stderr: Option<ReadStream>,
    /// Terminal sizes (columns, rows) to apply; bounded, the latest wins.
    pub resize: tokio::sync::mpsc::Sender<(u16, u16)>,
    /// Resolves to the exit code once the process has ended (attach: the
    /// container). Dropped without a value when the runtime lost it.
    pub exit: tokio::sync::oneshot::Receiver<i32>,
}

/// Result of [`Runtime::exec_sync`].
#[derive(Clone, Debug, Default)]
pub struct ExecOutput {
    /// Standard output, cut at 16 MiB.
    pub stdout: Vec<u8>,
    /// Standard error, cut at 16 MiB.
    pub stderr: Vec<u8>,
    /// Exit code.
    pub exit_code: i32,
}

/// Gives sandboxes their network. Called by the embedded runtime; a foreign
/// CRI runtime does this by its own means.
#[async_trait::async_trait]
pub trait SandboxNetwork: Send + Sync + 'static {
    /// Connects the namespace. Idempotent for the same id.
    /// Returns the addresses, the primary first.
    async fn attach(
        &self,
        id: &SandboxId,
        netns: &std::path::Path,
        config: &SandboxConfig,
    ) -> Result<Vec<IpAddr>, Box<dyn std::error::Error + Send + Sync>>;
    /// Disconnects it and frees its addresses. Idempotent.
    async fn detach(&self, id: &SandboxId) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// What runs containers. All methods are idempotent where CRI says so: stop
/// and remove of something absent succeed.
#[async_trait::async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Name, and version as shown in node status (`darter`, `0.1.0`).
    fn version(&self) -> (String, String);
    /// Names that [`SandboxConfig::handler`] may have; the default, an empty
    /// one, first.
    fn handlers(&self) -> Vec<String>;
    /// Makes and starts a sandbox.
    async fn run_sandbox(&self, config: SandboxConfig) -> Result<SandboxId, RuntimeError>;
    /// Stops its containers, tears its network down.
    async fn stop_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError>;
    /// Removes it with all its containers.
    async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError>;
    /// One sandbox.
    async fn sandbox(&self, id: &SandboxId) -> Result<SandboxStatus, RuntimeError>;
    /// All sandboxes.
    async fn sandboxes(&self) -> Result<Vec<SandboxStatus>, RuntimeError>;

    /// Makes a container; its process starts at [`Runtime::start_container`].
    async fn create_container(&self, sandbox: &SandboxId, config: ContainerConfig)
    -> Result<ContainerId, RuntimeError>;
    /// Runs the process.
    async fn start_container(&self, id: &ContainerId) -> Result<(), RuntimeError>;
    /// Sends the stop signal, then SIGKILL after `grace`. Returns once it has ended.
    /// A frozen container is thawed first.
    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<(), RuntimeError>;
    /// Removes it; kills it first if it runs.
    async fn remove_container(&self, id: &ContainerId) -> Result<(), RuntimeError>;
    /// One container.
    async fn container(&self, id: &ContainerId) -> Result<ContainerStatus, RuntimeError>;
    /// All containers.
    async fn containers(&self) -> Result<Vec<ContainerStatus>, RuntimeError>;
    /// Changes its limits in place.
    async fn update_resources(&self, id: &ContainerId, resources: Resources) -> Result<(), RuntimeError>;
    /// Makes a cgroup (with parents) and sets its limits.
    async fn set_cgroup(&self, path: &str, resources: Resources) -> Result<(), RuntimeError>;
    /// Removes an empty cgroup and its empty children. Idempotent.
    async fn remove_cgroup(&self, path: &str) -> Result<(), RuntimeError>;

    /// What its processes did up to now and hold open.
    async fn activity(&self, id: &SandboxId) -> Result<SandboxActivity, RuntimeError>;
    /// Freezes every process of the sandbox; returns once the kernel says so.
    async fn freeze(&self, id: &SandboxId) -> Result<(), RuntimeError>;
    /// Lets them run again. Synchronous and short, so that the wake path can
    /// call it without a task switch.
    fn thaw(&self, id: &SandboxId) -> Result<(), RuntimeError>;

    /// Whether memory of frozen sandboxes can be paged out; else the reason.
    fn paging(&self) -> Result<(), String> {
        Err("paged out is not offered: this runtime has no such thing".to_owned())
    }
    /// As [`Runtime::paging`], after setting up what it needs, if nobody has:
    /// an idle machine pays nothing for a rung that nobody uses.
    async fn offer_paging(&self) -> Result<(), String> {
        self.paging()
    }
    /// Moves the memory of a frozen sandbox to swap; waits for its turn when
    /// others are being paged out. A thaw meanwhile takes no longer than
    /// without it and ends it. An error leaves the sandbox as usable as before,
    /// with some of it paged out perhaps.
    async fn page_out(&self, id: &SandboxId) -> Result<PagedOut, RuntimeError> {
        let reason = format!("this runtime cannot do it for sandbox {}", id.0);
        Err(RuntimeError::NotOffered { what: "paging out", reason })
    }
    /// Remembers which pages the sandbox used since it was paged out and woken;
    /// to be called once it has answered. Does nothing when it was not paged
    /// out whole.
    async fn record_working_set(&self, id: &SandboxId) -> Result<WorkingSetSize, RuntimeError> {
        let reason = format!("this runtime cannot do it for sandbox {}", id.0);
        Err(RuntimeError::NotOffered { what: "recording a working set", reason })
    }
    /// Maps the remembered pages again; to be called just before
    /// [`Runtime::thaw`]. Blocking: nothing for a sandbox that is not paged
    /// out or has no working set, else about 2 ms per MB, 32 MB at most.
    /// Returns the bytes brought back. A failure is no reason not to thaw.
    fn bring_back(&self, id: &SandboxId) -> Result<u64, RuntimeError> {
        let reason = format!("this runtime cannot do it for sandbox {}", id.0);
        Err(RuntimeError::NotOffered { what: "bringing pages back", reason })
    }

    /// Runs a command to its end.
    async fn exec_sync(
        &self,
        id: &ContainerId,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, RuntimeError>;
    /// Runs a command with streams.
    async fn exec(&self, id: &ContainerId, request: ExecRequest) -> Result<Session, RuntimeError>;
    /// Connects to the container's own streams; `tty` and `stdin` of the
    /// request say what the caller wants, `command` is ignored.
    async fn attach(&self, id: &ContainerId, request: ExecRequest) -> Result<Session, RuntimeError>;
    /// A TCP connection to localhost:`port` inside the sandbox.
    async fn port_forward(&self, id: &SandboxId, port: u16) -> Result<Box<dyn Duplex>, RuntimeError>;
    /// Starts a new log file after someone moved the old one.
    async fn reopen_log(&self, id: &ContainerId) -> Result<(), RuntimeError>;

    /// Usage now.
    async fn stats(&self, id: &ContainerId) -> Result<ContainerStats, RuntimeError>;
    /// Usage of any cgroup path, for pod and node figures.
    async fn cgroup_stats(&self, path: &str) -> Result<ContainerStats, RuntimeError>;
    /// Subscribes to events, from now on. Bounded; a lagging receiver must relist.
    fn events(&self) -> broadcast::Receiver<RuntimeEvent>;

    /// Fetches an image; returns its id. `reference` is as the user wrote it.
    async fn pull_image(&self, reference: &str, auth: Option<RegistryAuth>) -> Result<String, RuntimeError>;
    /// An image by reference or id.
    async fn image(&self, reference: &str) -> Result<Option<Image>, RuntimeError>;
    /// All images.
    async fn images(&self) -> Result<Vec<Image>, RuntimeError>;
    /// Removes an image and what only it needs. Idempotent.
    async fn remove_image(&self, reference: &str) -> Result<(), RuntimeError>;
    /// Adds images from a docker-archive or an OCI layout (tar or directory);
    /// returns the references that now exist.
    async fn import_image(&self, path: &std::path::Path) -> Result<Vec<String>, RuntimeError>;
    /// Space used.
    async fn image_filesystem(&self) -> Result<FilesystemUsage, RuntimeError>;
}
