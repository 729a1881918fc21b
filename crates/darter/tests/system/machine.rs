//! The machine as a cluster may change it: processes, mounts, namespaces,
//! cgroups, links, addresses, routes, nftables rules, files. For comparing what
//! was there before with what is there after; and a machine of one's own to do
//! that on, as others change theirs all the time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::harness::{Cluster, succeed};
use super::tools;

/// How long the last traces may take to go.
const SETTLE: Duration = Duration::from_secs(20);

/// For so long nothing may change for a machine to be settled.
const STABLE: Duration = Duration::from_secs(1);

/// Set in the process that is alone.
const ALONE: &str = "DARTER_TEST_ALONE";

/// Makes an interface with an address, as a machine has one, takes off what
/// other clusters have mounted, and runs the test. The shell stays, as the
/// process that takes in orphans.
const PREPARE: &str = "set -e
grep -oE ' /[^ ]*(/kubelet/pods|/run/darter)[^ ]*' /proc/self/mountinfo | sort -ru | xargs -r umount --lazy
ip link set lo up
ip link add machine0 type veth peer name machine1
ip address add 192.0.2.10/24 dev machine0
ip link set machine0 up
ip link set machine1 up
ip route add default via 192.0.2.1
\"$@\"
exit $?";

/// Starts the running test again in namespaces of its own, where nobody else
/// has processes, mounts or networks. True in there: go on; false outside:
/// the test has passed in there and is done.
#[must_use]
pub fn alone() -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    // There is no network to fetch it from in there.
    tools::kubectl();
    let name = std::thread::current().name().expect("tests run in threads of their name").to_owned();
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.args(["bash", "-c", PREPARE, "bash"]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", &name, "--nocapture"]).env(ALONE, "1");
    let status = command.status().unwrap();
    assert!(status.success(), "{name} failed on a machine of its own: {status}");
    false
}

/// What is there, each thing in words, with how often it is there.
pub struct Machine(BTreeMap<String, usize>);

