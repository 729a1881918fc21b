//! A container's log as clients see it: which lines, with or without their
//! times, from when on, and on as it grows. Woken by the file's directory and
//! the container's end; nothing polls. Where log files are and how they are
//! rotated is not decided here.

use std::collections::VecDeque;
use std::io::{self, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use containers::runtime::{ContainerId, RuntimeEvent, RuntimeEventKind};
use jiff::Timestamp;
use rustix::fs::inotify;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::net::unix::pipe;
use tokio::sync::{broadcast, mpsc};

use crate::logs;

/// Bytes read at once.
const BLOCK: usize = 64 << 10;
/// Longest line kept whole; the runtime splits at 16 KiB.
const LINE_LIMIT: usize = 1 << 20;

/// What a client wants to see.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Selection {
    /// Go on as the log grows.
    pub(super) follow: bool,
    /// The run before.
    pub(super) previous: bool,
    /// Only so many lines from the end.
    pub(super) tail: Option<usize>,
    /// Only from this moment on.
    pub(super) since: Option<Timestamp>,
    /// Each line begins with its time.
    pub(super) timestamps: bool,
    /// At most so many bytes.
    pub(super) limit: Option<u64>,
    /// Only this stream.
    pub(super) stream: Option<&'static str>,
}

impl Selection {
    /// From a query, in upstream's words when it is wrong.
    pub(super) fn parse(query: &[(String, String)], now: Timestamp) -> Result<Self, String> {
        let mut selection = Self::default();
        for (name, value) in query.iter().filter(|(_, value)| !value.is_empty()) {
            let flag = || value.parse::<bool>().or(if value == "1" { Ok(true) } else { Ok::<_, String>(false) });
            let number = |least: i64| {
                value.parse::<i64>().ok().filter(|number| *number >= least).ok_or_else(|| {
                    format!("{name}: Invalid value: {value:?}: must be greater than or equal to {least}")
                })
            };
            match name.as_str() {
                "follow" => selection.follow = flag()?,
                "previous" => selection.previous = flag()?,
                "timestamps" => selection.timestamps = flag()?,
                "tailLines" => selection.tail = usize::try_from(number(0)?).ok(),
                "limitBytes" => selection.limit = u64::try_from(number(1)?).ok(),
                "sinceSeconds" => {
                    let seconds = jiff::SignedDuration::from_secs(number(1)?);
                    selection.since = now.checked_sub(seconds).ok();
                }
                "sinceTime" => {
                    let time = value.parse().map_err(|_| format!("sinceTime: Invalid value: {value:?}"))?;
                    selection.since = Some(time);
                }
                "stream" => {
                    selection.stream = match value.as_str() {
                        "Stdout" => Some("stdout"),
                        "Stderr" => Some("stderr"),
                        "All" => None,
                        _ => return Err(format!("stream: Unsupported value: {value:?}")),
                    };
                }
                _ => {}
            }
        }
        if selection.tail.is_some() && selection.stream.is_some() {
            return Err("`tailLines` is forbidden when `stream` is set to `Stdout` or `Stderr`".into());
        }
        Ok(selection)
    }
}

/// How to know that a container writes no more.
pub(super) struct Life {
    /// Whose log it is.
    pub(super) id: ContainerId,
    /// It has ended already.
    pub(super) ended: bool,
    /// What happens to it from now on.
    pub(super) events: broadcast::Receiver<RuntimeEvent>,
}

impl Life {
    /// Resolves when it has ended.
    async fn end(&mut self) {
        while !self.ended {
            match self.events.recv().await {
                Ok(event) => {
                    let mine = event.container.as_ref() == Some(&self.id);
                    let last = matches!(event.kind, RuntimeEventKind::Stopped | RuntimeEventKind::Deleted);
                    self.ended = mine && last;
                }
                // Lost events may have told of its end; what is written until
                // now is given, and the client asks again.
                Err(_) => self.ended = true,
            }
        }
    }
}

/// Sends the selected lines until they end or nobody takes them.
pub(super) async fn serve(
    path: &Path,
    selection: &Selection,
    mut life: Life,
    lines: mpsc::Sender<Bytes>,
) -> io::Result<()> {
    let watch = if selection.follow { Some(Watch::new(path)?) } else { None };
    let mut file = Log::open(path).await?;
    if let Some(tail) = selection.tail {
        file.seek_to_tail(tail).await?;
    }
    let mut format = Format { selection, left: selection.limit, open: VecDeque::new() };
    loop {
        // The end is noted before the last look, or its last lines could be
        // missed.
        let ended = life.ended;
        while let Some(block) = file.block().await? {
            let mut out = BytesMut::new();
            let more = format.take(&block, &mut out);
            if !out.is_empty() && lines.send(out.freeze()).await.is_err() || !more {
                return Ok(());
            }
        }
        if file.was_rotated().await? {
            file = Log::open(path).await?;
            continue;
        }
        let Some(watch) = watch.as_ref().filter(|_| !ended) else { return Ok(()) };
        tokio::select! {
            result = watch.changed() => result?,
            () = life.end() => {}
            () = lines.closed() => return Ok(()),
        }
    }
}

