//! Pods while the whole server is killed again and again: containers run on,
//! and a pod that was just being made becomes what it was to become. Not for
//! what clients of the API see.

use std::time::Duration;

use super::harness::Cluster;
use super::images;
use super::kubectl::Kubectl;
use super::machine::Machine;
use super::processes::{self, Process};

const PODS: usize = 10;
const IMAGE: &str = "test.local/busybox:1";

/// A pod that has a volume, a probe or sleeps, by its number.
fn pod(name: &str, number: usize) -> String {
    let label = if number % 5 == 4 { "{elastic.darter.dev/idle-after: 1s}" } else { "{}" };
    let probe = if number % 2 == 1 { "readinessProbe: {exec: {command: [\"true\"]}, periodSeconds: 1}" } else { "" };
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {label}}}\nspec:\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - name: app\n    image: {IMAGE}\n    \
         volumeMounts: [{{name: scratch, mountPath: /scratch}}]\n    {probe}\n  \
         volumes: [{{name: scratch, emptyDir: {{}}}}]\n"
    )
}

/// Kills the server this often; containers must not notice. In every round one
/// more pod is being made when the server dies.
pub fn survive(kills: u32) {
    let mut cluster = Cluster::start(&[]);
    cluster.import(&images::busybox(&cluster.path(""), IMAGE, &["sleep", "100000"]));
    let k = Kubectl::of(&cluster);
    let names: Vec<String> = (0..PODS).map(|number| format!("kept-{number}")).collect();
    let manifest: String = names.iter().enumerate().map(|(number, name)| pod(name, number)).collect();
    k.feed("apply -f -", &manifest);
    k.ok(&format!("wait --for=condition=Ready --timeout=60s pod {}", names.join(" ")));
    let before = identities(&k, &names);
    let machine = Machine::settled(&cluster);
    for round in 0..kills {
        let made = format!("made-{round}");
        k.feed("apply -f -", &pod(&made, round as usize));
        // From not yet scheduled to running.
        std::thread::sleep(Duration::from_millis(u64::from(round) * 37 % 200));
        cluster.kill_and_restart();
        assert_eq!(identities(&k, &names), before, "round {round}: a container was restarted");
        k.ok(&format!("wait --for=condition=Ready --timeout=30s pod/{made}"));
        k.ok(&format!("delete pod {made} --timeout=30s"));
    }
    k.ok(&format!("wait --for=condition=Ready --timeout=30s pod {}", names.join(" ")));
    // The process that pods' keepers are forked from starts with a pod.
    k.feed("apply -f -", &pod("last", 0));
    k.ok("wait --for=condition=Ready --timeout=30s pod/last");
    k.ok("delete pod last --timeout=30s");
    machine.is_back(&cluster);
    k.ok(&format!("delete --timeout=60s pod {}", names.join(" ")));
}

/// What must not change: container, restarts, address, process.
fn identities(k: &Kubectl, names: &[String]) -> Vec<(String, Process)> {
    let status = ".status.containerStatuses[0]";
    let each = format!("{{.metadata.name}},{{.status.podIP}},{{{status}.restartCount}},{{{status}.containerID}}");
    let pods = names.join(" ");
    let said = k.ok(&format!("get pod {pods} -o 'jsonpath={{range .items[*]}}{each}{{\"\\n\"}}{{end}}'"));
    said.lines().map(|line| (line.to_owned(), processes::of_container(line.rsplit(',').next().unwrap()))).collect()
}
