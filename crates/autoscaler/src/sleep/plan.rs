//! A workload's way to zero replicas and back, decided from facts alone.
//!
//! Down: nodes hold new connections first, then, if no client came meanwhile and
//! every pod still sleeps, the replicas go. Up: the replicas come back first,
//! everything else follows. Each state can be left from what is found, so a
//! controller that ends between any two steps goes on where it was.

use std::time::Duration;

use api::elastic::{Hold, Phase, Rung, SleeperNode, WakeHistogram};
use jiff::Timestamp;

/// A workload goes to zero after its pods were asleep for this many idle times:
/// starting from nothing costs more than any other wake.
const GONE_AFTER_IDLE_TIMES: u32 = 16;
/// A node tells of a pod's wake within a second; so long after the last
/// connection that was let through, the pods' rungs are known for sure.
const SETTLE: Duration = Duration::from_secs(2);
/// How long after the first ready pod new connections are still held where no
/// endpoint is known: a node may hear of the endpoint after it hears of this.
const LINGER: Duration = Duration::from_secs(10);
/// Where nodes could not hold connections, the way down is tried again after
/// so long.
const NOT_HELD_RETRY: Duration = Duration::from_secs(10 * 60);
/// Wakes from zero that miss the objective keep the workload above zero for so
/// long; then one more is tried.
const BAR: Duration = Duration::from_secs(24 * 60 * 60);

/// Reason of a way down that ended because a node did not hold.
const NOT_HELD: &str = "NotHeld";

/// A pod of the workload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pod {
    pub(super) rung: Rung,
    pub(super) since: Option<Timestamp>,
    pub(super) ready: bool,
    pub(super) ending: bool,
}

/// What the policy says of the workload's pods.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Policy {
    pub(super) name: String,
    pub(super) idle_after: Duration,
    pub(super) objective: Option<Duration>,
    /// A window in which nothing sleeps is open now.
    pub(super) warm: bool,
    /// When one opens or closes next.
    pub(super) next_window: Option<Timestamp>,
}

/// What is known of the workload's `Sleeper`.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Asleep {
    pub(super) phase: Phase,
    pub(super) since: Timestamp,
    pub(super) reason: String,
    pub(super) hold: Option<Hold>,
    pub(super) replicas: i32,
    pub(super) services: Vec<String>,
    pub(super) nodes: Vec<SleeperNode>,
}

/// Everything that the decision depends on.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Facts {
    pub(super) now: Timestamp,
    /// Replicas that the workload's specification asks for.
    pub(super) replicas: i32,
    pub(super) pods: Vec<Pod>,
    /// The policy, if it allows zero for every pod.
    pub(super) policy: Option<Policy>,
    pub(super) asleep: Option<Asleep>,
    /// Services that select the pods and have an address.
    pub(super) services: Vec<String>,
    /// One of the Services has no address of its own, so its clients go to pods
    /// directly and could not be held.
    pub(super) headless: bool,
    /// Nodes that are ready.
    pub(super) nodes: Vec<String>,
}

/// What to do, in this order.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Step {
    /// Make the `Sleeper`.
    Create { policy: String, replicas: i32, services: Vec<String> },
    /// Write its specification.
    Specify { hold: Option<Hold>, replicas: i32, services: Vec<String> },
    /// Write its phase.
    Enter(Phase, &'static str),
    /// Write the workload's replicas.
    Scale(i32),
    /// Remove the `Sleeper`: no policy asks for it any more.
    Delete,
}

/// Steps, and when to look again though nothing changes.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) again: Option<Duration>,
}

impl Plan {
    fn steps(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { steps: steps.into_iter().collect(), again: None }
    }

    fn wait(until: Timestamp, now: Timestamp) -> Self {
        let again = Duration::try_from(until.duration_since(now)).unwrap_or_default().max(Duration::from_millis(1));
        Self { steps: Vec::new(), again: Some(again) }
    }
}

fn plus(time: Timestamp, duration: Duration) -> Timestamp {
    time.checked_add(duration).unwrap_or(Timestamp::MAX)
}

/// The decision.
pub(super) fn plan(facts: &Facts) -> Plan {
    let Some(asleep) = &facts.asleep else { return begin(facts, None) };
    match asleep.phase {
        Phase::Falling => falling(facts, asleep),
        Phase::Gone => gone(facts, asleep),
        Phase::Rising => rising(facts, asleep),
        Phase::Awake => awake(facts, asleep),
    }
}

fn specify(facts: &Facts, asleep: &Asleep, hold: Option<Hold>) -> Option<Step> {
    let replicas = if facts.replicas > 0 { facts.replicas } else { asleep.replicas };
    let same = asleep.hold == hold && asleep.services == facts.services && asleep.replicas == replicas;
    (!same).then(|| Step::Specify { hold, replicas, services: facts.services.clone() })
}

/// Since when every pod has been asleep; `None` if one is not.
fn asleep_since(facts: &Facts) -> Option<Timestamp> {
    let complete = i32::try_from(facts.pods.len()) == Ok(facts.replicas);
    let since = facts.pods.iter().map(|pod| pod.since.filter(|_| pod.rung.is_asleep() && !pod.ending));
    let since: Option<Vec<Timestamp>> = since.collect();
    since.filter(|_| complete)?.into_iter().max()
}

fn misses(wakes: &WakeHistogram, objective: Duration) -> bool {
    let within = wakes.count_up_to(objective);
    // One of a hundred may.
    wakes.count() - within > wakes.count() / 100 + u64::from(wakes.count() < 100)
}

