//! Reading the end of files that containers write: their CRI logs and their
//! termination messages. Serving logs to clients is not done here.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// Most bytes of a log that are looked at for its last lines.
const MAX_TAIL_READ_BYTES: u64 = 1 << 20;

/// The last `limit` bytes of a file.
pub(crate) fn read_last_bytes(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(limit)))?;
    let mut data = Vec::new();
    file.take(limit).read_to_end(&mut data)?;
    Ok(data)
}

/// One entry of a CRI log line: `time stream tag content`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry<'a> {
    /// RFC 3339 time.
    pub(crate) time: &'a [u8],
    /// `stdout` or `stderr`.
    pub(crate) stream: &'a [u8],
    /// The line goes on in the next entry.
    pub(crate) partial: bool,
    /// The text without line end.
    pub(crate) content: &'a [u8],
}

/// Parses one line without its line end; `None` if it is not one.
pub(crate) fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = parts.next()?;
    let stream = parts.next()?;
    let tag = parts.next()?;
    let content = parts.next().unwrap_or_default();
    let partial = tag.split(|b| *b == b':').next()? == b"P";
    matches!(stream, b"stdout" | b"stderr").then_some(Entry { time, stream, partial, content })
}

/// The last `lines` lines of a CRI log as plain text, cut to its last `bytes`
/// bytes.
pub(crate) fn tail_text(path: &Path, lines: usize, bytes: usize) -> io::Result<String> {
    let data = match read_last_bytes(path, MAX_TAIL_READ_BYTES) {
        Ok(data) => data,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(err) => return Err(err),
    };
    let mut texts: Vec<Vec<u8>> = Vec::new();
    let mut open = false;
    for entry in data.split(|byte| *byte == b'\n').filter_map(parse) {
        match texts.last_mut() {
            Some(last) if open => last.extend_from_slice(entry.content),
            _ => texts.push(entry.content.to_vec()),
        }
        open = entry.partial;
        if let (false, Some(last)) = (open, texts.last_mut()) {
            last.push(b'\n');
        }
    }
    let from = texts.len().saturating_sub(lines);
    let all = texts[from..].concat();
    Ok(String::from_utf8_lossy(&all[all.len().saturating_sub(bytes)..]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_joins_partial_lines_and_keeps_the_last_bytes() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("0.log");
        std::fs::write(
            &path,
            "2024-01-01T00:00:00Z stdout F one\n2024-01-01T00:00:00Z stderr P tw\n2024-01-01T00:00:00Z stderr F o\n2024-01-01T00:00:00Z stdout F three\n",
        )
        .expect("written");
        assert_eq!(tail_text(&path, 80, 2048).expect("read"), "one\ntwo\nthree\n");
        assert_eq!(tail_text(&path, 2, 2048).expect("read"), "two\nthree\n");
        assert_eq!(tail_text(&path, 80, 7).expect("read"), "\nthree\n");
        assert_eq!(tail_text(&dir.path().join("none"), 1, 1).expect("read"), "");
    }
}
