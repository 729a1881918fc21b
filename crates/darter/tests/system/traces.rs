//! Pods come and go, and the machine is as it was. Not for a cluster that is
//! removed: that is `reset`'s.

use std::fmt::Write as _;
use std::time::Instant;

use super::harness::Cluster;
use super::images;
use super::kubectl::Kubectl;
use super::machine::Machine;

const IMAGE: &str = "test.local/busybox:1";
/// At a time: a node takes 110 pods.
const WAVE: usize = 50;
const SHARED: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {a: "1"}
---
apiVersion: v1
kind: Service
metadata: {name: all}
spec: {type: LoadBalancer, selector: {all: "yes"}, ports: [{port: 8099, targetPort: 80}]}
"#;

/// Each with volumes; some with a probe, a port of the host, a sidecar, or asleep.
fn pods(from: usize, to: usize) -> String {
    let mut text = String::new();
    for number in from..to {
        let sleeps = if number % 10 == 9 { ", elastic.darter.dev/idle-after: 1s" } else { "" };
        let probe = if number % 10 == 8 { "readinessProbe: {tcpSocket: {port: 80}, periodSeconds: 1}" } else { "" };
        let port = if number % 10 == 7 {
            format!("ports: [{{containerPort: 80, hostPort: {}}}]", 20_000 + number)
        } else {
            String::new()
        };
        let init = if number % 10 == 6 {
            format!("initContainers: [{{name: beside, image: \"{IMAGE}\", restartPolicy: Always}}]")
        } else {
            String::new()
        };
        write!(
            text,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: pod-{number}, labels: {{all: \"yes\"{sleeps}}}}}\n\
             spec:\n  terminationGracePeriodSeconds: 1\n  {init}\n  containers:\n  - name: app\n    image: {IMAGE}\n    \
             command: [httpd, -f, -p, \"80\", -h, /settings]\n    {probe}\n    {port}\n    volumeMounts:\n    \
             - {{name: scratch, mountPath: /scratch}}\n    - {{name: settings, mountPath: /settings}}\n    \
             - {{name: settings, mountPath: /one, subPath: a}}\n  volumes:\n  \
             - {{name: scratch, emptyDir: {{medium: Memory}}}}\n  \
             - {{name: settings, configMap: {{name: settings}}}}\n"
        )
        .unwrap();
    }
    text
}

/// Makes and deletes this many pods; panics with every difference.
pub fn leave_none(count: usize) {
    let cluster = Cluster::start(&[]);
    cluster.import(&images::busybox(&cluster.path(""), IMAGE, &["sleep", "100000"]));
    let k = Kubectl::of(&cluster);
    k.feed("apply -f -", SHARED);
    // What is made once, with the first pod, is there before.
    wave(&k, 0, 10);
    let before = Machine::settled(&cluster);
    let began = Instant::now();
    for from in (0..count).step_by(WAVE) {
        wave(&k, from, count.min(from + WAVE));
    }
    println!("{count} pods made and deleted in {:.1} s", began.elapsed().as_secs_f64());
    before.is_back(&cluster);
}

fn wave(k: &Kubectl, from: usize, to: usize) {
    k.feed("apply -f -", &pods(from, to));
    k.ok("wait --for=condition=Ready --timeout=120s pod -l all=yes");
    k.ok("delete pod -l all=yes --timeout=120s");
}
