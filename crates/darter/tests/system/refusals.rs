//! Bad input: each refusal names what, where and what to do, and nothing is
//! lost or stuck. One table for `darter up`, one for objects, one for pods.

use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use super::harness::{Cluster, DARTER, eventually, run, succeed};
use super::kubectl::Kubectl;
use super::registry::Registry;
use super::{http, images};

const LIMIT: Duration = Duration::from_secs(30);
/// A user without rights.
const NOBODY: u32 = 65534;

/// Runs a command that must fail and say all of this.
fn refused(command: &mut Command, words: &[&str]) {
    let output = run(command);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{command:?} succeeded");
    for word in words {
        assert!(said.contains(word), "{command:?} does not say {word:?}:\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

/// `darter up` in this folder; later arguments stand in for earlier ones.
fn up(data: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["30", DARTER, "up", "--data-dir"]).arg(data).args(arguments);
    command
}

/// `darter up` in a mount namespace that was changed like this.
fn up_after(change: &str, data: &Path) -> Command {
    let mut command = Command::new("unshare");
    let line = format!("{change}; exec \"$@\"");
    command.args(["--mount", "bash", "-ec", &line, "bash", DARTER, "up", "--listen", "127.0.0.1:0", "--data-dir"]);
    command.arg(data);
    command
}

const ALONE: [&str; 3] = ["--no-node", "--listen", "127.0.0.1:0"];

#[test]
fn starting_in_the_wrong_place_or_way_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let data = path("data");
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");

    // Ports.
    refused(&mut up(&data, &["--no-node", "--listen", &address]), &[&address, "--listen", "in use"]);
    let node_port = port.to_string();
    let node = ["--listen", "127.0.0.1:0", "--node-port", &node_port];
    refused(&mut up(&data, &node), &[&node_port, "--node-port", "in use"]);
    succeed(Command::new(DARTER).args(["reset", "--yes", "--data-dir"]).arg(&data));

    // Data directories.
    std::fs::create_dir_all(path("other/store")).unwrap();
    std::fs::write(path("other/store/precious"), "data").unwrap();
    refused(&mut up(&path("other"), &ALONE), &["other/store", "precious", "choose an empty directory"]);
    assert_eq!(std::fs::read_to_string(path("other/store/precious")).unwrap(), "data");
    std::fs::create_dir_all(path("newer/store")).unwrap();
    std::fs::write(path("newer/store/FORMAT"), "darter store\nformat 99\nidentity 0\n").unwrap();
    refused(&mut up(&path("newer"), &ALONE), &["newer/store", "format 99", "format 1", "version that wrote it"]);
    std::fs::write(path("file"), "data").unwrap();
    refused(&mut up(&path("file"), &ALONE), &["--data-dir", "file", "is not a directory"]);
    refused(&mut up(Path::new("/proc/darter"), &ALONE), &["/proc/darter"]);

    // Flags.
    let flag = |words: &[&str], said: &[&str]| refused(&mut up(&data, &[&ALONE[..], words].concat()), said);
    flag(&["--service-cidr", "10.0.0.1/16"], &["--service-cidr", "10.0.0.1/16", "host bits", "for example"]);
    flag(&["--service-cidr", "10.244.0.0/20"], &["--cluster-cidr", "choose ranges"]);
    flag(&["--store", "paper"], &["--store", "paper", "embedded"]);
    flag(&["--lissten", "x"], &["--lissten", "--listen"]);

    // Registries.
    let file = path("registries.yaml");
    let file = file.to_str().unwrap();
    let with_file = ["--listen", "127.0.0.1:0", "--node-port", "0", "--registries", file];
    refused(&mut up(&data, &with_file), &["--registries", file, "no such file"]);
    std::fs::write(file, "mirrors:\n  docker.io:\n    endpint: [x]\n").unwrap();
    refused(&mut up(&data, &with_file), &[file, "docker.io", "endpint", "expected `endpoint`", "line 3"]);
    succeed(Command::new(DARTER).args(["reset", "--yes", "--data-dir"]).arg(&data));
}

#[test]
fn a_data_directory_in_use_is_left_to_its_server() {
    let cluster = Cluster::start(&["--no-node"]);
    refused(&mut up(&cluster.path("data"), &ALONE), &["in use by another process", "end that one first"]);
    let mut reset = Command::new(DARTER);
    refused(
        reset.args(["reset", "--yes", "--data-dir"]).arg(cluster.path("data")),
        &["a server still uses", "stop it"],
    );
    Kubectl::of(&cluster).ok("get namespaces");
}

#[test]
fn a_machine_that_cannot_have_a_node_is_told_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let known = std::fs::read_to_string("/proc/filesystems").unwrap();
    let without: String =
        known.lines().filter(|line| !line.ends_with("overlay")).map(|line| format!("{line}\n")).collect();
    std::fs::write(folder.path().join("filesystems"), without).unwrap();
    let hide = format!("mount --bind {}/filesystems /proc/filesystems", folder.path().display());
    refused(&mut up_after(&hide, &data), &["overlayfs", "modprobe overlay", "--no-node"]);
    refused(
        &mut up_after("mount -t tmpfs none /sys/fs/cgroup", &data),
        &["cgroups", "/sys/fs/cgroup", "mount -t cgroup2"],
    );
    let mut weak = Command::new("setpriv");
    weak.args(["--bounding-set", "-net_admin,-sys_admin", DARTER, "up", "--listen", "127.0.0.1:0", "--data-dir"]);
    refused(weak.arg(&data), &["CAP_NET_ADMIN, CAP_SYS_ADMIN", "privileged container", "--no-node"]);
    assert!(!data.exists(), "a refusal makes nothing");

    // Without root: no node, but all the rest. The program and its folders may
    // be closed to others.
    let open = |path: &Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    open(folder.path());
    let program = folder.path().join("darter");
    std::fs::copy(DARTER, &program).unwrap();
    open(&program);
    let home = folder.path().join("home");
    std::fs::create_dir(&home).unwrap();
    chown(&home, Some(NOBODY), Some(NOBODY)).unwrap();
    let nobody = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(["up", "--listen", "127.0.0.1:0", "--data-dir"]).arg(home.join("data")).args(arguments);
        command.uid(NOBODY).gid(NOBODY).current_dir("/");
        command
    };
    refused(&mut nobody(&[]), &["needs root", "sudo", "--no-node"]);
    assert!(!home.join("data").exists(), "a refusal makes nothing");
    let mut child = nobody(&["--no-node", "-o", "json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert!(lines.any(|line| line.unwrap().contains("\"ready\"")), "the control plane runs without root");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// What is fed to kubectl, the command, and what is said of it.
