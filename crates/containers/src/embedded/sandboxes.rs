//! Sandboxes: made, frozen, stopped, removed. What runs in them is in
//! `containers`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::paging::Paging;
use super::record::{FORMAT, SandboxRecord, instant, now_ns};
use super::shim_client::{ShimClient, listener};
use super::{Inner, SHM_BYTES, blocking, hosts_line, io_error, lock};
use crate::cgroup::Freezer;
use crate::connections::open_connections;
use crate::files;
use crate::runtime::{
    NamespaceMode, RuntimeError, RuntimeEventKind, SandboxActivity, SandboxConfig, SandboxId, SandboxStatus,
};
use crate::shim::protocol::{Message, Op, SpawnSandbox};

/// Longest host name the kernel takes, bytes.
const MAX_HOSTNAME: usize = 64;

pub(super) struct Sandbox {
    pub(super) id: String,
    pub(super) dir: PathBuf,
    pub(super) record: Mutex<SandboxRecord>,
    /// `None` once the shim is gone.
    shim: Mutex<Option<Arc<ShimClient>>>,
    freezer: Mutex<Option<Arc<Freezer>>>,
    frozen: AtomicBool,
    pub(super) paging: Paging,
}

impl Sandbox {
    pub(super) fn new(dir: PathBuf, record: SandboxRecord, shim: Option<Arc<ShimClient>>) -> Self {
        Self {
            id: record.id.clone(),
            dir,
            record: Mutex::new(record),
            shim: Mutex::new(shim),
            freezer: Mutex::default(),
            frozen: AtomicBool::new(false),
            paging: Paging::default(),
        }
    }

    pub(super) fn status(&self) -> SandboxStatus {
        let record = lock(&self.record).clone();
        let ready = !record.stopped && lock(&self.shim).is_some();
        let own_network = record.config.network != NamespaceMode::Node;
        SandboxStatus {
            id: SandboxId(record.id),
            metadata: record.config.metadata,
            ready,
            created: instant(record.created_ns),
            ips: record.ips,
            labels: record.config.labels,
            annotations: record.config.annotations,
            netns: (own_network && ready).then(|| netns(record.pid)),
            frozen: self.frozen.load(Ordering::Acquire),
            users: record.config.users,
        }
    }

    /// The shim of a sandbox that is ready.
    pub(super) fn shim(&self) -> Result<Arc<ShimClient>, RuntimeError> {
        let stopped = lock(&self.record).stopped;
        lock(&self.shim).clone().filter(|_| !stopped).ok_or_else(|| RuntimeError::State {
            what: "sandbox",
            id: self.id.clone(),
            state: "not ready".to_owned(),
            needed: "ready",
        })
    }

    pub(super) fn set_shim(&self, shim: Option<Arc<ShimClient>>) {
        *lock(&self.shim) = shim;
    }

    pub(super) fn disconnect(&self) {
        if let Some(shim) = lock(&self.shim).as_ref() {
            shim.disconnect();
        }
    }

    pub(super) fn cgroup(&self) -> String {
        lock(&self.record).config.cgroup_parent.clone()
    }

    pub(super) fn set_frozen(&self, freezer: Arc<Freezer>, frozen: bool) {
        *lock(&self.freezer) = Some(freezer);
        self.frozen.store(frozen, Ordering::Release);
    }

    /// Asked to freeze, and not thawed since.
    pub(super) fn wants_frozen(&self) -> bool {
        self.frozen.load(Ordering::Acquire)
    }

    /// Every process stands still, as the kernel says.
    pub(super) fn stands_still(&self) -> bool {
        self.wants_frozen() && lock(&self.freezer).as_ref().is_some_and(|freezer| freezer.frozen())
    }

    /// Lets the processes run again. One write, nothing else: this is on the
    /// path of the first packet.
    pub(super) fn thaw(&self) -> Result<(), RuntimeError> {
        self.paging.stop();
        let freezer = lock(&self.freezer);
        if let Some(freezer) = freezer.as_ref() {
            freezer.thaw().map_err(io_error("thaw the sandbox's cgroup"))?;
        }
        self.frozen.store(false, Ordering::Release);
        Ok(())
    }

    pub(super) fn save(&self) -> Result<(), RuntimeError> {
        let record = lock(&self.record).clone();
        files::write_json(&self.dir.join("sandbox.json"), &record)
            .map_err(io_error(format!("write the record of sandbox {}", self.id)))
    }
}

