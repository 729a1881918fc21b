//! A runtime on this machine in directories and a cgroup of its own, and
//! images made from busybox. Needs root.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use containers::runtime::{
    ContainerConfig, ContainerId, ContainerState, ContainerStatus, LogLimits, NamespaceMode, Runtime as _,
    SandboxConfig, SandboxId, SandboxMetadata, SandboxNetwork,
};
use containers::{EmbeddedConfig, EmbeddedRuntime, ShimCommand};
use sha2::{Digest as _, Sha256};

/// Network that gives an address and touches nothing.
pub struct NoNetwork;

#[async_trait::async_trait]
impl SandboxNetwork for NoNetwork {
    async fn attach(
        &self,
        _: &SandboxId,
        netns: &Path,
        _: &SandboxConfig,
    ) -> Result<Vec<IpAddr>, Box<dyn std::error::Error + Send + Sync>> {
        assert!(netns.exists(), "{} is the sandbox's namespace", netns.display());
        Ok(vec!["10.9.8.7".parse().expect("address")])
    }

    async fn detach(&self, _: &SandboxId) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(())
    }
}

pub struct Machine {
    pub runtime: Arc<EmbeddedRuntime>,
    pub dir: tempfile::TempDir,
    pub cgroup: String,
    _swap: SwapLeft,
}

/// Swap belongs to the whole machine: a test that fails takes its own away, so
/// that the next one does not fail of it.
struct SwapLeft(PathBuf);

impl Drop for SwapLeft {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Err(error) = containers::swap::remove(&self.0)
        {
            eprintln!("the test's swap stays: {error}");
        }
    }
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

pub const IMAGE: &str = "test.local/busybox:1";

impl Machine {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let cgroup = format!("/darter-test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let runtime = open(dir.path(), &cgroup).await;
        let swap = SwapLeft(runtime.swap_config().state);
        let machine = Self { runtime, dir, cgroup, _swap: swap };
        let archive = machine.dir.path().join("busybox.tar");
        docker_archive(&archive, IMAGE, &busybox_layer(), serde_json::json!({"Cmd": ["sh"], "Env": ["FROM=image"]}));
        machine.runtime.import_image(&archive).await.expect("import");
        machine
    }

    /// A new agent over the same state, the old one gone without a word.
    pub async fn restart(mut self) -> Self {
        self.runtime.close().await;
        self.runtime = open(self.dir.path(), &self.cgroup).await;
        self
    }

    pub async fn sandbox(&self) -> SandboxId {
        self.sandbox_with(|_| {}).await
    }

    pub async fn sandbox_with(&self, change: impl FnOnce(&mut SandboxConfig)) -> SandboxId {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut config = SandboxConfig {
            metadata: SandboxMetadata {
                name: "s".into(),
                namespace: "n".into(),
                uid: format!("u{number}"),
                attempt: 0,
            },
            hostname: "inside".into(),
            log_directory: self.dir.path().join("logs").join(number.to_string()),
            pid: NamespaceMode::Container,
            cgroup_parent: format!("{}/pods/p{number}", self.cgroup),
            ..SandboxConfig::default()
        };
        change(&mut config);
        self.runtime.run_sandbox(config).await.expect("run sandbox")
    }

    pub async fn create(
        &self,
        sandbox: &SandboxId,
        script: &str,
        change: impl FnOnce(&mut ContainerConfig),
    ) -> ContainerId {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut config = ContainerConfig {
            name: "c".into(),
            image: IMAGE.into(),
            command: vec!["sh".into(), "-c".into(), script.into()],
            log_path: format!("c{number}/0.log").into(),
            log_limits: LogLimits::default(),
            ..ContainerConfig::default()
        };
        change(&mut config);
        self.runtime.create_container(sandbox, config).await.expect("create container")
    }

    pub async fn run(
        &self,
        sandbox: &SandboxId,
        script: &str,
        change: impl FnOnce(&mut ContainerConfig),
    ) -> ContainerId {
        let id = self.create(sandbox, script, change).await;
        self.runtime.start_container(&id).await.expect("start container");
        id
    }

