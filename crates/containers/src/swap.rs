//! Where memory of sleepers goes: the swap that the machine has, else a zram
//! device of our own, bounded in size. It decides nothing about what is paged
//! out; that is `paging`.

mod areas;
mod header;
mod syscalls;
mod trial;
mod zram;

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use self::areas::Area;
use self::zram::{Device, Tree};
use crate::files;

/// Layout of the state file; another one is left alone and reported.
const FORMAT: u32 = 1;

/// Swap counts as full below this many free bytes: a batch of pages that is
/// under way must still find room.
const RESERVE_BYTES: u64 = 8 << 20;

/// Smallest device worth making, bytes.
const MIN_BYTES: u64 = 16 << 20;

/// What to set up.
#[derive(Clone, Debug)]
pub struct SwapConfig {
    /// Records the device that we made, so that the next process finds it.
    /// Should not outlive a reboot; a stale record does no harm.
    pub state: PathBuf,
    /// Bytes of pages that a device of our own takes at most; never more than
    /// half of the machine's memory. Default 4 GiB: the kernel keeps about
    /// 20 bytes of tables for each of its pages whether used or not.
    pub max_bytes: u64,
    /// Bytes of memory that the device may take to hold them; default half of
    /// its size. What compresses worse than that is not worth paging out.
    pub memory_limit_bytes: Option<u64>,
    /// Make a device even where the machine has swap.
    pub always_own: bool,
}

impl SwapConfig {
    /// The defaults, with this state file.
    pub fn new(state: impl Into<PathBuf>) -> Self {
        Self { state: state.into(), max_bytes: 4 << 30, memory_limit_bytes: None, always_own: false }
    }
}

/// Why nothing can be paged out on this machine.
#[derive(thiserror::Error, Debug)]
pub enum NotOffered {
    /// No zram in the kernel, or no right to make a device.
    #[error("paged out is not offered: {reason}")]
    Refused {
        /// For people: what is missing and how to get it.
        reason: String,
    },
    /// A step of setting the device up failed.
    #[error("paged out is not offered: {step}")]
    Io {
        /// What was being done, with its path.
        step: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// What there is to page out to, now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    /// Bytes of pages that all swap of the machine takes.
    pub total_bytes: u64,
    /// Of them still free.
    pub free_bytes: u64,
    /// Bytes of memory that our device takes now to hold its pages; `None`
    /// without a device of our own.
    pub held_in_bytes: Option<u64>,
    /// Too little is left to page anything out.
    pub full: bool,
    /// Our device; `None` when swap is the machine's.
    pub device: Option<PathBuf>,
}

/// Swap, set up. Dropping it leaves everything as it is.
#[derive(Debug)]
pub struct Swap {
    tree: Tree,
    own: Option<Own>,
}

#[derive(Debug)]
struct Own {
    device: Device,
    limit_bytes: u64,
    algorithm: String,
}

/// The state file.
#[derive(Serialize, Deserialize, Debug)]
struct Record {
    format: u32,
    /// Device numbers mean nothing after a reboot.
    boot_id: String,
    device: u32,
    /// In the device's swap header: proof that it is still ours.
    uuid: String,
    algorithm: String,
    limit_bytes: u64,
}

fn step(step: impl Into<String>) -> impl FnOnce(io::Error) -> NotOffered {
    let step = step.into();
    move |source| NotOffered::Io { step, source }
}

fn refused(reason: impl Into<String>) -> NotOffered {
    NotOffered::Refused { reason: reason.into() }
}

impl Swap {
    /// Uses the device that an earlier process recorded, else the machine's
    /// swap, else makes a device. Blocking: making one takes some ten
    /// milliseconds, most of them to try compression. Needs CAP_SYS_ADMIN.
    pub fn open(config: &SwapConfig) -> Result<Self, NotOffered> {
        Self::open_in(Tree::real(), config)
    }

    fn open_in(tree: Tree, config: &SwapConfig) -> Result<Self, NotOffered> {
        if let Some(own) = adopt(&tree, &config.state)? {
            return Ok(Self { tree, own: Some(own) });
        }
        let machines = areas::read(&tree.proc).map_err(step("read the list of swaps"))?;
        if !config.always_own && areas::total(&machines) > 0 {
            return Ok(Self { tree, own: None });
        }
        let own = make(&tree, config)?;
        tracing::info!(device = own.device.number, algorithm = own.algorithm, "made a zram device for paging out");
        Ok(Self { tree, own: Some(own) })
    }

    /// What is there now. Fails when the machine's swap was turned off meanwhile.
    pub fn offered(&self) -> Result<Offered, NotOffered> {
        let areas = areas::read(&self.tree.proc).map_err(step("read the list of swaps"))?;
        let (total_bytes, free_bytes) = (areas::total(&areas), areas::free(&areas));
        if total_bytes == 0 {
            return Err(refused("swap was turned off"));
        }
        let mut full = free_bytes < RESERVE_BYTES;
        let mut held_in_bytes = None;
        if let Some(own) = &self.own {
            let used = own.device.memory_used().map_err(step("read the zram device's use"))?;
            // Past its limit the device fails writes, and the kernel goes on to
            // choose it while it has room for pages.
            let chosen = areas.iter().any(|area| area.path == own.device.path() && area.used_bytes < area.size_bytes);
            full |= chosen && used + RESERVE_BYTES > own.limit_bytes;
            held_in_bytes = Some(used);
        }
        Ok(Offered { total_bytes, free_bytes, held_in_bytes, full, device: self.device() })
    }