/// Names a shim's network namespace. The shim lives in it, so no mount is
/// needed to keep it.
pub(super) fn netns(pid: u32) -> PathBuf {
    format!("/proc/{pid}/ns/net").into()
}

impl Inner {
    pub(super) async fn run_sandbox(self: &Arc<Self>, mut config: SandboxConfig) -> Result<SandboxId, RuntimeError> {
        let id = crate::random_hex(32).map_err(io_error("choose an id"))?;
        if config.cgroup_parent.is_empty() {
            config.cgroup_parent = format!("{}/{id}", self.cgroup_root);
        }
        check(&config)?;
        let dir = self.state.join("sandboxes").join(&id);
        let result = self.start_sandbox(&id, &dir, config.clone()).await;
        if result.is_err() {
            let (inner, dir) = (Arc::clone(self), dir.clone());
            let cleaned = blocking(move || files::remove_tree(&dir).map_err(io_error("remove a sandbox"))).await;
            if let Err(error) = cleaned {
                tracing::warn!(err = %error, sandbox = %id, "a failed sandbox leaves files");
            }
            drop(inner);
        }
        result?;
        self.emit(&id, None, RuntimeEventKind::Created);
        self.emit(&id, None, RuntimeEventKind::Started);
        Ok(SandboxId(id))
    }

    async fn start_sandbox(self: &Arc<Self>, id: &str, dir: &Path, config: SandboxConfig) -> Result<(), RuntimeError> {
        let (inner, id_owned, dir_owned) = (Arc::clone(self), id.to_owned(), dir.to_owned());
        let prepared = config.clone();
        let made_cgroup = blocking(move || inner.prepare_sandbox(&id_owned, &dir_owned, &prepared)).await?;
        let shim = ShimClient::connect(dir).await.map_err(io_error("start the sandbox's shim"))?;
        let shim = Arc::new(shim);
        let record = SandboxRecord {
            format: FORMAT,
            id: id.to_owned(),
            config,
            created_ns: now_ns(),
            ips: Vec::new(),
            made_cgroup,
            pid: shim.pid,
            stopped: false,
        };
        let sandbox = Arc::new(Sandbox::new(dir.to_owned(), record, Some(Arc::clone(&shim))));
        // On disk before the network is touched: an agent that dies in between
        // finds the shim and can take everything down.
        sandbox.save()?;
        lock(&self.sandboxes).insert(id.to_owned(), Arc::clone(&sandbox));
        self.listen_to(&sandbox, shim);
        let attached = self.attach_network(&sandbox).await;
        if let Err(error) = attached {
            if let Err(cleanup) = self.remove_sandbox(&SandboxId(id.to_owned())).await {
                tracing::warn!(err = %cleanup, sandbox = %id, "a sandbox without network stays");
            }
            return Err(error);
        }
        Ok(())
    }

    async fn attach_network(&self, sandbox: &Sandbox) -> Result<(), RuntimeError> {
        let record = lock(&sandbox.record).clone();
        if record.config.network == NamespaceMode::Node {
            return Ok(());
        }
        let id = SandboxId(record.id.clone());
        let ips = self.network.attach(&id, &netns(record.pid), &record.config).await.map_err(RuntimeError::Network)?;
        write_hosts(&sandbox.dir, &record.config, &ips)?;
        lock(&sandbox.record).ips = ips;
        sandbox.save()
    }

