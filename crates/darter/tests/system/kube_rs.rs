//! kube-rs against a cluster, built from its own workspace.

use std::path::Path;
use std::process::Command;

use super::harness::{Cluster, succeed};
use super::images;

/// The program that uses kube-rs, built in a folder of the build.
fn program() -> std::path::PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kube-rs");
    let mut build = Command::new(env!("CARGO"));
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kube_rs/Cargo.toml");
    build.args(["build", "--locked", "--manifest-path"]).arg(manifest);
    // What the outer cargo says of its own build is not meant for this one.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CARGO_")) {
        build.env_remove(name);
    }
    succeed(build.env("CARGO_TARGET_DIR", &folder).env_remove("RUSTFLAGS"));
    folder.join("debug/kube-rs-client")
}

#[test]
fn kube_rs_creates_watches_patches_applies_executes_and_elects() {
    let program = program();
    let cluster = Cluster::start(&[]);
    cluster.import(&images::busybox(&cluster.path(""), "test.local/busybox:1", &["sleep", "100000"]));
    let said = succeed(Command::new(program).arg(cluster.path("kubeconfig")));
    assert!(said.ends_with("passed\n"), "{said}");
}
