//! The mappings of a process that may go to swap, from `/proc/PID/smaps`.
//! What can be read again from a file is no such mapping: the kernel drops it
//! by itself when memory is short, and a wake would have to wait for the disk.

use std::fs::File;
use std::io::{self, BufRead, BufReader};

use super::Range;

/// More mappings than the kernel's default limit for a process
/// (`vm.max_map_count` is 65530) are not looked at.
const MAX_AREAS: usize = 1 << 17;

/// Longest line kept, bytes; a path is 4096 at most.
const MAX_LINE: u64 = 8192;

/// One mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Area {
    pub(super) range: Range,
    /// Bytes of it in RAM.
    pub(super) resident: u64,
}

/// Reads them, in the order of addresses; those without a page in RAM are left
/// out. An error is most often that the process is gone.
pub(super) fn read(pid: u32) -> io::Result<Vec<Area>> {
    parse(BufReader::with_capacity(1 << 16, File::open(format!("/proc/{pid}/smaps"))?))
}

/// What is known of the mapping whose lines are being read.
struct Current {
    area: Area,
    swappable: bool,
}

fn parse(mut lines: impl BufRead) -> io::Result<Vec<Area>> {
    let mut areas = Vec::new();
    let mut current: Option<Current> = None;
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = io::Read::take(&mut lines, MAX_LINE).read_until(b'\n', &mut line)?;
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        let header = parse_header(text);
        if read == 0 || header.is_some() {
            areas.extend(current.take().filter(|done| done.swappable && done.area.resident > 0).map(|done| done.area));
            if read == 0 || areas.len() >= MAX_AREAS {
                return Ok(areas);
            }
            current = header;
        } else if let Some(current) = &mut current {
            if let Some(kib) = text.strip_prefix("Rss:").and_then(|rest| rest.strip_suffix("kB")) {
                current.area.resident = kib.trim().parse::<u64>().unwrap_or(0) * 1024;
            } else if let Some(flags) = text.strip_prefix("VmFlags:") {
                // Locked, huge pages of hugetlbfs, device memory: the kernel
                // refuses these.
                current.swappable &= !flags.split_whitespace().any(|flag| matches!(flag, "lo" | "ht" | "pf" | "io"));
            }
        }
    }
}

/// `start-end perms offset device inode path`.
fn parse_header(line: &str) -> Option<Current> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let start = u64::from_str_radix(start, 16).ok()?;
    let end = u64::from_str_radix(end, 16).ok()?;
    let permissions = fields.next().filter(|permissions| permissions.len() == 4)?;
    let inode = fields.nth(2)?;
    let path = fields.next().unwrap_or_default().trim_start();
    let kernels = ["[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]", "[uprobes]"].contains(&path);
    let shared_memory = ["/dev/shm/", "/memfd:", "/SYSV", "/dev/zero "].iter().any(|name| path.starts_with(name));
    let written_copy = permissions.ends_with('p') && permissions.contains('w');
    let swappable = !kernels && (inode == "0" || shared_memory || written_copy);
    Some(Current { area: Area { range: start..end, resident: 0 }, swappable })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_only_be_kept_in_swap_is_found() {
        let mapping =
            |header: &str, rss: u32, flags: &str| format!("{header}\nSize: 4 kB\nRss: {rss} kB\nVmFlags: {flags} \n");
        let text = [
            mapping("00400000-00500000 r-xp 00000000 fe:00 17    /bin/app", 900, "rd ex mr"),
            mapping("00500000-00501000 rw-p 00100000 fe:00 17    /bin/app with blanks", 4, "rd wr"),
            mapping("01000000-02000000 rw-p 00000000 00:00 0     [heap]", 8, "rd wr"),
            mapping("03000000-04000000 rw-p 00000000 00:00 0 ", 0, "rd wr"),
            mapping("04000000-05000000 rw-p 00000000 00:00 0 ", 12, "rd wr lo"),
            mapping("05000000-06000000 rw-s 00000000 00:01 9     /memfd:x (deleted)", 16, "rd wr sh"),
            mapping("06000000-07000000 rw-s 00000000 fe:00 9     /data/mapped", 16, "rd wr sh"),
            mapping("7ffe0000-7ffe2000 r-xp 00000000 00:00 0     [vdso]", 4, "rd ex"),
        ]
        .concat();
        let areas = parse(text.as_bytes()).expect("areas");
        let expected = [(0x50_0000, 4), (0x100_0000, 8), (0x500_0000, 16)];
        let found: Vec<_> = areas.iter().map(|area| (area.range.start, area.resident / 1024)).collect();
        assert_eq!(found, expected);
        let own = read(std::process::id()).expect("own mappings");
        assert!(!own.is_empty() && own.windows(2).all(|pair| pair[0].range.end <= pair[1].range.start));
    }
}
