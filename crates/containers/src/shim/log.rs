//! Container logs in CRI's format, one line per line of output:
//! `2026-01-02T03:04:05.678901234Z stdout F text`, tag `P` for a piece of a
//! longer line. It writes and rotates; reading them back is the agent's matter.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::protocol::LogFile;

/// Longest piece of a line, bytes: containerd's `max_container_log_line_size`.
pub(crate) const MAX_LINE: usize = 16 << 10;

/// Which stream a line came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// An open log.
pub(crate) struct Log {
    settings: LogFile,
    file: File,
    size: u64,
    /// Unfinished lines of the two streams.
    partial: [Vec<u8>; 2],
}

impl Log {
    /// Opens the file for appending, making its directory.
    pub(crate) fn open(settings: LogFile) -> io::Result<Self> {
        if let Some(parent) = settings.path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let (file, size) = open_append(&settings.path)?;
        Ok(Self { settings, file, size, partial: [Vec::new(), Vec::new()] })
    }

    /// Opens the path anew, after someone moved the old file away.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        (self.file, self.size) = open_append(&self.settings.path)?;
        Ok(())
    }

    /// Takes output as it came. Whole lines are written, the rest is kept.
    pub(crate) fn write(&mut self, stream: Stream, mut bytes: &[u8]) -> io::Result<()> {
        let now = timestamp(SystemTime::now());
        let mut out = Vec::with_capacity(bytes.len() + 64);
        while !bytes.is_empty() {
            let partial = &mut self.partial[stream as usize];
            let room = MAX_LINE - partial.len();
            let window = &bytes[..bytes.len().min(room)];
            if let Some(end) = window.iter().position(|byte| *byte == b'\n') {
                push_line(&mut out, &now, stream, true, &[partial, &bytes[..end]]);
                partial.clear();
                bytes = &bytes[end + 1..];
            } else if window.len() == room && bytes.len() > room && bytes[room] == b'\n' {
                // A line of exactly the bound is still one full line.
                push_line(&mut out, &now, stream, true, &[partial, window]);
                partial.clear();
                bytes = &bytes[room + 1..];
            } else if window.len() == room {
                push_line(&mut out, &now, stream, false, &[partial, window]);
                partial.clear();
                bytes = &bytes[room..];
            } else {
                partial.extend_from_slice(window);
                break;
            }
        }
        if self.partial[stream as usize].is_empty() {
            // An idle container's shim holds no buffer.
            self.partial[stream as usize] = Vec::new();
        }
        self.append(&out)
    }

    /// Writes what is left of unfinished lines, marked as unfinished; at the
    /// end of the streams.
    pub(crate) fn finish(&mut self, stream: Stream) -> io::Result<()> {
        let partial = std::mem::take(&mut self.partial[stream as usize]);
        if partial.is_empty() {
            return Ok(());
        }
        let mut out = Vec::new();
        push_line(&mut out, &timestamp(SystemTime::now()), stream, false, &[&partial]);
        self.append(&out)
    }

    fn append(&mut self, out: &[u8]) -> io::Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        self.file.write_all(out)?;
        self.size += out.len() as u64;
        if self.settings.max_bytes > 0 && self.size >= self.settings.max_bytes && self.settings.max_files > 1 {
            self.rotate()?;
        }
        Ok(())
    }

    /// Moves the live file aside under upstream kubelet's naming
    /// (`<name>.<YYYYMMDD-HHMMSS>`) and removes the oldest beyond the bound.
    fn rotate(&mut self) -> io::Result<()> {
        let stamp = timestamp(SystemTime::now());
        let compact: String = stamp[..19].chars().filter(|c| c.is_ascii_digit()).collect();
        let mut target = append_name(&self.settings.path, &format!(".{}-{}", &compact[..8], &compact[8..]));
        let mut counter = 0;
        // Two rotations within one second keep their order by a suffix.
        while target.exists() && counter < 1000 {
            counter += 1;
            target = append_name(&self.settings.path, &format!(".{}-{}.{counter:03}", &compact[..8], &compact[8..]));
        }
        std::fs::rename(&self.settings.path, &target)?;
        self.reopen()?;
        let mut old = rotated(&self.settings.path)?;
        old.sort();
        let keep = self.settings.max_files.saturating_sub(1) as usize;
        let excess = old.len().saturating_sub(keep);
        for path in &old[..excess] {
            std::fs::remove_file(path)?;
        }
        Ok(())
    }
}

