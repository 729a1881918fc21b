//! Plans as text, one line a step, for pods and runtime states in JSON-like
//! shorthand.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use api::types::api::core::v1 as core;
use containers::runtime::{ContainerId, ContainerState, SandboxId, SandboxStatus};
use serde_json::json;

use super::*;
use crate::observe::{Observation, Observed};
use crate::spec;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
}

pub(crate) fn pod(spec: serde_json::Value) -> core::Pod {
    let meta = json!({"name": "p", "namespace": "n", "uid": "u", "generation": 1});
    serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})).expect("a pod")
}

pub(crate) fn sandbox(ready: bool) -> SandboxStatus {
    SandboxStatus {
        id: SandboxId("s".into()),
        metadata: Default::default(),
        ready,
        created: now() - Duration::from_secs(100),
        ips: vec!["10.1.0.2".parse().expect("an address")],
        labels: Default::default(),
        annotations: Default::default(),
        netns: None,
        frozen: false,
        users: None,
    }
}

/// `name=running`, `name=exit:CODE`, `name=created`, `name=unknown`; later ones are older.
pub(crate) fn container(pod: &core::Pod, text: &str, index: u64) -> Observed {
    let (name, state) = text.split_once('=').expect("name=state");
    let started = now() - Duration::from_secs(50);
    let state = match state.split_once(':') {
        Some((_, code)) => ContainerState::Exited {
            started,
            finished: now() - Duration::from_secs(5),
            exit_code: code.parse().expect("a code"),
            signal: None,
            reason: if code == "0" { "Completed".into() } else { "Error".into() },
            message: String::new(),
        },
        None if state == "running" => ContainerState::Running { started, pid: 1 },
        None if state == "created" => ContainerState::Created,
        None => ContainerState::Unknown,
    };
    Observed {
        id: ContainerId(format!("{name}-{index}")),
        sandbox: SandboxId("s".into()),
        name: name.into(),
        restart_count: 0,
        state,
        created: now() - Duration::from_secs(60 + index),
        image: "i".into(),
        image_id: "sha256:1".into(),
        hash: spec::find(pod, name).map(|(_, c)| spec::container_hash(&c)),
        user: None,
    }
}

pub(crate) fn observe(pod: &core::Pod, ready: Option<bool>, containers: &[&str]) -> Observation {
    Observation {
        sandboxes: ready.map(sandbox).into_iter().collect(),
        containers: containers.iter().zip(0..).map(|(text, index)| container(pod, text, index)).collect(),
    }
    .sorted()
}

fn show(action: &Action) -> String {
    match action {
        Action::KillPod => "kill pod".into(),
        Action::Kill { name, message, .. } => format!("kill {name}: {message}"),
        Action::Reset { name, kill, .. } => format!("reset {name}{}", if *kill { " running" } else { "" }),
        Action::Remove { id } => format!("remove {}", id.0),
        Action::CreateSandbox { attempt, changed } => {
            format!("sandbox {attempt}{}", if *changed { " again" } else { "" })
        }
        Action::Resize { containers } => {
            let names: Vec<&str> = containers.iter().map(|c| c.name.as_str()).collect();
            format!("resize pod {}", names.join(" "))
        }
        Action::Start { role, index, .. } => format!("start {role:?} {index}"),
        Action::BackOff { role, index, delay, .. } => format!("back off {role:?} {index} {}s", delay.as_secs()),
    }
}

fn check_with(pod: &core::Pod, observed: &Observation, probes: &HashMap<ContainerId, ProbeResults>, expected: &[&str]) {
    let actual = Allotment::of(pod);
    let input = Input {
        pod,
        observed,
        probes,
        backoffs: &Backoffs::default(),
        actual: &actual,
        restart_all: false,
        now: now(),
    };
    assert_eq!(plan(&input).iter().map(show).collect::<Vec<_>>(), expected);
}

fn check(pod: &core::Pod, ready: Option<bool>, containers: &[&str], expected: &[&str]) {
    check_with(pod, &observe(pod, ready, containers), &HashMap::new(), expected);
}

fn two(policy: &str) -> core::Pod {
    pod(json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]}))
}

#[test]
fn a_new_pod_gets_a_sandbox_then_its_containers() {
    check(&two("Always"), None, &[], &["sandbox 0", "start Main 0", "start Main 1"]);
    check(&two("Always"), Some(true), &["a=running", "b=running"], &[]);
}

#[test]
fn an_ended_container_runs_again_as_its_policy_says() {
    check(&two("Always"), Some(true), &["a=running", "b=exit:0"], &["start Main 1"]);
    check(&two("OnFailure"), Some(true), &["a=running", "b=exit:0"], &[]);
    check(&two("OnFailure"), Some(true), &["a=running", "b=exit:1"], &["start Main 1"]);
    check(&two("Never"), Some(true), &["a=running", "b=exit:1"], &[]);
    check(&two("Never"), Some(true), &["a=exit:0", "b=exit:1"], &["kill pod"]);
    check(&two("Never"), Some(false), &["a=exit:0", "b=exit:1"], &[]);
}

#[test]
fn a_lost_sandbox_is_made_again_unless_the_pod_is_done() {
    check(
        &two("Always"),
        Some(false),
        &["a=exit:137", "b=exit:137"],
        &["sandbox 1 again", "start Main 0", "start Main 1"],
    );
    check(&two("OnFailure"), Some(false), &["a=exit:0", "b=exit:1"], &["sandbox 1 again", "start Main 1"]);
    check(&two("OnFailure"), Some(false), &["a=exit:0", "b=exit:0"], &[]);
}

