//! Snapshots: the whole state at one revision, written beside the commits and
//! read once at the start. A snapshot is whole or is not there; it replaces the
//! logs before its revision, which the committer then removes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::directory::{Directory, OpenError};
use super::frame::{self, HEADER_BYTES, Kind, Payload, Seal};
use crate::{Entry, Revision};

/// A frame is closed once its payload has so many bytes.
const FRAME_BYTES: usize = 1 << 20;
/// Bytes between two syncs, so that a snapshot never makes a commit wait for
/// all of it to reach the disk.
const SYNC_BYTES: u64 = 4 << 20;

/// Writes the snapshot of `entries` at `at` and returns its bytes; `None` if
/// `stop` was set meanwhile. What is unfinished is removed.
pub(super) fn write(
    directory: &Directory,
    at: Revision,
    entries: Vec<Arc<Entry>>,
    stop: &AtomicBool,
) -> io::Result<Option<u64>> {
    let path = directory.snapshot(at);
    let unfinished = Directory::unfinished(&path);
    let written = write_unfinished(directory, &unfinished, at, entries, stop);
    match written {
        Ok(Some(bytes)) => {
            fs::rename(&unfinished, &path)?;
            directory.sync()?;
            Ok(Some(bytes))
        }
        other => {
            fs::remove_file(&unfinished)?;
            other
        }
    }
}

fn write_unfinished(
    directory: &Directory,
    path: &Path,
    at: Revision,
    entries: Vec<Arc<Entry>>,
    stop: &AtomicBool,
) -> io::Result<Option<u64>> {
    let seal = Seal { identity: directory.identity, kind: Kind::Entries, file: at };
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let (mut buffer, mut bytes, mut synced, mut first, mut count) = (Vec::new(), 0, 0, 0, 0);
    frame::begin(&mut buffer);
    // Entries are let go one by one: those superseded meanwhile are only here.
    for entry in entries {
        frame::put_entry(&mut buffer, &entry);
        count += 1;
        if buffer.len() < FRAME_BYTES {
            continue;
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        seal.close(&mut buffer, first, count);
        file.write_all(&buffer)?;
        bytes += buffer.len() as u64;
        first += u64::from(count);
        count = 0;
        frame::begin(&mut buffer);
        if bytes - synced >= SYNC_BYTES {
            file.sync_data()?;
            synced = bytes;
        }
    }
    if count > 0 {
        seal.close(&mut buffer, first, count);
        file.write_all(&buffer)?;
        first += u64::from(count);
        frame::begin(&mut buffer);
    }
    // The frame without entries says that the snapshot ends here.
    seal.close(&mut buffer, first, 0);
    file.write_all(&buffer)?;
    file.sync_all()?;
    Ok(Some(bytes))
}

/// Reads a snapshot.
pub(super) fn load(directory: &Directory, at: Revision) -> Result<Vec<Arc<Entry>>, OpenError> {
    let path = directory.snapshot(at);
    let seal = Seal { identity: directory.identity, kind: Kind::Entries, file: at };
    let file = File::open(&path).map_err(OpenError::file("open", &path))?;
    let length = file.metadata().map_err(OpenError::file("read", &path))?.len();
    let mut reader = BufReader::with_capacity(FRAME_BYTES, file);
    let (mut entries, mut offset, mut payload) = (Vec::new(), 0, Vec::new());
    loop {
        let damaged = |found| OpenError::Damaged { path: path.clone(), offset, found };
        let mut header = [0; HEADER_BYTES];
        if length - offset < HEADER_BYTES as u64 {
            return Err(damaged("the end of the file where more entries should be"));
        }
        reader.read_exact(&mut header).map_err(OpenError::file("read", &path))?;
        let parsed = seal.header(&header).ok_or_else(|| damaged("no frame of this file"))?;
        if parsed.frame_bytes() as u64 > length - offset {
            return Err(damaged("a frame longer than the file"));
        }
        payload.resize(parsed.frame_bytes() - HEADER_BYTES, 0);
        reader.read_exact(&mut payload).map_err(OpenError::file("read", &path))?;
        payload.truncate(parsed.payload_bytes);
        if !seal.holds(&header, &payload) {
            return Err(damaged("a wrong checksum"));
        }
        if parsed.first != entries.len() as u64 {
            return Err(damaged("a frame out of order"));
        }
        if parsed.count == 0 {
            return Ok(entries);
        }
        let mut rest = Payload::new(&payload);
        for _ in 0..parsed.count {
            entries.push(Arc::new(rest.entry().ok_or_else(|| damaged("an entry that no store writes"))?));
        }
        offset += parsed.frame_bytes() as u64;
    }
}
