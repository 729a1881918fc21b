//! Nothing is left: processes, mounts, namespaces, cgroups and files are as
//! before after many sandboxes came and went. Prints the figures of making
//! them. Alone in its program, since it looks at the whole machine's cgroups
//! of this test and at every process of it.
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(missing_docs, unreachable_pub, dead_code)]

#[path = "support/machine.rs"]
mod machine;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use containers::runtime::{Runtime as _, SandboxId};
use machine::Machine;

/// Sandboxes made and removed in all.
const SANDBOXES: usize = 200;

/// Of them at a time.
const AT_ONCE: usize = 50;

fn tree(dir: &Path, into: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        into.insert(entry.path().display().to_string());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            tree(&entry.path(), into);
        }
    }
}

/// Everything of this test that could be left, by name.
fn traces(machine: &Machine) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        tree(&entry.path().join(machine.cgroup.trim_start_matches('/')), &mut found);
    }
    tree(&machine.dir.path().join("state"), &mut found);
    tree(&machine.dir.path().join("root"), &mut found);
    found.extend(std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().map(str::to_owned));
    // Shims are children of the zygote, which is ours.
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(text) = std::fs::read_to_string(process.path().join("cgroup")) else { continue };
        if text.contains(&machine.cgroup) {
            found.insert(format!("process {}", process.file_name().display()));
        }
    }
    // Logs stay: they belong to whoever made their directory.
    found.retain(|name| !name.contains("/logs/"));
    found
}

fn percentile(times: &mut [Duration], part: f64) -> f64 {
    times.sort();
    times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3
}

async fn one(machine: &Machine, times: &mut [Vec<Duration>; 3]) -> SandboxId {
    let start = Instant::now();
    let sandbox = machine.sandbox().await;
    times[0].push(start.elapsed());
    let created = Instant::now();
    let id = machine.create(&sandbox, "sleep 1000", |_| {}).await;
    times[1].push(created.elapsed());
    machine.runtime.start_container(&id).await.unwrap();
    times[2].push(start.elapsed());
    sandbox
}

#[tokio::test(flavor = "multi_thread")]
async fn after_many_sandboxes_the_machine_is_as_before() {
    let machine = Machine::new().await;
    // The first starts what stays: the zygote and the pods' cgroup.
    let first = machine.sandbox().await;
    machine.runtime.remove_sandbox(&first).await.unwrap();
    let before = traces(&machine);

    let mut times: [Vec<Duration>; 3] = Default::default();
    let mut removal = Vec::new();
    for _ in 0..40 {
        let sandbox = one(&machine, &mut times).await;
        let start = Instant::now();
        machine.runtime.remove_sandbox(&sandbox).await.unwrap();
        removal.push(start.elapsed());
    }
    let [run, create, total] = &mut times;
    println!(
        "run_sandbox p50 {:.1} ms, create p50 {:.1} ms, run to started p50 {:.1} ms p99 {:.1} ms, remove p50 {:.1} ms (n=40)",
        percentile(run, 0.5),
        percentile(create, 0.5),
        percentile(total, 0.5),
        percentile(total, 0.99),
        percentile(&mut removal, 0.5),
    );

    let start = Instant::now();
    let mut spent = Duration::ZERO;
    for round in 0..(SANDBOXES - 40) / AT_ONCE {
        let begin = Instant::now();
        let mut all = Vec::new();
        for _ in 0..AT_ONCE {
            all.push(async {
                let mut times: [Vec<Duration>; 3] = Default::default();
                one(&machine, &mut times).await
            });
        }
        let sandboxes = futures_util::future::join_all(all).await;
        spent += begin.elapsed();
        if round == 0 {
            println!("shims: {}", memory(&machine));
        }
        let removals = sandboxes.iter().map(|sandbox| machine.runtime.remove_sandbox(sandbox));
        for removed in futures_util::future::join_all(removals).await {
            removed.unwrap();
        }
    }
    let count = (SANDBOXES - 40) / AT_ONCE * AT_ONCE;
    println!(
        "{AT_ONCE} at once: {:.0} sandboxes with a container a second; made and removed {:.0}/s",
        count as f64 / spent.as_secs_f64(),
        count as f64 / start.elapsed().as_secs_f64()
    );
    let after = traces(&machine);
    let left: Vec<_> = after.difference(&before).collect();
    let gone: Vec<_> = before.difference(&after).collect();
    assert!(left.is_empty() && gone.is_empty(), "left: {left:#?}\ngone: {gone:#?}");
    machine.finish().await;
}

/// Private memory of the shims, KiB.
fn memory(machine: &Machine) -> String {
    let path = format!("/sys/fs/cgroup/unified{}/shims/cgroup.procs", machine.cgroup);
    let path = if Path::new(&path).exists() { path } else { path.replace("/unified", "") };
    let mut private = Vec::new();
    for pid in std::fs::read_to_string(path).unwrap().lines() {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let field = |name: &str| -> u64 {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        private.push((field("Private_Clean:") + field("Private_Dirty:"), field("Pss:")));
    }
    private.sort_unstable();
    let (middle, last) = (private[private.len() / 2], private[private.len() - 1]);
    format!("{} processes, private p50 {} KiB max {} KiB, PSS p50 {} KiB", private.len(), middle.0, last.0, middle.1)
}

#[tokio::test(flavor = "multi_thread")]
async fn thawing_takes_far_less_than_a_millisecond() {
    let machine = Machine::new().await;
    let sandbox = machine.sandbox().await;
    let id = machine.run(&sandbox, "while :; do nc -l -p 7000 < /etc/hostname; done", |_| {}).await;
    drop(id);
    let mut times = Vec::new();
    for _ in 0..100 {
        machine.runtime.freeze(&sandbox).await.unwrap();
        let start = Instant::now();
        machine.runtime.thaw(&sandbox).unwrap();
        times.push(start.elapsed());
    }
    println!("thaw p50 {:.3} ms p99 {:.3} ms (n=100)", percentile(&mut times, 0.5), percentile(&mut times, 0.99));
    machine.finish().await;
}
