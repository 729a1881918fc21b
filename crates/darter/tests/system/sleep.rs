//! Sleep by policy, as a user sees it: down every rung and back, from outside.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::harness::{Cluster, eventually};
use super::kubectl::Kubectl;
use super::{http, images};

/// Each step down takes a multiple of the idle time, 16 at most.
const LIMIT: Duration = Duration::from_secs(40);

const APP: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: web
          image: test.local/busybox:1
          readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
          resources: {requests: {cpu: 50m, memory: 16Mi}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
";

fn policy(lowest: &str) -> String {
    format!(
        "apiVersion: elastic.darter.dev/v1alpha1
kind: SleepPolicy
metadata: {{name: quiet}}
spec: {{idleAfter: 300ms, lowestRung: {lowest}, firstResponse: {{p99: 10s}}}}
"
    )
}

struct App {
    /// Dropped first: it shows the cluster when a test has failed.
    kubectl: Kubectl,
    cluster: Cluster,
    address: String,
}

impl App {
    fn start() -> Self {
        let cluster = Cluster::start(&[]);
        let command = ["httpd", "-f", "-p", "8080", "-h", "/www"];
        cluster.import(&images::busybox(&cluster.path(""), "test.local/busybox:1", &command));
        let kubectl = Kubectl::of(&cluster);
        kubectl.feed("apply -f -", APP);
        kubectl.ok("rollout status deployment/web --timeout=30s");
        let address = format!("{}:80", kubectl.ok("get service web -o jsonpath={.spec.clusterIP}"));
        Self { cluster, kubectl, address }
    }

    fn ask(&self) {
        assert_eq!(http::page(&self.address).expect("an answer"), "hello\n");
    }

    /// Waits until the pod is on the rung, and stays: the node tells of a change
    /// within a second.
    fn rung(&self, wanted: &str) {
        eventually(wanted, LIMIT, || {
            let pods: Value = serde_json::from_str(&self.kubectl.ok("get pods -l app=web -o json")).ok()?;
            // Beside its successor, an ending pod still shows where it was.
            let [pod] = pods["items"].as_array()?.as_slice() else { return None };
            let notes = &pod["metadata"]["annotations"];
            let since: jiff::Timestamp = notes["elastic.darter.dev/rung-since"].as_str()?.parse().ok()?;
            let told = jiff::Timestamp::now().duration_since(since) > jiff::SignedDuration::from_millis(1500);
            (told && notes["elastic.darter.dev/rung"] == wanted).then_some(())
        });
    }

    fn gone(&self) {
        let phase = "get sleepers deployment.web -o jsonpath={.status.phase}/{.spec.hold}";
        eventually("zero replicas", LIMIT, || {
            (self.kubectl.try_ok(phase).as_deref() == Some("Gone/WhenUnserved")).then_some(())
        });
        assert_eq!(self.kubectl.ok("get pods -o name"), "");
        assert_eq!(self.kubectl.ok("get deployment web -o jsonpath={.spec.replicas}"), "0");
    }

    /// The policy's wakes from a rung.
    fn wakes(&self, rung: &str) -> u64 {
        let status: Value =
            serde_json::from_str(&self.kubectl.ok("get sleeppolicy quiet -o jsonpath={.status}")).unwrap();
        let wakes = status["wakes"].as_array().into_iter().flatten();
        wakes.filter(|wakes| wakes["rung"] == rung).filter_map(|wakes| wakes["count"].as_u64()).sum()
    }
}

#[test]
fn a_policy_takes_an_app_to_zero_and_its_first_packets_bring_it_back() {
    let mut app = App::start();
    app.kubectl.feed("apply -f -", &policy("Gone"));
    app.gone();
    // Several clients at once: each is held, none is refused, one pod serves
    // all. BusyBox listens with a line of nine.
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _client in 0..8 {
            scope.spawn(|| app.ask());
        }
    });
    println!("from zero, 8 clients: {:?}", begun.elapsed());
    eventually("the wake in the policy's status", LIMIT, || (app.wakes("Gone") >= 1).then_some(()));
    app.gone();
    app.cluster.kill_and_restart();
    app.ask();
    app.gone();
    // Without the policy nothing sleeps.
    app.kubectl.ok("delete sleeppolicy quiet");
    app.kubectl.ok("wait deployment/web --for=jsonpath={.status.readyReplicas}=1 --timeout=30s");
    app.kubectl.ok("wait sleeper/deployment.web --for=delete --timeout=30s");
    app.ask();
}

#[test]
fn a_sleeper_stays_running_and_ready_and_answers_from_every_rung() {
    let app = App::start();
    app.kubectl.feed("apply -f -", &policy("PagedOut"));
    app.rung("PagedOut");
    let pod = "get pods -l app=web -o jsonpath={.items[0].metadata.name}/{.items[0].status.containerStatuses[0].restartCount}/{.items[0].status.containerStatuses[0].ready}";
    let before = app.kubectl.ok(pod);
    assert!(before.ends_with("/0/true"), "{before}");
    app.ask();
    eventually("the wake in the policy's status", LIMIT, || (app.wakes("PagedOut") == 1).then_some(()));
    app.kubectl.feed("apply -f -", &policy("Frozen"));
    app.rung("Frozen");
    app.ask();
    eventually("the wake in the policy's status", LIMIT, || (app.wakes("Frozen") >= 1).then_some(()));
    // A session wakes it and is not cut by sleep.
    app.rung("Frozen");
    assert_eq!(app.kubectl.ok("exec deployment/web -- sh -c 'sleep 2; echo awake'"), "awake\n");
    app.rung("Frozen");
    // A new version rolls out over a sleeper as over any pod.
    app.kubectl.ok("set env deployment/web NEW=1");
    app.kubectl.ok("rollout status deployment/web --timeout=30s");
    app.ask();
    app.rung("Frozen");
    app.kubectl.ok("label pod -l app=web elastic.darter.dev/idle-after=never");
    app.rung("Hot");
    app.kubectl.ok("delete deployment web --timeout=20s");
    let objects = app.kubectl.ok("get sleeppolicy quiet");
    assert!(objects.contains("Frozen"), "{objects}");
}
