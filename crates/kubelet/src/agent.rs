//! The agent as a whole: follows the pods of its node, gives each a worker,
//! adopts what a former run left, and hands runtime events out.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};

use api::types::api::core::v1 as core;
use client::events::Recorder;
use client::{Client, Delta, Informer, WatchParams};
use containers::runtime::{Runtime, RuntimeError};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission;
use crate::config::KubeletConfig;
use crate::context::{Context, Registry};
use crate::events::Events;
use crate::image::Puller;
use crate::labels;
use crate::machine;
use crate::mailbox::{Mailbox, PodEvent};
use crate::node;
use crate::node_api::NodeApi;
use crate::references::References;
use crate::resolv;
use crate::resources::{self, QosClass};
use crate::sleep::{Sleep, SleepTask};
use crate::spec;
use crate::tokens::Tokens;
use crate::users::UserRanges;
use crate::worker::{Ids, Worker};

/// Why the agent could not start.
#[derive(thiserror::Error, Debug)]
pub enum StartError {
    /// A directory could not be made.
    #[error("making directory {path}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The runtime did not say what it has.
    #[error("asking the runtime what it runs")]
    Runtime(#[source] RuntimeError),
    /// The cgroups of the quality of service classes could not be made.
    #[error("making cgroup {path}")]
    Cgroup {
        /// Which.
        path: String,
        /// The cause.
        #[source]
        source: RuntimeError,
    },
}

/// One node agent.
pub struct Kubelet {
    context: Arc<Context>,
    recorder: client::events::RecorderTask,
    services: client::InformerTask,
    sleep: SleepTask,
    node: client::InformerTask,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Kubelet {
    /// Prepares the agent; nothing is read or written before [`Kubelet::run`].
    pub fn new(client: Client, runtime: Arc<dyn Runtime>, config: KubeletConfig) -> Self {
        let (recorder, recorder_task) = Recorder::new(client.clone(), "kubelet", Some(&config.node_name));
        let (services, services_task) = Informer::new(client.all::<core::Service>(), WatchParams::default());
        let own = WatchParams::fields(format!("metadata.name={}", config.node_name));
        let (node, node_task) = Informer::new(client.all::<core::Node>(), own);
        let shutdown = CancellationToken::new();
        let tasks = TaskTracker::new();
        let pods = Arc::new(Registry::default());
        let registry = pods.clone();
        let on_change = Arc::new(move |uid: &str| {
            if let Some(mailbox) = registry.mailbox(uid) {
                mailbox.post(PodEvent::Reference);
            }
        });
        let events = Events::new(recorder, &config.node_name);
        let (sleep, sleep_task) = Sleep::new(&client, &config.node_name);
        let host_dns =
            std::fs::read_to_string(&config.resolv_conf).map(|text| resolv::parse(&text)).unwrap_or_default();
        let context = Context {
            references: References::new(client.clone(), tasks.clone(), shutdown.clone(), on_change),
            tokens: Tokens::new(client.clone()),
            puller: Puller::new(runtime.clone(), events.clone(), config.parallel_pulls),
            users: UserRanges::default(),
            runtime_name: runtime.version().0,
            memory_bytes: machine::memory_bytes(),
            allocatable: RwLock::new(machine::allocatable_milli(&config)),
            busy: Context::turns(),
            sleep,
            services,
            node,
            host_dns,
            events,
            pods,
            config,
            client,
            runtime,
        };
        Self {
            context: Arc::new(context),
            recorder: recorder_task,
            services: services_task,
            sleep: sleep_task,
            node: node_task,
            tasks,
            shutdown,
        }
    }

    /// What the node's HTTP API needs.
    pub fn node_api(&self) -> NodeApi {
        NodeApi::new(self.context.clone())
    }

    /// The node's sleepers. Pods sleep once traffic can be seen: open
    /// `network::activity::Activity` with [`Sleep::watcher`], then hand it to
    /// [`Sleep::enable`], at any time, also while the agent runs.
    pub fn sleep(&self) -> Sleep {
        self.context.sleep.clone()
    }

    /// Runs until `shutdown`. Containers outlive it.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), StartError> {
        let Self { context, recorder, services, sleep, node, tasks, shutdown: own } = self;
        make_directories(&context.config)?;
        make_cgroups(&context).await?;
        // Before the first list, so that nothing is missed in between.
        let events = context.runtime.events();
        let left = left_by_former_run(&context).await?;
        tasks.spawn(recorder.run(own.clone()));
        tasks.spawn(services.run(own.clone()));
        let registry = context.pods.clone();
        tasks.spawn(sleep.run(move |namespace| rules_changed(&registry, namespace), own.clone()));
        tasks.spawn(node.run(own.clone()));
        tasks.spawn(node::run(context.clone(), own.clone()));
        tasks.spawn(runtime_events(context.clone(), events, own.clone()));
        let params = WatchParams::fields(format!("spec.nodeName={}", context.config.node_name));
        let (pods, pods_task) = Informer::new(context.client.all::<core::Pod>(), params);
        tasks.spawn(pods_task.run(own.clone()));
        let dispatcher = Dispatcher { context, left, tasks: tasks.clone(), shutdown: own.clone() };
        tasks.spawn(dispatcher.run(pods));
        shutdown.cancelled().await;
        own.cancel();
        tasks.close();
        tasks.wait().await;
        Ok(())
    }
}

fn make_directories(config: &KubeletConfig) -> Result<(), StartError> {
    for path in [config.root_dir.join("pods"), config.log_dir.clone()] {
        std::fs::create_dir_all(&path).map_err(|source| StartError::Directory { path, source })?;
    }
    Ok(())
}

async fn make_cgroups(context: &Context) -> Result<(), StartError> {
    for class in [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort] {
        let path = resources::class_cgroup_path(&context.config.cgroup_root, class);
        let limits = match class {
            QosClass::BestEffort => containers::runtime::Resources { cpu_shares: Some(2), ..Default::default() },
            _ => containers::runtime::Resources::default(),
        };
        context.runtime.set_cgroup(&path, limits).await.map_err(|source| StartError::Cgroup { path, source })?;
    }
    Ok(())
}

/// Sandboxes and containers by the uid of their pod, oldest first.
async fn left_by_former_run(context: &Context) -> Result<HashMap<String, Ids>, StartError> {
    let mut sandboxes = context.runtime.sandboxes().await.map_err(StartError::Runtime)?;
    let mut containers = context.runtime.containers().await.map_err(StartError::Runtime)?;
    sandboxes.sort_by_key(|s| s.created);
    containers.sort_by_key(|c| c.created);
    let mut owners = HashMap::new();
    let mut left: HashMap<String, Ids> = HashMap::new();
    for sandbox in sandboxes {
        if let Some(range) = sandbox.users {
            context.users.adopt(range);
        }
        let uid = labels::sandbox_pod_uid(&sandbox).to_owned();
        owners.insert(sandbox.id.clone(), uid.clone());
        left.entry(uid).or_default().sandboxes.push(sandbox.id);
    }
    for container in containers {
        if let Some(uid) = owners.get(&container.sandbox) {
            left.entry(uid.clone()).or_default().containers.push(container.id);
        }
    }
    Ok(left)
}

/// Tells the workers of a namespace to look at their rules of sleep.
fn rules_changed(pods: &Registry, namespace: &str) {
    for entry in pods.all().iter().filter(|entry| spec::namespace(&entry.pod) == namespace) {
        entry.mailbox.post(PodEvent::Sleep);
    }
}

/// Tells workers that something of theirs changed in the runtime.
async fn runtime_events(
    context: Arc<Context>,
    mut events: tokio::sync::broadcast::Receiver<containers::runtime::RuntimeEvent>,
    shutdown: CancellationToken,
) {
    while let Some(event) = shutdown.run_until_cancelled(events.recv()).await {
        match event {
            Ok(event) => {
                if let Some(mailbox) = context.pods.owner(&event.sandbox) {
                    mailbox.post(PodEvent::Runtime);
                }
            }
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "runtime events were missed; looking at all pods");
                for entry in context.pods.all() {
                    entry.mailbox.post(PodEvent::Runtime);
                }
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// Gives each pod of this node a worker.
struct Dispatcher {
    context: Arc<Context>,
    left: HashMap<String, Ids>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Dispatcher {
    async fn run(mut self, pods: Informer<core::Pod>) {
        if self.shutdown.run_until_cancelled(pods.synced()).await.is_none() {
            return;
        }
        let known: Vec<String> = pods.list().iter().map(|p| spec::uid(p).to_owned()).collect();
        let orphans: Vec<(String, Ids)> = self.left.extract_if(|uid, _| !known.contains(uid)).collect();
        for (uid, ids) in orphans {
            self.tasks.spawn(remove_orphan(self.context.clone(), uid, ids));
        }
        let mut changes = pods.subscribe();
        while let Some(Some(delta)) = self.shutdown.run_until_cancelled(changes.next()).await {
            match delta {
                Delta::Added(pod) => self.added(pod),
                Delta::Updated { old, new } => {
                    if spec::uid(&old) != spec::uid(&new) {
                        self.gone(&old);
                    }
                    self.added(new);
                }
                Delta::Deleted(pod) => self.gone(&pod),
            }
        }
    }

    fn gone(&self, pod: &core::Pod) {
        if let Some(mailbox) = self.context.pods.mailbox(spec::uid(pod)) {
            mailbox.post(PodEvent::Object(Arc::new(pod.clone())));
            mailbox.post(PodEvent::Gone);
        }
    }

    fn added(&mut self, pod: Arc<core::Pod>) {
        let uid = spec::uid(&pod).to_owned();
        if let Some(mailbox) = self.context.pods.mailbox(&uid) {
            mailbox.post(PodEvent::Object(pod));
            return;
        }
        let ids = self.left.remove(&uid).unwrap_or_default();
        let adopted = !ids.sandboxes.is_empty();
        let mailbox = Arc::new(Mailbox::default());
        self.context.pods.insert(&uid, mailbox.clone(), pod.clone());
        for id in &ids.sandboxes {
            self.context.pods.owns(id, &uid);
        }
        let node = self.context.node.list().into_iter().next();
        let refused = if adopted { None } else { let_in(&self.context, &pod, node.as_deref()) };
        let newcomer = Newcomer { context: self.context.clone(), mailbox, pod, ids };
        self.tasks.spawn(newcomer.run(refused, self.shutdown.clone()));
    }
}

/// Counts the pod as one of the node's, or says why not.
fn let_in(context: &Context, pod: &Arc<core::Pod>, node: Option<&core::Node>) -> Option<admission::Refusal> {
    let own = node::labels(&context.config);
    let place = admission::Place {
        name: &context.config.node_name,
        // Without an object the node is what it registers as.
        labels: node.and_then(|n| n.metadata.labels.as_ref()).unwrap_or(&own),
        taints: node.and_then(|n| n.spec.as_ref()?.taints.as_deref()).unwrap_or_default(),
    };
    let uid = spec::uid(pod);
    context.pods.allot(uid, pod.clone(), |pod, others| admission::refuse(context, pod, others, &place))
}

/// A pod that came to the node.
struct Newcomer {
    context: Arc<Context>,
    mailbox: Arc<Mailbox>,
    pod: Arc<core::Pod>,
    ids: Ids,
}

impl Newcomer {
    /// Lives as a worker, or as a refused pod until it is deleted.
    async fn run(self, mut refused: Option<admission::Refusal>, shutdown: CancellationToken) {
        let Self { context, mailbox, pod, ids } = self;
        if refused.as_ref().is_some_and(admission::Refusal::depends_on_labels) {
            // The watch may be behind whoever labelled the node for this pod.
            let nodes = context.client.all::<core::Node>();
            match nodes.get(&context.config.node_name).await {
                Ok(node) => refused = let_in(&context, &pod, Some(&node)),
                Err(err) => tracing::warn!(err = %api::error::Chain(&err), "node could not be read"),
            }
        }
        match refused {
            Some(refusal) => admission::reject(context, pod, refusal, mailbox, shutdown).await,
            None => Worker::new(context, mailbox, pod, ids).run(shutdown).await,
        }
    }
}

/// A pod that the API does not know any more: end it and remove its traces.
async fn remove_orphan(context: Arc<Context>, uid: String, ids: Ids) {
    for id in &ids.sandboxes {
        let range = context.runtime.sandbox(id).await.ok().and_then(|sandbox| sandbox.users);
        let stopped = context.runtime.stop_sandbox(id).await;
        let removed = context.runtime.remove_sandbox(id).await;
        if let (Some(range), Ok(())) = (range, &removed) {
            context.users.give_back(range);
        }
        for err in [stopped, removed].into_iter().filter_map(Result::err) {
            tracing::warn!(uid = %uid, err = %api::error::Chain(&err), "sandbox of a pod that is gone could not be removed");
        }
    }
    let root = context.config.root_dir.clone();
    let result = tokio::task::spawn_blocking(move || crate::volume::remove_pod_dir(&root, &uid)).await;
    if let Ok(Err(err)) = result {
        tracing::warn!(err = %err, "files of a pod that is gone could not be removed");
    }
}
