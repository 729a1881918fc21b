//! One zram device through sysfs: added, set up, measured, removed. It knows
//! nothing of swap.

use std::io;
use std::path::PathBuf;

use super::syscalls::patiently;
use super::{NotOffered, refused, step};

/// Where the kernel's files are.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub(super) sys: PathBuf,
    pub(super) proc: PathBuf,
    pub(super) dev: PathBuf,
}

impl Tree {
    /// The machine's.
    pub(super) fn real() -> Self {
        Self { sys: "/sys".into(), proc: "/proc".into(), dev: "/dev".into() }
    }

    /// Bytes of memory of the machine.
    pub(super) fn memory_total(&self) -> io::Result<u64> {
        let text = std::fs::read_to_string(self.proc.join("meminfo"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
        let kib = line.and_then(|kib| kib.trim().parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no MemTotal in meminfo"))
    }

    /// Changes with every boot.
    pub(super) fn boot_id(&self) -> io::Result<String> {
        Ok(std::fs::read_to_string(self.proc.join("sys/kernel/random/boot_id"))?.trim().to_owned())
    }

    fn control(&self, file: &str) -> PathBuf {
        self.sys.join("class/zram-control").join(file)
    }
}

/// A zram device.
#[derive(Clone, Debug)]
pub(super) struct Device {
    tree: Tree,
    /// N of `zramN`.
    pub(super) number: u32,
}

impl Device {
    /// Makes a new one, not set up.
    pub(super) fn add(tree: &Tree) -> Result<Self, NotOffered> {
        let path = tree.control("hot_add");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(refused("the machine has no swap and its kernel no zram; try `modprobe zram`"));
            }
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES)) => {
                return Err(refused("the machine has no swap and no zram device may be made (CAP_SYS_ADMIN)"));
            }
            Err(error) => return Err(step(format!("read {}", path.display()))(error)),
        };
        let number = text.trim().parse();
        let number = number.map_err(|_| refused(format!("{} answered {:?}", path.display(), text.trim())))?;
        Ok(Self { tree: tree.clone(), number })
    }

    /// An existing one.
    pub(super) fn find(tree: &Tree, number: u32) -> Option<Self> {
        let device = Self { tree: tree.clone(), number };
        device.directory().is_dir().then_some(device)
    }

    /// Its node.
    pub(super) fn path(&self) -> PathBuf {
        self.tree.dev.join(format!("zram{}", self.number))
    }

    fn directory(&self) -> PathBuf {
        self.tree.sys.join(format!("block/zram{}", self.number))
    }

    fn read(&self, file: &str) -> io::Result<String> {
        Ok(std::fs::read_to_string(self.directory().join(file))?.trim().to_owned())
    }

    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        std::fs::write(self.directory().join(file), value)
            .map_err(|error| io::Error::new(error.kind(), format!("write {value:?} to {file}: {error}")))
    }

    /// It has a size, and may hold data.
    pub(super) fn is_set_up(&self) -> io::Result<bool> {
        Ok(self.read("disksize")? != "0")
    }

    /// The compressions that the kernel offers.
    pub(super) fn algorithms(&self) -> io::Result<Vec<String>> {
        let text = self.read("comp_algorithm")?;
        Ok(text.split_whitespace().map(|name| name.trim_matches(['[', ']']).to_owned()).collect())
    }

    /// Gives it compression, size and the memory that it may take (0 for no
    /// limit), and checks that the kernel took them.
    pub(super) fn set_up(&self, algorithm: &str, size: u64, limit: u64) -> Result<(), NotOffered> {
        for (file, value) in
            [("comp_algorithm", algorithm.to_owned()), ("disksize", size.to_string()), ("mem_limit", limit.to_string())]
        {
            self.write(file, &value).map_err(step(format!("set up {}", self.path().display())))?;
        }
        let chosen = self.read("comp_algorithm").map_err(step("read the chosen compression"))?;
        let got = self.read("disksize").map_err(step("read the device's size"))?;
        if !chosen.contains(&format!("[{algorithm}]")) || got != size.to_string() {
            return Err(refused(format!("the kernel set {chosen:?} and {got} bytes for {algorithm} and {size}")));
        }
        Ok(())
    }

    /// Bytes of memory that it takes.
    pub(super) fn memory_used(&self) -> io::Result<u64> {
        let text = self.read("mm_stat")?;
        let used = text.split_whitespace().nth(2).and_then(|field| field.parse().ok());
        used.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("mm_stat is {text:?}")))
    }

    /// Forgets data, size and compression.
    pub(super) fn reset(&self) -> io::Result<()> {
        let path = self.directory().join("reset");
        patiently(|| std::fs::write(&path, "1"))
    }

    /// Resets and removes it.
    pub(super) fn remove(&self) -> io::Result<()> {
        self.reset()?;
        let path = self.tree.control("hot_remove");
        patiently(|| std::fs::write(&path, self.number.to_string()))
    }
}