    /// The compression of our own device.
    pub fn algorithm(&self) -> Option<&str> {
        self.own.as_ref().map(|own| own.algorithm.as_str())
    }

    /// Path of our own device.
    pub fn device(&self) -> Option<PathBuf> {
        self.own.as_ref().map(|own| own.device.path())
    }
}

/// Turns off and removes the device that `state` records, where it is still
/// ours, and the record. The machine's own swap is never touched. Blocking:
/// what is paged out comes back first, about a second for 300 MB. Idempotent.
pub fn remove(state: &Path) -> Result<(), NotOffered> {
    remove_in(&Tree::real(), state)
}

fn remove_in(tree: &Tree, state: &Path) -> Result<(), NotOffered> {
    let Some(record) = read_record(state)? else { return Ok(()) };
    if let Some(device) = recorded_device(tree, &record)? {
        let areas = areas::read(&tree.proc).map_err(step("read the list of swaps"))?;
        if is_on(&areas, &device) {
            syscalls::swap_off(&device.path()).map_err(step(format!("turn {} off", device.path().display())))?;
        }
        device.remove().map_err(step(format!("remove {}", device.path().display())))?;
    }
    std::fs::remove_file(state).map_err(step(format!("remove {}", state.display())))
}

fn read_record(state: &Path) -> Result<Option<Record>, NotOffered> {
    let record = files::read_json::<Record>(state).map_err(step(format!("read {}", state.display())))?;
    match record {
        Some(record) if record.format != FORMAT => {
            Err(refused(format!("{} is of another version ({})", state.display(), record.format)))
        }
        other => Ok(other),
    }
}

fn is_on(areas: &[Area], device: &Device) -> bool {
    areas.iter().any(|area| area.path == device.path())
}

/// The recorded device, if it still is the one that we made.
fn recorded_device(tree: &Tree, record: &Record) -> Result<Option<Device>, NotOffered> {
    if tree.boot_id().map_err(step("read the boot id"))? != record.boot_id {
        return Ok(None);
    }
    let Some(device) = Device::find(tree, record.device) else { return Ok(None) };
    if !device.is_set_up().map_err(step("read the zram device's size"))? {
        // Recorded before it is set up, so that a crash in between leaves no
        // device behind.
        return Ok(Some(device));
    }
    let uuid = header::read_uuid(&device.path()).map_err(step(format!("read {}", device.path().display())))?;
    Ok((uuid.as_deref() == Some(&*record.uuid)).then_some(device))
}

/// The device of an earlier process, turned on.
fn adopt(tree: &Tree, state: &Path) -> Result<Option<Own>, NotOffered> {
    let Some(record) = read_record(state)? else { return Ok(None) };
    let Some(device) = recorded_device(tree, &record)? else { return Ok(None) };
    if !device.is_set_up().map_err(step("read the zram device's size"))? {
        device.remove().map_err(step("remove an unfinished zram device"))?;
        return Ok(None);
    }
    let areas = areas::read(&tree.proc).map_err(step("read the list of swaps"))?;
    if !is_on(&areas, &device) {
        syscalls::swap_on(&device.path()).map_err(step(format!("turn {} on", device.path().display())))?;
    }
    Ok(Some(Own { device, limit_bytes: record.limit_bytes, algorithm: record.algorithm }))
}

fn make(tree: &Tree, config: &SwapConfig) -> Result<Own, NotOffered> {
    let memory = tree.memory_total().map_err(step("read the machine's memory"))?;
    let size = config.max_bytes.min(memory / 2) / crate::paging::HUGE_PAGE * crate::paging::HUGE_PAGE;
    if size < MIN_BYTES {
        return Err(refused(format!("a device of {size} bytes is too small, {MIN_BYTES} are needed")));
    }
    let limit_bytes = config.memory_limit_bytes.unwrap_or(size / 2);
    let device = Device::add(tree)?;
    let uuid = crate::random_hex(16).map_err(step("choose an id"))?;
    let mut record = Record {
        format: FORMAT,
        boot_id: tree.boot_id().map_err(step("read the boot id"))?,
        device: device.number,
        uuid,
        algorithm: String::new(),
        limit_bytes,
    };
    let mut set_up = || {
        save(&config.state, &record)?;
        record.algorithm = trial::choose(&device).map_err(step("try the kernel's compression"))?;
        device.set_up(&record.algorithm, size, limit_bytes)?;
        save(&config.state, &record)?;
        header::write(&device.path(), size, &record.uuid).map_err(step("write the swap header"))?;
        syscalls::swap_on(&device.path()).map_err(step(format!("turn {} on", device.path().display())))
    };
    if let Err(error) = set_up() {
        let cleaned = device.remove().and_then(|()| std::fs::remove_file(&config.state));
        if let Err(error) = cleaned {
            tracing::warn!(err = %error, device = device.number, "a zram device that could not be set up stays");
        }
        return Err(error);
    }
    Ok(Own { device, limit_bytes, algorithm: record.algorithm })
}

fn save(state: &Path, record: &Record) -> Result<(), NotOffered> {
    files::write_json(state, record).map_err(step(format!("write {}", state.display())))
}

#[cfg(test)]
mod tests;