    /// Files, cgroup, and the request for a shim. True when the cgroup is new.
    fn prepare_sandbox(&self, id: &str, dir: &Path, config: &SandboxConfig) -> Result<bool, RuntimeError> {
        std::fs::create_dir(dir).map_err(io_error(format!("make {}", dir.display())))?;
        write_hosts(dir, config, &[])?;
        let hostname = match config.hostname.as_str() {
            "" => rustix::system::uname().nodename().to_string_lossy().into_owned(),
            name => name.to_owned(),
        };
        let write = |name: &str, text: &str| {
            std::fs::write(dir.join(name), text).map_err(io_error(format!("write {name} of the sandbox")))
        };
        write("hostname", &format!("{hostname}\n"))?;
        write("resolv.conf", &resolv_conf(config)?)?;
        let parent = &config.cgroup_parent;
        let made_cgroup = !self.cgroups.exists(parent);
        self.cgroups.create(parent).map_err(io_error(format!("make cgroup {parent}")))?;
        self.cgroups.set(parent, &config.resources).map_err(io_error(format!("set limits of cgroup {parent}")))?;
        let socket = listener(dir).map_err(io_error("make the shim's socket"))?;
        let request = SpawnSandbox {
            id: id.to_owned(),
            new_network: config.network != NamespaceMode::Node,
            new_ipc: config.ipc != NamespaceMode::Node,
            shared_pid: config.pid == NamespaceMode::Pod,
            // A sandbox on the machine's network has the machine's name.
            hostname: if config.network == NamespaceMode::Node { String::new() } else { hostname },
            sysctls: config.sysctls.clone(),
            shm_bytes: SHM_BYTES,
            users: config.users,
        };
        self.zygote.spawn(&request, &socket).map_err(io_error("ask for a shim"))?;
        Ok(made_cgroup)
    }

    /// Starts the task that hears what a shim reports.
    pub(super) fn listen_to(self: &Arc<Self>, sandbox: &Arc<Sandbox>, shim: Arc<ShimClient>) {
        let (inner, sandbox) = (Arc::downgrade(self), Arc::clone(sandbox));
        self.tasks.spawn(async move {
            let report = |message: Message| {
                if let Some(inner) = inner.upgrade() {
                    inner.shim_reports(&sandbox, message);
                }
            };
            shim.run(report).await;
            if let Some(inner) = inner.upgrade() {
                inner.shim_lost(&sandbox).await;
            }
        });
    }

    fn shim_reports(&self, sandbox: &Sandbox, message: Message) {
        match message {
            Message::Exited { container, exit } => {
                let found = lock(&self.containers).get(&container).cloned();
                if let Some(found) = found {
                    found.set_exited(exit);
                    self.emit(&sandbox.id, Some(&container), RuntimeEventKind::Stopped);
                }
            }
            Message::OomKill { container } => self.emit(&sandbox.id, Some(&container), RuntimeEventKind::OomKill),
            message => tracing::warn!(sandbox = %sandbox.id, message = ?message, "unexpected message of a shim"),
        }
    }

    /// The connection ended: either on purpose, or the shim dropped us, or it died.
    async fn shim_lost(self: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        if lock(&sandbox.record).stopped || self.tasks.is_closed() {
            sandbox.set_shim(None);
            return;
        }
        if let Ok(shim) = ShimClient::connect(&sandbox.dir).await {
            let shim = Arc::new(shim);
            sandbox.set_shim(Some(Arc::clone(&shim)));
            self.listen_to(sandbox, Arc::clone(&shim));
            self.refresh_containers(sandbox, &shim).await;
            return;
        }
        tracing::warn!(sandbox = %sandbox.id, "the shim died; its containers are killed");
        sandbox.set_shim(None);
        self.abandon_containers(sandbox).await;
        self.emit(&sandbox.id, None, RuntimeEventKind::Stopped);
    }

    pub(super) fn activity(&self, sandbox: &Sandbox) -> Result<SandboxActivity, RuntimeError> {
        sandbox.shim()?;
        let (pid, network) = {
            let record = lock(&sandbox.record);
            (record.pid, record.config.network)
        };
        let cgroup = sandbox.cgroup();
        let usage = self.cgroups.stats(&cgroup).map_err(io_error(format!("read cgroup {cgroup}")))?;
        let connections = if network == NamespaceMode::Node { Ok(0) } else { open_connections(pid) };
        Ok(SandboxActivity {
            cpu_usage_ns: usage.cpu_usage_ns,
            connections: connections.map_err(io_error("count the sandbox's connections"))?,
        })
    }

    pub(super) fn freeze(&self, sandbox: &Sandbox) -> Result<(), RuntimeError> {
        sandbox.shim()?;
        let freezer = {
            let mut slot = lock(&sandbox.freezer);
            match slot.as_ref() {
                Some(freezer) => Arc::clone(freezer),
                None => {
                    let opened = Freezer::open(&self.cgroups, &sandbox.cgroup());
                    let freezer = Arc::new(opened.map_err(io_error("open the sandbox's freezer"))?);
                    Arc::clone(slot.insert(freezer))
                }
            }
        };
        // Set first: a thaw that comes meanwhile finds the descriptor and wins.
        sandbox.frozen.store(true, Ordering::Release);
        freezer.freeze().map_err(|source| {
            sandbox.frozen.store(false, Ordering::Release);
            io_error("freeze the sandbox's cgroup")(source)
        })
    }

