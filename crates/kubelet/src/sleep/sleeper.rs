//! One pod that sleeps: a task that waits for idleness and takes the pod down
//! the ladder, and a thaw that runs wherever the packet is seen. What to do next
//! is [`ladder`]'s to say.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use api::elastic::Rung;
use client::ObjectKey;
use containers::runtime::paging::PageOutEnd;
use containers::runtime::{Runtime, SandboxId};
use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Duration;
use tokio_util::sync::CancellationToken;

use super::ladder::{self, Learned, Step, Work};
use super::machine::{Change, Machine, Next, Reason};
use super::report::Member;
use super::rules::Rules;
use super::{Sleep, Traffic, lock};

/// After a failed freeze or lookup.
const RETRY: Duration = Duration::from_secs(10);

/// Called after each change of rung.
pub(crate) type OnChange = Box<dyn Fn() + Send + Sync>;

/// Who sleeps.
pub(crate) struct About {
    /// The pod's name.
    pub(crate) pod: String,
    /// Its uid.
    pub(crate) uid: String,
    /// The policy that holds for it.
    pub(crate) policy: Option<ObjectKey>,
    /// CPU that it requests, thousandths.
    pub(crate) cpu_milli: u64,
    /// Its address.
    pub(crate) address: IpAddr,
    /// Its sandbox.
    pub(crate) sandbox: SandboxId,
}

/// See the module.
pub(crate) struct Sleeper {
    about: About,
    rules: Rules,
    runtime: Arc<dyn Runtime>,
    machine: Mutex<Machine>,
    /// Shared by the pods of one app on this node.
    learned: Arc<Mutex<Learned>>,
    /// The rung of a wake that has not been answered yet.
    waking: Mutex<Option<Rung>>,
    /// Memory of the pod that is in swap, bytes.
    paged_bytes: AtomicU64,
    /// Where work runs that the thread of a packet must not wait for.
    tasks: Handle,
    /// A wake that missed the objective and was not told yet.
    missed: Mutex<Option<(Rung, Duration)>>,
    changed: Notify,
    on_change: OnChange,
}

impl Sleeper {
    /// `frozen`: a former run of the agent froze the pod. Called within a tokio
    /// runtime.
    pub(crate) fn new(
        about: About,
        rules: Rules,
        frozen: bool,
        learned: Arc<Mutex<Learned>>,
        runtime: Arc<dyn Runtime>,
        on_change: OnChange,
    ) -> Arc<Self> {
        Arc::new(Self {
            about,
            rules,
            runtime,
            machine: Mutex::new(Machine::new(frozen, Instant::now())),
            learned,
            waking: Mutex::new(None),
            paged_bytes: AtomicU64::new(0),
            tasks: Handle::current(),
            missed: Mutex::new(None),
            changed: Notify::new(),
            on_change,
        })
    }

    pub(crate) fn rung(&self) -> Rung {
        lock(&self.machine).rung()
    }

    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// How often it changed its rung, and the latest change.
    pub(crate) fn changes(&self) -> (u64, Option<Change>) {
        let machine = lock(&self.machine);
        (machine.changes(), machine.last())
    }

    /// A wake that missed the objective, once.
    pub(crate) fn take_missed(&self) -> Option<(Rung, Duration)> {
        lock(&self.missed).take()
    }

    /// The first packet came: on the thread that saw it.
    pub(super) fn packet(self: &Arc<Self>, sleep: &Sleep) {
        let begun = Instant::now();
        if self.wake(sleep, Reason::Packet) {
            sleep.metrics().thawed(begun.elapsed());
        }
    }

    /// The pod sent its first data after a wake.
    pub(super) fn answered(self: &Arc<Self>, sleep: &Sleep, took: Duration) {
        let Some(from) = lock(&self.waking).take() else { return };
        if from == Rung::PagedOut {
            self.tasks.spawn(self.clone().record_working_set());
        }
        sleep.metrics().answered(from, took);
        if let Some(policy) = &self.about.policy {
            sleep.reports().woke(policy, from, took);
        }
        if lock(&self.learned).woke(from, took, self.rules.objective, Instant::now()) {
            *lock(&self.missed) = Some((from, took));
            (self.on_change)();
        }
    }

