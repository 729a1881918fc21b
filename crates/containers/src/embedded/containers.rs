//! Containers: made, started, stopped, removed, and their state.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use super::record::{ContainerRecord, FORMAT, instant, now_ns};
use super::resolve::{self, Places, Resolved};
use super::sandboxes::Sandbox;
use super::shim_client::{CallError, ShimClient};
use super::{Inner, blocking, io_error, lock};
use crate::files;
use crate::runtime::{
    ContainerConfig, ContainerId, ContainerState, ContainerStats, ContainerStatus, FilesystemUsage, NamespaceMode,
    Resources, RuntimeError, RuntimeEventKind, SandboxId,
};
use crate::shim::protocol::{Exit, Failure, LogFile, OomFiles, Op, PidSource, Reply, StartContainer};

/// How long a process may take to be gone after SIGKILL. Longer means that it
/// hangs in the kernel.
const KILL_TIMEOUT: Duration = Duration::from_secs(30);

/// Exit code of a container that could not be started, as containerd has it.
const START_ERROR: i32 = 128;

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Created,
    Starting,
    Running { pid: u32, started_ns: u64 },
    Exited(Exit),
    Unknown,
}

pub(super) struct Container {
    pub(super) id: String,
    /// State: `container.json`, `spec.json`, `exit.json`.
    pub(super) dir: PathBuf,
    /// Its layer.
    pub(super) writable: PathBuf,
    pub(super) record: Mutex<ContainerRecord>,
    phase: watch::Sender<Phase>,
}

impl Container {
    pub(super) fn new(dir: PathBuf, writable: PathBuf, record: ContainerRecord, phase: Phase) -> Self {
        Self { id: record.id.clone(), dir, writable, record: Mutex::new(record), phase: watch::Sender::new(phase) }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    pub(super) fn set_exited(&self, exit: Exit) {
        self.set_phase(Phase::Exited(exit));
    }

    /// The first end that is known stays.
    pub(super) fn exit_once(&self, exit: Exit) {
        self.phase.send_if_modified(|phase| {
            let changed = !matches!(phase, Phase::Exited(_));
            if changed {
                *phase = Phase::Exited(exit);
            }
            changed
        });
    }

    /// Waits until it has ended; false when that takes longer.
    pub(super) async fn wait_exit(&self, limit: Duration) -> bool {
        let mut phase = self.phase.subscribe();
        let ended = phase.wait_for(|phase| !matches!(phase, Phase::Running { .. } | Phase::Starting));
        tokio::time::timeout(limit, ended).await.is_ok()
    }

    /// Resolves when it has ended, to its exit code.
    pub(super) async fn exit_code(&self) -> Option<i32> {
        let mut phase = self.phase.subscribe();
        let phase = phase.wait_for(|phase| matches!(phase, Phase::Exited(_) | Phase::Unknown)).await.ok()?;
        match &*phase {
            Phase::Exited(exit) => Some(exit.code),
            _ => None,
        }
    }

    pub(super) fn status(&self) -> ContainerStatus {
        let record = lock(&self.record).clone();
        let state = match self.phase() {
            Phase::Created | Phase::Starting => ContainerState::Created,
            Phase::Running { pid, started_ns } => ContainerState::Running { started: instant(started_ns), pid },
            Phase::Exited(exit) => exited(exit),
            Phase::Unknown => ContainerState::Unknown,
        };
        ContainerStatus {
            id: ContainerId(record.id),
            sandbox: SandboxId(record.sandbox),
            name: record.config.name,
            attempt: record.config.attempt,
            state,
            created: instant(record.created_ns),
            image: record.config.image,
            image_ref: if record.image_digest.is_empty() { record.image_id } else { record.image_digest },
            labels: record.config.labels,
            annotations: record.config.annotations,
            log_path: record.log_path,
            user: Some((record.uid, record.gid, record.groups)),
            resources: record.config.resources,
            mounts: record.config.mounts,
            stop_signal: Some(record.stop_signal_name),
        }
    }

    fn save(&self) -> Result<(), RuntimeError> {
        let record = lock(&self.record).clone();
        files::write_json(&self.dir.join("container.json"), &record)
            .map_err(io_error(format!("write the record of container {}", self.id)))
    }
}

fn exited(exit: Exit) -> ContainerState {
    let reason = match (&exit.reason, exit.oom, exit.code) {
        (reason, ..) if !reason.is_empty() => reason.clone(),
        (_, true, _) => "OOMKilled".to_owned(),
        (_, false, 0) => "Completed".to_owned(),
        (_, false, _) => "Error".to_owned(),
    };
    ContainerState::Exited {
        started: instant(exit.started_ns),
        finished: instant(exit.finished_ns),
        exit_code: exit.code,
        signal: exit.signal,
        reason,
        message: exit.message,
    }
}

impl Inner {
    pub(super) fn containers_of(&self, sandbox: &str) -> Vec<Arc<Container>> {
        let containers = lock(&self.containers);
        containers.values().filter(|container| lock(&container.record).sandbox == sandbox).cloned().collect()
    }

