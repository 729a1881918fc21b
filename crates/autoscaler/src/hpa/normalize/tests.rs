//! Numbers and words, over time.

use serde_json::{Value, json};

use super::*;

const WINDOW: Duration = Duration::from_secs(300);

/// An autoscaler whose clock and size the test moves.
struct Case {
    history: History,
    behavior: Option<Behavior>,
    limits: Limits,
    now: Duration,
}

impl Case {
    fn new(current: i32, min: i32, max: i32, behavior: Value) -> Self {
        let behavior =
            (!behavior.is_null()).then(|| Behavior::read(&serde_json::from_value(behavior).unwrap(), WINDOW));
        let mut history = History::default();
        history.start(current, Duration::ZERO);
        Self { history, behavior, limits: Limits { current, min, max }, now: Duration::ZERO }
    }

    /// Some seconds later metrics ask for so many: how many there shall be,
    /// and the reasons of AbleToScale and ScalingLimited. What is allowed happens.
    fn ask(&mut self, seconds: u64, recommended: i32) -> (i32, &'static str, &'static str) {
        self.now += Duration::from_secs(seconds);
        let Self { history, behavior, limits, now } = self;
        let normalized = match behavior {
            None => plain(history, *limits, recommended, WINDOW, *now),
            Some(behavior) => with_behavior(history, *limits, recommended, behavior, *now),
        };
        assert_eq!(normalized.limited, normalized.limit.0 != "DesiredWithinRange", "{normalized:?}");
        if normalized.replicas != limits.current && behavior.is_some() {
            history.rescaled(limits.current, normalized.replicas, *now);
        }
        limits.current = normalized.replicas;
        (normalized.replicas, normalized.able.0, normalized.limit.0)
    }
}

#[test]
fn without_behavior_a_look_doubles_at_most_but_four_are_free() {
    let mut case = Case::new(1, 1, 100, Value::Null);
    assert_eq!(case.ask(15, 50), (4, "ReadyForNewScale", "ScaleUpLimit"));
    assert_eq!(case.ask(15, 50), (8, "ReadyForNewScale", "ScaleUpLimit"));
    assert_eq!(case.ask(15, 50), (16, "ReadyForNewScale", "ScaleUpLimit"));
    assert_eq!(case.ask(15, 20), (32, "ScaleDownStabilized", "ScaleUpLimit"));
    let mut case = Case::new(3, 2, 5, Value::Null);
    assert_eq!(case.ask(15, 9), (5, "ReadyForNewScale", "TooManyReplicas"));
}

#[test]
fn without_behavior_the_highest_recommendation_of_the_window_holds() {
    let mut case = Case::new(6, 1, 10, Value::Null);
    assert_eq!(case.ask(100, 4), (6, "ScaleDownStabilized", "DesiredWithinRange"));
    assert_eq!(case.ask(200, 3), (6, "ScaleDownStabilized", "DesiredWithinRange"), "the window's beginning is in it");
    assert_eq!(case.ask(1, 3), (4, "ScaleDownStabilized", "DesiredWithinRange"));
    assert_eq!(case.ask(301, 0), (1, "ReadyForNewScale", "TooFewReplicas"));
}

#[test]
fn with_behavior_rates_are_counted_over_their_periods() {
    let mut case = Case::new(1, 1, 100, json!({}));
    assert_eq!(case.ask(15, 50), (5, "ReadyForNewScale", "ScaleUpLimit"));
    assert_eq!(case.ask(5, 50), (5, "ReadyForNewScale", "ScaleUpLimit"), "the period's share is used up");
    assert_eq!(case.ask(10, 50), (10, "ReadyForNewScale", "ScaleUpLimit"), "its beginning is not in it");
    assert_eq!(case.ask(15, 12), (12, "ReadyForNewScale", "DesiredWithinRange"));
    assert_eq!(case.ask(1, 200), (20, "ReadyForNewScale", "ScaleUpLimit"), "of the ten at the start twice as many");
}