fn append_name(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The files that earlier rotations left.
fn rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Ok(Vec::new()) };
    let mut prefix = name.as_encoded_bytes().to_vec();
    prefix.push(b'.');
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let rest = name.as_encoded_bytes().strip_prefix(&prefix[..]);
        if rest.is_some_and(|rest| rest.len() >= 15 && rest[0].is_ascii_digit()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn open_append(path: &Path) -> io::Result<(File, u64)> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = File::options().append(true).create(true).mode(0o640).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

fn push_line(out: &mut Vec<u8>, now: &str, stream: Stream, full: bool, pieces: &[&[u8]]) {
    out.extend_from_slice(now.as_bytes());
    out.extend_from_slice(match stream {
        Stream::Stdout => b" stdout ",
        Stream::Stderr => b" stderr ",
    });
    out.extend_from_slice(if full { b"F " } else { b"P " });
    for piece in pieces {
        out.extend_from_slice(piece);
    }
    out.push(b'\n');
}

/// RFC 3339 with nine digits of fraction, UTC.
pub(crate) fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Civil date from days, for the proleptic Gregorian calendar: eras of 400
    // years that begin in March.
    let shifted = days as i64 + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", since.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn lines(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).expect("log");
        text.lines().map(|line| line.split_once(' ').expect("time").1.to_owned()).collect()
    }

    fn open(dir: &Path, max_bytes: u64, max_files: u32) -> Log {
        Log::open(LogFile { path: dir.join("0.log"), max_bytes, max_files }).expect("open")
    }

    #[test]
    fn a_timestamp_is_rfc_3339_with_nine_digits() {
        for (seconds, nanos, text) in [
            (0, 0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400, 5, "2000-02-29T00:00:00.000000005Z"),
            (1_790_000_000, 123_456_789, "2026-09-21T14:13:20.123456789Z"),
        ] {
            assert_eq!(timestamp(UNIX_EPOCH + Duration::new(seconds, nanos)), text);
        }
    }

    #[test]
    fn lines_are_split_at_newlines_and_at_the_longest_piece() {
        let dir = tempfile::tempdir().expect("dir");
        let mut log = open(dir.path(), 0, 0);
        log.write(Stream::Stdout, b"one\ntw").expect("write");
        log.write(Stream::Stderr, b"error\n").expect("write");
        log.write(Stream::Stdout, b"o\n\n").expect("write");
        log.write(Stream::Stdout, &[b'x'; MAX_LINE + 3]).expect("write");
        log.finish(Stream::Stdout).expect("finish");
        log.finish(Stream::Stderr).expect("finish");
        let long = "x".repeat(MAX_LINE);
        assert_eq!(
            lines(&dir.path().join("0.log")),
            [
                "stdout F one",
                "stderr F error",
                "stdout F two",
                "stdout F ",
                &format!("stdout P {long}"),
                "stdout P xxx"
            ]
        );
    }

    #[test]
    fn rotation_keeps_the_stated_number_of_files() {
        let dir = tempfile::tempdir().expect("dir");
        let mut log = open(dir.path(), 100, 3);
        for number in 0..20 {
            log.write(Stream::Stdout, format!("{number:050}\n").as_bytes()).expect("write");
        }
        let count = std::fs::read_dir(dir.path()).expect("dir").count();
        assert_eq!(count, 3);
    }
}
