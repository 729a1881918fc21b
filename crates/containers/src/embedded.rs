//! The embedded runtime: the [`Runtime`] trait over shims, cgroups and the
//! image store. This file opens it and maps the trait; the work is below.

mod adoption;
mod containers;
mod paging;
mod record;
mod resolve;
mod sandboxes;
mod shim_client;
mod streams;
mod zygote;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::containers::Container;
use self::sandboxes::Sandbox;
pub use self::zygote::ShimCommand;
use self::zygote::Zygote;
use crate::cgroup::Cgroups;
use crate::image::store::ImageStore;
use crate::runtime::paging::{PagedOut, WorkingSetSize};
use crate::runtime::{
    ContainerConfig, ContainerId, ContainerStats, ContainerStatus, Duplex, ExecOutput, ExecRequest, FilesystemUsage,
    Image, ImageError, RegistryAuth, Resources, Runtime, RuntimeError, RuntimeEvent, RuntimeEventKind, SandboxActivity,
    SandboxConfig, SandboxId, SandboxNetwork, SandboxStatus, Session,
};

/// What the runtime calls itself.
const NAME: &str = "darter";
/// Handlers by which sandboxes may ask for it: its own name, and those that
/// the plain runtime has with other engines, so that classes made for them hold.
const HANDLERS: [&str; 3] = [NAME, "runc", "crun"];

/// Events kept for a receiver that lags.
const EVENT_QUEUE: usize = 4096;

/// Bytes of `/dev/shm` in a sandbox: Docker's and containerd's default.
const SHM_BYTES: u64 = 64 << 20;

/// How the embedded runtime is set up.
pub struct EmbeddedConfig {
    /// Images and writable layers; outlives a reboot.
    pub root: PathBuf,
    /// Sandboxes and containers; should not outlive a reboot (below `/run`).
    pub state: PathBuf,
    /// Our cgroup, relative to the hierarchies' roots, for example `/darter`.
    pub cgroup_root: String,
    /// `registries.yaml`; `None` for no mirrors and no credentials.
    pub registries: Option<PathBuf>,
    /// Connects sandboxes.
    pub network: Arc<dyn SandboxNetwork>,
    /// How to start the process that calls [`crate::shim_main`].
    pub shim: ShimCommand,
}

/// Why the runtime could not be opened.
#[derive(thiserror::Error, Debug)]
pub enum OpenError {
    /// A directory could not be made or read.
    #[error("{step}")]
    Io {
        /// What was being done, with its path.
        step: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The image store is unusable.
    #[error("open the image store")]
    Images(#[from] ImageError),
}

pub(crate) struct Inner {
    root: PathBuf,
    state: PathBuf,
    cgroup_root: String,
    network: Arc<dyn SandboxNetwork>,
    cgroups: Cgroups,
    images: Arc<ImageStore>,
    zygote: Zygote,
    sandboxes: Mutex<BTreeMap<String, Arc<Sandbox>>>,
    containers: Mutex<BTreeMap<String, Arc<Container>>>,
    events: broadcast::Sender<RuntimeEvent>,
    tasks: TaskTracker,
    /// Ends tasks that belong to sessions which their callers still hold.
    closing: CancellationToken,
    paging: paging::Offer,
    /// What capabilities this process may give away.
    capabilities: u64,
    /// Lower bound for `oom_score_adj` without CAP_SYS_RESOURCE.
    oom_score_floor: Option<i64>,
    /// See [`zygote::fast_cgroup_moves`].
    _fast_moves: Option<OwnedFd>,
}

/// The embedded runtime.
pub struct EmbeddedRuntime {
    inner: Arc<Inner>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // State behind these locks is replaced whole; a panic elsewhere leaves it usable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn io_error(step: impl Into<String>) -> impl FnOnce(std::io::Error) -> RuntimeError {
    let step = step.into();
    move |source| RuntimeError::Io { step, source }
}

/// Runs blocking work off the event loop.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RuntimeError> + Send + 'static,
) -> Result<T, RuntimeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(io_error("blocking work")(std::io::Error::other(error))),
    }
}