/// From above zero: whether to begin the way down.
fn begin(facts: &Facts, asleep: Option<&Asleep>) -> Plan {
    let Some(policy) = &facts.policy else { return Plan::default() };
    if facts.replicas < 1 || facts.services.is_empty() || facts.headless || facts.nodes.is_empty() {
        return Plan::default();
    }
    if policy.warm {
        return policy.next_window.map_or_else(Plan::default, |until| Plan::wait(until, facts.now));
    }
    if let (Some(asleep), Some(objective)) = (asleep, policy.objective)
        && misses(&all_wakes(&asleep.nodes), objective)
        && facts.now < plus(asleep.since, BAR)
    {
        return Plan::wait(plus(asleep.since, BAR), facts.now);
    }
    if let Some(asleep) = asleep.filter(|asleep| asleep.reason == NOT_HELD) {
        let again = plus(asleep.since, NOT_HELD_RETRY);
        if facts.now < again {
            return Plan::wait(again, facts.now);
        }
    }
    let Some(since) = asleep_since(facts) else { return Plan::default() };
    // One that came back, or turned around on its way down, gets the whole time
    // again: turning around costs writes, and must not be done in a circle.
    let since = asleep.map_or(since, |asleep| since.max(asleep.since));
    let due = plus(since, policy.idle_after.saturating_mul(GONE_AFTER_IDLE_TIMES));
    if facts.now < due {
        return Plan::wait(due, facts.now);
    }
    let (replicas, services) = (facts.replicas, facts.services.clone());
    match asleep {
        None => Plan::steps([Step::Create { policy: policy.name.clone(), replicas, services }]),
        Some(_) => Plan::steps([
            Step::Enter(Phase::Falling, "LongIdle"),
            Step::Specify { hold: Some(Hold::Always), replicas, services },
        ]),
    }
}

/// The wakes of all nodes.
pub(super) fn all_wakes(nodes: &[SleeperNode]) -> WakeHistogram {
    let mut all = WakeHistogram::default();
    for node in nodes {
        all.merge(&node.wakes);
    }
    all
}

fn is_waited_for(asleep: &Asleep) -> bool {
    asleep.nodes.iter().any(|node| node.held_since.is_some())
}

fn falling(facts: &Facts, asleep: &Asleep) -> Plan {
    if facts.replicas == 0 {
        // The replicas went and this was not written any more.
        return Plan::steps([Step::Enter(Phase::Gone, "LongIdle")]);
    }
    let stays =
        |reason| Plan::steps(specify(facts, asleep, None).into_iter().chain([Step::Enter(Phase::Awake, reason)]));
    let Some(policy) = &facts.policy else { return stays("PolicyChanged") };
    if is_waited_for(asleep) {
        return stays("Packet");
    }
    if policy.warm {
        return stays("KeepWarm");
    }
    if asleep_since(facts).is_none() || facts.services != asleep.services || facts.headless {
        return stays("Activity");
    }
    let held = |name: &String| asleep.nodes.iter().any(|node| node.name == *name && node.holding == Some(Hold::Always));
    if !facts.nodes.iter().all(held) {
        // A node that does not answer must not leave connections held for ever.
        let limit = plus(asleep.since, LINGER);
        return if facts.now < limit { Plan::wait(limit, facts.now) } else { stays(NOT_HELD) };
    }
    let settled = plus(asleep.since, SETTLE);
    if facts.now < settled {
        return Plan::wait(settled, facts.now);
    }
    Plan::steps([Step::Scale(0), Step::Enter(Phase::Gone, "LongIdle")])
}

fn gone(facts: &Facts, asleep: &Asleep) -> Plan {
    let up = |reason| Plan::steps([Step::Scale(asleep.replicas), Step::Enter(Phase::Rising, reason)]);
    if facts.replicas > 0 {
        return Plan::steps([Step::Enter(Phase::Rising, "Scaled")]);
    }
    // What is left of the old pods must be known to end, so that a ready pod is
    // a new one.
    let ended = facts.pods.iter().all(|pod| pod.ending);
    if ended && is_waited_for(asleep) {
        return up("Packet");
    }
    match &facts.policy {
        None => return up("PolicyChanged"),
        Some(policy) if policy.warm => return up("KeepWarm"),
        Some(_) => {}
    }
    if facts.services.is_empty() || facts.headless {
        return up("NoService");
    }
    // Old endpoints would be taken for serving.
    let hold = if facts.pods.is_empty() { Hold::WhenUnserved } else { Hold::Always };
    let mut plan = Plan::steps(specify(facts, asleep, Some(hold)));
    if let Some(policy) = &facts.policy
        && let Some(at) = policy.next_window
    {
        plan.again = Plan::wait(at, facts.now).again;
    }
    plan
}

fn rising(facts: &Facts, asleep: &Asleep) -> Plan {
    if facts.replicas == 0 {
        return Plan::steps([Step::Scale(asleep.replicas)]);
    }
    let ready = facts.pods.iter().any(|pod| pod.ready && !pod.ending);
    let old = facts.pods.iter().any(|pod| pod.ending);
    let hold = if old && !ready { Hold::Always } else { Hold::WhenUnserved };
    let steps = specify(facts, asleep, Some(hold)).into_iter();
    Plan::steps(steps.chain(ready.then_some(Step::Enter(Phase::Awake, "Serves"))))
}

fn awake(facts: &Facts, asleep: &Asleep) -> Plan {
    let lingers = plus(asleep.since, LINGER);
    if asleep.hold.is_some() && facts.now < lingers {
        return Plan::wait(lingers, facts.now);
    }
    if facts.policy.is_none() {
        return Plan::steps(specify(facts, asleep, None).into_iter().chain([Step::Delete]));
    }
    if asleep.hold.is_some() {
        return Plan::steps(specify(facts, asleep, None));
    }
    if is_waited_for(asleep) {
        return Plan::default();
    }
    begin(facts, Some(asleep))
}

#[cfg(test)]
mod tests;
