//! The log of commits: appended durably, read once at the start. Decides
//! nothing about what is appended or when a new log begins.
//!
//! Space is allocated ahead of the writes, in chunks and always with a reserve
//! beyond the end, so that a full disk is met where nothing is at stake yet and
//! deletions still find room.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::directory::{Directory, OpenError};
use super::frame::{self, ALIGNMENT, HEADER_BYTES, Kind, Payload, Seal};
use crate::{Revision, Write};

/// Space is allocated in multiples of this, bytes.
const CHUNK_BYTES: u64 = 4 << 20;
/// Allocated space beyond the end that only deletions may use, bytes. Room for
/// about 10,000 of them.
pub(super) const DELETE_RESERVE_BYTES: u64 = 1 << 20;
/// The disk counts as full when a chunk would leave less than this, bytes: room
/// for a snapshot of a small state and the log after it, by which deletions
/// give back what the logs before them take.
const KEPT_FREE_BYTES: u64 = 4 << 20;
/// Buffer for reading, bytes.
const READ_BYTES: usize = 1 << 20;

/// Whether an error says that there is no room, as opposed to a broken disk.
pub(super) fn is_full(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG))
}

/// A log open for appending.
pub(super) struct Log {
    file: File,
    pub(super) path: PathBuf,
    pub(super) seal: Seal,
    end: u64,
    allocated: u64,
}

impl Log {
    /// A new, empty log for the commits after `start`. It gets its name once
    /// its opening is durable: a file of that name is a log, whenever the
    /// process dies.
    pub(super) fn create(directory: &Directory, start: Revision) -> io::Result<Self> {
        let path = directory.log(start);
        let unfinished = Directory::unfinished(&path);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        let seal = Seal { identity: directory.identity, kind: Kind::Commits, file: start };
        let mut log = Self { file, path, seal, end: 0, allocated: 0 };
        // What a full disk keeps free is meant for this.
        let made = log.reserve(0).or_else(|_| log.allocate(2 * DELETE_RESERVE_BYTES));
        let made = made.and_then(|()| log.write_opening());
        if let Err(error) = made.and_then(|()| std::fs::rename(&unfinished, &log.path)) {
            std::fs::remove_file(&unfinished)?;
            return Err(error);
        }
        if let Err(error) = directory.sync() {
            // Without the file the commits go on in the log before.
            std::fs::remove_file(&log.path)?;
            return Err(error);
        }
        Ok(log)
    }

    /// A frame without commits says whose log this is even if all of its
    /// commits are damaged.
    fn write_opening(&mut self) -> io::Result<()> {
        let mut frame = Vec::new();
        frame::begin(&mut frame);
        self.seal.close(&mut frame, self.seal.file.0 + 1, 0);
        self.append(&frame)?;
        self.file.sync_all()?;
        self.end = frame.len() as u64;
        Ok(())
    }

    /// Bytes of the commits in it.
    pub(super) fn bytes(&self) -> u64 {
        self.end
    }

    /// Makes sure that a frame of `bytes` fits and the reserve after it.
    pub(super) fn reserve(&mut self, bytes: u64) -> io::Result<()> {
        let needed = self.end + bytes + DELETE_RESERVE_BYTES;
        if needed <= self.allocated {
            return Ok(());
        }
        let target = needed.next_multiple_of(CHUNK_BYTES);
        // A file system that does not say how much it has is asked for it.
        let free =
            rustix::fs::fstatvfs(&self.file).map_or(u64::MAX, |found| found.f_bavail.saturating_mul(found.f_frsize));
        if free < (target - self.allocated).saturating_add(KEPT_FREE_BYTES) {
            return Err(Errno::NOSPC.into());
        }
        self.allocate(target)
    }

    fn allocate(&mut self, target: u64) -> io::Result<()> {
        let extent = target - self.allocated;
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), self.allocated, extent) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP) => write_zeros(&self.file, self.allocated, target)?,
            Err(error) => return Err(error.into()),
        }
        self.allocated = target;
        Ok(())
    }

    /// Whether a frame of `bytes` fits, the reserve included.
    pub(super) fn fits(&self, bytes: u64) -> bool {
        self.end + bytes <= self.allocated
    }

    /// Writes a frame. It counts only once [`Log::sync`] has returned; after an
    /// error the next append takes the same place.
    pub(super) fn append(&mut self, frame: &[u8]) -> io::Result<()> {
        self.file.write_all_at(frame, self.end)
    }

    /// Makes the appended frame durable. After an error it is unknown what the
    /// disk holds: nothing may be appended any more.
    pub(super) fn sync(&mut self, frame_bytes: u64) -> io::Result<()> {
        self.file.sync_data()?;
        self.end += frame_bytes;
        Ok(())
    }
}

/// What reading a log ended with.
pub(super) struct Replayed {
    /// The revision of the last commit read.
    pub(super) revision: Revision,
    /// The end of the last whole frame, bytes.
    end: u64,
    /// Bytes after it that are not zero and no whole frame: what was being
    /// written, and never acknowledged, when the process or the machine died.
    torn: u64,
    length: u64,
    file: File,
    path: PathBuf,
    seal: Seal,
}