    pub(super) fn create_container(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        config: ContainerConfig,
    ) -> Result<ContainerId, RuntimeError> {
        sandbox.shim()?;
        let missing = || RuntimeError::NotFound { what: "image", id: config.image.clone() };
        let image = self.images.find(&config.image)?.ok_or_else(missing)?;
        let mut layers = image.layers.clone();
        for source in config.mounts.iter().filter_map(|mount| mount.image.as_ref()) {
            let missing = || RuntimeError::NotFound { what: "image", id: source.image.clone() };
            layers.extend(self.images.find(&source.image)?.ok_or_else(missing)?.layers);
        }
        let hold = self.images.hold(layers.clone())?;
        if !layers.iter().all(|layer| self.images.has_layer(layer)) {
            // Removed in this very moment.
            return Err(missing());
        }
        let id = crate::random_hex(32).map_err(io_error("choose an id"))?;
        let dir = self.state.join("containers").join(&id);
        let writable = self.root.join("containers").join(&id);
        let sandbox_record = lock(&sandbox.record).clone();
        let cgroup = format!("{}/{id}", sandbox_record.config.cgroup_parent);
        let resolved = {
            let places = Places { sandbox_dir: &sandbox.dir, cgroup: &cgroup, writable: &writable };
            self.resolve(&sandbox_record, &image, &config, &places)?
        };
        let record = ContainerRecord {
            format: FORMAT,
            id: id.clone(),
            sandbox: sandbox.id.clone(),
            created_ns: now_ns(),
            image_id: image.id.clone(),
            image_digest: image.digest_under(&config.image).unwrap_or_default(),
            layers,
            cgroup,
            stop_signal: resolved.stop_signal,
            stop_signal_name: resolved.stop_signal_name.clone(),
            log_path: sandbox_record.config.log_directory.join(&config.log_path),
            uid: resolved.spec.process.uid,
            gid: resolved.spec.process.gid,
            groups: resolved.spec.process.groups.clone(),
            config,
        };
        let container = Arc::new(Container::new(dir, writable, record, Phase::Created));
        if let Err(error) = self.make_container(&container, &resolved) {
            self.unmake_container(&container);
            return Err(error);
        }
        lock(&self.containers).insert(id.clone(), container);
        drop(hold);
        self.emit(&sandbox.id, Some(&id), RuntimeEventKind::Created);
        Ok(ContainerId(id))
    }

    fn make_container(&self, container: &Container, resolved: &Resolved) -> Result<(), RuntimeError> {
        let record = lock(&container.record).clone();
        for dir in [&container.dir, &container.writable] {
            std::fs::create_dir(dir).map_err(io_error(format!("make {}", dir.display())))?;
        }
        for dir in ["upper", "work"] {
            let dir = container.writable.join(dir);
            std::fs::create_dir(&dir).map_err(io_error(format!("make {}", dir.display())))?;
        }
        // What keeps the layers from being collected, by another process too.
        files::write_json(&container.writable.join("layers.json"), &record.layers)
            .map_err(io_error("write the container's layers"))?;
        files::write_json(&container.dir.join("spec.json"), &resolved.spec)
            .map_err(io_error("write the container's spec"))?;
        let group = &record.cgroup;
        self.cgroups.create(group).map_err(io_error(format!("make cgroup {group}")))?;
        self.cgroups.set(group, &record.config.resources).map_err(io_error("set the container's limits"))?;
        self.cgroups.kill_as_one(group).map_err(io_error("set the container's limits"))?;
        self.cgroups.forbid_swap(group).map_err(io_error("keep the container out of swap"))?;
        if !record.config.security.privileged {
            self.cgroups.allow_devices(group, &resolved.devices).map_err(io_error("set the container's devices"))?;
        }
        container.save()
    }

    fn unmake_container(&self, container: &Container) {
        let group = lock(&container.record).cgroup.clone();
        let results =
            [self.cgroups.remove(&group), files::remove_tree(&container.writable), files::remove_tree(&container.dir)];
        for error in results.into_iter().filter_map(Result::err) {
            tracing::warn!(err = %error, container = %container.id, "a container that was not made leaves something");
        }
    }

