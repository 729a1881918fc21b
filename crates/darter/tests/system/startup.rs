//! Starting in the wrong place or way: each refusal names what, where and what
//! to do, and nothing is left behind.

use std::net::TcpListener;
use std::process::Command;

use super::harness::{DARTER, run};

/// Runs `darter up` with these arguments; it must fail and say all of `words`.
fn refused(arguments: &[&str], words: &[&str]) {
    let output = run(Command::new(DARTER).arg("up").args(arguments));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "darter up {arguments:?} succeeded");
    for word in words {
        assert!(said.contains(word), "darter up {arguments:?} does not say {word:?}:\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_taken_port_is_named_with_the_flag_that_chooses_another() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    refused(&["--no-node", "--data-dir", data.to_str().unwrap(), "--listen", &address], &[&address, "--listen"]);
}

#[test]
fn a_data_directory_that_is_not_ours_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    std::fs::create_dir(&store).unwrap();
    std::fs::write(store.join("precious"), "data").unwrap();
    refused(&["--no-node", "--listen", "127.0.0.1:0", "--data-dir", folder.path().to_str().unwrap()], &["store"]);
    assert_eq!(std::fs::read_to_string(store.join("precious")).unwrap(), "data");
}

#[test]
fn bad_ranges_and_stores_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let base = ["--no-node", "--listen", "127.0.0.1:0", "--data-dir", data];
    refused(&[&base[..], &["--service-cidr", "10.0.0.1/16"]].concat(), &["--service-cidr", "10.0.0.1/16", "host bits"]);
    refused(&[&base[..], &["--service-cidr", "10.244.0.0/20"]].concat(), &["--cluster-cidr"]);
    refused(&[&base[..], &["--store", "paper"]].concat(), &["--store", "paper"]);
}