impl EmbeddedRuntime {
    /// Opens the runtime: makes its directories and cgroup, starts the process
    /// that sandboxes are forked from, and takes over every sandbox that an
    /// earlier agent left running. Needs root.
    pub async fn open(config: EmbeddedConfig) -> Result<Arc<Self>, OpenError> {
        let step = |step: String| move |source| OpenError::Io { step, source };
        for dir in [config.state.join("sandboxes"), config.state.join("containers"), config.root.join("containers")] {
            std::fs::create_dir_all(&dir).map_err(step(format!("make {}", dir.display())))?;
        }
        let cgroups = Cgroups::detect().map_err(step("find the cgroup hierarchies".to_owned()))?;
        let images = ImageStore::open(&config.root, config.registries.as_deref())?;
        let fast_moves = if cgroups.v2_only() { None } else { zygote::fast_cgroup_moves() };
        let shims = format!("{}/shims", config.cgroup_root);
        cgroups.create(&shims).map_err(step(format!("make cgroup {shims}")))?;
        let zygote = Zygote::new(config.shim, cgroups.clone(), shims, config.state.join("shim.log"));
        let capabilities = crate::sys::permitted_capabilities().map_err(step("read capabilities".to_owned()))?;
        let inner = Arc::new(Inner {
            root: config.root,
            state: config.state,
            cgroup_root: config.cgroup_root,
            network: config.network,
            cgroups,
            images,
            zygote,
            sandboxes: Mutex::default(),
            containers: Mutex::default(),
            events: broadcast::channel(EVENT_QUEUE).0,
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            paging: paging::Offer::default(),
            capabilities,
            oom_score_floor: resolve::oom_score_floor(capabilities),
            _fast_moves: fast_moves,
        });
        inner.adopt().await.map_err(step("read the state directory".to_owned()))?;
        Ok(Arc::new(Self { inner }))
    }

    /// Stops and removes every sandbox, then everything the runtime ever made:
    /// its cgroup, its state and its images. For `reset`; works in a process
    /// that was started for this alone. Goes on after a failure and returns
    /// the first.
    pub async fn destroy(&self) -> Result<(), RuntimeError> {
        let inner = &self.inner;
        let mut result = Ok(());
        let mut note = |outcome: Result<(), RuntimeError>| {
            if let Err(error) = outcome {
                tracing::warn!(err = %error, "removal goes on after a failure");
                if result.is_ok() {
                    result = Err(error);
                }
            }
        };
        let ids: Vec<String> = lock(&inner.sandboxes).keys().cloned().collect();
        for id in ids {
            note(inner.remove_sandbox(&SandboxId(id)).await);
        }
        self.close().await;
        inner.zygote.end();
        let ours = Arc::clone(inner);
        note(
            blocking(move || {
                let group = &ours.cgroup_root;
                ours.cgroups.kill_and_wait(group).map_err(io_error(format!("empty cgroup {group}")))?;
                ours.cgroups.remove(group).map_err(io_error(format!("remove cgroup {group}")))?;
                // Nothing is paged out any more: its processes are gone.
                ours.remove_swap()?;
                for dir in [&ours.state, &ours.root] {
                    crate::files::remove_tree(dir).map_err(io_error(format!("remove {}", dir.display())))?;
                }
                Ok(())
            })
            .await,
        );
        result
    }

    /// Lets go of all shims and waits for the runtime's tasks. Containers run
    /// on; a later [`EmbeddedRuntime::open`] finds them.
    pub async fn close(&self) {
        // Closed first: a connection that ends is then not made anew.
        self.inner.tasks.close();
        self.inner.closing.cancel();
        for sandbox in lock(&self.inner.sandboxes).values() {
            sandbox.disconnect();
        }
        self.inner.tasks.wait().await;
    }
}

