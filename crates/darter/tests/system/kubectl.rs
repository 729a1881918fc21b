//! A session of real use with kubectl, verb by verb, as a user types it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::harness::{Cluster, eventually, run, succeed};
use super::{images, tools};

const LIMIT: Duration = Duration::from_secs(30);

/// kubectl against one cluster.
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    home: PathBuf,
}

impl Kubectl {
    pub fn of(cluster: &Cluster) -> Self {
        Self { program: tools::kubectl(), kubeconfig: cluster.path("kubeconfig"), home: cluster.path("home") }
    }

    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.env("KUBECONFIG", &self.kubeconfig).env("HOME", &self.home).args(words(line));
        command
    }

    /// Must succeed; returns standard output.
    pub fn ok(&self, line: &str) -> String {
        succeed(&mut self.command(line))
    }

    /// Standard output if it succeeds.
    pub fn try_ok(&self, line: &str) -> Option<String> {
        let output = run(&mut self.command(line));
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// Must succeed and say this.
    pub fn says(&self, line: &str, expected: &str) -> String {
        let said = self.ok(line);
        assert!(said.contains(expected), "kubectl {line}: no {expected:?} in\n{said}");
        said
    }

    /// Must fail and say this on standard error.
    pub fn fails(&self, line: &str, expected: &str) {
        let output = run(&mut self.command(line));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "kubectl {line} succeeded");
        assert!(said.contains(expected), "kubectl {line}: no {expected:?} in\n{said}");
    }

    /// Must succeed, given this on standard input.
    pub fn feed(&self, line: &str, input: &str) -> String {
        let mut child =
            self.command(line).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "kubectl {line} failed:\n{text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }
}

/// What the cluster looked like when a test failed.
impl Drop for Kubectl {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let show = |line: &str| {
            let output = run(&mut self.command(&format!("{line} --request-timeout=5s")));
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            eprintln!("kubectl {line}:\n{said}");
            said
        };
        show("get pods,services -A -o wide");
        show("get events -A");
        for pod in show("get pods -o name").lines() {
            show(&format!("logs --tail=5 --all-containers {pod}"));
        }
    }
}

/// Splits a line at spaces; single quotes keep words together.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in line.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: test.local/busybox:1
        command: [httpd, -f, -v, -p, "8080", -h, /www]
        ports: [{containerPort: 8080, name: http}]
        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
      - name: side
        image: test.local/busybox:1
        command: [sh, -c, "echo side started; sleep 100000"]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: http}]
"#;

fn cluster_with_busybox() -> (Cluster, Kubectl) {
    let cluster = Cluster::start(&[]);
    cluster.import(&images::busybox(&cluster.path(""), "test.local/busybox:1", &["sleep", "100000"]));
    cluster.import(&images::busybox(&cluster.path(""), "test.local/busybox:2", &["sleep", "100000"]));
    let kubectl = Kubectl::of(&cluster);
    (cluster, kubectl)
}

#[test]
fn a_session_of_kubectl_does_what_its_user_expects() {
    let (cluster, k) = cluster_with_busybox();
    let manifest = cluster.path("web.yaml");
    std::fs::write(&manifest, WEB).unwrap();
    reads(&k, &manifest);
    changes(&k);
    rollouts(&k);
    streams(&cluster, &k);
    nodes(&k);
    access(&k);
    deletes(&k);
}

fn reads(k: &Kubectl, manifest: &Path) {
    let file = manifest.display();
    k.says(&format!("apply -f {file}"), "deployment.apps/web created");
    k.says("rollout status deployment/web --timeout=30s", "successfully rolled out");
    k.says(&format!("apply -f {file}"), "deployment.apps/web unchanged");
    k.says("get deployment web -o wide", "test.local/busybox:1");
    k.says("get pods -o wide", "2/2");
    k.says("get deploy web -o yaml", "kind: Deployment");
    k.says("get deploy web -o jsonpath={.status.readyReplicas}", "2");
    k.says("get pods -o custom-columns=NAME:.metadata.name,IP:.status.podIP", "web-");
    k.says("get svc,ep,endpointslices", "service/web");
    k.says("get all", "replicaset.apps/web-");
    k.says("describe deployment web", "2 desired | 2 updated | 2 total | 2 available");
    k.says("describe pods -l app=web --show-events=true", "Successfully assigned default/web-");
    k.says("explain deployment.spec.strategy", "rollingUpdate");
    k.says("explain pods --recursive", "terminationGracePeriodSeconds");
    k.says("api-resources", "deployments");
    k.says("api-versions", "apps/v1");
    k.says("get --raw /readyz", "ok");
    k.says("version", "Server Version: v1.36");
    k.says("get events", "Started");
    k.says("cluster-info", "is running at");
}

