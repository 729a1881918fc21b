//! The frames that logs and snapshots are made of, byte by byte as
//! docs/formats/store.md lays them out. Reads and writes no files.

use std::sync::Arc;

use bytes::Bytes;

use super::checksum::Checksum;
use super::directory::Identity;
use crate::memory::Change;
use crate::{Entry, Precondition, Revision, Write};

/// Bytes of a frame's header.
pub(super) const HEADER_BYTES: usize = 32;
/// Frames start at multiples of this, counted from the start of the file.
pub(super) const ALIGNMENT: usize = 8;
/// Stands for "deleted" where a write's value length would be.
const DELETED: u32 = u32::MAX;

const AT_MAGIC: usize = 0;
const AT_PAYLOAD_BYTES: usize = 4;
const AT_FILE: usize = 8;
const AT_FIRST: usize = 16;
const AT_COUNT: usize = 24;
const AT_CHECKSUM: usize = 28;

/// What a frame holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Commits of consecutive revisions, in a log.
    Commits,
    /// Entries in key order, in a snapshot.
    Entries,
}

impl Kind {
    fn magic(self) -> [u8; 4] {
        match self {
            Self::Commits => *b"DCMT",
            Self::Entries => *b"DENT",
        }
    }
}

/// A frame's header, without what only serves to find damage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub(super) payload_bytes: usize,
    /// The revision of the first commit, or the number of entries before.
    pub(super) first: u64,
    /// Commits or entries in the payload.
    pub(super) count: u32,
    checksum: u32,
}

impl Header {
    /// The bytes from the start of this frame to that of the next.
    pub(super) fn frame_bytes(&self) -> usize {
        (HEADER_BYTES + self.payload_bytes).next_multiple_of(ALIGNMENT)
    }
}

/// The part of the checksum that ties frames to one file of one store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seal {
    pub(super) identity: Identity,
    pub(super) kind: Kind,
    /// The revision in the file's name.
    pub(super) file: Revision,
}

impl Seal {
    /// Reads a header; `None` if these bytes are none of this file's. The
    /// payload may still be damaged, see [`Seal::holds`].
    pub(super) fn header(&self, bytes: &[u8]) -> Option<Header> {
        let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        if bytes[AT_MAGIC..AT_MAGIC + 4] != self.kind.magic() || u64_at(bytes, AT_FILE) != self.file.0 {
            return None;
        }
        Some(Header {
            payload_bytes: u32_at(bytes, AT_PAYLOAD_BYTES) as usize,
            first: u64_at(bytes, AT_FIRST),
            count: u32_at(bytes, AT_COUNT),
            checksum: u32_at(bytes, AT_CHECKSUM),
        })
    }

    /// Whether header and payload are as they were written.
    pub(super) fn holds(&self, header: &[u8], payload: &[u8]) -> bool {
        self.header(header).is_some_and(|parsed| parsed.checksum == self.checksum(header, payload))
    }

    fn checksum(&self, header: &[u8], payload: &[u8]) -> u32 {
        Checksum::new().add(&self.identity.0).add(&header[..AT_CHECKSUM]).add(payload).finish()
    }

    /// Turns `buffer`, which holds a payload after [`HEADER_BYTES`] free bytes,
    /// into a whole frame.
    ///
    /// # Panics
    /// If the payload has 4 GiB or more; the bounds of a batch keep it far
    /// below.
    pub(super) fn close(&self, buffer: &mut Vec<u8>, first: u64, count: u32) {
        let payload = u32::try_from(buffer.len() - HEADER_BYTES).expect("a payload is bounded by the size of a batch");
        buffer[AT_MAGIC..AT_MAGIC + 4].copy_from_slice(&self.kind.magic());
        buffer[AT_PAYLOAD_BYTES..AT_PAYLOAD_BYTES + 4].copy_from_slice(&payload.to_le_bytes());
        buffer[AT_FILE..AT_FILE + 8].copy_from_slice(&self.file.0.to_le_bytes());
        buffer[AT_FIRST..AT_FIRST + 8].copy_from_slice(&first.to_le_bytes());
        buffer[AT_COUNT..AT_COUNT + 4].copy_from_slice(&count.to_le_bytes());
        let checksum = self.checksum(&buffer[..HEADER_BYTES], &buffer[HEADER_BYTES..]);
        buffer[AT_CHECKSUM..AT_CHECKSUM + 4].copy_from_slice(&checksum.to_le_bytes());
        buffer.resize(buffer.len().next_multiple_of(ALIGNMENT), 0);
    }
}

/// Empties `buffer` for a payload.
pub(super) fn begin(buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.resize(HEADER_BYTES, 0);
}

/// Appends one commit to a payload.
pub(super) fn put_change(buffer: &mut Vec<u8>, change: &Change) {
    put_u32(buffer, change.events.len());
    for event in &change.events {
        put_u32(buffer, event.entry.key.len());
        if event.deleted {
            buffer.extend_from_slice(&DELETED.to_le_bytes());
            buffer.extend_from_slice(event.entry.key.as_bytes());
        } else {
            put_u32(buffer, event.entry.value.len());
            buffer.extend_from_slice(event.entry.key.as_bytes());
            buffer.extend_from_slice(&event.entry.value);
        }
    }
}

/// Appends one entry to a payload.
pub(super) fn put_entry(buffer: &mut Vec<u8>, entry: &Entry) {
    buffer.extend_from_slice(&entry.created.0.to_le_bytes());
    buffer.extend_from_slice(&entry.modified.0.to_le_bytes());
    put_u32(buffer, entry.key.len());
    put_u32(buffer, entry.value.len());
    buffer.extend_from_slice(entry.key.as_bytes());
    buffer.extend_from_slice(&entry.value);
}

fn put_u32(buffer: &mut Vec<u8>, length: usize) {
    let length = u32::try_from(length).expect("keys, values and commits are bounded far below 4 GiB");
    buffer.extend_from_slice(&length.to_le_bytes());
}

/// Reads a payload whose checksum held. Each method returns `None` where the
/// bytes do not follow the format, which then is a fault of the writer.
pub(super) struct Payload<'a>(&'a [u8]);

impl<'a> Payload<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The writes of the next commit.
    pub(super) fn commit(&mut self) -> Option<Vec<Write>> {
        let count = self.u32()?;
        (0..count).map(|_| self.write()).collect()
    }

    fn write(&mut self) -> Option<Write> {
        let key_bytes = self.u32()? as usize;
        let value_bytes = self.u32()?;
        let key = self.key(key_bytes)?;
        let when = Precondition::Any;
        if value_bytes == DELETED {
            return Some(Write::Delete { key, when });
        }
        let value = Bytes::copy_from_slice(self.take(value_bytes as usize)?);
        Some(Write::Put { key, value, when })
    }

    /// The next entry.
    pub(super) fn entry(&mut self) -> Option<Entry> {
        let created = Revision(self.u64()?);
        let modified = Revision(self.u64()?);
        let key_bytes = self.u32()? as usize;
        let value_bytes = self.u32()? as usize;
        let key = self.key(key_bytes)?;
        Some(Entry::new(key, Bytes::copy_from_slice(self.take(value_bytes)?), created, modified))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn key(&mut self, bytes: usize) -> Option<Arc<str>> {
        Some(Arc::from(std::str::from_utf8(self.take(bytes)?).ok()?))
    }

    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4).map(|bytes| u32_at(bytes, 0))
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8).map(|bytes| u64_at(bytes, 0))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("the caller took enough bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("the caller took enough bytes"))
}
