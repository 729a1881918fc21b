//! One pod that sleeps: a task that waits for idleness, and a thaw that runs
//! wherever the packet is seen.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use containers::runtime::{Runtime, SandboxId};
use tokio::sync::Notify;
use tokio::time::Duration;
use tokio_util::sync::CancellationToken;

use super::machine::{Machine, Next};
use super::metrics::SleepMetrics;
use super::{Sleep, Traffic, lock};

/// After a failed freeze or lookup.
const RETRY: Duration = Duration::from_secs(10);

/// Called after each change between frozen and hot.
pub(crate) type OnChange = Box<dyn Fn(bool) + Send + Sync>;

/// See the module.
pub(crate) struct Sleeper {
    address: IpAddr,
    sandbox: SandboxId,
    after: Duration,
    runtime: Arc<dyn Runtime>,
    machine: Mutex<Machine>,
    changed: Notify,
    on_change: OnChange,
}

impl Sleeper {
    /// A pod with this address and sandbox. `frozen`: a former run of the
    /// agent froze it.
    pub(crate) fn new(
        address: IpAddr,
        sandbox: SandboxId,
        after: Duration,
        frozen: bool,
        runtime: Arc<dyn Runtime>,
        on_change: OnChange,
    ) -> Arc<Self> {
        let machine = Mutex::new(Machine::new(frozen, Instant::now()));
        Arc::new(Self { address, sandbox, after, runtime, machine, changed: Notify::new(), on_change })
    }

    pub(crate) fn is_frozen(&self) -> bool {
        lock(&self.machine).is_frozen()
    }

    /// How often it fell asleep or woke.
    pub(crate) fn changes(&self) -> u64 {
        lock(&self.machine).changes()
    }

    /// The first packet came: on the thread that saw it.
    pub(super) fn packet(&self, metrics: &SleepMetrics) {
        let begun = Instant::now();
        // The lock is held over the thaw, so that the next freeze comes after it.
        let mut machine = lock(&self.machine);
        if machine.disturbed(begun) == Next::Thaw {
            self.thaw();
            drop(machine);
            metrics.woke(begun.elapsed());
            metrics.awake();
            (self.on_change)(false);
        }
        self.changed.notify_one();
    }

    fn thaw(&self) {
        if let Err(err) = self.runtime.thaw(&self.sandbox) {
            tracing::warn!(sandbox = %self.sandbox.0, err = %api::error::Chain(&err), "sandbox could not be thawed");
        }
    }

    /// Keeps the pod awake until the guard is dropped; wakes it first.
    pub(crate) fn hold(self: &Arc<Self>, sleep: &Sleep) -> Awake {
        let mut machine = lock(&self.machine);
        if machine.hold(Instant::now()) == Next::Thaw {
            self.thaw();
            drop(machine);
            sleep.metrics().awake();
            (self.on_change)(false);
        }
        self.changed.notify_one();
        Awake(self.clone())
    }

    /// Runs until the pod ends. Leaves it thawed, so that it can answer while
    /// nobody watches.
    pub(crate) async fn run(self: Arc<Self>, sleep: Sleep, stop: CancellationToken) {
        let Some(Some(traffic)) = stop.run_until_cancelled(sleep.traffic()).await else { return };
        sleep.insert(self.address, self.clone());
        if self.is_frozen() {
            sleep.metrics().found_frozen();
        }
        stop.run_until_cancelled(self.live(&*traffic, &sleep)).await;
        sleep.remove(self.address);
        if let Err(err) = traffic.untrack(self.address) {
            tracing::debug!(address = %self.address, err = %api::error::Chain(&err), "address could not be untracked");
        }
        let mut machine = lock(&self.machine);
        if machine.disturbed(Instant::now()) == Next::Thaw {
            self.thaw();
            sleep.metrics().awake();
        }
    }

    async fn live(&self, traffic: &dyn Traffic, sleep: &Sleep) {
        if let Err(err) = traffic.track(self.address) {
            tracing::warn!(address = %self.address, err = %api::error::Chain(&err), "a pod that wants to sleep stays awake");
            return;
        }
        self.take_over(traffic, sleep);
        loop {
            let frozen = self.is_frozen();
            let since = if frozen { Ok(Duration::ZERO) } else { traffic.since_last(self.address) };
            let due = match since {
                Ok(since) => lock(&self.machine).due(self.after, since, Instant::now()),
                Err(err) => {
                    tracing::warn!(address = %self.address, err = %api::error::Chain(&err), "last traffic of a pod is not known");
                    Some(Instant::now() + RETRY)
                }
            };
            match due {
                // Frozen or held: only an event leads on.
                None => self.changed.notified().await,
                Some(due) if due > Instant::now() => {
                    let due = tokio::time::Instant::from_std(due);
                    tokio::select! {
                        () = tokio::time::sleep_until(due) => {}
                        () = self.changed.notified() => {}
                    }
                }
                Some(_) => self.freeze(traffic, sleep).await,
            }
        }
    }

    /// A pod that was frozen before this run: still watched for, or a packet
    /// came while nobody looked.
    fn take_over(&self, traffic: &dyn Traffic, sleep: &Sleep) {
        if !self.is_frozen() {
            return;
        }
        let untouched = traffic.armed().is_ok_and(|armed| armed.contains(&self.address));
        let armed = untouched && traffic.arm(self.address).is_ok();
        if !armed {
            self.packet(sleep.metrics());
        }
    }

    async fn freeze(&self, traffic: &dyn Traffic, sleep: &Sleep) {
        if !lock(&self.machine).begin_freeze() {
            return;
        }
        // Armed first: a packet between here and the freeze is reported, and
        // one before shows in the age.
        let quiet = traffic.arm(self.address).and_then(|()| traffic.since_last(self.address));
        let result = match quiet {
            Ok(since) if since >= self.after => match self.runtime.freeze(&self.sandbox).await {
                Ok(()) => Ok(true),
                Err(err) => Err(api::error::Chain(&err).to_string()),
            },
            Ok(_) => Ok(false),
            Err(err) => Err(api::error::Chain(&err).to_string()),
        };
        let asleep = {
            let now = Instant::now();
            let mut machine = lock(&self.machine);
            let next = if matches!(result, Ok(true)) { machine.frozen(now) } else { machine.not_frozen(now) };
            if next == Next::Thaw {
                self.thaw();
            }
            machine.is_frozen()
        };
        if asleep {
            sleep.metrics().slept();
            (self.on_change)(true);
            return;
        }
        if let Err(err) = traffic.disarm(self.address) {
            tracing::debug!(address = %self.address, err = %api::error::Chain(&err), "address could not be disarmed");
        }
        if let Err(err) = result {
            tracing::warn!(sandbox = %self.sandbox.0, err, "sandbox could not be frozen");
            tokio::time::sleep(RETRY).await;
        }
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
