//! The machine's processes as the kernel shows them: who is whose, and killing
//! one. Nothing here knows how the product runs containers.

use std::fs;

/// A process; its start time tells it from a later one of the same number.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Process {
    pub pid: i32,
    /// Clock ticks since the machine started.
    pub started: u64,
    pub command: String,
}

/// All processes of which this is true; those that end meanwhile are left out.
pub fn all(wanted: impl Fn(&Process) -> bool) -> Vec<Process> {
    let entries = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let mut found: Vec<Process> =
        entries.filter_map(|name| read(name.parse().ok()?)).filter(|process| wanted(process)).collect();
    found.sort();
    found
}

fn read(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command may hold spaces and brackets; fields count from its end.
    let started = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let command = String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).ok()?).replace('\0', " ");
    Some(Process { pid, started, command: command.trim().to_owned() })
}

/// The first process of a container, by the id in the pod's status.
pub fn of_container(id: &str) -> Process {
    let id = id.rsplit('/').next().unwrap();
    assert!(id.len() >= 12, "{id:?} is not the id of a container");
    let first = |process: &Process| {
        let read = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", process.pid)).unwrap_or_default();
        let number = read("status");
        let number = number.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
        read("cgroup").contains(id) && number.split_whitespace().nth(1) == Some("1")
    };
    let found = all(first);
    assert_eq!(found.len(), 1, "the first process of container {id}: {found:?}");
    found.into_iter().next().unwrap()
}

/// Kills it the hard way.
pub fn kill(process: &Process) {
    let pid = rustix::process::Pid::from_raw(process.pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}
