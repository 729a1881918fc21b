//! The names that one cluster uses on a machine: folders, bridge, table,
//! cgroup. Several clusters may live on one machine, told apart by their data
//! directory. Names only; nothing here creates anything.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The data directory whose cluster gets the plain names.
const DEFAULT_DATA_DIR: &str = "/var/lib/darter";

/// Everything whose name follows from the data directory.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    /// Absolute path of the data directory.
    pub(crate) data_dir: PathBuf,
    /// Sockets and other things that do not outlive the machine's uptime.
    pub(crate) run_dir: PathBuf,
    /// Name of the pods' bridge; at most 15 letters.
    pub(crate) bridge: String,
    /// Name of the nftables tables.
    pub(crate) table: String,
    /// Top cgroup, with a leading slash.
    pub(crate) cgroup: String,
}

impl Instance {
    /// Derives the names. The folder need not exist, its parent must.
    pub(crate) fn new(data_dir: &Path) -> io::Result<Self> {
        let data_dir = absolute(data_dir)?;
        if data_dir == Path::new(DEFAULT_DATA_DIR) {
            return Ok(Self::named(data_dir, "darter", "darter0"));
        }
        let tag = format!("{:08x}", fnv1a(data_dir.as_os_str().as_encoded_bytes()));
        Ok(Self::named(data_dir, &format!("darter-{tag}"), &format!("dt{tag}")))
    }

    fn named(data_dir: PathBuf, name: &str, bridge: &str) -> Self {
        Self {
            data_dir,
            run_dir: Path::new("/run").join(name),
            bridge: bridge.to_owned(),
            table: name.to_owned(),
            cgroup: format!("/{name}"),
        }
    }

    /// State of the API server.
    pub(crate) fn store(&self) -> PathBuf {
        self.data_dir.join("store")
    }

    /// Keys and certificates.
    pub(crate) fn pki(&self) -> PathBuf {
        self.data_dir.join("pki")
    }

    /// Images, snapshots and containers.
    pub(crate) fn containers(&self) -> PathBuf {
        self.data_dir.join("containers")
    }

    /// Pods' volumes and logs.
    pub(crate) fn kubelet(&self) -> PathBuf {
        self.data_dir.join("kubelet")
    }

    /// The administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.data_dir.join("admin.kubeconfig")
    }
}

fn absolute(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Ok(path) => Ok(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => std::path::absolute(path),
        Err(error) => Err(error),
    }
}

/// FNV-1a, 32 bits: short, stable names; not a defence against anybody.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_directory_has_plain_names_and_others_have_their_own() {
        let plain = Instance::new(Path::new("/var/lib/darter")).unwrap();
        assert_eq!((plain.bridge.as_str(), plain.cgroup.as_str()), ("darter0", "/darter"));
        let one = Instance::new(Path::new("/tmp/one")).unwrap();
        let two = Instance::new(Path::new("/tmp/two")).unwrap();
        assert_ne!(one.bridge, two.bridge);
        assert!(one.bridge.len() <= 15, "{}", one.bridge);
    }
}
