//! The way down and up, as tables of facts and what follows.

use api::types::apimachinery::pkg::apis::meta::v1::Time;

use super::*;

const START: i64 = 1_800_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(START + seconds).expect("a time")
}

fn pod(rung: Rung, since: i64) -> Pod {
    Pod { rung, since: Some(at(since)), ready: true, ending: false }
}

/// A workload of one pod, frozen at 0, under a policy with 10 s.
fn frozen(now: i64) -> Facts {
    Facts {
        now: at(now),
        replicas: 1,
        pods: vec![pod(Rung::Frozen, 0)],
        policy: Some(Policy {
            name: "p".into(),
            idle_after: Duration::from_secs(10),
            objective: None,
            warm: false,
            next_window: None,
        }),
        asleep: None,
        services: vec!["web".into()],
        headless: false,
        nodes: vec!["n".into()],
    }
}

fn node(holding: Option<Hold>, held_since: Option<i64>) -> SleeperNode {
    let held_since = held_since.map(|seconds| Time(at(seconds)));
    SleeperNode { name: "n".into(), holding, held_since, wakes: WakeHistogram::default() }
}

fn in_phase(mut facts: Facts, phase: Phase, since: i64, hold: Option<Hold>, node: SleeperNode) -> Facts {
    let services = facts.services.clone();
    facts.asleep =
        Some(Asleep { phase, since: at(since), reason: String::new(), hold, replicas: 1, services, nodes: vec![node] });
    facts
}

fn falling(now: i64, node: SleeperNode) -> Facts {
    in_phase(frozen(now), Phase::Falling, 160, Some(Hold::Always), node)
}

/// At zero since 163 s.
fn zero(now: i64, hold: Hold, node: SleeperNode) -> Facts {
    let mut facts = in_phase(frozen(now), Phase::Gone, 163, Some(hold), node);
    facts.replicas = 0;
    facts.pods = Vec::new();
    facts
}

#[test]
fn a_workload_that_slept_long_enough_begins_the_way_down() {
    assert_eq!(plan(&frozen(100)).again, Some(Duration::from_secs(60)));
    let create = Step::Create { policy: "p".into(), replicas: 1, services: vec!["web".into()] };
    assert_eq!(plan(&frozen(160)).steps, [create]);
}

#[test]
fn what_could_not_be_woken_from_zero_stays() {
    let cases: [(&str, fn(&mut Facts)); 7] = [
        ("no policy allows it", |facts| facts.policy = None),
        ("no Service leads to it", |facts| facts.services.clear()),
        ("clients go to its pods directly", |facts| facts.headless = true),
        ("one of its pods is awake", |facts| facts.pods.push(pod(Rung::Hot, 0))),
        ("a pod is missing", |facts| facts.replicas = 2),
        ("a pod is ending", |facts| facts.pods[0].ending = true),
        ("it is scaled to zero by someone else", |facts| facts.replicas = 0),
    ];
    for (case, change) in cases {
        let mut facts = frozen(160);
        change(&mut facts);
        assert_eq!(plan(&facts).steps, [], "{case}");
    }
}

#[test]
fn replicas_go_only_once_every_node_holds_and_nothing_came() {
    let held = || node(Some(Hold::Always), None);
    assert_eq!(plan(&falling(161, held())).again, Some(Duration::from_secs(1)), "rungs may be old");
    assert_eq!(plan(&falling(161, node(None, None))).steps, [], "the node does not hold yet");
    let down = [Step::Scale(0), Step::Enter(Phase::Gone, "LongIdle")];
    assert_eq!(plan(&falling(162, held())).steps, down);
    let mut two = falling(165, held());
    two.nodes.push("other".into());
    assert_eq!(plan(&two).steps, []);
}

#[test]
fn a_client_on_the_way_down_turns_it_around_without_touching_the_pods() {
    let back = |reason| {
        [Step::Specify { hold: None, replicas: 1, services: vec!["web".into()] }, Step::Enter(Phase::Awake, reason)]
    };
    assert_eq!(plan(&falling(162, node(Some(Hold::Always), Some(161)))).steps, back("Packet"));
    let mut woken = falling(162, node(Some(Hold::Always), None));
    woken.pods[0].rung = Rung::Hot;
    assert_eq!(plan(&woken).steps, back("Activity"));
    assert_eq!(plan(&falling(170, node(None, None))).steps, back("NotHeld"));
}

#[test]
fn a_held_packet_brings_the_replicas_back() {
    let facts = zero(200, Hold::WhenUnserved, node(Some(Hold::WhenUnserved), Some(200)));
    assert_eq!(plan(&facts).steps, [Step::Scale(1), Step::Enter(Phase::Rising, "Packet")]);
    let quiet = zero(200, Hold::WhenUnserved, node(Some(Hold::WhenUnserved), None));
    assert_eq!(plan(&quiet), Plan::default());
}

