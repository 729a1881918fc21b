//! Prevents: a full disk that costs acknowledged writes, stops reads or
//! deletions, or needs a restart to be forgotten.
//!
//! Runs itself again in a mount namespace of its own with a small tmpfs, which
//! needs root; nothing of it remains.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;

use bytes::Bytes;
use store::embedded::{EmbeddedStore, Options};
use store::{CommitError, Committed, Precondition, Range, Store, Write};

const DISK: &str = "48m";
const BALLAST_BYTES: usize = 16 << 20;
const LOG_BYTES: u64 = 8 << 20;
/// Objects that fit into what a full disk keeps free.
const SMALL: usize = 300;

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--list") {
        // How runners ask what tests there are: this one, and none ignored.
        if !std::env::args().any(|argument| argument == "--ignored") {
            println!("a_full_disk_refuses_writes_and_goes_on: test");
        }
        return ExitCode::SUCCESS;
    }
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("--in-namespace") {
        let directory = PathBuf::from(arguments.next().expect("a directory"));
        rustix::mount::mount("tmpfs", &directory, "tmpfs", rustix::mount::MountFlags::empty(), Some(&*disk_size()))
            .expect("a mount namespace of our own allows it");
        check(&directory);
        return ExitCode::SUCCESS;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let this = std::env::current_exe().expect("our own path");
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(this)
        .arg("--in-namespace")
        .arg(directory.path())
        .status()
        .expect("unshare starts");
    assert!(status.success(), "the test in the namespace failed, or this is not root: {status}");
    ExitCode::SUCCESS
}

fn disk_size() -> std::ffi::CString {
    std::ffi::CString::new(format!("size={DISK}")).expect("no zero byte")
}

fn open(directory: &Path) -> EmbeddedStore {
    EmbeddedStore::open(directory, Options { log_bytes: LOG_BYTES, ..Options::default() }).expect("opens")
}

async fn put(store: &EmbeddedStore, n: usize) -> Result<Committed, CommitError> {
    let value = Bytes::from(vec![b'v'; 2048]);
    store.commit(vec![Write::Put { key: key(n), value, when: Precondition::Any }]).await
}

async fn delete(store: &EmbeddedStore, n: usize) -> Result<Committed, CommitError> {
    store.commit(vec![Write::Delete { key: key(n), when: Precondition::Present }]).await
}

fn key(n: usize) -> Arc<str> {
    Arc::from(format!("/r/a/{n:06}"))
}

async fn count(store: &EmbeddedStore) -> usize {
    let range = Range { prefix: "/r/a/".into(), after: None, limit: 0, at: None };
    store.range(range).await.expect("reads go on").entries.len()
}

fn check(disk: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let directory = disk.join("store");
    let ballast = disk.join("ballast");
    fs::write(&ballast, vec![1; BALLAST_BYTES]).expect("there is room");
    runtime.block_on(async {
        let store = open(&directory);
        let mut written = 0;
        let refusal = loop {
            match put(&store, written).await {
                Ok(_) => written += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(refusal, CommitError::Full(_)), "{refusal:?}");
        assert!(written > 1000, "only {written} objects on {DISK}");
        assert_eq!(count(&store).await, written, "reads go on");
        for n in 0..200 {
            delete(&store, n).await.expect("deletions go on");
        }
        assert_eq!(count(&store).await, written - 200);

        drop(store);
        let store = open(&directory);
        assert_eq!(count(&store).await, written - 200, "a restart on a full disk loses nothing");
        for n in 200..300 {
            delete(&store, n).await.expect("deletions go on after a restart");
        }

        fs::remove_file(&ballast).expect("removed");
        put(&store, 0).await.expect("with room again, writes go on without a restart");
        for n in 1..300 {
            put(&store, n).await.expect("and go on");
        }
        drop(store);
        let store = open(&directory);
        assert_eq!(count(&store).await, written);

        // Full of the store's own files: deletions are what gives room.
        let mut more = written;
        while put(&store, more).await.is_ok() {
            more += 1;
        }
        for n in 0..more {
            delete(&store, n).await.expect("deletions go on");
        }
        let mut attempts = 0;
        for n in 0..SMALL {
            // The snapshot is written beside the commits.
            while put(&store, n).await.is_err() {
                attempts += 1;
                assert!(attempts < 600, "nothing was left, and after {n} objects there is no room");
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        }
        drop(store);
        assert_eq!(count(&open(&directory)).await, SMALL, "and nothing is lost");
        println!("{written} objects until {DISK} were full; none lost");
    });
}