impl Inner {
    fn emit(&self, sandbox: &str, container: Option<&str>, kind: RuntimeEventKind) {
        let event = RuntimeEvent {
            sandbox: SandboxId(sandbox.to_owned()),
            container: container.map(|id| ContainerId(id.to_owned())),
            kind,
        };
        // No receiver is no error: events are hints.
        drop(self.events.send(event));
    }

    fn find_sandbox(&self, id: &SandboxId) -> Result<Arc<Sandbox>, RuntimeError> {
        let found = lock(&self.sandboxes).get(&id.0).cloned();
        found.ok_or_else(|| RuntimeError::NotFound { what: "sandbox", id: id.0.clone() })
    }

    fn find_container(&self, id: &ContainerId) -> Result<Arc<Container>, RuntimeError> {
        let found = lock(&self.containers).get(&id.0).cloned();
        found.ok_or_else(|| RuntimeError::NotFound { what: "container", id: id.0.clone() })
    }
}

#[async_trait::async_trait]
impl Runtime for EmbeddedRuntime {
    fn version(&self) -> (String, String) {
        (NAME.to_owned(), env!("CARGO_PKG_VERSION").to_owned())
    }

    fn handlers(&self) -> Vec<String> {
        std::iter::once("").chain(HANDLERS).map(str::to_owned).collect()
    }

    async fn run_sandbox(&self, config: SandboxConfig) -> Result<SandboxId, RuntimeError> {
        self.inner.run_sandbox(config).await
    }

