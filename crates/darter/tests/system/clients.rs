//! Other clients than kubectl. kube-rs takes minutes to build and is a ring.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::harness::{Cluster, succeed};
use super::images;

/// A folder of the tests' sources.
fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// An interpreter with the client installed, in a folder of the build.
fn python() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python");
    let program = folder.join("bin/python");
    if !folder.join("complete").exists() {
        succeed(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder));
        succeed(Command::new(&program).args(["-m", "pip", "install", "--quiet", "kubernetes>=36,<38"]));
        std::fs::write(folder.join("complete"), "").unwrap();
    }
    program
}

fn cluster() -> Cluster {
    let cluster = Cluster::start(&[]);
    cluster.import(&images::busybox(&cluster.path(""), "test.local/busybox:1", &["sleep", "100000"]));
    cluster
}

#[test]
fn the_python_client_creates_watches_patches_applies_executes_and_elects() {
    let python = python();
    let cluster = cluster();
    let script = sources().join("system/python_client.py");
    let said = succeed(Command::new(python).arg(script).arg(cluster.path("kubeconfig")));
    assert!(said.ends_with("passed\n"), "{said}");
}
