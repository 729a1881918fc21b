//! One layer's tar stream onto disk, as a directory that overlayfs can use.
//! The stream is hostile: every path is resolved inside the target directory
//! by openat2, nothing is followed out of it, and sizes are bounded. Digests
//! are computed here and compared by the caller.

use std::io::{self, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod,
    fchown, fsetxattr, linkat, mkdirat, mknodat, openat, openat2, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

/// Most entries of one layer. The largest known public layers have some
/// hundred thousand.
const MAX_ENTRIES: u64 = 4_000_000;

/// Most bytes of one unpacked layer.
const MAX_BYTES: u64 = 128 << 30;

/// Links followed to a directory that must be made: the kernel's own bound.
const MAX_LINKS: usize = 40;

/// Longest path in a layer, bytes: the kernel's PATH_MAX.
const MAX_PATH: usize = 4096;

/// A layer that could not be unpacked.
#[derive(thiserror::Error, Debug)]
pub(crate) enum LayerError {
    /// The stream is not what it should be; reading it again is useless.
    #[error("layer: {0}")]
    Corrupt(String),
    /// Reading the stream or writing the disk failed.
    #[error("unpack {path:?}")]
    Io {
        /// Entry being unpacked.
        path: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

/// What was unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// Digest of the uncompressed stream.
    pub(crate) diff_id: String,
    /// Bytes of file content.
    pub(crate) bytes: u64,
}

/// Unpacks a plain, gzip or zstd stream into the empty directory `target`.
pub(crate) fn unpack(stream: impl Read, target: &Path) -> Result<Unpacked, LayerError> {
    let start = |source| LayerError::Io { path: String::new(), source };
    let mut stream = BufReader::with_capacity(128 << 10, stream);
    let magic = io::BufRead::fill_buf(&mut stream).map_err(start)?;
    let plain: Box<dyn Read + '_> = if magic.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::bufread::MultiGzDecoder::new(stream))
    } else if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Box::new(zstd::stream::read::Decoder::with_buffer(stream).map_err(start)?)
    } else {
        Box::new(stream)
    };
    let mut hashed = Hashed { inner: plain, hash: Sha256::new(), read: 0 };
    let root = openat(CWD, target, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let root = root.map_err(|error| start(error.into()))?;
    let mut unpacker = Unpacker { root, directories: Vec::new(), bytes: 0 };
    let mut archive = tar::Archive::new(&mut hashed);
    let entries = archive.entries().map_err(start)?;
    for (number, entry) in (0_u64..).zip(entries) {
        if number >= MAX_ENTRIES {
            return Err(LayerError::Corrupt(format!("more than {MAX_ENTRIES} entries")));
        }
        let mut entry = entry.map_err(start)?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        unpacker.entry(&mut entry, &path)?;
    }
    unpacker.set_directory_times()?;
    // What follows the end marker belongs to the digest.
    io::copy(&mut hashed, &mut io::sink()).map_err(start)?;
    Ok(Unpacked { diff_id: format!("sha256:{}", hex(&hashed.hash.finalize())), bytes: unpacker.bytes })
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

struct Hashed<R> {
    inner: R,
    hash: Sha256,
    read: u64,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hash.update(&buffer[..length]);
        self.read += length as u64;
        if self.read > MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "layer exceeds the size bound"));
        }
        Ok(length)
    }
}

struct Unpacker {
    root: OwnedFd,
    /// Directories and their times, set last: their content changes them.
    directories: Vec<(String, i64)>,
    bytes: u64,
}

impl Unpacker {
    fn entry(&mut self, entry: &mut tar::Entry<'_, impl Read>, path: &str) -> Result<(), LayerError> {
        self.place(entry, path).map_err(|error| match error {
            Refused::Corrupt(reason) => LayerError::Corrupt(format!("{path:?}: {reason}")),
            Refused::Io(source) => LayerError::Io { path: path.to_owned(), source },
        })
    }

