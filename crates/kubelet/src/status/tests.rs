//! Statuses from pods and runtime states, as one line a fact.

use std::collections::HashMap;

use api::types::api::core::v1 as core;
use serde_json::json;

use super::*;
use crate::plan::tests::{observe, pod};
use crate::probe::{ProbeResults, Verdict};

struct Case<'a> {
    pod: &'a core::Pod,
    sandbox: Option<bool>,
    containers: &'a [&'a str],
    reasons: Reasons,
    probes: HashMap<ContainerId, ProbeResults>,
    terminal: bool,
    old: core::PodStatus,
}

impl<'a> Case<'a> {
    fn new(pod: &'a core::Pod, sandbox: Option<bool>, containers: &'a [&'a str]) -> Self {
        let old = core::PodStatus::default();
        Self { pod, sandbox, containers, reasons: Reasons::new(), probes: HashMap::new(), terminal: false, old }
    }

    fn generate(&self) -> core::PodStatus {
        generate(&Input {
            pod: self.pod,
            observed: &observe(self.pod, self.sandbox, self.containers),
            old: &self.old,
            reasons: &self.reasons,
            probes: &self.probes,
            terminal: self.terminal,
            ended: None,
            actual: &Allotment::of(self.pod),
            resize: Vec::new(),
            host_ips: &["192.0.2.9".parse().expect("an address")],
            runtime_name: "darter",
        })
    }

    fn check(&self, expected: &str) {
        assert_eq!(show(&self.generate()), expected, "{:?}", self.containers);
    }
}

/// Phase and conditions as the recorded traces write them, then containers.
fn show(status: &core::PodStatus) -> String {
    let sign = |kind: &str| {
        conditions::find(status.conditions.as_ref(), kind).map_or('?', |c| if c.status == "True" { '+' } else { '-' })
    };
    let mut text = format!(
        "{} {}sandbox {}initialized {}containersReady {}ready",
        status.phase.as_deref().unwrap_or_default(),
        sign("PodReadyToStartContainers"),
        sign("Initialized"),
        sign("ContainersReady"),
        sign("Ready"),
    );
    let init = status.init_container_statuses.iter().flatten();
    for container in init.chain(status.container_statuses.iter().flatten()) {
        let state = container.state.clone().unwrap_or_default();
        let state = match (state.waiting, state.running, state.terminated) {
            (Some(w), ..) => format!("waiting:{}", w.reason.unwrap_or_default()),
            (_, Some(_), _) => "running".into(),
            (.., Some(t)) => format!("{}:{}", t.reason.unwrap_or_default(), t.exit_code),
            _ => "nothing".into(),
        };
        let flag = |on: bool| if on { '+' } else { '-' };
        text += &format!(
            " | {} {state} {}started {}ready",
            container.name,
            flag(container.started == Some(true)),
            flag(container.ready)
        );
    }
    text
}

fn one(policy: &str) -> core::Pod {
    pod(json!({"restartPolicy": policy, "containers": [{"name": "c", "image": "i"}]}))
}

#[test]
fn a_pod_goes_from_pending_to_running_to_its_end() {
    let pod = one("Never");
    Case::new(&pod, None, &[])
        .check("Pending -sandbox +initialized -containersReady -ready | c waiting:ContainerCreating -started -ready");
    Case::new(&pod, Some(true), &["c=running"])
        .check("Running +sandbox +initialized +containersReady +ready | c running +started +ready");
    Case::new(&pod, Some(false), &["c=exit:0"])
        .check("Succeeded -sandbox +initialized -containersReady -ready | c Completed:0 -started -ready");
    Case::new(&pod, Some(false), &["c=exit:1"])
        .check("Failed -sandbox +initialized -containersReady -ready | c Error:1 -started -ready");
}

#[test]
fn an_ended_container_that_will_run_again_keeps_the_pod_running() {
    Case::new(&one("Always"), Some(true), &["c=exit:0"])
        .check("Running +sandbox +initialized -containersReady -ready | c Completed:0 -started -ready");
    let pod = one("OnFailure");
    Case::new(&pod, Some(true), &["c=exit:1"])
        .check("Running +sandbox +initialized -containersReady -ready | c Error:1 -started -ready");
    let ended = Case { terminal: true, ..Case::new(&pod, Some(false), &["c=exit:1"]) };
    ended.check("Failed -sandbox +initialized -containersReady -ready | c Error:1 -started -ready");
}

#[test]
fn a_failed_start_is_named_and_the_end_before_it_moves_to_the_last_state() {
    let pod = one("Always");
    let mut case = Case::new(&pod, Some(true), &["c=exit:3"]);
    case.reasons.insert("c".into(), WaitReason { reason: "CrashLoopBackOff".into(), message: "m".into() });
    case.check("Running +sandbox +initialized -containersReady -ready | c waiting:CrashLoopBackOff -started -ready");
    let status = case.generate();
    let last = status.container_statuses.expect("statuses")[0].last_state.clone().expect("a last state");
    assert_eq!(last.terminated.expect("terminated").exit_code, 3);
    let mut case = Case::new(&pod, Some(true), &[]);
    case.reasons.insert("c".into(), WaitReason { reason: "ErrImagePull".into(), message: "m".into() });
    case.check("Pending +sandbox +initialized -containersReady -ready | c waiting:ErrImagePull -started -ready");
}

#[test]
fn probes_decide_about_started_and_ready() {
    let pod = pod(json!({"containers": [{"name": "c", "image": "i", "startupProbe": {}, "readinessProbe": {}}]}));
    let with = |startup, readiness| {
        let mut case = Case::new(&pod, Some(true), &["c=running"]);
        case.probes.insert(
            ContainerId("c-0".into()),
            ProbeResults { startup: Some(startup), liveness: None, readiness: Some(readiness) },
        );
        case
    };
    let unready = "Running +sandbox +initialized -containersReady -ready | c running";
    with(Verdict::Unknown, Verdict::Failure).check(&format!("{unready} -started -ready"));
    with(Verdict::Success, Verdict::Failure).check(&format!("{unready} +started -ready"));
    with(Verdict::Success, Verdict::Success)
        .check("Running +sandbox +initialized +containersReady +ready | c running +started +ready");
}

#[test]
fn init_containers_hold_the_pod_in_pending() {
    let pod = pod(
        json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "c"}]}),
    );
    Case::new(&pod, Some(true), &["i=running"]).check(
        "Pending +sandbox -initialized -containersReady -ready | i running +started -ready | j waiting:PodInitializing -started -ready | c waiting:PodInitializing -started -ready",
    );
    Case::new(&pod, Some(true), &["i=exit:3"]).check(
        "Failed +sandbox -initialized -containersReady -ready | i Error:3 -started -ready | j waiting:PodInitializing -started -ready | c waiting:PodInitializing -started -ready",
    );
    let status = Case::new(&pod, Some(true), &["i=exit:0"]).generate();
    let initialized = conditions::find(status.conditions.as_ref(), "Initialized").expect("a condition").clone();
    assert_eq!(initialized.message.as_deref(), Some("containers with incomplete status: [j]"));
}