impl Machine {
    /// As it is now. The server's own process is left out: it may be another
    /// one, and what it keeps open is its own business.
    fn now(cluster: &Cluster) -> Self {
        let mut all = Self(BTreeMap::new());
        all.processes(cluster.pid());
        all.mounts(cluster.pid());
        let rules =
            lines(Command::new("python3").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/system/nftables.py")));
        let tables = rules.iter().filter_map(|line| line.strip_prefix("table 2 "));
        let name = tables.filter(|name| name.starts_with("darter-")).min().expect("a cluster has a table of its name");
        all.cgroups(Path::new("/sys/fs/cgroup"), name, false);
        for folder in [cluster.path("data"), PathBuf::from("/run").join(name)] {
            // The store's files come and go with what is written.
            all.files(&folder, &cluster.path("data/store"));
        }
        for (kind, words) in [
            ("link", &["-o", "link"][..]),
            ("address", &["-o", "address"]),
            ("route", &["route", "show", "table", "all"]),
            ("routing rule", &["rule"]),
            ("neighbour", &["neighbour", "show", "nud", "permanent"]),
        ] {
            // Link-local addresses of IPv6 come seconds later by themselves.
            for line in lines(Command::new("ip").args(words)).iter().filter(|line| !line.contains("fe80::")) {
                all.add(kind, line);
            }
        }
        for line in &rules {
            all.add("nftables", line);
        }
        all
    }

    /// As it is once it stays so: what follows a change of the cluster, such as
    /// the rules of a Service, comes a moment later.
    pub fn settled(cluster: &Cluster) -> Self {
        let began = Instant::now();
        let mut before = Self::now(cluster);
        loop {
            std::thread::sleep(STABLE);
            let now = Self::now(cluster);
            let differences = before.differences(&now);
            if differences.is_empty() {
                return now;
            }
            assert!(began.elapsed() < SETTLE, "the machine does not settle:\n{}", differences.join("\n"));
            before = now;
        }
    }

    /// Waits until everything is again as it was here; panics with every
    /// difference when that takes too long.
    pub fn is_back(&self, cluster: &Cluster) {
        let began = Instant::now();
        loop {
            let differences = self.differences(&Self::now(cluster));
            if differences.is_empty() {
                return;
            }
            let all = if began.elapsed() < SETTLE { String::new() } else { table() };
            let (count, differences) = (differences.len(), differences.join("\n"));
            assert!(began.elapsed() < SETTLE, "{count} differences:\n{differences}\nprocesses:\n{all}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn differences(&self, later: &Self) -> Vec<String> {
        let keys: BTreeSet<&String> = self.0.keys().chain(later.0.keys()).collect();
        let count = |machine: &Self, key: &String| machine.0.get(key).copied().unwrap_or_default();
        let changed = keys.into_iter().map(|key| (key, count(self, key), count(later, key)));
        changed
            .filter(|(_, before, after)| before != after)
            .map(|(key, before, after)| format!("{key}: {before} before, {after} after"))
            .collect()
    }

    fn add(&mut self, kind: &str, what: &str) {
        *self.0.entry(format!("{kind} {what}")).or_default() += 1;
    }

    fn processes(&mut self, server: u32) {
        let mut namespaces = BTreeSet::new();
        for pid in pids() {
            // The one that looks is the test itself.
            if pid == server || pid == std::process::id() {
                continue;
            }
            let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let command = read("cmdline").replace('\0', " ");
            let zombie = read("stat").rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'));
            let state = if zombie { " (zombie)" } else { "" };
            self.add("process", &format!("{} {command}{state}", read("comm").trim()));
            for entry in fs::read_dir(format!("/proc/{pid}/ns")).into_iter().flatten().flatten() {
                let link = fs::read_link(entry.path()).unwrap_or_default();
                namespaces.insert(link.to_string_lossy().into_owned());
            }
        }
        for namespace in namespaces {
            self.add("namespace", namespace.split(':').next().unwrap_or_default());
        }
    }

    /// In every mount namespace but those of containers, which end with them.
    fn mounts(&mut self, server: u32) {
        for pid in [std::process::id(), server] {
            let table = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
            let kind = if pid == server { "mount seen by the server" } else { "mount" };
            for line in table.lines() {
                // Ids, parent ids and device numbers are new for every mount.
                let words: Vec<&str> = line.split(' ').skip(3).collect();
                self.add(kind, &words.join(" "));
            }
        }
    }

    /// Folders below the cluster's own, in every hierarchy.
    fn cgroups(&mut self, folder: &Path, name: &str, ours: bool) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let ours = ours || entry.file_name() == *name;
                if ours {
                    self.add("cgroup", &entry.path().display().to_string());
                }
                self.cgroups(&entry.path(), name, ours);
            }
        }
    }

    fn files(&mut self, folder: &Path, except: &Path) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path == except {
                continue;
            }
            self.add("file", &lasting(&path));
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.files(&path, except);
            }
        }
    }
}

/// All processes, for people.
fn table() -> String {
    let line = |pid: u32| {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let group = read("cgroup");
        let group = group.lines().map(|line| line.rsplit(':').next().unwrap_or_default()).max_by_key(|line| line.len());
        format!("{} {} {}\n", read("stat"), read("cmdline").replace('\0', " "), group.unwrap_or_default())
    };
    pids().into_iter().map(line).collect()
}

fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// A path without the parts that are new whenever a server starts: its session
/// among the images, and the moment at which a volume was written.
fn lasting(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in path.iter().map(|part| part.to_string_lossy()) {
        let session = parts.ends_with(&["containers".to_owned(), "tmp".to_owned()]);
        parts.push(match part {
            _ if session => "SESSION".to_owned(),
            part if part.starts_with("..20") => "..MOMENT".to_owned(),
            part => part.into_owned(),
        });
    }
    parts.join("/")
}

/// A program's answer, line by line.
fn lines(command: &mut Command) -> Vec<String> {
    succeed(command).lines().map(|line| line.trim().to_owned()).collect()
}
