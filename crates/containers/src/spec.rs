//! What a container's first process is made of, fully resolved: written by
//! the agent as `spec.json`, read by the process that becomes the container.
//! Nothing in it needs a decision any more.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::runtime::{IdRange, Propagation};

/// A container, resolved.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub(crate) struct ContainerSpec {
    /// Directory that holds the layers; `layers` are names in it.
    pub(crate) layers_dir: PathBuf,
    /// Layer directory names, the topmost first.
    pub(crate) layers: Vec<String>,
    /// The container's own directory: `upper`, `work` and `merged` are in it.
    pub(crate) writable: PathBuf,
    /// Bind mounts, in order.
    pub(crate) mounts: Vec<BindMount>,
    /// Device nodes beyond the standard ones.
    pub(crate) devices: Vec<DeviceNode>,
    /// Hidden paths.
    pub(crate) masked_paths: Vec<String>,
    /// Read-only paths.
    pub(crate) readonly_paths: Vec<String>,
    /// The root file system is read-only.
    pub(crate) readonly_rootfs: bool,
    /// `/sys` and cgroups are writable, all machine devices are present.
    pub(crate) privileged: bool,
    /// The sandbox has a network namespace of its own, so `/sys` may be mounted anew.
    pub(crate) own_network: bool,
    /// The processes have a process namespace other than the machine's.
    pub(crate) own_pid: bool,
    /// The sandbox has an IPC namespace of its own.
    pub(crate) own_ipc: bool,
    /// cgroup v1: controller directory name under `/sys/fs/cgroup` and this
    /// container's directory in it. On v2 empty.
    pub(crate) cgroups_v1: Vec<(String, PathBuf)>,
    /// Its directory in the unified hierarchy, if there is one, and whether
    /// that hierarchy is the only one.
    pub(crate) unified: Option<PathBuf>,
    /// Which cgroup layout is mounted inside.
    pub(crate) cgroup_v2_only: bool,
    /// Range of the sandbox's user namespace, if it has one of its own.
    #[serde(default)]
    pub(crate) users: Option<IdRange>,
    /// The first process; execs inherit all but the arguments.
    pub(crate) process: ProcessSpec,
}

/// One bind mount.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub(crate) struct BindMount {
    /// On the machine; unused with layers.
    pub(crate) source: PathBuf,
    /// Instead of `source`: the layers of an image, the topmost first.
    #[serde(default)]
    pub(crate) layers: Vec<String>,
    /// The part of the layers' tree that is mounted; empty for all.
    #[serde(default)]
    pub(crate) sub_path: String,
    /// Inside; absolute.
    pub(crate) target: String,
    /// Read-only.
    pub(crate) readonly: bool,
    /// Read-only for mounts below as well.
    pub(crate) recursive_readonly: bool,
    /// How mounts travel.
    pub(crate) propagation: Propagation,
}

/// One device node.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceNode {
    /// Inside; absolute.
    pub(crate) path: String,
    /// Block device (else character).
    pub(crate) block: bool,
    /// Device number.
    pub(crate) major: u32,
    /// Device number.
    pub(crate) minor: u32,
    /// Permission bits.
    pub(crate) mode: u32,
    /// Owner.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
}

/// Who a process is and what it may do.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub(crate) struct ProcessSpec {
    /// Command and arguments.
    pub(crate) args: Vec<String>,
    /// `NAME=value`.
    pub(crate) env: Vec<String>,
    /// Working directory; made if missing.
    pub(crate) cwd: String,
    /// User.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    /// Capability masks.
    pub(crate) capabilities: Capabilities,
    /// Sets `no_new_privs`.
    pub(crate) no_new_privileges: bool,
    /// File with the seccomp program.
    pub(crate) seccomp: Option<PathBuf>,
    /// `oom_score_adj`.
    pub(crate) oom_score_adj: Option<i64>,
    /// It has a terminal.
    pub(crate) tty: bool,
}

/// The five capability sets, bit N for capability N.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Capabilities {
    /// What exec may ever give.
    pub(crate) bounding: u64,
    /// In force.
    pub(crate) effective: u64,
    /// May be put in force.
    pub(crate) permitted: u64,
    /// Kept over exec of files that inherit.
    pub(crate) inheritable: u64,
    /// Kept over exec.
    pub(crate) ambient: u64,
}