#[test]
fn the_end_is_shown_only_when_nothing_runs_any_more() {
    let pod = one("Never");
    let old = core::PodStatus { phase: Some("Running".into()), ..Default::default() };
    let new = Case::new(&pod, Some(true), &["c=exit:0"]).generate();
    assert_eq!(without_early_end(&old, new.clone()).phase.as_deref(), Some("Running"));
    assert_eq!(terminate(&pod, old).phase.as_deref(), Some("Failed"));
    assert_eq!(terminate(&pod, new).phase.as_deref(), Some("Succeeded"));
}

#[test]
fn a_container_that_never_was_ends_as_unknown() {
    let pod = one("Always");
    let last = terminate(&pod, Case::new(&pod, Some(false), &[]).generate());
    assert_eq!(
        show(&last),
        "Failed -sandbox +initialized -containersReady -ready | c ContainerStatusUnknown:137 -started -ready"
    );
}

#[test]
fn transition_times_move_only_with_the_status() {
    let pod = one("Always");
    let at = |seconds| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    let first = settle(&core::PodStatus::default(), Case::new(&pod, Some(true), &["c=running"]).generate(), at(100));
    let again = settle(&first, Case::new(&pod, Some(true), &["c=running"]).generate(), at(200));
    assert_eq!(first.start_time, again.start_time);
    let time = |s: &core::PodStatus, kind: &str| {
        conditions::find(s.conditions.as_ref(), kind).and_then(|c| c.last_transition_time.clone())
    };
    assert_eq!(time(&first, "Ready"), time(&again, "Ready"));
    let lost = settle(&again, Case::new(&pod, Some(true), &["c=exit:1"]).generate(), at(300));
    assert_eq!(time(&lost, "Ready"), Some(api_time(at(300))));
    assert_eq!(time(&lost, "PodScheduled"), time(&first, "PodScheduled"));
}

#[test]
fn a_failed_start_is_shown_at_once_unless_it_hides_what_should_stay_in_sight() {
    let why = |reason: &str| WaitReason { reason: reason.into(), message: reason.to_lowercase() };
    let changed = WaitReason { message: "other".into(), ..why("RunContainerError") };
    let cases = [
        (None, why("ErrImagePull"), true, true),
        (None, why("ImagePullBackOff"), true, false),
        (Some(why("ErrImagePull")), why("ImagePullBackOff"), false, false),
        (Some(why("ImagePullBackOff")), why("ErrImagePull"), false, false),
        (Some(why("ImagePullBackOff")), why("CreateContainerConfigError"), true, false),
        (Some(why("CreateContainerError")), why("ErrImagePull"), true, true),
        (None, why("CrashLoopBackOff"), false, false),
        (Some(why("RunContainerError")), why("CrashLoopBackOff"), false, false),
        (Some(why("CrashLoopBackOff")), why("RunContainerError"), true, false),
        (Some(why("RunContainerError")), why("RunContainerError"), false, false),
        (Some(why("RunContainerError")), changed, true, false),
    ];
    for (before, new, at_once, again) in cases {
        assert_eq!(new.shows_at_once(before.as_ref()), at_once, "{before:?} then {new:?}");
        assert_eq!(new.looks_again(before.as_ref()), again, "{before:?} then {new:?}");
    }
}