fn changes(k: &Kubectl) {
    k.says("label deployment web tier=front", "labeled");
    k.says("annotate deployment web 'note=a b'", "annotated");
    k.ok(r#"patch deployment web --type=merge -p '{"metadata":{"labels":{"tier":"back"}}}'"#);
    k.ok(r#"patch deployment web -p '{"spec":{"template":{"spec":{"containers":[{"name":"side","env":[{"name":"A","value":"1"}]}]}}}}'"#);
    k.ok(r#"patch deployment web --type=json -p '[{"op":"replace","path":"/metadata/labels/tier","value":"front"}]'"#);
    k.says("get deploy web -o jsonpath={.metadata.labels.tier}", "front");
    k.says("rollout status deployment/web --timeout=30s", "successfully rolled out");
    let shown = run(k.command("edit deployment web").env("EDITOR", "sed -i s/tier:.front/tier:\\ edited/"));
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
    k.says("get deploy web -o jsonpath={.metadata.labels.tier}", "edited");
    let applied = k.feed("apply --server-side --force-conflicts -f -", WEB);
    assert!(applied.contains("serverside-applied"), "{applied}");
    let changed = WEB.replace("replicas: 2", "replicas: 3");
    let mut child = k.command("diff -f -").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(changed.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "diff finds a difference");
    assert!(String::from_utf8_lossy(&output.stdout).contains("+  replicas: 3"));
    k.says("run hello --image=test.local/busybox:1 --port=8080 --restart=Never -- sleep 100000", "pod/hello created");
    k.says("wait --for=condition=Ready pod/hello --timeout=30s", "condition met");
    k.says("expose pod hello --port=80 --type=NodePort", "exposed");
    k.says("create configmap settings --from-literal=a=1", "created");
    k.says("create secret generic keys --from-literal=b=2", "created");
    k.says("create namespace other", "created");
}

fn rollouts(k: &Kubectl) {
    k.says("scale deployment web --replicas=3", "scaled");
    k.says("rollout status deployment/web --timeout=30s", "successfully rolled out");
    k.says("set image deployment/web web=test.local/busybox:2", "image updated");
    k.says("rollout status deployment/web --timeout=60s", "successfully rolled out");
    k.says("rollout history deployment/web", "REVISION");
    k.says("rollout undo deployment/web", "rolled back");
    k.says("rollout status deployment/web --timeout=60s", "successfully rolled out");
    k.says("get deploy web -o jsonpath={.spec.template.spec.containers[0].image}", "test.local/busybox:1");
    k.says("rollout pause deployment/web", "paused");
    k.ok("set env deployment/web B=2");
    k.says("rollout resume deployment/web", "resumed");
    k.says("rollout restart deployment/web", "restarted");
    k.says("rollout status deployment/web --timeout=60s", "successfully rolled out");
    k.says("scale deployment web --replicas=1", "scaled");
    k.says("rollout status deployment/web --timeout=30s", "successfully rolled out");
}

fn streams(cluster: &Cluster, k: &Kubectl) {
    let pod = eventually("one pod of web", LIMIT, || {
        let names = k.ok("get pods -l app=web -o jsonpath={.items[*].metadata.name}");
        let names: Vec<&str> = names.split_whitespace().collect();
        (names.len() == 1).then(|| names[0].to_owned())
    });
    k.says(&format!("logs {pod} -c side"), "side started");
    k.says("logs deploy/web -c side --timestamps --tail=1", "side started");
    k.says(&format!("exec {pod} -c web -- cat /www/index.html"), "hello");
    assert_eq!(k.feed(&format!("exec -i {pod} -c web -- cat"), "through and back"), "through and back");
    k.fails(&format!("exec {pod} -c web -- sh -c 'exit 7'"), "exit code 7");
    let terminal = format!("{} exec -it {pod} -c web -- sh -c 'test -t 0 && echo has-a-terminal'", k.program.display());
    let mut script = Command::new("script");
    script.args(["-qec", &terminal, "/dev/null"]).env("KUBECONFIG", &k.kubeconfig).env("HOME", &k.home);
    assert!(succeed(&mut script).contains("has-a-terminal"));
    let file = cluster.path("sent");
    std::fs::write(&file, "copied").unwrap();
    k.ok(&format!("cp {} {pod}:/tmp/sent -c web", file.display()));
    k.ok(&format!("cp {pod}:/tmp/sent {} -c web", cluster.path("back").display()));
    assert_eq!(std::fs::read_to_string(cluster.path("back")).unwrap(), "copied");
    port_forward(k, &pod);
    k.ok(&format!("debug {pod} --image=test.local/busybox:1 --target=web --container=dbg -- sleep 1000"));
    eventually("the debug container", LIMIT, || {
        k.ok(&format!("get pod {pod} -o jsonpath={{.status.ephemeralContainerStatuses[0].state.running.startedAt}}"))
            .contains('T')
            .then_some(())
    });
    let top = k.ok(&format!("top pod {pod} --containers --no-headers"));
    let columns: Vec<&str> = top.lines().find(|line| line.contains(" web ")).unwrap_or("").split_whitespace().collect();
    assert!(columns.len() == 4 && columns[2].ends_with('m') && columns[3].ends_with("Mi"), "{top}");
    k.says("top node --no-headers", "%");
    k.ok("run fails --image=test.local/busybox:1 --command -- sh -c 'echo once; sleep 1; exit 1'");
    eventually("a restart", LIMIT, || {
        let count = k.ok("get pod fails -o jsonpath={.status.containerStatuses[0].restartCount}");
        (count.parse::<u32>().unwrap_or(0) > 0).then_some(())
    });
    k.says("logs fails --previous", "once");
    let mut follow = k.command("logs -f deploy/web -c web").stdout(Stdio::piped()).spawn().unwrap();
    k.ok(&format!("exec {pod} -c web -- wget -qO- http://127.0.0.1:8080/"));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(follow.stdout.take().unwrap()), &mut line).unwrap();
    follow.kill().unwrap();
    follow.wait().unwrap();
    assert!(!line.is_empty(), "logs -f shows new lines");
    let attached = k.feed("run once -i --rm --restart=Never --image=test.local/busybox:1 --command -- cat", "typed\n");
    assert!(attached.contains("typed"), "{attached}");
}

fn port_forward(k: &Kubectl, pod: &str) {
    let mut forward = k.command(&format!("port-forward pod/{pod} :8080")).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    // Kept open: kubectl says more, and ends when nobody reads it.
    let mut said = std::io::BufReader::new(forward.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default().to_owned();
    let page = succeed(Command::new("/bin/busybox").args(["wget", "-qO-", &format!("http://127.0.0.1:{port}/")]));
    forward.kill().unwrap();
    forward.wait().unwrap();
    assert_eq!(page, "hello\n");
}

fn nodes(k: &Kubectl) {
    let node = k.ok("get nodes -o jsonpath={.items[0].metadata.name}");
    k.says("get nodes -o wide", "Ready");
    k.says(&format!("describe node {node}"), "Allocatable");
    k.says(&format!("taint node {node} dedicated=x:NoSchedule"), "tainted");
    k.ok("run pending --image=test.local/busybox:1");
    eventually("the reason why a pod is pending", LIMIT, || {
        k.ok("describe pod pending").contains("untolerated taint").then_some(())
    });
    k.says(&format!("taint node {node} dedicated-"), "untainted");
    k.says("wait --for=condition=Ready pod/pending --timeout=30s", "condition met");
    k.says(&format!("cordon {node}"), "cordoned");
    k.says("get nodes", "SchedulingDisabled");
    k.says(&format!("drain {node} --ignore-daemonsets --delete-emptydir-data --force --timeout=60s"), "drained");
    k.says(&format!("uncordon {node}"), "uncordoned");
    k.says("rollout status deployment/web --timeout=30s", "successfully rolled out");
}

fn access(k: &Kubectl) {
    k.says("auth can-i create pods", "yes");
    k.says("auth whoami", "kubernetes-admin");
    k.says("create serviceaccount robot", "created");
    let token = k.ok("create token robot");
    assert_eq!(token.trim().split('.').count(), 3, "a token of three parts: {token}");
    k.says("create role reader --verb=get,list --resource=pods", "created");
    k.says("create rolebinding robots --role=reader --serviceaccount=default:robot", "created");
    k.says("auth can-i list pods --as=system:serviceaccount:default:robot", "yes");
    k.fails("auth can-i delete pods --as=system:serviceaccount:default:robot", "");
    k.fails("get pods --as=system:serviceaccount:other:robot", "forbidden");
}

fn deletes(k: &Kubectl) {
    k.ok("create deployment orphaned --image=test.local/busybox:1");
    k.says("rollout status deployment/orphaned --timeout=30s", "successfully rolled out");
    k.says("delete deployment orphaned --cascade=orphan", "deleted");
    k.says("get rs -l app=orphaned", "orphaned-");
    k.says("delete rs -l app=orphaned --cascade=foreground --wait", "deleted");
    k.says("delete pods -l run=pending --wait", "");
    k.says("delete namespace other --timeout=30s", "deleted");
    k.says("delete deployment,service web --cascade=background", "deleted");
    eventually("all pods of web to be gone", LIMIT, || k.ok("get pods -l app=web -o name").is_empty().then_some(()));
}
