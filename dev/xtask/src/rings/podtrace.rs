//! The ring of the node agent: recorded pods, run on a node of its own. It
//! makes the circumstances of the recording where a recording shows them; it
//! does not judge, that is the checker's part.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{Arguments, checker};
use crate::check::{Failure, output, run as run_command};
use crate::cluster::Cluster;

/// What the node agent is held to.
const AREAS: [&str; 14] = [
    "lifecycle",
    "termination",
    "termination-message",
    "crashloop",
    "start-error",
    "init",
    "env",
    "hooks",
    "probes",
    "logs",
    "exec",
    "image",
    "network",
    "volumes",
];

/// The recorded machine's host name, which a pod in the host's network printed.
const RECORDED_HOST_NAME: &str = "vm";
/// A name of the node that is not the host's, as it was when recording.
const NODE_NAME: &str = "node-1";
/// The node's address: outside of the ranges for documentation, whose addresses
/// the recorded pods use as mere text.
const NODE_ADDRESS: &str = "10.212.0.2/24";
const GATEWAY: &str = "10.212.0.1";
/// The shell of the recorded images. Older ones word their errors differently
/// and drop variables whose names are no shell identifiers.
const RECORDED_BUSYBOX: &str = "v1.38";

/// A difference that tells of the recorded machine: recording, the checker's
/// line, and why it is no rule.
const MACHINE_FACTS: [(&str, &str, &str); 1] = [(
    "volumes/service-account",
    "logs.p/c[4]: expected \"0\", got \"1\"",
    "the recorded cluster published no certificate in kube-root-ca.crt",
)];

/// Runs the areas in a network, with mounts and under a host name of its own,
/// so that the result depends neither on the machine's addresses nor on how
/// full its disk is, and nothing outside is touched. Needs root.
pub(super) fn run(arguments: &Arguments, shared: &Path, binary: &Path) -> Result<(), Failure> {
    if let Some(folder) = &arguments.inside {
        run_command(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(folder))?;
        make_network()?;
        return run_inside(arguments, shared, binary);
    }
    let folder = tempfile::tempdir().map_err(|source| Failure::File { path: std::env::temp_dir(), source })?;
    let own =
        std::env::current_exe().map_err(|source| Failure::File { path: PathBuf::from("/proc/self/exe"), source })?;
    let mut command = Command::new("unshare");
    command.args(["--net", "--uts", "--mount"]).arg(own).args(std::env::args_os().skip(1));
    run_command(command.arg("--inside").arg(folder.path()).env("TMPDIR", folder.path()))
}

fn make_network() -> Result<(), Failure> {
    run_command(Command::new("hostname").arg(RECORDED_HOST_NAME))?;
    let steps: [&[&str]; 6] = [
        &["link", "set", "lo", "up"],
        &["link", "add", "node0", "type", "veth", "peer", "name", "node1"],
        &["addr", "add", NODE_ADDRESS, "dev", "node0"],
        &["link", "set", "node0", "up"],
        &["link", "set", "node1", "up"],
        &["route", "add", "default", "via", GATEWAY],
    ];
    steps.into_iter().try_for_each(|step| run_command(Command::new("ip").args(step)))
}

fn run_inside(arguments: &Arguments, shared: &Path, binary: &Path) -> Result<(), Failure> {
    let cluster = Cluster::start(
        binary,
        &["--node-name", NODE_NAME, "--cluster-cidr", "10.210.0.0/16", "--service-cidr", "10.211.0.0/16"],
    )?;
    import_images(arguments, shared, binary, &cluster)?;
    let result = match &arguments.json {
        Some(path) => path.clone(),
        None => cluster.folder().join("result.json"),
    };
    let mut command = checker(arguments, shared, &cluster)?;
    command.arg(shared.join("upstream-1.36/pods"));
    command.arg("--json").arg(&result).args(["--jobs", &arguments.jobs.to_string()]);
    if let Some(only) = arguments.only.clone().or_else(|| expression(&arguments.area)) {
        command.args(["--only", &only]);
    }
    // Its exit status says less than its result, unless there is none.
    let checked = run_command(&mut command);
    let Ok(text) = std::fs::read(&result) else { return checked };
    let found: Vec<Value> = serde_json::from_slice(&text).unwrap_or_default();
    if found.is_empty() {
        return checked;
    }
    summary(&found)
}

