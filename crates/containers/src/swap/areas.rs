//! `/proc/swaps`: what is turned on, how large and how full. Only reading.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// One swap that is turned on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Area {
    /// Device or file.
    pub(super) path: PathBuf,
    pub(super) size_bytes: u64,
    pub(super) used_bytes: u64,
}

/// All of them. A kernel without swap has no such file: none.
pub(super) fn read(proc: &Path) -> io::Result<Vec<Area>> {
    match std::fs::read_to_string(proc.join("swaps")) {
        Ok(text) => Ok(parse(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn parse(text: &str) -> Vec<Area> {
    let line = |line: &str| {
        let mut fields = line.split_whitespace();
        let path = unescape(fields.next()?);
        let mut kib = fields.skip(1).map(|field| field.parse::<u64>().ok().map(|kib| kib * 1024));
        Some(Area { path, size_bytes: kib.next()??, used_bytes: kib.next()?? })
    };
    text.lines().skip(1).filter_map(line).collect()
}

/// The kernel writes blanks and backslashes of a path as three octal digits.
fn unescape(field: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = field.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail.get(..3).and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()).filter(|_| *first == b'\\') {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

/// Bytes of all.
pub(super) fn total(areas: &[Area]) -> u64 {
    areas.iter().map(|area| area.size_bytes).sum()
}

/// Bytes free in all.
pub(super) fn free(areas: &[Area]) -> u64 {
    areas.iter().map(|area| area.size_bytes.saturating_sub(area.used_bytes)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swaps_are_read_with_blanks_in_their_names() {
        let text = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
                    /dev/zram1                              partition\t1048572\t\t1024\t\t100\n\
                    /var/my\\040swap                         file\t\t8\t0\t-2\nbroken\n";
        let areas = parse(text);
        assert_eq!(areas.len(), 2);
        assert_eq!(areas[0].path, Path::new("/dev/zram1"));
        assert_eq!((total(&areas), free(&areas)), (1_048_580 << 10, (1_048_572 - 1024 + 8) << 10));
        assert_eq!(areas[1].path, Path::new("/var/my swap"));
        assert!(parse("").is_empty());
    }
}