    /// Waits for the end, by event.
    pub async fn ended(&self, id: &ContainerId) -> ContainerStatus {
        let mut events = self.runtime.events();
        let wait = async {
            loop {
                let status = self.runtime.container(id).await.expect("status");
                if matches!(status.state, ContainerState::Exited { .. } | ContainerState::Unknown) {
                    return status;
                }
                events.recv().await.expect("event");
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("container ends")
    }

    /// Runs a script to its end; exit code and log.
    pub async fn output(
        &self,
        sandbox: &SandboxId,
        script: &str,
        change: impl FnOnce(&mut ContainerConfig),
    ) -> (i32, String) {
        let id = self.run(sandbox, script, change).await;
        let status = self.ended(&id).await;
        let ContainerState::Exited { exit_code, .. } = status.state else { panic!("{:?}", status.state) };
        (exit_code, log_text(&status.log_path))
    }

    /// Removes everything and checks that nothing is left.
    pub async fn finish(self) {
        self.runtime.destroy().await.expect("destroy");
        assert!(!self.dir.path().join("root").exists());
        assert!(!self.dir.path().join("state").exists());
    }
}

pub async fn open(dir: &Path, cgroup: &str) -> Arc<EmbeddedRuntime> {
    let config = EmbeddedConfig {
        root: dir.join("root"),
        state: dir.join("state"),
        cgroup_root: cgroup.to_owned(),
        registries: Some(dir.join("registries.yaml")).filter(|path| path.exists()),
        network: Arc::new(NoNetwork),
        shim: ShimCommand { program: PathBuf::from(env!("CARGO_BIN_EXE_darter-shim")), args: Vec::new() },
    };
    EmbeddedRuntime::open(config).await.expect("open the runtime; this test needs root")
}

/// The messages of a CRI log, streams merged.
pub fn log_text(path: &Path) -> String {
    let text = std::fs::read_to_string(path).expect("log");
    text.lines().map(|line| line.splitn(4, ' ').nth(3).expect("CRI line").to_owned() + "\n").collect()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn busybox() -> Vec<u8> {
    std::fs::read("/bin/busybox").expect("/bin/busybox; install Debian's busybox-static")
}

/// Adds a file or directory to a tar.
pub fn add(tar: &mut tar::Builder<Vec<u8>>, path: &str, kind: tar::EntryType, mode: u32, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    if matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link) {
        header.set_size(0);
        tar.append_link(&mut header, path, std::str::from_utf8(content).expect("link")).expect("tar");
    } else {
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content).expect("tar");
    }
}

/// A root file system of busybox and its links.
pub fn busybox_layer() -> Vec<u8> {
    use tar::EntryType::{Directory, Regular, Symlink};
    let mut tar = tar::Builder::new(Vec::new());
    for (dir, mode) in
        [("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("root", 0o700), ("proc", 0o755), ("dev", 0o755)]
    {
        add(&mut tar, dir, Directory, mode, b"");
    }
    add(&mut tar, "bin/busybox", Regular, 0o755, &busybox());
    let applets = "sh cat echo sleep id env ls true false hostname head dd touch stat grep ps kill mount ln mkdir wc tr \
                   tail seq test nc stty tty readlink mknod chown rm od date";
    for applet in applets.split_whitespace() {
        add(&mut tar, &format!("bin/{applet}"), Symlink, 0o777, b"busybox");
    }
    add(&mut tar, "etc/passwd", Regular, 0o644, b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n");
    add(&mut tar, "etc/group", Regular, 0o644, b"root:x:0:\napp:x:1000:\nmore:x:5000:app\n");
    add(&mut tar, "etc/plain", Regular, 0o644, b"not a program\n");
    add(&mut tar, "etc/broken", Regular, 0o755, b"\x7fELF nothing\n");
    tar.into_inner().expect("tar")
}

pub fn config_json(diff_ids: &[String], config: serde_json::Value) -> Vec<u8> {
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = serde_json::json!({
        "architecture": arch, "os": "linux", "config": config, "rootfs": {"type": "layers", "diff_ids": diff_ids}
    });
    serde_json::to_vec(&config).expect("json")
}

pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// Writes a one-layer docker-archive.
pub fn docker_archive(path: &Path, name: &str, layer: &[u8], config: serde_json::Value) {
    let config = config_json(&[digest(layer)], config);
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]);
    let mut tar = tar::Builder::new(Vec::new());
    add(&mut tar, "layer.tar", tar::EntryType::Regular, 0o644, layer);
    add(&mut tar, "config.json", tar::EntryType::Regular, 0o644, &config);
    add(&mut tar, "manifest.json", tar::EntryType::Regular, 0o644, &serde_json::to_vec(&manifest).expect("json"));
    std::fs::write(path, tar.into_inner().expect("tar")).expect("write archive");
}