/// The recordings of these areas; of those that are held when none is named.
fn expression(areas: &[String]) -> Option<String> {
    if areas.iter().any(|area| area == "all") {
        return None;
    }
    let list = if areas.is_empty() { AREAS.join("|") } else { areas.join("|") };
    Some(format!("^({list})/"))
}

/// Prints what passed by area; fails if anything else differs than what is
/// known of the recorded machine.
fn summary(found: &[Value]) -> Result<(), Failure> {
    let mut areas: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut failed = 0;
    for recording in found {
        let name = recording["name"].as_str().unwrap_or_default();
        let (passed, all) = areas.entry(name.split('/').next().unwrap_or_default()).or_default();
        *all += 1;
        let differences: Vec<&str> =
            recording["differences"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if let Some(why) =
            differences.first().and_then(|line| machine_fact(name, line)).filter(|_| differences.len() == 1)
        {
            println!("the recorded machine differs in {name}: {why}");
            *passed += 1;
        } else if recording["passed"] == true {
            *passed += 1;
        } else {
            failed += 1;
        }
    }
    println!("{:<22}{:>7}{:>7}", "area", "passed", "of");
    for (area, (passed, all)) in &areas {
        println!("{area:<22}{passed:>7}{all:>7}");
    }
    if failed == 0 { Ok(()) } else { Err(Failure::Findings { count: failed, what: "recordings differ" }) }
}

fn machine_fact(name: &str, line: &str) -> Option<&'static str> {
    MACHINE_FACTS.iter().find(|(recording, difference, _)| *recording == name && *difference == line).map(|f| f.2)
}

/// Builds the images that the recorded pods use and gives them to the node.
fn import_images(arguments: &Arguments, shared: &Path, binary: &Path, cluster: &Cluster) -> Result<(), Failure> {
    let images = cluster.folder().join("test-images");
    let mut make = Command::new(shared.join("tools/testimages"));
    make.arg(&images);
    if let Some(busybox) = &arguments.busybox {
        make.arg("--busybox").arg(busybox);
    }
    let shell = arguments.busybox.clone().unwrap_or_else(|| PathBuf::from("/bin/busybox"));
    let version = output(&mut Command::new(&shell)).unwrap_or_default();
    if !version.lines().next().is_some_and(|line| line.contains(RECORDED_BUSYBOX)) {
        eprintln!(
            "xtask: {} is not BusyBox {RECORDED_BUSYBOX}, which the recorded images had: some of what its shell \
             prints will differ. Debian's busybox-static has it from forky on; name it with --busybox.",
            shell.display()
        );
    }
    run_command(&mut make)?;
    let list = std::fs::read_dir(&images).map_err(|source| Failure::File { path: images.clone(), source })?;
    let files: Vec<PathBuf> = list
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "tar"))
        .collect();
    run_command(Command::new(binary).args(["image", "import", "--data-dir"]).arg(cluster.data_dir()).args(files))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn any_difference_fails_but_the_very_line_that_tells_of_the_recorded_machine() {
        let (name, line, _) = MACHINE_FACTS[0];
        let cases = [
            (json!([{"name": "a/b", "passed": true, "differences": []}]), true),
            (json!([{"name": "a/b", "passed": false, "differences": ["x"]}]), false),
            (json!([{"name": name, "passed": false, "differences": [line]}]), true),
            (json!([{"name": name, "passed": false, "differences": [line, "x"]}]), false),
            (json!([{"name": "a/b", "passed": false, "differences": [line]}]), false),
        ];
        for (found, ok) in cases {
            assert_eq!(summary(found.as_array().expect("a list")).is_ok(), ok, "{found}");
        }
    }

    #[test]
    fn areas_are_named_or_all_that_are_held() {
        assert_eq!(expression(&["probes".into(), "logs".into()]), Some("^(probes|logs)/".into()));
        assert_eq!(expression(&["all".into()]), None);
        assert!(expression(&[]).is_some_and(|all| AREAS.iter().all(|area| all.contains(area))));
    }
}