    pub(super) async fn start_container(self: &Arc<Self>, id: &ContainerId) -> Result<(), RuntimeError> {
        let container = self.find_container(id)?;
        let record = lock(&container.record).clone();
        let sandbox = self.find_sandbox(&SandboxId(record.sandbox.clone()))?;
        let shim = sandbox.shim()?;
        sandbox.thaw()?;
        let mut state = String::new();
        container.phase.send_if_modified(|phase| {
            let created = *phase == Phase::Created;
            if created {
                *phase = Phase::Starting;
            } else {
                state = format!("{phase:?}");
            }
            created
        });
        if !state.is_empty() {
            return Err(RuntimeError::State { what: "container", id: id.0.clone(), state, needed: "created" });
        }
        let start = self.start_request(&sandbox, &container, &record);
        match shim.call(Op::Start(start), &[]).await {
            Ok((Reply::Started { pid, started_ns }, _)) => {
                // It may have ended already; the end stays.
                container.phase.send_if_modified(|phase| {
                    let starting = *phase == Phase::Starting;
                    if starting {
                        *phase = Phase::Running { pid, started_ns };
                    }
                    starting
                });
                self.emit(&record.sandbox, Some(&id.0), RuntimeEventKind::Started);
                Ok(())
            }
            Ok((reply, _)) => {
                container.set_phase(Phase::Unknown);
                Err(io_error("start the container")(std::io::Error::other(format!("unexpected {reply:?}"))))
            }
            Err(error) => {
                if let CallError::Failed(Failure::Start(text) | Failure::Internal(text)) = &error {
                    self.record_start_error(&container, &record, text)?;
                } else {
                    container.set_phase(Phase::Unknown);
                }
                Err(error.into_runtime("start the container", &id.0))
            }
        }
    }

    fn record_start_error(
        &self,
        container: &Container,
        record: &ContainerRecord,
        text: &str,
    ) -> Result<(), RuntimeError> {
        let exit = Exit {
            finished_ns: now_ns(),
            code: START_ERROR,
            reason: "StartError".to_owned(),
            message: text.to_owned(),
            ..Exit::default()
        };
        let written = files::write_json(&container.dir.join("exit.json"), &exit);
        container.set_exited(exit);
        self.emit(&record.sandbox, Some(&container.id), RuntimeEventKind::Stopped);
        written.map_err(io_error("record why the container did not start"))
    }

    fn start_request(&self, sandbox: &Sandbox, container: &Container, record: &ContainerRecord) -> StartContainer {
        let sandbox_pid = lock(&sandbox.record).config.pid;
        let pid = match (&record.config.security.pid_of, sandbox_pid) {
            (Some(other), NamespaceMode::Container) => PidSource::Container(other.0.clone()),
            (_, NamespaceMode::Container) => PidSource::Own,
            (_, NamespaceMode::Pod | NamespaceMode::Node) => PidSource::Sandbox,
        };
        let log = (!record.config.log_path.as_os_str().is_empty()).then(|| LogFile {
            path: record.log_path.clone(),
            max_bytes: record.config.log_limits.max_bytes,
            max_files: record.config.log_limits.max_files,
        });
        let unified = self.cgroups.unified(&record.cgroup);
        let oom = match &unified {
            Some(dir) if self.cgroups.v2_only() => Some(OomFiles::Events(dir.join("memory.events"))),
            _ => self.cgroups.memory_v1(&record.cgroup).map(OomFiles::Control),
        };
        StartContainer {
            container: container.id.clone(),
            dir: container.dir.clone(),
            pid,
            tty: record.config.tty,
            stdin: record.config.stdin,
            stdin_once: record.config.stdin_once,
            log,
            unified,
            oom,
        }
    }

    pub(super) async fn stop_container(
        self: &Arc<Self>,
        id: &ContainerId,
        grace: Duration,
    ) -> Result<(), RuntimeError> {
        let Ok(container) = self.find_container(id) else { return Ok(()) };
        let record = lock(&container.record).clone();
        let Ok(sandbox) = self.find_sandbox(&SandboxId(record.sandbox.clone())) else { return Ok(()) };
        sandbox.thaw()?;
        if !matches!(container.phase(), Phase::Running { .. } | Phase::Starting) {
            return Ok(());
        }
        if !grace.is_zero()
            && let Ok(shim) = sandbox.shim()
        {
            self.signal(&shim, &container, record.stop_signal).await?;
            if container.wait_exit(grace).await {
                return Ok(());
            }
        }
        self.kill_container(&sandbox, &container).await
    }

    async fn signal(&self, shim: &ShimClient, container: &Container, signal: i32) -> Result<(), RuntimeError> {
        match shim.call(Op::Signal { target: container.id.clone(), signal }, &[]).await {
            Ok(_) | Err(CallError::Failed(Failure::NotRunning)) => Ok(()),
            Err(error) => Err(error.into_runtime("signal the container", &container.id)),
        }
    }

