//! What a node needs of the machine and of this process, checked before
//! anything is made. What only a pod may miss is told when the pod starts.

use rustix::fs::statfs;

use super::super::UpError;
use crate::arguments;

/// Where hierarchies of cgroups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";
/// `CGROUP_SUPER_MAGIC` and `CGROUP2_SUPER_MAGIC` (linux/magic.h).
const CGROUP_MAGIC: [u64; 2] = [0x0027_e0eb, 0x6367_7270];
/// Bits of capabilities (linux/capability.h) without which no pod can be made.
const CAPABILITIES: [(u32, &str); 7] = [
    (0, "CAP_CHOWN"),
    (1, "CAP_DAC_OVERRIDE"),
    (5, "CAP_KILL"),
    (6, "CAP_SETGID"),
    (7, "CAP_SETUID"),
    (12, "CAP_NET_ADMIN"),
    (21, "CAP_SYS_ADMIN"),
];

/// Fails with the first thing that is missing, and what to do about it.
pub(in crate::up) fn preflight(arguments: &arguments::Up) -> Result<(), UpError> {
    let missing =
        |what: &str| Err(UpError::Host { what: format!("{what}, or run the control plane alone with --no-node") });
    if !rustix::process::geteuid().is_root() {
        return missing("a node starts containers, which needs root; run it with sudo");
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let lacking = lacking(&status);
    if !lacking.is_empty() {
        return missing(&format!(
            "this process is root without {}, as in a container, and a node needs that to make pods; run it on the \
             machine itself or in a privileged container",
            lacking.join(", ")
        ));
    }
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems.lines().any(|line| line.trim_end().ends_with("overlay")) {
        return missing("the kernel has no overlayfs (CONFIG_OVERLAY_FS); load it with `modprobe overlay`");
    }
    if !has_cgroups() {
        return missing(&format!(
            "no hierarchy of cgroups is mounted at {CGROUPS}, and containers are limited and ended by it; mount one \
             with `mount -t cgroup2 none {CGROUPS}`"
        ));
    }
    match &arguments.registries {
        Some(path) if !path.is_file() => Err(UpError::Flag {
            flag: "registries",
            value: path.display().to_string(),
            reason: "there is no such file; name an existing one or leave the flag out".to_owned(),
        }),
        _ => Ok(()),
    }
}

/// The capabilities that `/proc/self/status` does not show as effective.
fn lacking(status: &str) -> Vec<&'static str> {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    // Without /proc nobody knows; what really is missing shows later.
    let Some(mask) = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()) else { return Vec::new() };
    CAPABILITIES.iter().filter(|(bit, _)| mask & (1 << bit) == 0).map(|(_, name)| *name).collect()
}

/// One hierarchy there, or several below it.
fn has_cgroups() -> bool {
    let is_one = |path: &std::path::Path| {
        statfs(path).is_ok_and(|found| CGROUP_MAGIC.contains(&u64::try_from(found.f_type).unwrap_or_default()))
    };
    let below = std::fs::read_dir(CGROUPS).into_iter().flatten().flatten();
    is_one(CGROUPS.as_ref()) || below.into_iter().any(|entry| is_one(&entry.path()))
}

#[cfg(test)]
mod tests {
    use super::lacking;

    #[test]
    fn missing_capabilities_are_named() {
        assert!(lacking("Name:\tdarter\nCapEff:\t000001fffeffffff\n").is_empty());
        // What container engines give by default.
        assert_eq!(lacking("CapEff:\t00000000a80425fb\n"), ["CAP_NET_ADMIN", "CAP_SYS_ADMIN"]);
        assert!(lacking("").is_empty());
    }
}