const OBJECTS: &[(&str, &str, &[&str])] = &[
    ("kind: Pod\n metadata: {", "apply -f -", &["error converting YAML to JSON", "line 2"]),
    ("{\"kind\": ", "create --raw /api/v1/namespaces/default/pods -f -", &["BadRequest", "unexpected"]),
    (
        "apiVersion: v1\nkind: Pot\nmetadata: {name: a}\n",
        "apply -f -",
        &["no matches for kind \"Pot\" in version \"v1\"", "ensure CRDs are installed first"],
    ),
    (
        "apiVersion: apps/v1beta1\nkind: Deployment\nmetadata: {name: a}\n",
        "apply -f -",
        &["no matches for kind \"Deployment\" in version \"apps/v1beta1\""],
    ),
    (
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {contaners: [{name: a, image: b}]}\n",
        "create -f -",
        &[
            "Pod in version \"v1\" cannot be handled as a Pod",
            "strict decoding error",
            "unknown field \"spec.contaners\"",
        ],
    ),
    (
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {a: 1}\n",
        "create -f -",
        &["ConfigMap in version \"v1\" cannot be handled as a ConfigMap", "data"],
    ),
    (
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Not_A_Name}\n",
        "create -f -",
        &["The ConfigMap \"Not_A_Name\" is invalid", "metadata.name: Invalid value: \"Not_A_Name\"", "lower case"],
    ),
    (
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 0}]}\n",
        "create -f -",
        &["The Service \"a\" is invalid", "spec.ports[0].port: Invalid value: 0", "between 1 and 65535"],
    ),
    (
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: nowhere}\n",
        "create -f -",
        &["namespaces \"nowhere\" not found"],
    ),
    ("", "get pots", &["the server doesn't have a resource type \"pots\""]),
    ("", "get pod nobody", &["pods \"nobody\" not found"]),
    ("", "logs kept -c other", &["container other is not valid for pod kept"]),
];

