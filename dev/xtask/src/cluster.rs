//! A throw-away cluster for benches and rings: a built binary, an own data
//! directory, free ports. Not for the first ring, whose tests run in process.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::check::{Failure, cargo, root, run};

/// A running cluster; ends and is removed when dropped.
pub(crate) struct Cluster {
    child: Child,
    binary: PathBuf,
    folder: tempfile::TempDir,
    /// From start to the line that says ready, by our clock.
    pub(crate) start: Duration,
    /// Every event up to `ready`.
    pub(crate) events: Vec<Value>,
    /// `https://127.0.0.1:PORT`.
    pub(crate) server: String,
}

/// How the binary is built.
#[derive(Clone, Copy)]
pub(crate) enum Profile {
    /// Quickly, with its assertions: for behaviour.
    Dev,
    /// As users have it: for figures.
    Release,
}

/// Builds the binary and returns its path.
pub(crate) fn build(profile: Profile) -> Result<PathBuf, Failure> {
    let (options, folder): (&[&str], _) = match profile {
        Profile::Dev => (&[], "debug"),
        Profile::Release => (&["--release"], "release"),
    };
    run(cargo().args(["build", "--locked", "-p", "darter"]).args(options))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Ok(target.join(folder).join("darter"))
}

/// Ranges of addresses that are taken when the arguments name none.
const RANGES: [(&str, &str); 2] = [("--cluster-cidr", "10.205.0.0/16"), ("--service-cidr", "10.206.0.0/16")];

impl Cluster {
    /// Starts one with these further arguments of `darter up`.
    pub(crate) fn start(binary: &Path, arguments: &[&str]) -> Result<Self, Failure> {
        let folder = tempfile::tempdir().map_err(|source| Failure::File { path: std::env::temp_dir(), source })?;
        let log = folder.path().join("log");
        let log_file = std::fs::File::create(&log).map_err(|source| Failure::File { path: log.clone(), source })?;
        let started = Instant::now();
        let mut child = Command::new(binary)
            .args(["up", "--listen", "127.0.0.1:0", "-o", "json", "--node-port", "0", "--data-dir"])
            .arg(folder.path().join("data"))
            .arg("--kubeconfig")
            .arg(folder.path().join("kubeconfig"))
            .args(RANGES.iter().filter(|(name, _)| !arguments.contains(name)).flat_map(|(name, range)| [*name, *range]))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(log_file)
            .spawn()
            .map_err(|source| Failure::Start { command: binary.display().to_string(), source })?;
        let output = child.stdout.take().expect("standard output was asked for");
        let mut events = Vec::new();
        for line in BufReader::new(output).lines() {
            let line = line.map_err(|source| Failure::File { path: folder.path().to_path_buf(), source })?;
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            let ready = event["event"] == "ready";
            events.push(event);
            if ready {
                break;
            }
        }
        let start = started.elapsed();
        let ready = events.last().filter(|event| event["event"] == "ready");
        let Some(server) = ready.and_then(|event| event["server"].as_str()).map(str::to_owned) else {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let status = child.wait().map(|status| status.to_string()).unwrap_or_default();
            return Err(Failure::Missing { what: format!("darter up ended before it was ready ({status}):\n{text}") });
        };
        Ok(Self { child, binary: binary.to_path_buf(), folder, start, events, server })
    }

    /// The administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// A file with the administrator's token.
    pub(crate) fn token_file(&self) -> PathBuf {
        self.folder.path().join("admin.token")
    }

    /// The authority's certificate.
    pub(crate) fn authority(&self) -> PathBuf {
        self.folder.path().join("data/pki/ca.crt")
    }

    /// The server's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A folder for files that go with the cluster.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The data directory.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let pid = self.child.id().to_string();
        let ended = Command::new("kill").args(["-TERM", &pid]).status().and_then(|_| self.child.wait());
        if let Err(error) = ended {
            eprintln!("xtask: ending the cluster: {error}");
        }
        let reset = Command::new(&self.binary)
            .args(["reset", "--yes", "--data-dir"])
            .arg(self.data_dir())
            .stdout(Stdio::null())
            .status();
        if !reset.as_ref().is_ok_and(std::process::ExitStatus::success) {
            eprintln!("xtask: removing the cluster in {}: {reset:?}", self.data_dir().display());
        }
    }
}