#[test]
fn init_containers_run_one_by_one_before_the_main_ones() {
    let pod = pod(
        json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}]}),
    );
    check(&pod, None, &[], &["sandbox 0", "start Init 0"]);
    check(&pod, Some(true), &[], &["start Init 0"]);
    check(&pod, Some(true), &["i=running"], &[]);
    check(&pod, Some(true), &["i=exit:0"], &["start Init 1"]);
    check(&pod, Some(true), &["j=exit:0", "i=exit:0"], &["start Main 0"]);
    check(&pod, Some(true), &["i=exit:3"], &["kill pod"]);
}

#[test]
fn sidecars_start_in_order_and_are_kept_running() {
    let pod = pod(
        json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "i"}], "containers": [{"name": "a"}]}),
    );
    check(&pod, Some(true), &["s=running"], &["start Init 1"]);
    check(&pod, Some(true), &["i=running", "s=exit:1"], &["start Init 0"]);
    check(&pod, Some(true), &["i=exit:0", "s=running"], &["start Main 0"]);
    check(&pod, Some(true), &["a=running", "i=exit:0", "s=exit:1"], &["start Init 0"]);
}

#[test]
fn failed_probes_and_changes_replace_a_running_container() {
    let pod = two("Always");
    let observed = observe(&pod, Some(true), &["a=running", "b=running"]);
    let failed = |results| HashMap::from([(ContainerId("a-0".into()), results)]);
    let liveness = failed(ProbeResults { liveness: Some(Verdict::Failure), ..Default::default() });
    check_with(
        &pod,
        &observed,
        &liveness,
        &["kill a: Container a failed liveness probe, will be restarted", "start Main 0"],
    );
    let startup = failed(ProbeResults { startup: Some(Verdict::Failure), ..Default::default() });
    check_with(
        &pod,
        &observed,
        &startup,
        &["kill a: Container a failed startup probe, will be restarted", "start Main 0"],
    );
    let mut changed = pod.clone();
    changed.spec.as_mut().expect("a spec").containers[1].image = Some("other".into());
    check_with(
        &changed,
        &observed,
        &HashMap::new(),
        &["kill b: Container b definition changed, will be restarted", "start Main 1"],
    );
    let never = two("Never");
    let alone = observe(&never, Some(true), &["a=running", "b=exit:0"]);
    check_with(&never, &alone, &liveness, &["kill pod"]);
}

#[test]
fn a_container_that_failed_before_waits() {
    let pod = two("Always");
    let observed = observe(&pod, Some(true), &["a=running", "b=exit:1"]);
    let mut backoffs = Backoffs::default();
    let hash = spec::container_hash(&spec::main_containers(&pod)[1]);
    backoffs.next("b", hash, now() - Duration::from_secs(30), now() - Duration::from_secs(30));
    let input = Input {
        pod: &pod,
        observed: &observed,
        probes: &HashMap::new(),
        backoffs: &backoffs,
        actual: &Allotment::of(&pod),
        restart_all: false,
        now: now(),
    };
    assert_eq!(plan(&input).iter().map(show).collect::<Vec<_>>(), ["back off Main 1 10s"]);
    let later = Input { now: now() + Duration::from_secs(5), ..input };
    assert_eq!(plan(&later).iter().map(show).collect::<Vec<_>>(), ["start Main 1"]);
}

#[test]
fn ephemeral_containers_start_once() {
    let pod = pod(json!({"containers": [{"name": "a"}], "ephemeralContainers": [{"name": "d", "image": "i"}]}));
    check(&pod, Some(true), &["a=running"], &["start Ephemeral 0"]);
    check(&pod, Some(true), &["a=running", "d=exit:0"], &[]);
}

#[test]
fn a_restart_of_all_removes_the_cause_last() {
    let pod = pod(json!({"containers": [
        {"name": "a", "restartPolicy": "Never", "restartPolicyRules": [{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [88]}}]},
        {"name": "b"}]}));
    let observed = observe(&pod, Some(true), &["a=exit:88", "b=running"]);
    let input = Input {
        pod: &pod,
        observed: &observed,
        probes: &HashMap::new(),
        backoffs: &Backoffs::default(),
        actual: &Allotment::of(&pod),
        restart_all: true,
        now: now(),
    };
    assert_eq!(plan(&input).iter().map(show).collect::<Vec<_>>(), ["reset b running", "reset a"]);
}

#[test]
fn limits_change_in_place_after_the_restarts_that_need_room() {
    let sized = |cpu: &str, memory: &str| {
        let amounts = json!({"cpu": cpu, "memory": memory});
        let policy = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
        let resources = json!({"requests": amounts, "limits": amounts});
        pod(json!({"containers": [{"name": "a", "image": "i", "resources": resources, "resizePolicy": policy}]}))
    };
    let old = sized("100m", "64Mi");
    let check = |new: core::Pod, state: &str, expected: &[&str]| {
        let input = Input {
            pod: &new,
            observed: &observe(&new, Some(true), &[state]),
            probes: &HashMap::new(),
            backoffs: &Backoffs::default(),
            actual: &Allotment::of(&old),
            restart_all: false,
            now: now(),
        };
        assert_eq!(plan(&input).iter().map(show).collect::<Vec<_>>(), expected);
    };
    check(sized("100m", "64Mi"), "a=running", &[]);
    check(sized("200m", "64Mi"), "a=running", &["resize pod a"]);
    check(sized("200m", "64Mi"), "a=exit:0", &["start Main 0"]);
    check(
        sized("100m", "128Mi"),
        "a=running",
        &["kill a: Container a resize requires restart", "resize pod ", "start Main 0"],
    );
}