/// Name, container, and what its status and events say in the end.
fn pods(down: &str, open: &str, guarded: &str) -> Vec<(&'static str, String, Vec<String>)> {
    let container = |image: &str| format!("{{name: app, image: \"{image}\"}}");
    let own = |command: &str| format!("{{name: app, image: \"test.local/busybox:1\", command: {command}}}");
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    vec![
        (
            "missing-image",
            container("mirrored.test/none:1"),
            words(&["ImagePullBackOff", "mirrored.test/none:1", "not found"]),
        ),
        (
            "missing-here",
            "{name: app, image: \"test.local/none:1\", imagePullPolicy: Never}".into(),
            words(&["ErrImageNeverPull", "test.local/none:1", "is not present with pull policy of Never"]),
        ),
        ("no-image", container("mirrored.test/text:1"), words(&["mirrored.test/text:1", "config"])),
        ("bad-name", container("Not An Image"), words(&["InvalidImageName", "Not An Image"])),
        ("down", container("down.test/app:1"), words(&["ImagePullBackOff", down, "refused"])),
        ("refusing", container(&format!("{guarded}/app:1")), words(&[guarded, "certificate"])),
        ("plain", container(&format!("{open}/none:1")), words(&[open])),
        ("command", own("[no-such-command]"), words(&["no-such-command", "executable file not found in $PATH"])),
        ("folder", own("[/tmp]"), words(&["/tmp", "is a directory"])),
        (
            "config",
            "{name: app, image: \"test.local/busybox:1\", envFrom: [{configMapRef: {name: none}}]}".into(),
            words(&["CreateContainerConfigError", "configmap \"none\" not found"]),
        ),
    ]
}