impl Replayed {
    /// Cuts what is torn and opens the log for appending.
    pub(super) fn into_log(self) -> Result<Log, OpenError> {
        if self.torn > 0 {
            tracing::warn!(
                file = %self.path.display(),
                bytes = self.torn,
                "cut the unfinished end of the log, which was never acknowledged"
            );
        }
        // Overwritten, not given back: the disk may be full, and the room after
        // the end is what deletions then have.
        let cut = write_zeros(&self.file, self.end, self.end + self.torn).and_then(|()| self.file.sync_all());
        cut.map_err(OpenError::file("cut", &self.path))?;
        Ok(Log { file: self.file, path: self.path, seal: self.seal, end: self.end, allocated: self.length })
    }

    /// The log cannot be what was written, whatever its frames say.
    pub(super) fn damaged(self, found: &'static str) -> OpenError {
        OpenError::Damaged { path: self.path, offset: self.end, found }
    }
}

/// Reads the log that starts after `start` and gives every commit, in order, to
/// `take`. `continued` says that a later log exists, so that this one has been
/// acknowledged to its end.
pub(super) fn replay(
    directory: &Directory,
    start: Revision,
    mut take: impl FnMut(Revision, Vec<Write>),
) -> Result<Replayed, OpenError> {
    let path = directory.log(start);
    let file = OpenOptions::new().read(true).write(true).open(&path);
    let file = file.map_err(OpenError::file("open", &path))?;
    let seal = Seal { identity: directory.identity, kind: Kind::Commits, file: start };
    let length = file.metadata().map_err(OpenError::file("read", &path))?.len();
    let mut frames = Frames { reader: BufReader::with_capacity(READ_BYTES, &file), offset: 0, length };
    let mut revision = start;
    while let Some(payload) = frames.next(&seal, revision).map_err(OpenError::file("read", &path))? {
        let damaged = |found| OpenError::Damaged { path: path.clone(), offset: frames.offset, found };
        let mut commits = Payload::new(&payload.bytes);
        for _ in 0..payload.count {
            revision = Revision(revision.0 + 1);
            take(revision, commits.commit().ok_or_else(|| damaged("a commit that no store writes"))?);
        }
        if !commits.is_empty() {
            return Err(damaged("bytes after the last commit of a frame"));
        }
        frames.offset += payload.frame_bytes;
    }
    let end = frames.offset;
    if end == 0 {
        return Err(OpenError::Damaged { path, offset: 0, found: "no log of this store" });
    }
    let torn = inspect_rest(&file, &path, &seal, end, revision)?;
    Ok(Replayed { revision, end, torn, length, file, path, seal })
}

fn write_zeros(file: &File, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; READ_BYTES];
    let mut at = from;
    while at < to {
        let length = (to - at).min(READ_BYTES as u64);
        file.write_all_at(&zeros[..length as usize], at)?;
        at += length;
    }
    Ok(())
}

struct Frames<'a> {
    reader: BufReader<&'a File>,
    offset: u64,
    length: u64,
}

struct FramePayload {
    bytes: Vec<u8>,
    count: u32,
    frame_bytes: u64,
}

impl Frames<'_> {
    /// The frame at the offset if it is whole and follows `revision`.
    fn next(&mut self, seal: &Seal, revision: Revision) -> io::Result<Option<FramePayload>> {
        let mut header = [0; HEADER_BYTES];
        if self.length - self.offset < HEADER_BYTES as u64 {
            return Ok(None);
        }
        self.reader.read_exact(&mut header)?;
        let Some(parsed) = seal.header(&header) else {
            return Ok(None);
        };
        let frame_bytes = parsed.frame_bytes() as u64;
        if frame_bytes > self.length - self.offset || parsed.first != revision.0 + 1 {
            return Ok(None);
        }
        let mut bytes = vec![0; parsed.frame_bytes() - HEADER_BYTES];
        self.reader.read_exact(&mut bytes)?;
        bytes.truncate(parsed.payload_bytes);
        if !seal.holds(&header, &bytes) {
            return Ok(None);
        }
        Ok(Some(FramePayload { bytes, count: parsed.count, frame_bytes }))
    }
}

/// Looks at what follows the last whole frame: nothing, the torn rest of one
/// write, or (an error) whole frames after a damaged one. A frame is written
/// only after the one before it was durable, so a whole one behind a damaged
/// one proves that acknowledged commits are lost.
fn inspect_rest(mut file: &File, path: &Path, seal: &Seal, end: u64, revision: Revision) -> Result<u64, OpenError> {
    let mut rest = Vec::new();
    let read = file.seek(SeekFrom::Start(end)).and_then(|_| file.read_to_end(&mut rest));
    read.map_err(OpenError::file("read", path))?;
    let Some(last) = rest.iter().rposition(|byte| *byte != 0) else {
        return Ok(0);
    };
    for at in (0..=last).step_by(ALIGNMENT) {
        let Some(header) = seal.header(&rest[at..]) else {
            continue;
        };
        let payload = rest.get(at + HEADER_BYTES..at + HEADER_BYTES + header.payload_bytes);
        if payload.is_some_and(|payload| seal.holds(&rest[at..at + HEADER_BYTES], payload)) && header.first > revision.0
        {
            let found = "a frame that cannot be read, with commits after it that can";
            return Err(OpenError::Damaged { path: path.to_owned(), offset: end, found });
        }
    }
    Ok(last as u64 + 1)
}
