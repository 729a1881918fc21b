//! Order, back-off and waking of waiting pods.

use super::*;
use crate::pod::Classes;

const S: fn(u64) -> Duration = Duration::from_secs;

struct Fixture {
    classes: Classes,
    queue: Queue,
}

impl Fixture {
    fn new() -> Self {
        Self { classes: Classes::default(), queue: Queue::default() }
    }

    fn add(&mut self, uid: &str, priority: i32, now: Duration) {
        self.add_gated(uid, priority, false, now);
    }

    fn add_gated(&mut self, uid: &str, priority: i32, gated: bool, now: Duration) {
        let pod = Arc::new(pod(uid, priority));
        let class = self.classes.classify(&pod);
        self.queue.add(pod, class, gated, now);
    }

    fn pop(&mut self, now: Duration) -> Option<String> {
        self.queue.pop(now).map(|queued| queued.uid.to_string())
    }

    fn reject(&mut self, uid: &str, now: Duration) {
        let mut plugins = PluginSet::default();
        plugins.insert(7);
        self.queue.fail(uid, Failure::Rejected(plugins), now);
    }
}

fn pod(uid: &str, priority: i32) -> Pod {
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": uid, "namespace": "ns", "uid": uid},
        "spec": {"priority": priority, "containers": []},
    }))
    .unwrap()
}

#[test]
fn the_most_important_pod_is_tried_first_then_the_oldest() {
    let mut fixture = Fixture::new();
    fixture.add("old", 0, S(0));
    fixture.add("young", 0, S(1));
    fixture.add("important", 5, S(2));
    for expected in ["important", "old", "young"] {
        assert_eq!(fixture.pop(S(3)).as_deref(), Some(expected));
    }
    assert_eq!(fixture.pop(S(3)), None);
}

#[test]
fn a_rejected_pod_waits_until_an_event_helps() {
    let mut fixture = Fixture::new();
    fixture.add("p", 0, S(0));
    fixture.pop(S(0));
    fixture.reject("p", S(0));
    assert!(!fixture.queue.is_ready(S(100)));
    fixture.queue.wake(S(100), |_| false);
    assert_eq!(fixture.pop(S(100)), None);
    fixture.queue.wake(S(100), |queued| queued.rejected_by.contains(7));
    assert_eq!(fixture.queue.counts(), QueueCounts { active: 1, ..QueueCounts::default() });
    assert_eq!(fixture.pop(S(100)).as_deref(), Some("p"));
}

#[test]
fn a_pod_woken_early_backs_off_but_is_tried_if_nobody_else_wants_to_be() {
    let mut fixture = Fixture::new();
    fixture.add("p", 9, S(0));
    fixture.pop(S(0));
    fixture.reject("p", S(0));
    fixture.queue.wake(S(0), |_| true);
    assert_eq!(fixture.queue.counts(), QueueCounts { backoff: 1, ..QueueCounts::default() });
    fixture.add("other", 0, S(0));
    assert_eq!(fixture.pop(S(0)).as_deref(), Some("other"));
    assert_eq!(fixture.pop(S(0)).as_deref(), Some("p"));
}

#[test]
fn the_backoff_doubles_up_to_ten_seconds() {
    for (count, seconds) in [(0, 0), (1, 1), (2, 2), (4, 8), (5, 10), (40, 10)] {
        assert_eq!(backoff(count), S(seconds));
    }
}

#[test]
fn after_an_error_the_backoff_is_kept() {
    let mut fixture = Fixture::new();
    fixture.add("p", 0, S(0));
    fixture.pop(S(0));
    fixture.queue.fail("p", Failure::Error, S(0));
    assert_eq!(fixture.pop(Duration::from_millis(900)), None);
    assert_eq!(fixture.queue.deadline(), Some(S(1)));
    assert_eq!(fixture.pop(S(1)).as_deref(), Some("p"));
}

#[test]
fn a_pod_that_nothing_helps_is_tried_again_after_five_minutes() {
    let mut fixture = Fixture::new();
    fixture.add("p", 0, S(0));
    fixture.pop(S(0));
    fixture.reject("p", S(0));
    fixture.queue.flush(S(299));
    assert_eq!(fixture.pop(S(299)), None);
    assert_eq!(fixture.queue.deadline(), Some(S(300)));
    fixture.queue.flush(S(300));
    assert_eq!(fixture.pop(S(300)).as_deref(), Some("p"));
}

#[test]
fn a_gated_pod_is_tried_when_its_gates_are_gone() {
    let mut fixture = Fixture::new();
    fixture.add_gated("p", 0, true, S(0));
    assert_eq!(fixture.pop(S(1)), None);
    let object = Arc::new(pod("p", 0));
    let class = fixture.classes.classify(&object);
    fixture.queue.update("p", object, class, false);
    assert_eq!(fixture.pop(S(1)).as_deref(), Some("p"));
    assert_eq!(fixture.queue.counts(), QueueCounts::default());
}

#[test]
fn a_pod_whose_priority_changed_in_the_queue_leaves_nothing_behind() {
    let mut fixture = Fixture::new();
    fixture.add("p", 0, S(0));
    let object = Arc::new(pod("p", 8));
    let class = fixture.classes.classify(&object);
    fixture.queue.update("p", object, class, false);
    fixture.queue.remove("p");
    assert_eq!(fixture.queue.counts(), QueueCounts::default());
    assert_eq!(fixture.pop(S(1)), None);
}
