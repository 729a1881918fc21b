//! Taking over what an earlier agent left: sandboxes by their shims, ended
//! containers by their records. What belongs to nothing is removed.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::containers::{Container, Phase};
use super::record::{ContainerRecord, FORMAT, SandboxRecord, now_ns};
use super::sandboxes::Sandbox;
use super::shim_client::ShimClient;
use super::{Inner, lock};
use crate::cgroup::Freezer;
use crate::files;
use crate::runtime::RuntimeEventKind;
use crate::shim::protocol::{Exit, Op, Reply, Running};

/// Exit code of a container whose shim died: as if killed.
const LOST: i32 = 137;

impl Inner {
    /// Finds sandboxes and containers in the state directory.
    pub(super) async fn adopt(self: &Arc<Self>) -> io::Result<()> {
        for entry in std::fs::read_dir(self.state.join("sandboxes"))? {
            let dir = entry?.path();
            match files::read_json::<SandboxRecord>(&dir.join("sandbox.json")) {
                Ok(Some(record)) if record.format == FORMAT => self.adopt_sandbox(&dir, record).await,
                Ok(Some(record)) => {
                    tracing::warn!(sandbox = %record.id, format = record.format, "sandbox of another version is left alone")
                }
                Ok(None) => {
                    // Its making was interrupted. A shim that already listens
                    // is told to go.
                    if let Ok(shim) = ShimClient::connect(&dir).await {
                        self.end_stray(Arc::new(shim)).await;
                    }
                    files::remove_tree(&dir)?;
                }
                Err(error) => {
                    tracing::error!(err = %error, path = %dir.display(), "sandbox record is unreadable and left alone")
                }
            }
        }
        for entry in std::fs::read_dir(self.state.join("containers"))? {
            self.adopt_container(&entry?.path())?;
        }
        // Writable layers without state: the machine was restarted.
        for entry in std::fs::read_dir(self.root.join("containers"))? {
            let entry = entry?;
            if !lock(&self.containers).contains_key(&*entry.file_name().to_string_lossy()) {
                files::remove_tree(&entry.path())?;
            }
        }
        let sandboxes: Vec<Arc<Sandbox>> = lock(&self.sandboxes).values().cloned().collect();
        for sandbox in sandboxes {
            match sandbox.shim() {
                Ok(shim) => self.refresh_containers(&sandbox, &shim).await,
                Err(_) => self.abandon_containers(&sandbox).await,
            }
        }
        Ok(())
    }

    async fn end_stray(&self, shim: Arc<ShimClient>) {
        let reader = Arc::clone(&shim);
        let reading = self.tasks.spawn(async move { reader.run(|_| {}).await });
        if let Err(error) = shim.call(Op::Shutdown, &[]).await {
            tracing::debug!(err = ?error, "stray shim ended before it was asked to");
        }
        shim.disconnect();
        if let Err(error) = reading.await {
            tracing::warn!(err = %error, "reader of a stray shim failed");
        }
    }

    async fn adopt_sandbox(self: &Arc<Self>, dir: &Path, record: SandboxRecord) {
        let shim = if record.stopped { None } else { ShimClient::connect(dir).await.ok().map(Arc::new) };
        let id = record.id.clone();
        let sandbox = Arc::new(Sandbox::new(dir.to_owned(), record, shim.clone()));
        lock(&self.sandboxes).insert(id, Arc::clone(&sandbox));
        if let Some(shim) = shim {
            self.listen_to(&sandbox, shim);
            // It may have been left frozen.
            if let Ok(freezer) = Freezer::open(&self.cgroups, &sandbox.cgroup()) {
                let frozen = freezer.frozen();
                sandbox.set_frozen(Arc::new(freezer), frozen);
            }
        }
    }