    /// True if it slept.
    fn wake(self: &Arc<Self>, sleep: &Sleep, reason: Reason) -> bool {
        // The lock is held over the thaw, so that the next freeze comes after it.
        let mut machine = lock(&self.machine);
        let next = machine.disturbed(reason, Instant::now());
        let change = self.carry_out(next, &machine);
        drop(machine);
        if let Some(change) = change {
            *lock(&self.waking) = (reason == Reason::Packet).then_some(change.from);
            self.moved(sleep, change);
        }
        self.changed.notify_one();
        change.is_some()
    }

    /// Thaws if that is next; returns the change of rung that it was.
    fn carry_out(self: &Arc<Self>, next: Next, machine: &Machine) -> Option<Change> {
        let Next::Thaw(from) = next else { return None };
        if from == Rung::PagedOut {
            // Milliseconds: other sleepers' packets must not wait for it.
            let sleeper = self.clone();
            self.tasks.spawn_blocking(move || sleeper.rise_from_swap());
        } else {
            self.thaw();
        }
        machine.last().filter(|_| from.is_asleep())
    }

    /// Brings the pages back that a wake needs, then thaws. Blocks.
    fn rise_from_swap(&self) {
        if let Err(err) = self.runtime.bring_back(&self.about.sandbox) {
            tracing::debug!(sandbox = %self.about.sandbox.0, err = %api::error::Chain(&err), "working set could not be brought back first");
        }
        self.thaw();
        self.paged_bytes.store(0, Ordering::Relaxed);
        lock(&self.machine).risen_from_swap(Instant::now());
        self.changed.notify_one();
    }

    async fn record_working_set(self: Arc<Self>) {
        if let Err(err) = self.runtime.record_working_set(&self.about.sandbox).await {
            tracing::debug!(sandbox = %self.about.sandbox.0, err = %api::error::Chain(&err), "working set could not be recorded");
        }
    }

    fn thaw(&self) {
        let sandbox = &self.about.sandbox;
        if let Err(err) = self.runtime.thaw(sandbox) {
            tracing::warn!(sandbox = %sandbox.0, err = %api::error::Chain(&err), "sandbox could not be thawed");
        }
    }

    /// Tells everyone of a change.
    fn moved(&self, sleep: &Sleep, change: Change) {
        sleep.metrics().moved(change.from, change.to);
        if let Some(policy) = &self.about.policy {
            sleep.reports().member(policy, &self.about.uid, self.member(change.to));
            sleep.reports().moved(policy, &self.about.pod, change, change.reason.as_str());
        }
        (self.on_change)();
    }

    fn member(&self, rung: Rung) -> Member {
        let paged_bytes = if rung == Rung::PagedOut { self.paged_bytes.load(Ordering::Relaxed) } else { 0 };
        Member { rung, cpu_milli: self.about.cpu_milli, paged_bytes }
    }

    /// Keeps the pod awake until the guard is dropped; wakes it first.
    pub(crate) fn hold(self: &Arc<Self>, sleep: &Sleep) -> Awake {
        let mut machine = lock(&self.machine);
        let next = machine.hold(Instant::now());
        let change = self.carry_out(next, &machine);
        drop(machine);
        if let Some(change) = change {
            self.moved(sleep, change);
        }
        self.changed.notify_one();
        Awake(self.clone())
    }

    /// Runs until the pod ends. Leaves it thawed, so that it can answer while
    /// nobody watches.
    pub(crate) async fn run(self: Arc<Self>, sleep: Sleep, stop: CancellationToken) {
        let Some(Some(traffic)) = stop.run_until_cancelled(sleep.traffic()).await else { return };
        sleep.insert(self.about.address, self.clone());
        sleep.metrics().enters(self.rung());
        if let Some(policy) = &self.about.policy {
            sleep.reports().member(policy, &self.about.uid, self.member(self.rung()));
        }
        stop.run_until_cancelled(self.live(&*traffic, &sleep)).await;
        sleep.remove(self.about.address);
        if let Err(err) = traffic.untrack(self.about.address) {
            tracing::debug!(address = %self.about.address, err = %api::error::Chain(&err), "address could not be untracked");
        }
        self.wake(&sleep, Reason::Released);
        sleep.metrics().leaves(self.rung());
        if let Some(policy) = &self.about.policy {
            sleep.reports().left(policy, &self.about.uid);
        }
    }