    pub(super) async fn stop_sandbox(self: &Arc<Self>, id: &SandboxId) -> Result<(), RuntimeError> {
        let Ok(sandbox) = self.find_sandbox(id) else { return Ok(()) };
        sandbox.thaw()?;
        for container in self.containers_of(&id.0) {
            self.kill_container(&sandbox, &container).await?;
        }
        if lock(&sandbox.record).config.network != NamespaceMode::Node {
            self.network.detach(id).await.map_err(RuntimeError::Network)?;
        }
        let shim = lock(&sandbox.shim).clone();
        lock(&sandbox.record).stopped = true;
        if let Some(shim) = shim {
            // Gone already is as good as ended.
            if let Err(error) = shim.call(Op::Shutdown, &[]).await {
                tracing::debug!(err = ?error, sandbox = %id.0, "shim ended before it was asked to");
            }
            shim.disconnect();
            self.emit(&id.0, None, RuntimeEventKind::Stopped);
        }
        sandbox.set_shim(None);
        sandbox.save()
    }

    pub(super) async fn remove_sandbox(self: &Arc<Self>, id: &SandboxId) -> Result<(), RuntimeError> {
        let Ok(sandbox) = self.find_sandbox(id) else { return Ok(()) };
        self.stop_sandbox(id).await?;
        for container in self.containers_of(&id.0) {
            self.remove_one(&sandbox, &container).await?;
        }
        let inner = Arc::clone(self);
        let removed = Arc::clone(&sandbox);
        blocking(move || {
            let record = lock(&removed.record).clone();
            if record.made_cgroup {
                let parent = &record.config.cgroup_parent;
                // Another sandbox of the same owner may live there.
                if inner.cgroups.processes(parent).is_empty()
                    && let Err(error) = inner.cgroups.remove(parent)
                {
                    tracing::debug!(err = %error, cgroup = %parent, "cgroup is still in use");
                }
            }
            files::remove_tree(&removed.dir).map_err(io_error(format!("remove sandbox {}", removed.id)))
        })
        .await?;
        lock(&self.sandboxes).remove(&id.0);
        self.emit(&id.0, None, RuntimeEventKind::Deleted);
        Ok(())
    }
}

fn check(config: &SandboxConfig) -> Result<(), RuntimeError> {
    let invalid = |field: &str, reason: String| RuntimeError::Invalid { field: field.to_owned(), reason };
    if config.hostname.len() > MAX_HOSTNAME {
        return Err(invalid("hostname", format!("longer than {MAX_HOSTNAME} bytes")));
    }
    if config.cgroup_parent.split('/').any(|part| part == "..") {
        return Err(invalid("cgroup_parent", format!("{:?} leads out of the hierarchy", config.cgroup_parent)));
    }
    if !config.handler.is_empty() && !super::HANDLERS.contains(&config.handler.as_str()) {
        return Err(invalid("handler", format!("no runtime for {:?} is configured", config.handler)));
    }
    Ok(())
}

fn resolv_conf(config: &SandboxConfig) -> Result<String, RuntimeError> {
    let Some(dns) = &config.dns else {
        return match std::fs::read_to_string("/etc/resolv.conf") {
            Ok(text) => Ok(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(io_error("read /etc/resolv.conf")(error)),
        };
    };
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    Ok(text)
}

/// `/etc/hosts`: the machine's on its network, else one of our own.
fn write_hosts(dir: &Path, config: &SandboxConfig, ips: &[IpAddr]) -> Result<(), RuntimeError> {
    let mut text = if config.network == NamespaceMode::Node {
        std::fs::read_to_string("/etc/hosts").unwrap_or_default()
    } else {
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"
            .to_owned()
    };
    if !config.hostname.is_empty() {
        for ip in ips {
            text.push_str(&hosts_line(*ip, std::slice::from_ref(&config.hostname)));
        }
    }
    for (address, names) in &config.hosts {
        text.push_str(&hosts_line(*address, names));
    }
    // Written in place: containers may have the file mounted.
    std::fs::write(dir.join("hosts"), text).map_err(io_error("write hosts of the sandbox"))
}
