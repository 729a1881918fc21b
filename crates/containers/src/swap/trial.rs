//! Which compression: each that the kernel offers writes and reads the same
//! pages once. Not a benchmark to be quoted; only the order counts.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::time::{Duration, Instant};

use super::zram::Device;

/// Bytes written and read with each compression.
const SAMPLE_BYTES: usize = 2 << 20;

/// Alignment of direct I/O, and the size of one request: pages come back one
/// at a time.
const BLOCK: usize = 4096;

/// A compression may need this much of the smallest size, in percent, and
/// still win by its speed: what counts most is how soon an app is back.
const SIZE_PERCENT: u64 = 150;

/// How one did.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    name: String,
    read: Duration,
    stored_bytes: u64,
}

/// The compression to use. The device is left reset.
pub(super) fn choose(device: &Device) -> io::Result<String> {
    let names = device.algorithms()?;
    if let [only] = &names[..] {
        return Ok(only.clone());
    }
    let sample = Sample::of_this_program()?;
    let mut outcomes = Vec::new();
    for name in names {
        let outcome = run(device, &name, &sample);
        device.reset()?;
        match outcome {
            Ok(outcome) => outcomes.push(outcome),
            Err(error) => tracing::debug!(err = %error, algorithm = %name, "a compression is not usable"),
        }
    }
    tracing::debug!(outcomes = ?outcomes, "tried the kernel's compressions");
    let none = || io::Error::new(io::ErrorKind::Unsupported, "no compression of the kernel works");
    Ok(best(outcomes).ok_or_else(none)?.name)
}

/// The fastest reader among those that store about as little as the best.
fn best(outcomes: Vec<Outcome>) -> Option<Outcome> {
    let smallest = outcomes.iter().map(|outcome| outcome.stored_bytes).min()?;
    let fits = |outcome: &Outcome| outcome.stored_bytes * 100 <= smallest * SIZE_PERCENT;
    outcomes.into_iter().filter(fits).min_by_key(|outcome| outcome.read)
}

fn run(device: &Device, name: &str, sample: &Sample) -> io::Result<Outcome> {
    device.set_up(name, SAMPLE_BYTES as u64, 0).map_err(io::Error::other)?;
    let file = File::options().read(true).write(true).custom_flags(libc::O_DIRECT).open(device.path())?;
    for (index, block) in sample.pages().chunks(BLOCK).enumerate() {
        file.write_all_at(block, (index * BLOCK) as u64)?;
    }
    let stored_bytes = device.memory_used()?;
    let mut buffer = Sample::empty(BLOCK);
    let begun = Instant::now();
    for index in 0..SAMPLE_BYTES / BLOCK {
        file.read_exact_at(buffer.pages_mut(), (index * BLOCK) as u64)?;
    }
    Ok(Outcome { name: name.to_owned(), read: begun.elapsed(), stored_bytes })
}

/// Memory aligned for direct I/O.
struct Sample {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Sample {
    fn empty(length: usize) -> Self {
        let memory = vec![0_u8; length + BLOCK];
        let start = memory.as_ptr().align_offset(BLOCK);
        Self { memory, start, length }
    }

    /// Blocks from all over this program's file: code, tables and text, as
    /// good a stand-in for a heap as the machine is sure to have.
    fn of_this_program() -> io::Result<Self> {
        let mut sample = Self::empty(SAMPLE_BYTES);
        let file = File::open("/proc/self/exe")?;
        let blocks = SAMPLE_BYTES / BLOCK;
        let stride = (file.metadata()?.len() / blocks as u64).max(1);
        for (index, block) in sample.pages_mut().chunks_mut(BLOCK).enumerate() {
            // Short at the end of the file: the rest stays zero.
            let read = file.read_at(block, stride * index as u64)?;
            debug_assert!(read <= BLOCK, "a read fills at most its buffer");
        }
        Ok(sample)
    }

    fn pages(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }

    fn pages_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_wins_unless_it_stores_far_more() {
        let outcome = |name: &str, read, stored_bytes| Outcome {
            name: name.into(),
            read: Duration::from_micros(read),
            stored_bytes,
        };
        let choose = |outcomes: &[Outcome]| best(outcomes.to_vec()).map(|outcome| outcome.name);
        let all = [outcome("zstd", 900, 700), outcome("lz4", 300, 1000), outcome("none", 100, 2000)];
        assert_eq!(choose(&all).as_deref(), Some("lz4"));
        assert_eq!(choose(&all[..1]).as_deref(), Some("zstd"));
        assert_eq!(choose(&[]), None);
    }
}