#[test]
fn old_pods_are_never_taken_for_serving() {
    let hold = |facts: &Facts| match &plan(facts).steps[..] {
        [Step::Specify { hold, .. }] => *hold,
        _ => facts.asleep.as_ref().and_then(|asleep| asleep.hold),
    };
    let mut facts = zero(164, Hold::Always, node(Some(Hold::Always), None));
    facts.pods = vec![Pod { ending: true, ..pod(Rung::Frozen, 0) }];
    assert_eq!(hold(&facts), Some(Hold::Always));
    facts.pods.clear();
    assert_eq!(hold(&facts), Some(Hold::WhenUnserved));
    // A wake before the old pods are known to end waits for that.
    let mut early = zero(164, Hold::Always, node(Some(Hold::Always), Some(164)));
    early.pods = vec![pod(Rung::Frozen, 0)];
    assert_eq!(plan(&early).steps, []);
    early.pods[0].ending = true;
    assert_eq!(plan(&early).steps[0], Step::Scale(1));
}

#[test]
fn it_serves_again_when_a_new_pod_is_ready_and_holding_ends_later() {
    let held = node(Some(Hold::WhenUnserved), Some(200));
    let mut facts = in_phase(frozen(201), Phase::Rising, 200, Some(Hold::WhenUnserved), held);
    facts.pods = vec![Pod { ready: false, ..pod(Rung::Hot, 200) }];
    assert_eq!(plan(&facts).steps, []);
    facts.pods[0].ready = true;
    assert_eq!(plan(&facts).steps, [Step::Enter(Phase::Awake, "Serves")]);
    let mut awake = in_phase(facts, Phase::Awake, 201, Some(Hold::WhenUnserved), node(Some(Hold::WhenUnserved), None));
    assert_eq!(plan(&awake).again, Some(Duration::from_secs(10)));
    awake.now = at(211);
    assert_eq!(plan(&awake).steps, [Step::Specify { hold: None, replicas: 1, services: vec!["web".into()] }]);
}

#[test]
fn a_controller_that_ended_between_two_writes_goes_on() {
    let mut scaled = falling(165, node(Some(Hold::Always), None));
    scaled.replicas = 0;
    assert_eq!(plan(&scaled).steps, [Step::Enter(Phase::Gone, "LongIdle")]);
    let mut up = zero(200, Hold::WhenUnserved, node(Some(Hold::WhenUnserved), Some(199)));
    up.replicas = 1;
    assert_eq!(plan(&up).steps, [Step::Enter(Phase::Rising, "Scaled")]);
    let mut rising = in_phase(frozen(200), Phase::Rising, 199, Some(Hold::WhenUnserved), node(None, None));
    rising.replicas = 0;
    rising.pods.clear();
    assert_eq!(plan(&rising).steps, [Step::Scale(1)]);
}

#[test]
fn a_policy_that_changes_or_a_warm_window_brings_it_back() {
    let mut facts = zero(200, Hold::WhenUnserved, node(Some(Hold::WhenUnserved), None));
    facts.policy.as_mut().expect("a policy").warm = true;
    assert_eq!(plan(&facts).steps, [Step::Scale(1), Step::Enter(Phase::Rising, "KeepWarm")]);
    facts.policy = None;
    assert_eq!(plan(&facts).steps, [Step::Scale(1), Step::Enter(Phase::Rising, "PolicyChanged")]);
    let mut awake = in_phase(frozen(300), Phase::Awake, 201, None, node(None, None));
    awake.policy = None;
    assert_eq!(plan(&awake).steps, [Step::Delete]);
}

#[test]
fn wakes_from_zero_that_miss_the_objective_keep_it_above_zero_for_a_day() {
    let mut facts = in_phase(frozen(1000), Phase::Awake, 201, None, node(None, None));
    facts.policy.as_mut().expect("a policy").objective = Some(Duration::from_millis(50));
    assert!(!plan(&facts).steps.is_empty());
    let mut wakes = WakeHistogram::default();
    wakes.record(Duration::from_millis(300));
    wakes.record(Duration::from_millis(300));
    facts.asleep.as_mut().expect("a sleeper").nodes[0].wakes = wakes;
    assert_eq!(plan(&facts).steps, []);
    facts.now = at(201 + 24 * 60 * 60);
    assert!(!plan(&facts).steps.is_empty());
}

#[test]
fn where_nodes_cannot_hold_the_way_down_is_not_tried_at_once_again() {
    let mut facts = in_phase(frozen(1000), Phase::Awake, 900, None, node(None, None));
    facts.asleep.as_mut().expect("a sleeper").reason = "NotHeld".into();
    assert_eq!(plan(&facts).again, Some(Duration::from_secs(500)));
    facts.now = at(1500);
    assert!(!plan(&facts).steps.is_empty());
}

#[test]
fn a_way_down_that_turned_around_is_not_begun_again_at_once() {
    let mut facts = in_phase(frozen(1000), Phase::Awake, 990, None, node(None, None));
    assert_eq!(plan(&facts).again, Some(Duration::from_secs(150)));
    facts.now = at(1150);
    assert!(!plan(&facts).steps.is_empty());
    facts.asleep.as_mut().expect("a sleeper").nodes[0].held_since = Some(Time(at(1149)));
    assert_eq!(plan(&facts), Plan::default(), "a client still waits");
}
