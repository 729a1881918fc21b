//! The demo's throw-away cluster: this same program as a child, in a folder
//! that is removed afterwards. The demo itself is only a client of it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::DemoError;

/// The cluster has this long to be ready.
const START_LIMIT: Duration = Duration::from_secs(30);
/// And this long to drain after SIGTERM.
const DRAIN_LIMIT: Duration = Duration::from_secs(20);
/// Addresses of its own, so that a cluster that already runs here is not in the way.
const CLUSTER_CIDR: &str = "10.203.0.0/16";
const SERVICE_CIDR: &str = "10.204.0.0/16";

/// A running `darter up`.
pub(super) struct Cluster {
    child: Child,
    events: Lines<BufReader<ChildStdout>>,
    program: PathBuf,
    data_dir: PathBuf,
    /// The administrator's kubeconfig.
    pub(super) kubeconfig: PathBuf,
}

impl Cluster {
    /// Starts it; its log goes to `folder/log`.
    pub(super) fn start(folder: &Path) -> Result<Self, DemoError> {
        let io = |step: &'static str| move |source| DemoError::Io { step, source };
        let program = std::env::current_exe().map_err(io("finding this program"))?;
        let data_dir = folder.join("data");
        let kubeconfig = folder.join("kubeconfig");
        let log = std::fs::File::create(folder.join("log")).map_err(io("creating the log"))?;
        let mut child = Command::new(&program)
            .args(["up", "-o", "json", "--listen", "127.0.0.1:0", "--node-port", "0"])
            .args(["--cluster-cidr", CLUSTER_CIDR, "--service-cidr", SERVICE_CIDR])
            .arg("--data-dir")
            .arg(&data_dir)
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .env_remove("KUBECONFIG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(io("starting the cluster"))?;
        let output = child.stdout.take().expect("standard output was asked for");
        Ok(Self { child, events: BufReader::new(output).lines(), program, data_dir, kubeconfig })
    }

    /// Waits for the event of this name and returns it.
    pub(super) async fn wait_for(&mut self, event: &str) -> Result<Value, DemoError> {
        let found = tokio::time::timeout(START_LIMIT, async {
            while let Some(line) = self.events.next_line().await? {
                let value: Value = serde_json::from_str(&line).unwrap_or_default();
                if value["event"] == event {
                    return Ok(Some(value));
                }
            }
            Ok(None)
        })
        .await;
        match found {
            Ok(Ok(Some(value))) => Ok(value),
            Ok(Err(source)) => Err(DemoError::Io { step: "reading the cluster's output", source }),
            Ok(Ok(None)) => Err(DemoError::Cluster { what: "ended before it was ready".to_owned(), log: self.log() }),
            Err(_) => Err(DemoError::Cluster { what: format!("was not ready after {START_LIMIT:?}"), log: self.log() }),
        }
    }

    /// Adds an image to the node.
    pub(super) async fn import(&self, archive: &Path) -> Result<(), DemoError> {
        self.run(&["image", "import", "--data-dir"], &[&self.data_dir, archive]).await
    }

    /// Ends it and removes all it made.
    pub(super) async fn remove(mut self) -> Result<(), DemoError> {
        if let Some(pid) = self.child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)
                .map_err(|source| DemoError::Io { step: "ending the cluster", source: source.into() })?;
        }
        match tokio::time::timeout(DRAIN_LIMIT, self.child.wait()).await {
            Ok(Ok(_)) => {}
            Ok(Err(source)) => return Err(DemoError::Io { step: "waiting for the cluster", source }),
            Err(_) => {
                return Err(DemoError::Cluster {
                    what: format!("did not end within {DRAIN_LIMIT:?}"),
                    log: self.log(),
                });
            }
        }
        self.run(&["reset", "--yes", "--data-dir"], &[&self.data_dir]).await
    }

    async fn run(&self, words: &[&str], paths: &[&Path]) -> Result<(), DemoError> {
        let output = Command::new(&self.program)
            .args(words)
            .args(paths)
            .stdin(Stdio::null())
            .output()
            .await
            .map_err(|source| DemoError::Io { step: "starting a command", source })?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(DemoError::Cluster { what: format!("refused `darter {}`: {text}", words.join(" ")), log: self.log() })
    }

    /// The end of the cluster's log, for error messages.
    fn log(&self) -> String {
        const LINES: usize = 12;
        let path = self.data_dir.with_file_name("log");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }
}