#[test]
fn bad_objects_and_pods_say_why_and_are_put_right_or_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let open = Registry::open(folder.path());
    let guarded = Registry::guarded(folder.path());
    let text = open.blob("text", "text/plain", b"no image");
    open.manifest("text", "1", text, &json!([]));
    let down = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let registries = folder.path().join("registries.yaml");
    let mirrors = json!({"mirrors": {
        "mirrored.test": {"endpoint": [format!("http://{}", open.address)]},
        "down.test": {"endpoint": [format!("http://{down}")]},
    }});
    std::fs::write(&registries, mirrors.to_string()).unwrap();
    let cluster = Cluster::start(&["--registries", registries.to_str().unwrap()]);
    let archive = images::busybox(&cluster.path(""), "test.local/busybox:1", &["sleep", "100000"]);
    cluster.import(&archive);
    let k = Kubectl::of(&cluster);
    k.ok("run kept --image=test.local/busybox:1");
    k.says("wait --for=condition=Ready pod/kept --timeout=30s", "condition met");
    let before = k.ok("get pod kept -o jsonpath={.status.containerStatuses[0].containerID}");

    for (input, line, words) in OBJECTS {
        let mut child =
            k.command(line).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "kubectl {line} took\n{input}");
        for word in *words {
            assert!(said.contains(word), "kubectl {line} does not say {word:?} of\n{input}\nbut\n{said}");
        }
    }

    // Files that are no images are refused, and the images that are there stay.
    let notes = cluster.path("notes.txt");
    std::fs::write(&notes, "no image").unwrap();
    for file in [notes.as_path(), Path::new("/nonexistent.tar"), Path::new("/tmp")] {
        let mut import = Command::new(DARTER);
        import.args(["image", "import"]).arg(file).arg("--data-dir").arg(cluster.path("data"));
        refused(&mut import, &[file.to_str().unwrap()]);
    }
    assert!(cluster.darter(&["image", "ls"]).contains("test.local/busybox"));

    let pods = pods(&down, &open.address, &guarded.address);
    for (name, container, _) in &pods {
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{terminationGracePeriodSeconds: 0, containers: [{container}]}}\n"
        );
        k.feed("create -f -", &pod);
    }
    for (name, _, words) in &pods {
        let mut said = String::new();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually("the reason", LIMIT, || {
                said = k.ok(&format!("describe pod {name}"));
                words.iter().all(|word| said.contains(word)).then_some(())
            });
        }));
        assert!(outcome.is_ok(), "{name} does not say all of {words:?}:\n{said}");
    }

    // Put right, they run; the rest goes away at once.
    k.says("set image pod/missing-image app=test.local/busybox:1", "image updated");
    k.ok("create configmap none --from-literal=a=1");
    for name in ["missing-image", "config"] {
        k.says(&format!("wait --for=condition=Ready pod/{name} --timeout=60s"), "condition met");
    }
    let names: Vec<&str> = pods.iter().map(|(name, ..)| *name).collect();
    k.ok(&format!("delete pod {} --timeout=20s", names.join(" ")));
    assert_eq!(k.ok("get pod kept -o jsonpath={.status.containerStatuses[0].containerID}"), before);
    assert_eq!(k.ok("get pod kept -o jsonpath={.status.containerStatuses[0].restartCount}"), "0");
    assert!(http::send("GET", &open.address, "/v2/", "text/plain", b"").is_ok());
}

/// Runs the cluster on a small disk: the program, the disk, a folder, kubectl.
const SMALL_DISK: &str = r#"
disk=$2 kubectl=$4
trap 'kill -KILL $server' EXIT
k() { "$kubectl" --kubeconfig "$disk/data/admin.kubeconfig" "$@"; }
start() {
  "$1" up --no-node --listen "$2" --data-dir "$disk/data" -o json > "$3" &
  server=$!
  until grep -q '"ready"' "$3"; do kill -0 $server; sleep 0.1; done
}
mount -t tmpfs -o size=24m none "$disk"
start "$1" 127.0.0.1:0 "$3/events"
listen=$(grep -o '127.0.0.1:[0-9]*' "$3/events" | head -1)

head -c 900000 /dev/zero | tr '\0' x > "$3/big"
count=0
while k create configmap big-$count --from-file="$3/big" 2> "$3/refusal"; do
  count=$((count + 1))
  test $count -lt 40
done
cat "$3/refusal"
grep -q 'the disk is full: deletes are still possible' "$3/refusal"
test "$(k get configmap -o name | grep -c big-)" = $count
k get --raw /readyz

for number in $(seq 0 $((count - 1))); do k delete configmap big-$number; done
until k create configmap after --from-literal=a=1; do sleep 0.1; done
until k create configmap after-big --from-file="$3/big"; do sleep 0.1; done

kill -KILL $server
wait $server || true
head -c 100000000 /dev/zero > "$disk/filler" || true
start "$1" $listen "$3/events"
test "$(k get configmap after -o 'jsonpath={.data.a}')" = 1
k delete configmap after-big
rm "$disk/filler"
until k create configmap room --from-literal=a=1; do sleep 0.1; done
trap - EXIT
kill -TERM $server
wait $server
"#;

#[test]
fn a_full_disk_refuses_writes_and_takes_reads_and_deletions() {
    let folder = tempfile::tempdir().unwrap();
    let kubectl = super::tools::kubectl();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mut command = Command::new("timeout");
    command.args(["120", "unshare", "--mount", "bash", "-exc", SMALL_DISK, "bash", DARTER]);
    succeed(command.arg(&disk).arg(folder.path()).arg(kubectl));
}
