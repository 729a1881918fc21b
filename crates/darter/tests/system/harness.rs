//! A cluster for one test: own folder, own ports, own addresses; removed when
//! the test ends, however it ends.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The program under test.
pub const DARTER: &str = env!("CARGO_BIN_EXE_darter");

/// What runs clusters: the program under test, or the build of it that
/// `DARTER_TEST_SERVER` names, for figures of a release build.
fn server() -> PathBuf {
    std::env::var_os("DARTER_TEST_SERVER").map_or_else(|| DARTER.into(), PathBuf::from)
}

/// A running cluster.
pub struct Cluster {
    child: Option<Child>,
    folder: tempfile::TempDir,
    arguments: Vec<String>,
    /// `https://127.0.0.1:PORT`.
    pub server: String,
}

impl Cluster {
    /// Starts one and waits until it is ready.
    pub fn start(arguments: &[&str]) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        // Tests in one process get different ranges; tests in different
        // processes are told apart by the process id.
        let slot = (std::process::id() % 24) as u8 * 2 + (NEXT.fetch_add(1, Ordering::Relaxed) % 2);
        let mut own: Vec<String> = vec!["--cluster-cidr".into(), format!("10.{}.0.0/16", 100 + slot)];
        own.extend(["--service-cidr".into(), format!("10.{}.0.0/16", 180 + slot)]);
        own.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let folder = tempfile::tempdir().unwrap();
        let mut cluster = Self { child: None, folder, arguments: own, server: String::new() };
        cluster.resume("127.0.0.1:0");
        cluster
    }

    fn resume(&mut self, listen: &str) {
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut child = Command::new(server())
            .args(["up", "-o", "json", "--node-port", "0", "--listen", listen])
            .args(["--data-dir", self.path("data").to_str().unwrap()])
            .args(["--kubeconfig", self.path("kubeconfig").to_str().unwrap()])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        self.child = Some(child);
        for line in output.lines() {
            let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
            if event["event"] == "ready" {
                self.server = event["server"].as_str().unwrap().to_owned();
                return;
            }
        }
        panic!("the cluster ended before it was ready:\n{}", self.log());
    }

    /// Kills the server the hard way.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Starts the server again, on the port that it had.
    pub fn restart(&mut self) {
        let listen = self.server.trim_start_matches("https://").to_owned();
        self.resume(&listen);
    }

    /// Kills the server the hard way and starts it again on the same port.
    pub fn kill_and_restart(&mut self) {
        self.kill();
        self.restart();
    }

    /// The server's process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// A path in the test's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What the server said on standard error.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Runs `darter WORDS --data-dir …`.
    pub fn darter(&self, words: &[&str]) -> String {
        let mut command = Command::new(DARTER);
        command.args(words).arg("--data-dir").arg(self.path("data"));
        succeed(&mut command)
    }

    /// Gives an image to the node.
    pub fn import(&self, archive: &Path) {
        self.darter(&["image", "import", archive.to_str().unwrap()]);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let pid = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
            child.wait().ok();
        }
        if std::thread::panicking() {
            eprintln!("the server's log:\n{}", self.log());
        }
        Command::new(DARTER).args(["reset", "--yes", "--data-dir"]).arg(self.path("data")).status().ok();
    }
}

/// Runs a command that must succeed and returns its standard output.
pub fn succeed(command: &mut Command) -> String {
    let output = run(command);
    assert!(
        output.status.success(),
        "{command:?} failed: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Asks again until the answer fits; for what a client can only see by asking.
pub fn eventually<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(started.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