#[test]
fn with_behavior_the_limits_of_the_specification_come_last() {
    let mut case = Case::new(3, 2, 6, json!({"scaleDown": {"stabilizationWindowSeconds": 0}}));
    assert_eq!(case.ask(15, 50), (6, "ReadyForNewScale", "TooManyReplicas"));
    assert_eq!(case.ask(15, 0), (2, "ReadyForNewScale", "TooFewReplicas"));
    assert_eq!(case.ask(15, 2), (2, "ReadyForNewScale", "DesiredWithinRange"));
}

#[test]
fn policies_are_selected_by_the_change_that_they_allow() {
    let policies = json!([
        {"type": "Pods", "value": 3, "periodSeconds": 60},
        {"type": "Percent", "value": 10, "periodSeconds": 60},
    ]);
    for (select, up, down) in [("Max", 23, 17), ("Min", 22, 18), ("Disabled", 20, 20)] {
        let rules = json!({"stabilizationWindowSeconds": 0, "selectPolicy": select, "policies": policies});
        let behavior = json!({"scaleUp": rules, "scaleDown": rules});
        assert_eq!(Case::new(20, 1, 100, behavior.clone()).ask(1, 90).0, up, "{select}");
        assert_eq!(Case::new(20, 1, 100, behavior).ask(1, 1).0, down, "{select}");
    }
}

#[test]
fn a_percentage_is_rounded_so_that_something_changes() {
    let rules =
        json!({"stabilizationWindowSeconds": 0, "policies": [{"type": "Percent", "value": 10, "periodSeconds": 60}]});
    let behavior = json!({"scaleUp": rules, "scaleDown": rules});
    assert_eq!(Case::new(1, 1, 9, behavior.clone()).ask(1, 9).0, 2);
    assert_eq!(Case::new(5, 1, 9, behavior).ask(1, 1).0, 4);
}

#[test]
fn changes_in_one_direction_give_room_in_the_other() {
    let rules =
        json!({"stabilizationWindowSeconds": 0, "policies": [{"type": "Pods", "value": 4, "periodSeconds": 60}]});
    let mut case = Case::new(10, 1, 100, json!({"scaleUp": rules, "scaleDown": rules}));
    assert_eq!(case.ask(1, 1), (6, "ReadyForNewScale", "ScaleDownLimit"));
    assert_eq!(case.ask(1, 100), (14, "ReadyForNewScale", "ScaleUpLimit"), "four more than the ten at the start");
    assert_eq!(case.ask(1, 1), (6, "ReadyForNewScale", "ScaleDownLimit"));
}

#[test]
fn more_than_a_rate_allows_is_not_taken_back() {
    let behavior = json!({"scaleUp": {"policies": [{"type": "Pods", "value": 4, "periodSeconds": 60}]}});
    let mut case = Case::new(10, 1, 100, behavior);
    assert_eq!(case.ask(1, 100).0, 14);
    case.limits.current = 12;
    assert_eq!(case.ask(1, 100), (12, "ReadyForNewScale", "ScaleUpLimit"), "from eight four more would be twelve");
    case.history.rescaled(1, 30, case.now);
    assert_eq!(case.ask(1, 100), (12, "ReadyForNewScale", "ScaleUpLimit"));
}

#[test]
fn with_behavior_both_directions_wait_for_their_windows() {
    let behavior =
        json!({"scaleUp": {"stabilizationWindowSeconds": 60}, "scaleDown": {"stabilizationWindowSeconds": 120}});
    let mut case = Case::new(5, 1, 100, behavior);
    assert_eq!(case.ask(30, 8), (5, "ScaleUpStabilized", "DesiredWithinRange"));
    assert_eq!(case.ask(29, 7), (5, "ScaleUpStabilized", "DesiredWithinRange"));
    assert_eq!(case.ask(1, 9), (7, "ScaleUpStabilized", "DesiredWithinRange"), "the least of the last minute");
    assert_eq!(case.ask(10, 2), (7, "ScaleDownStabilized", "DesiredWithinRange"));
    assert_eq!(case.ask(120, 2), (2, "ReadyForNewScale", "DesiredWithinRange"));
}
