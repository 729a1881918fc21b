//! Apps that people run, as Debian packages them: nginx and redis, pulled from
//! a registry with TLS and a password, reaching each other by name, and losing
//! nothing when their processes or the whole server are killed.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::harness::{Cluster, eventually};
use super::kubectl::Kubectl;
use super::registry::{PASSWORD, Registry, USER};
use super::{http, images, processes, tools};

const LIMIT: Duration = Duration::from_secs(30);

/// Everything that the apps need: registries, their images, a cluster.
struct World {
    cluster: Cluster,
    // Registries end after the cluster.
    _registries: [Registry; 2],
    _folder: tempfile::TempDir,
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let open = Registry::open(folder.path());
    let guarded = Registry::guarded(folder.path());
    let nginx = tools::layer("nginx", &["nginx", "libnginx-mod-stream"]);
    let redis = tools::layer("redis", &["redis-server"]);
    let serve = ["nginx", "-g", "daemon off;"];
    open.push(
        "library/nginx",
        "1",
        std::slice::from_ref(&nginx),
        json!({"Entrypoint": serve, "Env": ["PATH=/usr/sbin:/usr/bin"]}),
    );
    open.push("library/redis", "8", &[redis], json!({"Cmd": ["redis-server"], "Env": ["PATH=/usr/bin"]}));
    let echo = echo_layer(folder.path());
    open.push("echoserver", "1.10", &[nginx, echo], json!({"Cmd": serve, "Env": ["PATH=/usr/sbin"]}));
    let registries = folder.path().join("registries.yaml");
    let text = json!({
        "mirrors": {
            "docker.io": {"endpoint": [format!("https://{}", guarded.address)]},
            "k8s.gcr.io": {"endpoint": [format!("http://{}", open.address)]},
        },
        "configs": {guarded.address.clone(): {
            "auth": {"username": USER, "password": PASSWORD},
            "tls": {"ca_file": folder.path().join("registry-ca.pem")},
        }},
    });
    // JSON is YAML.
    std::fs::write(&registries, text.to_string()).unwrap();
    let cluster = Cluster::start(&["--registries", registries.to_str().unwrap()]);
    World { cluster, _registries: [open, guarded], _folder: folder }
}

/// A layer that makes nginx say what it was asked, on port 8080.
fn echo_layer(folder: &Path) -> std::path::PathBuf {
    let config = "error_log stderr;\nevents {}\nhttp {\n  access_log off;\n  server {\n    listen 8080;\n    \
                  location / { return 200 \"$hostname was asked for $request_uri by $remote_addr\\n\"; }\n  }\n}\n";
    let path = folder.join("echo.tar");
    std::fs::write(&path, images::layer(&[("etc/nginx/nginx.conf", config.as_bytes())])).unwrap();
    path
}

const APPS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: pages}
data:
  index.html: "a page of nginx\n"
  nginx.conf: |
    error_log stderr;
    events {}
    http { access_log off; server { listen 80; root /srv; } }
---
apiVersion: v1
kind: ConfigMap
metadata: {name: front}
data:
  nginx.conf: |
    load_module /usr/lib/nginx/modules/ngx_stream_module.so;
    error_log stderr;
    events {}
    http { access_log off; server { listen 80; location / { proxy_pass http://pages.default.svc.cluster.local; } } }
    stream { server { listen 6379; proxy_pass redis:6379; } }
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: pages}
spec:
  selector: {matchLabels: {app: pages}}
  template:
    metadata: {labels: {app: pages}}
    spec:
      containers:
      - name: app
        image: nginx:1
        ports: [{containerPort: 80}]
        readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
        volumeMounts:
        - {name: pages, mountPath: /srv/index.html, subPath: index.html}
        - {name: pages, mountPath: /etc/nginx/nginx.conf, subPath: nginx.conf}
      volumes: [{name: pages, configMap: {name: pages}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: front}
spec:
  selector: {matchLabels: {app: front}}
  template:
    metadata: {labels: {app: front}}
    spec:
      containers:
      - name: app
        image: nginx:1
        ports: [{containerPort: 80}, {containerPort: 6379}]
        readinessProbe: {tcpSocket: {port: 6379}, periodSeconds: 1}
        volumeMounts: [{name: front, mountPath: /etc/nginx/nginx.conf, subPath: nginx.conf}]
      volumes: [{name: front, configMap: {name: front}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: redis}
spec:
  strategy: {type: Recreate}
  selector: {matchLabels: {app: redis}}
  template:
    metadata: {labels: {app: redis}}
    spec:
      containers:
      - name: app
        image: docker.io/library/redis:8
        command: [redis-server, --bind, 0.0.0.0, --protected-mode, "no", --dir, /data, --appendonly, "yes", --appendfsync, always]
        ports: [{containerPort: 6379, name: redis}]
        readinessProbe: {exec: {command: [redis-cli, ping]}, periodSeconds: 1}
        volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, hostPath: {path: DATA, type: DirectoryOrCreate}}]
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: app, image: "redis:8", command: [redis-server, --port, "1234"]}]
---
apiVersion: v1
kind: Service
metadata: {name: pages}
spec: {selector: {app: pages}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: redis}
spec: {selector: {app: redis}, ports: [{port: 6379, targetPort: redis}]}
---
apiVersion: v1
kind: Service
metadata: {name: front}
spec:
  type: LoadBalancer
  selector: {app: front}
  ports: [{name: http, port: 8081, targetPort: 80}, {name: redis, port: 6379}]
