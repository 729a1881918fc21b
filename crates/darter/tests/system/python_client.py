"""The Python client as its users use it: typed and dynamic calls, a watch, the
patch types, leader election and exec. Prints `passed` at its end."""
import sys
import threading
import time
import uuid

from kubernetes import client, config, dynamic, watch
from kubernetes.client import api_client
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.configmaplock import ConfigMapLock
from kubernetes.stream import stream

config.load_kube_config(sys.argv[1])
core, apps = client.CoreV1Api(), client.AppsV1Api()
NAMESPACE = "default"

# Create, and see it in a watch that started before.
version = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version
seen = []


def follow():
    for event in watch.Watch().stream(
        core.list_namespaced_config_map, NAMESPACE, resource_version=version, timeout_seconds=20
    ):
        if event["object"].metadata.name == "from-python":
            seen.append(event["type"])
            if event["type"] == "DELETED":
                return


follower = threading.Thread(target=follow)
follower.start()
body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="from-python"), data={"a": "1"})
core.create_namespaced_config_map(NAMESPACE, body)
patched = core.patch_namespaced_config_map("from-python", NAMESPACE, {"data": {"b": "2"}})
assert patched.data == {"a": "1", "b": "2"}, patched.data
core.delete_namespaced_config_map("from-python", NAMESPACE)
follower.join(30)
assert seen == ["ADDED", "MODIFIED", "DELETED"], seen

# The dynamic client: discovery, create, server-side apply.
dynamic_client = dynamic.DynamicClient(api_client.ApiClient())
deployments = dynamic_client.resources.get(api_version="apps/v1", kind="Deployment")
manifest = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "dynamic"},
    "spec": {
        "replicas": 0,
        "selector": {"matchLabels": {"app": "dynamic"}},
        "template": {
            "metadata": {"labels": {"app": "dynamic"}},
            "spec": {"containers": [{"name": "c", "image": "test.local/busybox:1"}]},
        },
    },
}
deployments.create(body=manifest, namespace=NAMESPACE)
manifest["spec"]["replicas"] = 1
applied = deployments.server_side_apply(
    body=manifest, name="dynamic", namespace=NAMESPACE, field_manager="python", force_conflicts=True
)
assert applied.spec.replicas == 1
deployments.delete(name="dynamic", namespace=NAMESPACE)

# Errors keep their reason.
try:
    core.read_namespaced_pod("nobody", NAMESPACE)
    raise AssertionError("a pod that is not there was read")
except client.ApiException as error:
    assert error.status == 404 and "NotFound" in error.body, error

# Exec in a pod.
core.create_namespaced_pod(
    NAMESPACE,
    client.V1Pod(
        metadata=client.V1ObjectMeta(name="python-exec"),
        spec=client.V1PodSpec(
            termination_grace_period_seconds=0,
            containers=[client.V1Container(name="c", image="test.local/busybox:1", command=["sleep", "1000"])],
        ),
    ),
)
for event in watch.Watch().stream(
    core.list_namespaced_pod, NAMESPACE, field_selector="metadata.name=python-exec", timeout_seconds=30
):
    if event["object"].status.phase == "Running":
        break
answer = stream(
    core.connect_get_namespaced_pod_exec, "python-exec", NAMESPACE, command=["echo", "from inside"],
    stdout=True, stderr=True, stdin=False, tty=False,
)
assert answer == "from inside\n", repr(answer)
core.delete_namespaced_pod("python-exec", NAMESPACE)

# Leader election: one candidate leads, and another takes over.
led = []


def candidate(name):
    def lead():
        led.append(name)

    lock = ConfigMapLock("python-leader", NAMESPACE, name)
    settings = electionconfig.Config(
        lock, lease_duration=3, renew_deadline=2, retry_period=1, onstarted_leading=lead, onstopped_leading=lambda: None
    )
    threading.Thread(target=leaderelection.LeaderElection(settings).run, daemon=True).start()


candidate(f"first-{uuid.uuid4()}")
deadline = time.monotonic() + 15
while not led and time.monotonic() < deadline:
    time.sleep(0.05)
assert len(led) == 1, led
print("passed")