    fn adopt_container(&self, dir: &Path) -> io::Result<()> {
        let record = match files::read_json::<ContainerRecord>(&dir.join("container.json")) {
            Ok(Some(record)) if record.format == FORMAT => record,
            Ok(Some(_)) => return Ok(()),
            Ok(None) => return self.remove_unfinished(dir),
            Err(error) => {
                tracing::error!(err = %error, path = %dir.display(), "container record is unreadable and left alone");
                return Ok(());
            }
        };
        if !lock(&self.sandboxes).contains_key(&record.sandbox) {
            self.cgroups.kill_and_wait(&record.cgroup)?;
            self.cgroups.remove(&record.cgroup)?;
            return self.remove_unfinished(dir);
        }
        let phase = match files::read_json::<Exit>(&dir.join("exit.json"))? {
            Some(exit) => Phase::Exited(exit),
            None => Phase::Created,
        };
        // The last agent may have ended while it paged it out.
        if let Err(error) = self.cgroups.forbid_swap(&record.cgroup) {
            tracing::warn!(err = %error, container = %record.id, "a container may use swap");
        }
        let writable = self.root.join("containers").join(&record.id);
        let id = record.id.clone();
        let container = Container::new(dir.to_owned(), writable, record, phase);
        lock(&self.containers).insert(id, Arc::new(container));
        Ok(())
    }

    fn remove_unfinished(&self, dir: &Path) -> io::Result<()> {
        if let Some(id) = dir.file_name() {
            files::remove_tree(&self.root.join("containers").join(id))?;
        }
        files::remove_tree(dir)
    }

    /// Asks a shim what runs and brings the containers' phases up to date.
    pub(super) async fn refresh_containers(&self, sandbox: &Sandbox, shim: &ShimClient) {
        let running = match shim.call(Op::List, &[]).await {
            Ok((Reply::Containers(running), _)) => running,
            other => {
                tracing::warn!(sandbox = %sandbox.id, answer = ?other.map(|(reply, _)| reply), "shim does not list its containers");
                return;
            }
        };
        for container in self.containers_of(&sandbox.id) {
            if let Some(Running { pid, started_ns, .. }) = running.iter().find(|entry| entry.container == container.id)
            {
                container.set_phase(Phase::Running { pid: *pid, started_ns: *started_ns });
            } else {
                self.settle(sandbox, &container);
            }
        }
    }

    /// A container that does not run: its record says how it ended.
    fn settle(&self, sandbox: &Sandbox, container: &Container) {
        let before = container.phase();
        match files::read_json::<Exit>(&container.dir.join("exit.json")) {
            Ok(Some(exit)) => {
                container.exit_once(exit);
                if before != container.phase() {
                    self.emit(&sandbox.id, Some(&container.id), RuntimeEventKind::Stopped);
                }
            }
            Ok(None) if before == Phase::Created => {}
            Ok(None) => container.set_phase(Phase::Unknown),
            Err(error) => {
                tracing::error!(err = %error, container = %container.id, "exit record is unreadable");
                container.set_phase(Phase::Unknown);
            }
        }
    }

    /// The shim is gone: nothing writes logs or reaps any more, so what still
    /// runs is killed and recorded as lost.
    pub(super) async fn abandon_containers(&self, sandbox: &Sandbox) {
        for container in self.containers_of(&sandbox.id) {
            let group = lock(&container.record).cgroup.clone();
            let cgroups = self.cgroups.clone();
            let killed = tokio::task::spawn_blocking(move || cgroups.kill_and_wait(&group)).await;
            if let Ok(Err(error)) = killed {
                tracing::error!(err = %error, container = %container.id, "processes of a lost container stay");
            }
            self.settle(sandbox, &container);
            if let Phase::Unknown | Phase::Running { .. } | Phase::Starting = container.phase() {
                let exit = Exit {
                    finished_ns: now_ns(),
                    code: LOST,
                    signal: Some(libc::SIGKILL),
                    message: "the process that held the sandbox ended".to_owned(),
                    ..Exit::default()
                };
                if let Err(error) = files::write_json(&container.dir.join("exit.json"), &exit) {
                    tracing::warn!(err = %error, container = %container.id, "exit is not recorded");
                }
                container.set_exited(exit);
                self.emit(&sandbox.id, Some(&container.id), RuntimeEventKind::Stopped);
            }
        }
    }
}