struct Log {
    path: PathBuf,
    file: File,
    inode: u64,
    rest: BytesMut,
}

impl Log {
    async fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path).await?;
        let inode = file.metadata().await?.ino();
        Ok(Self { path: path.to_owned(), file, inode, rest: BytesMut::new() })
    }

    /// The next whole lines, or `None` at the end for now.
    async fn block(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            self.rest.reserve(BLOCK);
            if self.file.read_buf(&mut self.rest).await? == 0 {
                return Ok(None);
            }
            if let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') {
                return Ok(Some(self.rest.split_to(end + 1).freeze()));
            }
            if self.rest.len() > LINE_LIMIT {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a log line has no end"));
            }
        }
    }

    async fn was_rotated(&self) -> io::Result<bool> {
        match tokio::fs::metadata(&self.path).await {
            Ok(metadata) => Ok(metadata.ino() != self.inode),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn seek_to_tail(&mut self, lines: usize) -> io::Result<()> {
        let length = self.file.metadata().await?.len();
        let mut end = length;
        // The last line's own end does not count.
        let mut wanted = lines.saturating_add(1);
        if lines == 0 {
            self.file.seek(SeekFrom::Start(length)).await?;
            return Ok(());
        }
        let mut start = 0;
        let mut buffer = vec![0; BLOCK];
        'search: while end > 0 {
            let begin = end.saturating_sub(BLOCK as u64);
            let size = usize::try_from(end - begin).unwrap_or(BLOCK);
            self.file.seek(SeekFrom::Start(begin)).await?;
            self.file.read_exact(&mut buffer[..size]).await?;
            for index in (0..size).rev().filter(|index| buffer[*index] == b'\n') {
                wanted -= 1;
                if wanted == 0 {
                    start = begin + index as u64 + 1;
                    break 'search;
                }
            }
            end = begin;
        }
        self.file.seek(SeekFrom::Start(start)).await?;
        Ok(())
    }
}

/// Turns log entries into what the client sees.
struct Format<'a> {
    selection: &'a Selection,
    left: Option<u64>,
    /// Streams whose last entry was not the end of its line.
    open: VecDeque<Vec<u8>>,
}

impl Format<'_> {
    /// False once nothing more may follow.
    fn take(&mut self, block: &[u8], out: &mut BytesMut) -> bool {
        for line in block.split(|byte| *byte == b'\n') {
            let Some(entry) = logs::parse(line) else { continue };
            if self.selection.stream.is_some_and(|stream| stream.as_bytes() != entry.stream) {
                continue;
            }
            if let Some(since) = self.selection.since {
                let time = std::str::from_utf8(entry.time).ok().and_then(|time| time.parse::<Timestamp>().ok());
                if time.is_some_and(|time| time < since) {
                    continue;
                }
            }
            let continued = self.open.iter().position(|stream| stream == entry.stream);
            if self.selection.timestamps && continued.is_none() {
                out.extend_from_slice(entry.time);
                out.extend_from_slice(b" ");
            }
            out.extend_from_slice(entry.content);
            match (entry.partial, continued) {
                (true, None) => self.open.push_back(entry.stream.to_vec()),
                (true, Some(_)) => {}
                (false, continued) => {
                    out.extend_from_slice(b"\n");
                    if let Some(index) = continued {
                        self.open.remove(index);
                    }
                }
            }
            if let Some(left) = self.left
                && out.len() as u64 >= left
            {
                out.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                return false;
            }
        }
        self.left = self.left.map(|left| left.saturating_sub(out.len() as u64));
        true
    }
}

/// Tells of changes in a log's directory.
struct Watch {
    /// No pipe, but read like one: tokio's safe way to wait for a descriptor.
    notes: pipe::Receiver,
}

impl Watch {
    fn new(path: &Path) -> io::Result<Self> {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let directory = path.parent().unwrap_or(path);
        let flags = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&fd, directory, flags)?;
        Ok(Self { notes: pipe::Receiver::from_owned_fd_unchecked(fd)? })
    }

    async fn changed(&self) -> io::Result<()> {
        self.notes.readable().await?;
        let mut buffer = [0; 4096];
        // What exactly changed does not matter; all pending notes are taken.
        loop {
            match self.notes.try_read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests;
