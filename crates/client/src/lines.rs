//! Cuts a body into lines. Knows nothing of what is in a line.

use bytes::{Bytes, BytesMut};

/// Longest line, in bytes: the largest object that upstream's server sends,
/// with room.
pub(crate) const LINE_LIMIT_BYTES: usize = 64 << 20;

/// Collects chunks and gives lines. A line that lies within one chunk is
/// handed out without a copy.
#[derive(Default)]
pub(crate) struct Lines {
    /// The start of a line whose end has not come.
    partial: BytesMut,
    /// What is left of the newest chunk.
    chunk: Bytes,
}

/// A line grew beyond [`LINE_LIMIT_BYTES`].
#[derive(thiserror::Error, Debug)]
#[error("a line is longer than {LINE_LIMIT_BYTES} bytes")]
pub(crate) struct LineTooLong;

impl Lines {
    /// Adds a chunk. Call only after [`Lines::next`] gave none.
    pub(crate) fn push(&mut self, chunk: Bytes) -> Result<(), LineTooLong> {
        debug_assert!(self.chunk.is_empty());
        if self.partial.len() + chunk.len() > LINE_LIMIT_BYTES {
            return Err(LineTooLong);
        }
        self.chunk = chunk;
        Ok(())
    }

    /// The next whole line that is not empty, without its end.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        loop {
            let Some(end) = self.chunk.iter().position(|byte| *byte == b'\n') else {
                self.partial.extend_from_slice(&self.chunk);
                self.chunk = Bytes::new();
                return None;
            };
            let mut line = self.chunk.split_to(end + 1);
            line.truncate(end);
            if !self.partial.is_empty() {
                self.partial.extend_from_slice(&line);
                line = self.partial.split().freeze();
            }
            if !line.is_empty() {
                return Some(line);
            }
        }
    }

    /// What is left at the end of the body: servers may leave out the last
    /// line's end.
    pub(crate) fn rest(&mut self) -> Option<Bytes> {
        (!self.partial.is_empty()).then(|| self.partial.split().freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(chunks: &[&'static str], expected: &[&str]) {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for chunk in chunks {
            lines.push(Bytes::from_static(chunk.as_bytes())).unwrap();
            while let Some(line) = lines.next() {
                seen.push(String::from_utf8(line.to_vec()).unwrap());
            }
        }
        seen.extend(lines.rest().map(|line| String::from_utf8(line.to_vec()).unwrap()));
        assert_eq!(seen, expected);
    }

    #[test]
    fn lines_are_found_wherever_chunks_break() {
        check(&["a\nb\n"], &["a", "b"]);
        check(&["a", "b", "\n", "c\nd", "e\n"], &["ab", "c", "de"]);
        check(&["\n\na\n\n"], &["a"]);
        check(&["a\nrest"], &["a", "rest"]);
        check(&[], &[]);
    }

    #[test]
    fn a_line_beyond_the_limit_is_refused() {
        let mut lines = Lines::default();
        let chunk = Bytes::from(vec![b'a'; LINE_LIMIT_BYTES]);
        lines.push(chunk.clone()).unwrap();
        assert!(lines.next().is_none());
        assert!(lines.push(chunk).is_err());
    }
}