    async fn live(self: &Arc<Self>, traffic: &dyn Traffic, sleep: &Sleep) {
        let address = self.about.address;
        if let Err(err) = traffic.track(address) {
            tracing::warn!(%address, err = %api::error::Chain(&err), "a pod that wants to sleep stays awake");
            return;
        }
        self.take_over(traffic, sleep);
        let mut work = WorkSeen::default();
        let paging = self.rules.lowest >= Rung::PagedOut && sleep.paging(&self.runtime).await.is_ok();
        loop {
            let rung = self.rung();
            if rung == Rung::Hot {
                // Woken by a session, not by a packet, it would be watched on.
                let _unarmed = traffic.disarm(address);
            }
            let (warm, boundary) = self.rules.kept_warm(Timestamp::now());
            if warm && rung.is_asleep() {
                self.wake(sleep, Reason::KeepWarm);
                continue;
            }
            let now = Instant::now();
            let step = ladder::down(rung, &self.rules, &lock(&self.learned), paging, now);
            let due = match step {
                Some(step) if !warm => self.due(rung, step, traffic, now),
                _ => None,
            };
            let again = boundary
                .map(|at| instant(at, now))
                .into_iter()
                .chain(ladder::look_again(&lock(&self.learned), now))
                .min();
            let next = due.into_iter().chain(again).min();
            match (due, step) {
                (Some(due), Some(step)) if due <= now => self.descend(step, traffic, sleep, &mut work).await,
                _ => tokio::select! {
                    // On the lowest rung, held or kept warm: only an event leads on.
                    () = sleep_until(next) => {}
                    () = self.changed.notified() => {}
                },
            }
        }
    }

    fn due(&self, rung: Rung, step: Step, traffic: &dyn Traffic, now: Instant) -> Option<Instant> {
        let address = self.about.address;
        let since = if rung == Rung::Hot { traffic.since_last(address) } else { Ok(Duration::ZERO) };
        match since {
            Ok(since) => lock(&self.machine).due(step.after, since, now),
            Err(err) => {
                tracing::warn!(%address, err = %api::error::Chain(&err), "last traffic of a pod is not known");
                Some(now + RETRY)
            }
        }
    }

    /// A pod that was frozen before this run: still watched for, or a packet
    /// came while nobody looked.
    fn take_over(self: &Arc<Self>, traffic: &dyn Traffic, sleep: &Sleep) {
        if !self.rung().is_asleep() {
            return;
        }
        let address = self.about.address;
        let untouched = traffic.armed().is_ok_and(|armed| armed.contains(&address));
        let armed = untouched && traffic.arm(address).is_ok();
        if !armed {
            self.packet(sleep);
        }
    }

    /// One step down, or a reason to stay.
    async fn descend(self: &Arc<Self>, step: Step, traffic: &dyn Traffic, sleep: &Sleep, work: &mut WorkSeen) {
        match step.to {
            Rung::Frozen => {
                let risen = lock(&self.machine).risen();
                if work.busy(&*self.runtime, &self.about.sandbox, &self.rules, risen).await {
                    lock(&self.machine).busy(Instant::now());
                } else {
                    self.freeze(traffic, sleep).await;
                }
            }
            _ => self.page_out(sleep).await,
        }
    }