    async fn stop_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        self.inner.stop_sandbox(id).await
    }

    async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        self.inner.remove_sandbox(id).await
    }

    async fn sandbox(&self, id: &SandboxId) -> Result<SandboxStatus, RuntimeError> {
        Ok(self.inner.find_sandbox(id)?.status())
    }

    async fn sandboxes(&self) -> Result<Vec<SandboxStatus>, RuntimeError> {
        Ok(lock(&self.inner.sandboxes).values().map(|sandbox| sandbox.status()).collect())
    }

    async fn create_container(
        &self,
        sandbox: &SandboxId,
        config: ContainerConfig,
    ) -> Result<ContainerId, RuntimeError> {
        let (inner, sandbox) = (Arc::clone(&self.inner), self.inner.find_sandbox(sandbox)?);
        blocking(move || inner.create_container(&sandbox, config)).await
    }

    async fn start_container(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.inner.start_container(id).await
    }

    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<(), RuntimeError> {
        self.inner.stop_container(id, grace).await
    }

    async fn remove_container(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.inner.remove_container(id).await
    }

    async fn container(&self, id: &ContainerId) -> Result<ContainerStatus, RuntimeError> {
        Ok(self.inner.find_container(id)?.status())
    }

    async fn containers(&self) -> Result<Vec<ContainerStatus>, RuntimeError> {
        Ok(lock(&self.inner.containers).values().map(|container| container.status()).collect())
    }

    async fn update_resources(&self, id: &ContainerId, resources: Resources) -> Result<(), RuntimeError> {
        let (inner, container) = (Arc::clone(&self.inner), self.inner.find_container(id)?);
        blocking(move || inner.update_resources(&container, resources)).await
    }

    async fn set_cgroup(&self, path: &str, resources: Resources) -> Result<(), RuntimeError> {
        let (inner, path) = (Arc::clone(&self.inner), path.to_owned());
        blocking(move || {
            inner.cgroups.create(&path).map_err(io_error(format!("make cgroup {path}")))?;
            inner.cgroups.set(&path, &resources).map_err(io_error(format!("set limits of cgroup {path}")))
        })
        .await
    }

    async fn remove_cgroup(&self, path: &str) -> Result<(), RuntimeError> {
        let (inner, path) = (Arc::clone(&self.inner), path.to_owned());
        blocking(move || inner.cgroups.remove(&path).map_err(io_error(format!("remove cgroup {path}")))).await
    }

    async fn activity(&self, id: &SandboxId) -> Result<SandboxActivity, RuntimeError> {
        let (inner, sandbox) = (Arc::clone(&self.inner), self.inner.find_sandbox(id)?);
        blocking(move || inner.activity(&sandbox)).await
    }

    async fn freeze(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        let (inner, sandbox) = (Arc::clone(&self.inner), self.inner.find_sandbox(id)?);
        blocking(move || inner.freeze(&sandbox)).await
    }

    fn thaw(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        self.inner.find_sandbox(id)?.thaw()
    }

    fn paging(&self) -> Result<(), String> {
        self.inner.paging.swap().map(drop)
    }

    async fn offer_paging(&self) -> Result<(), String> {
        let _once = self.inner.paging.setting_up().await;
        if !self.inner.paging.was_set_up() {
            // Its failure is the reason that the next line gives.
            let _reason = self.set_up_paging(self.swap_config()).await;
        }
        self.paging()
    }

    async fn page_out(&self, id: &SandboxId) -> Result<PagedOut, RuntimeError> {
        self.inner.page_out(self.inner.find_sandbox(id)?).await
    }

    async fn record_working_set(&self, id: &SandboxId) -> Result<WorkingSetSize, RuntimeError> {
        let (inner, sandbox) = (Arc::clone(&self.inner), self.inner.find_sandbox(id)?);
        blocking(move || inner.record_working_set(&sandbox)).await
    }

    fn bring_back(&self, id: &SandboxId) -> Result<u64, RuntimeError> {
        Ok(self.inner.find_sandbox(id)?.paging.bring_back())
    }

    async fn exec_sync(
        &self,
        id: &ContainerId,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, RuntimeError> {
        self.inner.exec_sync(id, command, timeout).await
    }

    async fn exec(&self, id: &ContainerId, request: ExecRequest) -> Result<Session, RuntimeError> {
        self.inner.exec(id, request).await
    }

    async fn attach(&self, id: &ContainerId, request: ExecRequest) -> Result<Session, RuntimeError> {
        self.inner.attach(id, request).await
    }

    async fn port_forward(&self, id: &SandboxId, port: u16) -> Result<Box<dyn Duplex>, RuntimeError> {
        self.inner.port_forward(id, port).await
    }

    async fn reopen_log(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.inner.reopen_log(id).await
    }

    async fn stats(&self, id: &ContainerId) -> Result<ContainerStats, RuntimeError> {
        let (inner, container) = (Arc::clone(&self.inner), self.inner.find_container(id)?);
        blocking(move || inner.stats(&container)).await
    }

    async fn cgroup_stats(&self, path: &str) -> Result<ContainerStats, RuntimeError> {
        let (inner, path) = (Arc::clone(&self.inner), path.to_owned());
        blocking(move || inner.cgroups.stats(&path).map_err(io_error(format!("read cgroup {path}")))).await
    }

    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.inner.events.subscribe()
    }

    async fn pull_image(&self, reference: &str, auth: Option<RegistryAuth>) -> Result<String, RuntimeError> {
        Ok(self.inner.images.pull(reference, auth).await?)
    }

    async fn image(&self, reference: &str) -> Result<Option<Image>, RuntimeError> {
        Ok(self.inner.images.image(reference)?)
    }

    async fn images(&self) -> Result<Vec<Image>, RuntimeError> {
        Ok(self.inner.images.images()?)
    }

    async fn remove_image(&self, reference: &str) -> Result<(), RuntimeError> {
        let (images, reference) = (Arc::clone(&self.inner.images), reference.to_owned());
        blocking(move || Ok(images.remove(&reference)?)).await
    }

    async fn import_image(&self, path: &Path) -> Result<Vec<String>, RuntimeError> {
        let (images, path) = (Arc::clone(&self.inner.images), path.to_owned());
        blocking(move || Ok(images.import(&path)?)).await
    }

    async fn image_filesystem(&self) -> Result<FilesystemUsage, RuntimeError> {
        let inner = Arc::clone(&self.inner);
        blocking(move || inner.filesystem_usage()).await
    }
}

/// An address as `/etc/hosts` writes it.
fn hosts_line(address: IpAddr, names: &[String]) -> String {
    format!("{address}\t{}\n", names.join("\t"))
}
