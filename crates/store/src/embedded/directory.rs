//! The data directory: whose it is, which format it has, which files are in it
//! and that no other process uses it. Knows nothing of their contents.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::Revision;

/// The version of everything in the directory; docs/formats/store.md.
pub const FORMAT_VERSION: u32 = 1;

const FORMAT_FILE: &str = "FORMAT";
const LOCK_FILE: &str = "LOCK";
const FORMAT_MAGIC: &str = "darter store";
/// Files that are being written; of no meaning after a crash.
const UNFINISHED: &str = ".unfinished";
const LOG: &str = "log-";
const SNAPSHOT: &str = "snapshot-";
/// What a file system puts into its root itself.
const LOST_AND_FOUND: &str = "lost+found";

/// Which store a file belongs to: random, made with the directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Identity(pub(super) [u8; 16]);

/// Why a data directory could not be opened. Nothing in it was changed.
#[derive(thiserror::Error, Debug)]
pub enum OpenError {
    /// An operation on a file or directory failed.
    #[error("cannot {step} {path}")]
    File {
        /// What was tried.
        step: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The directory has other content and no store.
    #[error("{path} is not a store's data directory: it contains {found}; choose an empty directory or the right one")]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// A name in it, or what is wrong with its format file.
        found: String,
    },
    /// The directory was written by a version that uses another format.
    #[error(
        "{path} has data format {found}, this version reads and writes format {supported}; \
         open it with the version that wrote it, or choose another directory"
    )]
    OtherFormat {
        /// The directory.
        path: PathBuf,
        /// The format found.
        found: u32,
        /// The format of this version.
        supported: u32,
    },
    /// Another process has the directory open.
    #[error("{path} is in use by another process; end that one first, or choose another directory")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// Data that was acknowledged as durable cannot be read as it was written.
    /// Restore the file from a backup; nothing is guessed.
    #[error("{path} is damaged at byte {offset}: {found}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it, bytes from its start.
        offset: u64,
        /// What is wrong there.
        found: &'static str,
    },
    /// A file that the others need is not there.
    #[error("{path} is missing, although other files of the store need it")]
    Missing {
        /// The file.
        path: PathBuf,
    },
}

impl OpenError {
    pub(super) fn file(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { step, path: path.to_owned(), source }
    }
}

/// A data directory that this process holds.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    pub(super) identity: Identity,
    /// Holds the lock until it is closed.
    _lock: File,
}