    async fn page_out(self: &Arc<Self>, sleep: &Sleep) {
        let sandbox = &self.about.sandbox;
        let (changes, _) = self.changes();
        let paged = match self.runtime.page_out(sandbox).await {
            Ok(paged) => paged,
            Err(err) => {
                tracing::warn!(sandbox = %sandbox.0, err = %api::error::Chain(&err), "sandbox could not be paged out");
                lock(&self.machine).not_deeper(Instant::now());
                return;
            }
        };
        match paged.end {
            PageOutEnd::Complete => {}
            PageOutEnd::Woken => return,
            PageOutEnd::SwapFull => {
                tracing::warn!(sandbox = %sandbox.0, "swap is full, a sleeper keeps its memory");
                lock(&self.machine).not_deeper(Instant::now());
                return;
            }
        }
        let left = paged.resident_after_bytes + paged.held_in_bytes.unwrap_or(0);
        let freed = paged.resident_before_bytes.saturating_sub(left);
        lock(&self.learned).paged_out(freed, paged.resident_before_bytes, Instant::now());
        self.paged_bytes.store(freed, Ordering::Relaxed);
        let change = {
            let mut machine = lock(&self.machine);
            machine.deeper(Rung::PagedOut, changes, Instant::now()).then(|| machine.last()).flatten()
        };
        if let Some(change) = change {
            self.moved(sleep, change);
        }
    }

    async fn freeze(self: &Arc<Self>, traffic: &dyn Traffic, sleep: &Sleep) {
        if !lock(&self.machine).begin_freeze() {
            return;
        }
        // Armed first: a packet between here and the freeze is reported, and
        // one before shows in the age.
        let (address, sandbox) = (self.about.address, &self.about.sandbox);
        let quiet = traffic.arm(address).and_then(|()| traffic.since_last(address));
        let result = match quiet {
            Ok(since) if since >= self.rules.after => match self.runtime.freeze(sandbox).await {
                Ok(()) => Ok(true),
                Err(err) => Err(api::error::Chain(&err).to_string()),
            },
            Ok(_) => Ok(false),
            Err(err) => Err(api::error::Chain(&err).to_string()),
        };
        let change = {
            let now = Instant::now();
            let mut machine = lock(&self.machine);
            let next = if matches!(result, Ok(true)) { machine.frozen(now) } else { machine.not_frozen(now) };
            self.carry_out(next, &machine);
            machine.last().filter(|_| machine.rung().is_asleep())
        };
        if let Some(change) = change {
            self.moved(sleep, change);
            return;
        }
        if let Err(err) = traffic.disarm(address) {
            tracing::debug!(%address, err = %api::error::Chain(&err), "address could not be disarmed");
        }
        if let Err(err) = result {
            tracing::warn!(sandbox = %sandbox.0, err, "sandbox could not be frozen");
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// The pod's work up to the last look.
#[derive(Default)]
struct WorkSeen {
    last: Option<(Instant, u64)>,
}

impl WorkSeen {
    /// Whether the pod worked without packets since the last look or since it
    /// woke, whichever is later. What can't be looked at is not busy.
    async fn busy(&mut self, runtime: &dyn Runtime, sandbox: &SandboxId, rules: &Rules, risen: Instant) -> bool {
        let activity = match runtime.activity(sandbox).await {
            Ok(activity) => activity,
            Err(err) => {
                tracing::debug!(sandbox = %sandbox.0, err = %api::error::Chain(&err), "work of a sandbox is not known");
                return false;
            }
        };
        let now = Instant::now();
        let (from, cpu_ns) = match self.last {
            Some((at, cpu)) => (at.max(risen), activity.cpu_usage_ns.saturating_sub(cpu)),
            // What it used before it was first looked at was its start.
            None => (now, 0),
        };
        self.last = Some((now, activity.cpu_usage_ns));
        let work = Work { cpu_ns, over: now.duration_since(from), connections: activity.connections };
        let busy = ladder::busy(work, rules);
        if let Some(why) = busy {
            tracing::debug!(sandbox = %sandbox.0, why, "a pod without packets stays awake");
        }
        busy.is_some()
    }
}

/// The moment at which the wall clock will show `at`, as far as is known now.
fn instant(at: Timestamp, now: Instant) -> Instant {
    let wait = at.duration_since(Timestamp::now());
    now + Duration::try_from(wait).unwrap_or(Duration::ZERO)
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Keeps a pod awake while it lives.
pub struct Awake(Arc<Sleeper>);

impl Drop for Awake {
    fn drop(&mut self) {
        lock(&self.0.machine).release(Instant::now());
        self.0.changed.notify_one();
    }
}
