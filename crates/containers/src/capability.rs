//! Capability names and the sets a process gets. Which are asked for is the
//! caller's matter.

use crate::spec::Capabilities;

/// Names by number, without `CAP_`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container has unless it says otherwise: CHOWN, DAC_OVERRIDE, FOWNER,
/// FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW,
/// SYS_CHROOT, MKNOD, AUDIT_WRITE, SETFCAP; containerd's default.
pub(crate) const DEFAULT: u64 = 0xa804_25fb;

/// Every capability known here.
pub(crate) const ALL: u64 = (1 << NAMES.len()) - 1;

fn bit(name: &str) -> Option<u64> {
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("CAP_").unwrap_or(&name);
    NAMES.iter().position(|known| *known == name).map(|number| 1 << number)
}

/// The sets of a process: `available` is what the machine lets us give.
/// Errors with the name that is unknown.
pub(crate) fn sets(privileged: bool, add: &[String], drop: &[String], available: u64) -> Result<Capabilities, String> {
    let mut set = if privileged { ALL } else { DEFAULT };
    if !privileged {
        let is_all = |names: &[String]| names.iter().any(|name| name.eq_ignore_ascii_case("ALL"));
        let mask = |names: &[String]| {
            let named = names.iter().filter(|name| !name.eq_ignore_ascii_case("ALL"));
            named
                .map(|name| bit(name).ok_or_else(|| name.clone()))
                .try_fold(0, |mask, bit: Result<u64, String>| bit.map(|bit| mask | bit))
        };
        // `ALL` first, single names afterwards, so that dropping all and
        // adding one leaves the one.
        if is_all(add) {
            set = ALL;
        }
        if is_all(drop) {
            set = 0;
        }
        set |= mask(add)?;
        set &= !mask(drop)?;
    }
    set &= available;
    Ok(Capabilities { bounding: set, effective: set, permitted: set, inheritable: 0, ambient: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn additions_and_removals_apply_as_in_containerd() {
        let names = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        for (privileged, add, drop, expected) in [
            (false, "", "", DEFAULT),
            (false, "NET_ADMIN SYS_TIME", "ALL", 0x0200_1000),
            (false, "", "CHOWN", DEFAULT & !1),
            (false, "ALL", "", ALL),
            (false, "ALL", "MKNOD", ALL & !(1 << 27)),
            (false, "cap_sys_admin", "", DEFAULT | (1 << 21)),
            (true, "", "ALL", ALL),
        ] {
            let sets = sets(privileged, &names(add), &names(drop), u64::MAX).expect("known names");
            assert_eq!(sets.effective, expected, "+{add} -{drop}");
        }
        assert_eq!(sets(false, &names("FLY"), &[], u64::MAX), Err("FLY".to_owned()));
    }
}