    /// Kills a container's processes and waits for its end.
    pub(super) async fn kill_container(&self, sandbox: &Sandbox, container: &Container) -> Result<(), RuntimeError> {
        if !matches!(container.phase(), Phase::Running { .. } | Phase::Starting) {
            return Ok(());
        }
        sandbox.thaw()?;
        let group = lock(&container.record).cgroup.clone();
        let cgroups = self.cgroups.clone();
        blocking(move || cgroups.kill_and_wait(&group).map_err(io_error(format!("kill cgroup {group}")))).await?;
        if let Ok(shim) = sandbox.shim() {
            self.signal(&shim, container, libc::SIGKILL).await?;
        }
        if container.wait_exit(KILL_TIMEOUT).await {
            return Ok(());
        }
        Err(RuntimeError::Timeout { what: "the end of a killed container", limit: KILL_TIMEOUT })
    }

    pub(super) async fn remove_container(self: &Arc<Self>, id: &ContainerId) -> Result<(), RuntimeError> {
        let Ok(container) = self.find_container(id) else { return Ok(()) };
        let sandbox = self.find_sandbox(&SandboxId(lock(&container.record).sandbox.clone()))?;
        self.remove_one(&sandbox, &container).await
    }

    pub(super) async fn remove_one(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        container: &Arc<Container>,
    ) -> Result<(), RuntimeError> {
        self.kill_container(sandbox, container).await?;
        let (inner, removed) = (Arc::clone(self), Arc::clone(container));
        blocking(move || {
            let record = lock(&removed.record).clone();
            let group = &record.cgroup;
            inner.cgroups.kill_and_wait(group).map_err(io_error(format!("empty cgroup {group}")))?;
            inner.cgroups.remove(group).map_err(io_error(format!("remove cgroup {group}")))?;
            for dir in [&removed.writable, &removed.dir] {
                files::remove_tree(dir).map_err(io_error(format!("remove {}", dir.display())))?;
            }
            lock(&inner.containers).remove(&removed.id);
            if inner.images.find(&record.image_id)?.is_none() {
                // Its image was removed while it was needed.
                inner.images.collect()?;
            }
            Ok(())
        })
        .await?;
        self.emit(&sandbox.id, Some(&container.id), RuntimeEventKind::Deleted);
        Ok(())
    }

    pub(super) fn update_resources(&self, container: &Container, resources: Resources) -> Result<(), RuntimeError> {
        let group = lock(&container.record).cgroup.clone();
        self.cgroups.set(&group, &resources).map_err(io_error("set the container's limits"))?;
        merge(&mut lock(&container.record).config.resources, resources);
        container.save()
    }

    pub(super) fn stats(&self, container: &Container) -> Result<ContainerStats, RuntimeError> {
        let group = lock(&container.record).cgroup.clone();
        let mut stats = self.cgroups.stats(&group).map_err(io_error(format!("read cgroup {group}")))?;
        let usage =
            resolve::disk_usage(&container.writable.join("upper")).map_err(io_error("measure the writable layer"))?;
        (stats.rootfs_used_bytes, stats.rootfs_inodes_used) = usage;
        Ok(stats)
    }

    pub(super) fn filesystem_usage(&self) -> Result<FilesystemUsage, RuntimeError> {
        // Layers never change, so their sizes are known; only what containers
        // wrote is counted.
        let written =
            resolve::disk_usage(&self.root.join("containers")).map_err(io_error("measure the writable layers"))?;
        let used_bytes = self.images.layer_bytes()? + written.0;
        Ok(FilesystemUsage { mountpoint: self.root.clone(), used_bytes, inodes_used: written.1 })
    }

    pub(super) async fn reopen_log(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let container = self.find_container(id)?;
        let sandbox = self.find_sandbox(&SandboxId(lock(&container.record).sandbox.clone()))?;
        let op = Op::ReopenLog { container: container.id.clone() };
        match sandbox.shim()?.call(op, &[]).await {
            Ok(_) => Ok(()),
            Err(error) => Err(error.into_runtime("open the log anew", &container.id)),
        }
    }
}

/// What `new` names replaces what was.
fn merge(old: &mut Resources, new: Resources) {
    let Resources {
        cpu_shares,
        cpu_quota_us,
        cpu_period_us,
        memory_limit_bytes,
        oom_score_adj,
        pids_limit,
        cpuset_cpus,
        cpuset_mems,
        hugepage_limits,
    } = new;
    old.cpu_shares = cpu_shares.or(old.cpu_shares);
    old.cpu_quota_us = cpu_quota_us.or(old.cpu_quota_us);
    old.cpu_period_us = cpu_period_us.or(old.cpu_period_us);
    old.memory_limit_bytes = memory_limit_bytes.or(old.memory_limit_bytes);
    old.oom_score_adj = oom_score_adj.or(old.oom_score_adj);
    old.pids_limit = pids_limit.or(old.pids_limit);
    if !cpuset_cpus.is_empty() {
        old.cpuset_cpus = cpuset_cpus;
    }
    if !cpuset_mems.is_empty() {
        old.cpuset_mems = cpuset_mems;
    }
    old.hugepage_limits.extend(hugepage_limits);
}