"#;

#[test]
fn apps_of_debian_find_each_other_by_name_and_outlive_kills_with_their_data() {
    let world = world();
    let mut cluster = world.cluster;
    let k = Kubectl::of(&cluster);
    the_seeds_two_commands(&k);
    let data = cluster.path("redis-data");
    k.feed("apply -f -", &APPS.replace("DATA", data.to_str().unwrap()));
    for app in ["redis", "pages", "front"] {
        k.says(&format!("rollout status deployment/{app} --timeout=60s"), "successfully rolled out");
    }
    k.says("wait --for=condition=Ready pod/client --timeout=30s", "condition met");
    let outside = eventually("an address of front", LIMIT, || address(&k, "front")) + ":8081";
    assert_eq!(http::page(&outside).unwrap(), "a page of nginx\n");
    redis(&k, "redis", "set kept one");
    assert_eq!(redis(&k, "front.default.svc.cluster.local", "get kept"), "one", "through nginx, by name");

    let mut written = 0;
    for app in ["redis", "pages", "front"] {
        written += 1;
        redis(&k, "redis", &format!("set kept {written}"));
        let (id, restarts) = container(&k, app);
        processes::kill(&processes::of_container(&id));
        eventually("the container's second life", LIMIT, || {
            let (now, count) = container(&k, app);
            (now != id && count == restarts + 1).then_some(())
        });
        k.says(&format!("rollout status deployment/{app} --timeout=60s"), "successfully rolled out");
        eventually("the page", LIMIT, || http::page(&outside).ok().filter(|page| page == "a page of nginx\n"));
        eventually("redis", LIMIT, || try_redis(&k, "front", "get kept").filter(|is| *is == written.to_string()));
    }

    let names = ["redis", "pages", "front", "client"];
    let before = names.map(|app| container(&k, app));
    let lives = before.clone().map(|(id, _)| processes::of_container(&id));
    cluster.kill();
    assert_eq!(http::page(&outside).unwrap(), "a page of nginx\n", "apps answer while no server runs");
    cluster.restart();
    assert_eq!(names.map(|app| container(&k, app)), before, "no container was restarted");
    assert_eq!(before.map(|(id, _)| processes::of_container(&id)), lives, "the same processes");
    assert_eq!(redis(&k, "redis", "get kept"), "3");
    assert_eq!(redis(&k, "front.default.svc.cluster.local", "get kept"), "3");
    assert_eq!(http::page(&outside).unwrap(), "a page of nginx\n");
    k.ok("rollout restart deployment/redis");
    k.says("rollout status deployment/redis --timeout=60s", "successfully rolled out");
    assert_eq!(redis(&k, "redis", "get kept"), "3", "a new pod has the data of the host's folder");
    assert!(data.join("appendonlydir").is_dir(), "redis keeps its data in the host's folder");
}

/// As they are typed: a pod from an image of a registry that is far away, and
/// an address for it.
fn the_seeds_two_commands(k: &Kubectl) {
    k.says("run hello-node --image=k8s.gcr.io/echoserver:1.10 --port=8080", "pod/hello-node created");
    k.says("expose pod hello-node --type=LoadBalancer", "service/hello-node exposed");
    k.says("wait --for=condition=Ready pod/hello-node --timeout=60s", "condition met");
    let address = eventually("an address of hello-node", LIMIT, || address(k, "hello-node"));
    let page = eventually("hello-node's answer", LIMIT, || http::page(&format!("{address}:8080")).ok());
    assert!(page.starts_with("hello-node was asked for / by "), "{page}");
    k.says("describe pod hello-node", "Successfully pulled image \"k8s.gcr.io/echoserver:1.10\"");
    let id = k.ok("get pod hello-node -o jsonpath={.status.containerStatuses[0].imageID}");
    assert!(id.starts_with("k8s.gcr.io/echoserver@sha256:"), "{id}");
}

/// The outside address of a Service, once it has one.
fn address(k: &Kubectl, service: &str) -> Option<String> {
    let ip = k.ok(&format!("get service {service} -o jsonpath={{.status.loadBalancer.ingress[0].ip}}"));
    (!ip.is_empty()).then_some(ip)
}

/// Id and restart count of an app's only container.
fn container(k: &Kubectl, app: &str) -> (String, u32) {
    let pods = if app == "client" { "pod client".to_owned() } else { format!("pods -l app={app}") };
    let path = if app == "client" { "" } else { ".items[0]" };
    let status = format!("{{{path}.status.containerStatuses[0]");
    let said = k.ok(&format!("get {pods} -o jsonpath={status}.containerID}}/{status}.restartCount}}"));
    let (id, restarts) = said.rsplit_once('/').unwrap();
    (id.to_owned(), restarts.parse().unwrap())
}

/// Asks redis from the client's pod; redis must answer.
fn redis(k: &Kubectl, host: &str, words: &str) -> String {
    let said = k.ok(&format!("exec client -- redis-cli -e -h {host} {words}"));
    said.trim().to_owned()
}

fn try_redis(k: &Kubectl, host: &str, words: &str) -> Option<String> {
    k.try_ok(&format!("exec client -- redis-cli -e -h {host} {words}")).map(|said| said.trim().to_owned())
}