impl Directory {
    /// Takes the directory, making it if it is absent or empty.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(OpenError::file("make the directory", path))?;
        let format = path.join(FORMAT_FILE);
        let known = match fs::read(&format) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(OpenError::file("read", &format)(error)),
        };
        if known.is_none() {
            check_empty(path)?;
        }
        let lock = lock(path)?;
        let identity = match known {
            Some(bytes) => parse_format(path, &bytes)?,
            None => write_format(path)?,
        };
        Ok(Self { path: path.to_owned(), identity, _lock: lock })
    }

    pub(super) fn log(&self, start: Revision) -> PathBuf {
        self.path.join(format!("{LOG}{:020}", start.0))
    }

    pub(super) fn snapshot(&self, at: Revision) -> PathBuf {
        self.path.join(format!("{SNAPSHOT}{:020}", at.0))
    }

    /// Bytes that the file system still gives to this process.
    pub(super) fn free_bytes(&self) -> io::Result<u64> {
        let found = rustix::fs::statvfs(&self.path)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// Bytes of all files.
    pub(super) fn used_bytes(&self) -> io::Result<u64> {
        fs::read_dir(&self.path)?.map(|entry| Ok(entry?.metadata()?.len())).sum()
    }

    /// The name under which a file is written before it is whole.
    pub(super) fn unfinished(path: &Path) -> PathBuf {
        let mut name = path.as_os_str().to_owned();
        name.push(UNFINISHED);
        PathBuf::from(name)
    }

    /// Removes what a crash left unfinished. Only while nothing is written.
    pub(super) fn remove_unfinished(&self) -> Result<(), OpenError> {
        for name in names(&self.path)?.iter().filter(|name| name.ends_with(UNFINISHED)) {
            let path = self.path.join(name);
            fs::remove_file(&path).map_err(OpenError::file("remove", &path))?;
        }
        Ok(())
    }

    /// Removes the logs and snapshots that the snapshot at `at` replaces.
    pub(super) fn remove_before(&self, at: Revision) -> Result<(), OpenError> {
        let (logs, snapshots) = self.files()?;
        let logs = logs.into_iter().filter(|start| *start < at).map(|start| self.log(start));
        let snapshots = snapshots.into_iter().filter(|other| *other < at).map(|other| self.snapshot(other));
        for path in logs.chain(snapshots) {
            fs::remove_file(&path).map_err(OpenError::file("remove", &path))?;
        }
        Ok(())
    }

    /// The logs and snapshots there are, each in ascending order.
    pub(super) fn files(&self) -> Result<(Vec<Revision>, Vec<Revision>), OpenError> {
        let (mut logs, mut snapshots) = (Vec::new(), Vec::new());
        for name in names(&self.path)? {
            let revision = |digits: &str| Some(Revision(digits.parse().ok().filter(|_| digits.len() == 20)?));
            logs.extend(name.strip_prefix(LOG).and_then(revision));
            snapshots.extend(name.strip_prefix(SNAPSHOT).and_then(revision));
        }
        logs.sort_unstable();
        snapshots.sort_unstable();
        Ok((logs, snapshots))
    }

    /// Makes creations, renames and removals in the directory durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn names(path: &Path) -> Result<Vec<String>, OpenError> {
    let list = fs::read_dir(path).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
    let list = list.map_err(OpenError::file("list", path))?;
    Ok(list.into_iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

fn check_empty(path: &Path) -> Result<(), OpenError> {
    let ours = |name: &String| name == LOCK_FILE || name == LOST_AND_FOUND || name.ends_with(UNFINISHED);
    match names(path)?.into_iter().find(|name| !ours(name)) {
        Some(found) => Err(OpenError::NotAStore { path: path.to_owned(), found }),
        None => Ok(()),
    }
}

fn lock(directory: &Path) -> Result<File, OpenError> {
    let path = directory.join(LOCK_FILE);
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.map_err(OpenError::file("open", &path))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::InUse { path: directory.to_owned() }),
        Err(error) => Err(OpenError::file("lock", &path)(error.into())),
    }
}

fn parse_format(directory: &Path, bytes: &[u8]) -> Result<Identity, OpenError> {
    let alien = || OpenError::NotAStore {
        path: directory.to_owned(),
        found: format!("a file {FORMAT_FILE} that no store wrote"),
    };
    let text = std::str::from_utf8(bytes).map_err(|_| alien())?;
    let mut lines = text.lines();
    if lines.next() != Some(FORMAT_MAGIC) {
        return Err(alien());
    }
    let mut field = |name: &str| lines.next().and_then(|line| line.strip_prefix(name)).map(str::to_owned);
    let found = field("format ").and_then(|number| number.parse().ok()).ok_or_else(alien)?;
    if found != FORMAT_VERSION {
        return Err(OpenError::OtherFormat { path: directory.to_owned(), found, supported: FORMAT_VERSION });
    }
    let identity = field("identity ").and_then(|digits| u128::from_str_radix(&digits, 16).ok()).ok_or_else(alien)?;
    Ok(Identity(identity.to_be_bytes()))
}

fn write_format(directory: &Path) -> Result<Identity, OpenError> {
    let path = directory.join(FORMAT_FILE);
    let mut identity = [0; 16];
    rustix::rand::getrandom(&mut identity, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| OpenError::file("make the identity of", directory)(error.into()))?;
    let text = format!("{FORMAT_MAGIC}\nformat {FORMAT_VERSION}\nidentity {:032x}\n", u128::from_be_bytes(identity));
    let unfinished = Directory::unfinished(&path);
    let written = File::create(&unfinished).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)?;
        File::open(directory)?.sync_all()
    });
    written.map_err(OpenError::file("write", &path))?;
    Ok(Identity(identity))
}