    fn place(&mut self, entry: &mut tar::Entry<'_, impl Read>, path: &str) -> Result<(), Refused> {
        let clean = clean(path)?;
        let kind = entry.header().entry_type();
        if clean.is_empty() {
            return if kind.is_dir() { self.metadata_of_root(entry) } else { Ok(()) };
        }
        let (parent_path, name) = clean.rsplit_once('/').unwrap_or(("", &clean));
        let parent = self.directory(parent_path)?;
        if let Some(hidden) = name.strip_prefix(".wh.") {
            return whiteout(&parent, hidden);
        }
        let was_whiteout = make_way(&parent, name, kind.is_dir())?;
        let mode = Mode::from_raw_mode(entry.header().mode()? & 0o7777);
        match kind {
            tar::EntryType::Directory => {
                match mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let directory = openat(&parent, name, flags, Mode::empty())?;
                if was_whiteout {
                    fsetxattr(&directory, "trusted.overlay.opaque", b"y", XattrFlags::empty())?;
                }
                own(&directory, entry, mode)?;
                self.directories.push((clean.clone(), mtime(entry)));
                return Ok(());
            }
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut file = std::fs::File::from(openat(&parent, name, flags, Mode::from_raw_mode(0o600))?);
                let expected = entry.size();
                let copied = io::copy(entry, &mut file)?;
                if copied != expected {
                    return Err(Refused::Corrupt(format!("{copied} of {expected} bytes")));
                }
                self.bytes += copied;
                own(&file, entry, mode)?;
            }
            tar::EntryType::Symlink => {
                let link = entry.link_name_bytes().ok_or_else(|| Refused::Corrupt("link without target".to_owned()))?;
                symlinkat(&*link, &parent, name)?;
                own_at(&parent, name, entry)?;
            }
            tar::EntryType::Link => {
                let link = entry.link_name_bytes().ok_or_else(|| Refused::Corrupt("link without target".to_owned()))?;
                let target = self::clean(&String::from_utf8_lossy(&link))?;
                let (dir, file) = target.rsplit_once('/').unwrap_or(("", &target));
                let dir = self
                    .open(dir)
                    .map_err(|_| Refused::Corrupt(format!("hard link to {target:?}, which is not in the layer")))?;
                linkat(&dir, file, &parent, name, AtFlags::empty()).map_err(|error| match error {
                    Errno::NOENT => Refused::Corrupt(format!("hard link to {target:?}, which is not in the layer")),
                    error => error.into(),
                })?;
                return Ok(());
            }
            tar::EntryType::Char | tar::EntryType::Block | tar::EntryType::Fifo => {
                let number = |part: Option<u32>| part.unwrap_or(0);
                let (major, minor) = (number(entry.header().device_major()?), number(entry.header().device_minor()?));
                let file_type = match kind {
                    tar::EntryType::Char => FileType::CharacterDevice,
                    tar::EntryType::Block => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let device = if kind == tar::EntryType::Fifo { 0 } else { rustix::fs::makedev(major, minor) };
                mknodat(&parent, name, file_type, mode, device)?;
                own_at(&parent, name, entry)?;
                rustix::fs::chmodat(&parent, name, mode, AtFlags::empty())?;
            }
            // Global headers and extensions this format does not have.
            _ => return Ok(()),
        }
        let time = Timespec { tv_sec: mtime(entry), tv_nsec: 0 };
        utimensat(
            &parent,
            name,
            &Timestamps { last_access: time, last_modification: time },
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        Ok(())
    }

    fn metadata_of_root(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> Result<(), Refused> {
        let mode = Mode::from_raw_mode(entry.header().mode()? & 0o7777);
        let root = openat(&self.root, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        own(&root, entry, mode)
    }

    fn open(&self, path: &str) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { "." } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.root, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    /// Opens a parent directory, making what is missing.
    // TODO-correctness: a parent that the layer does not list gets root's
    // ownership and 0755 even where a lower layer says otherwise, until
    // layers are unpacked knowing the chain below them.
    fn directory(&self, path: &str) -> Result<OwnedFd, Refused> {
        self.directory_after(path, 0)
    }

    fn directory_after(&self, path: &str, links: usize) -> Result<OwnedFd, Refused> {
        if links > MAX_LINKS {
            return Err(Refused::Corrupt("too many links".to_owned()));
        }
        match self.open(path) {
            Ok(directory) => return Ok(directory),
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let mut parent = self.open("")?;
        let mut so_far = String::new();
        for component in path.split('/') {
            so_far = if so_far.is_empty() { component.to_owned() } else { format!("{so_far}/{component}") };
            parent = match self.open(&so_far) {
                Ok(next) => next,
                Err(Errno::NOENT) => {
                    match mkdirat(&parent, component, Mode::from_raw_mode(0o755)) {
                        Ok(()) => {}
                        Err(Errno::EXIST) => {
                            // A link whose target is missing: made, inside.
                            let link = rustix::fs::readlinkat(&parent, component, Vec::new())?;
                            let target = beside(&so_far, &link.to_string_lossy());
                            self.directory_after(&target, links + 1)?;
                        }
                        Err(error) => return Err(error.into()),
                    }
                    self.open(&so_far)?
                }
                Err(error) => return Err(error.into()),
            };
        }
        Ok(parent)
    }

    fn set_directory_times(&self) -> Result<(), LayerError> {
        for (path, seconds) in self.directories.iter().rev() {
            let time = Timespec { tv_sec: *seconds, tv_nsec: 0 };
            let times = Timestamps { last_access: time, last_modification: time };
            // A later entry may have replaced the directory.
            let Ok(directory) = self.open(path) else { continue };
            utimensat(&directory, ".", &times, AtFlags::empty())
                .map_err(|error| LayerError::Io { path: path.clone(), source: error.into() })?;
        }
        Ok(())
    }
}

/// Where the link at `path` leads, seen from the layer's root, which `..`
/// does not leave.
fn beside(path: &str, link: &str) -> String {
    let mut parts: Vec<&str> = if link.starts_with('/') { Vec::new() } else { path.split('/').collect() };
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

enum Refused {
    Corrupt(String),
    Io(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Errno> for Refused {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

/// The path without `.`, empty parts and a leading slash.
fn clean(path: &str) -> Result<String, Refused> {
    if path.len() > MAX_PATH {
        return Err(Refused::Corrupt("path too long".to_owned()));
    }
    if path.contains('\0') {
        return Err(Refused::Corrupt("zero byte in a path".to_owned()));
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return Err(Refused::Corrupt("leads out of the layer".to_owned()));
    }
    Ok(parts.join("/"))
}

fn whiteout(parent: &OwnedFd, hidden: &str) -> Result<(), Refused> {
    if hidden == ".wh..opq" {
        let directory = openat(parent, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        return Ok(fsetxattr(&directory, "trusted.overlay.opaque", b"y", XattrFlags::empty())?);
    }
    if hidden.starts_with(".wh.") {
        // AUFS's own bookkeeping (.wh..wh.plnk and the like).
        return Ok(());
    }
    if matches!(hidden, "" | "." | "..") {
        return Err(Refused::Corrupt("whiteout of a directory link".to_owned()));
    }
    match mknodat(parent, hidden, FileType::CharacterDevice, Mode::empty(), 0) {
        // Whiteouts are about lower layers; what this layer has stays.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Removes what is in the way of a new entry. True when that was a whiteout.
fn make_way(parent: &OwnedFd, name: &str, for_directory: bool) -> Result<bool, Refused> {
    let stat = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory if for_directory => Ok(false),
        FileType::Directory => {
            remove_directory(parent, name)?;
            Ok(false)
        }
        kind => {
            unlinkat(parent, name, AtFlags::empty())?;
            Ok(kind == FileType::CharacterDevice && stat.st_rdev == 0)
        }
    }
}

fn remove_directory(parent: &OwnedFd, name: &str) -> Result<(), Refused> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(parent, name, flags, Mode::empty())?;
    for entry in rustix::fs::Dir::read_from(&directory)? {
        let entry = entry?;
        let child = entry.file_name().to_string_lossy().into_owned();
        if matches!(child.as_str(), "." | "..") {
            continue;
        }
        let stat = statat(&directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            remove_directory(&directory, &child)?;
        } else {
            unlinkat(&directory, entry.file_name(), AtFlags::empty())?;
        }
    }
    Ok(unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

fn ids(entry: &tar::Entry<'_, impl Read>) -> Result<(Option<Uid>, Option<Gid>), Refused> {
    let id = |value: u64| {
        u32::try_from(value)
            .ok()
            .filter(|id| *id != u32::MAX)
            .ok_or_else(|| Refused::Corrupt(format!("owner {value} does not fit")))
    };
    let (uid, gid) = (id(entry.header().uid()?)?, id(entry.header().gid()?)?);
    Ok((Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))))
}

/// Owner first, since changing it takes set-user-id and capabilities away.
fn own(file: impl std::os::fd::AsFd, entry: &mut tar::Entry<'_, impl Read>, mode: Mode) -> Result<(), Refused> {
    let (uid, gid) = ids(entry)?;
    fchown(&file, uid, gid)?;
    fchmod(&file, mode)?;
    let mut attributes = Vec::new();
    if let Some(extensions) = entry.pax_extensions()? {
        for extension in extensions {
            let extension = extension?;
            if let Some(name) = extension.key_bytes().strip_prefix(b"SCHILY.xattr.") {
                attributes.push((name.to_vec(), extension.value_bytes().to_vec()));
            }
        }
    }
    for (name, value) in attributes {
        // Only what containers may carry: capabilities and user attributes.
        // `trusted.*` would speak to overlayfs in our name.
        if name == b"security.capability" || name.starts_with(b"user.") {
            match fsetxattr(&file, name.as_slice(), &value, XattrFlags::empty()) {
                Ok(()) | Err(Errno::NOTSUP) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

fn own_at(parent: &OwnedFd, name: &str, entry: &tar::Entry<'_, impl Read>) -> Result<(), Refused> {
    let (uid, gid) = ids(entry)?;
    Ok(chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn mtime(entry: &tar::Entry<'_, impl Read>) -> i64 {
    entry.header().mtime().ok().and_then(|time| i64::try_from(time).ok()).unwrap_or(0)
}
