//! Other clients than kubectl: the Python client and kube-rs.

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

/// The program that uses kube-rs, built in a folder of the build.
fn kube_rs() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kube-rs");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--locked", "--manifest-path"]).arg(sources().join("kube_rs/Cargo.toml"));
    // What the outer cargo says of its own build is not meant for this one.
    succeed(build.env("CARGO_TARGET_DIR", &folder).env_remove("RUSTFLAGS"));
    folder.join("debug/kube-rs-client")
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

#[test]
fn kube_rs_creates_watches_patches_applies_executes_and_elects() {
    let program = kube_rs();
    let cluster = cluster();
    let said = succeed(Command::new(program).arg(cluster.path("kubeconfig")));
    assert!(said.ends_with("passed\n"), "{said}");
}
