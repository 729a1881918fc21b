//! `darter status`: what runs, what sleeps and what that saves, from the API
//! alone.

use std::process::ExitCode;

use api::elastic::{IDLE_AFTER_LABEL, RUNG_ANNOTATION, Rung, SleepPolicy, Sleeper, duration};
use api::error::Chain;
use api::types::api::core::v1::{Node, Pod};
use api::types::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use client::{Client, ClientError, ListParams};
use serde_json::json;

use crate::arguments::{Output, Status};
use crate::instance::Instance;
use crate::parts;

/// Exit code for a cluster that does not answer.
const NOT_RUNNING: u8 = 3;

/// Prints it.
pub(crate) async fn print(arguments: &Status) -> ExitCode {
    let kubeconfig = match (&arguments.kubeconfig, Instance::new(&arguments.place.data_dir)) {
        (Some(path), _) => path.clone(),
        (None, Ok(instance)) => instance.kubeconfig(),
        (None, Err(error)) => {
            eprintln!("darter: {}: {error}", arguments.place.data_dir.display());
            return ExitCode::FAILURE;
        }
    };
    let client = match parts::client(&kubeconfig) {
        Ok(client) => client,
        Err(error) => {
            eprintln!("darter: {}; is a cluster running? `darter up` starts one", Chain(&error));
            return ExitCode::from(NOT_RUNNING);
        }
    };
    match look(&client).await {
        Ok(facts) => {
            facts.print(arguments.output);
            ExitCode::SUCCESS
        }
        Err(ClientError::Transport(error)) => {
            eprintln!("darter: {}; is the cluster running?", Chain(&error));
            ExitCode::from(NOT_RUNNING)
        }
        Err(error) => {
            eprintln!("darter: {}", Chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// What there is to tell.
struct Facts {
    version: String,
    nodes: Vec<(String, bool)>,
    pods: usize,
    running: usize,
    may_sleep: usize,
    asleep: Vec<(String, Rung)>,
    policies: Vec<SleepPolicy>,
    gone: Vec<Sleeper>,
}

async fn look(client: &Client) -> Result<Facts, ClientError> {
    let version = client.get_json("/version").await?["gitVersion"].as_str().unwrap_or_default().to_owned();
    let nodes = client.all::<Node>().list(&ListParams::default()).await?.items;
    let pods = client.all::<Pod>().list(&ListParams::default()).await?.items;
    let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
    let policies = client.all::<SleepPolicy>().list(&ListParams::default()).await?.items;
    let gone = client.all::<Sleeper>().list(&ListParams::default()).await?.items;
    let label = |pod: &Pod| pod.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(IDLE_AFTER_LABEL));
    let rung = |pod: &Pod| {
        let rung = Rung::parse(pod.metadata.annotations.as_ref()?.get(RUNG_ANNOTATION)?)?;
        let name = format!("{}/{}", pod.metadata.namespace.as_deref()?, pod.metadata.name.as_deref()?);
        rung.is_asleep().then_some((name, rung))
    };
    let counted = policies.iter().filter_map(|policy| policy.status.as_ref()?.pods);
    let by_policy: u32 = counted.map(|pods| pods.hot + pods.cool + pods.frozen + pods.paged_out).sum();
    Ok(Facts {
        version,
        nodes: nodes.iter().map(|node| (node.metadata.name.clone().unwrap_or_default(), ready(node))).collect(),
        pods: pods.len(),
        running: pods.iter().filter(|pod| phase(pod) == "Running").count(),
        may_sleep: pods.iter().filter(|pod| label(pod)).count() + usize::try_from(by_policy).unwrap_or(usize::MAX),
        asleep: pods.iter().filter_map(rung).collect(),
        policies,
        gone,
    })
}

fn ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

impl Facts {
    fn print(&self, output: Output) {
        if output == Output::Json {
            let nodes: Vec<_> = self.nodes.iter().map(|(name, ready)| json!({"name": name, "ready": ready})).collect();
            let asleep: Vec<_> = self.asleep.iter().map(|(pod, rung)| json!({"pod": pod, "rung": rung})).collect();
            let policies: Vec<_> = self
                .policies
                .iter()
                .map(|policy| {
                    let status = policy.status.as_ref();
                    json!({"policy": name_of(&policy.metadata), "pods": status.map(|status| status.pods),
                           "wakes": status.map(|status| &status.wakes), "freed": status.map(|status| &status.freed)})
                })
                .collect();
            let gone: Vec<_> = self.gone.iter().map(|sleeper| json!({"workload": workload(sleeper)})).collect();
            println!(
                "{}",
                json!({"version": self.version, "nodes": nodes, "pods": self.pods, "running": self.running,
                       "maySleep": self.may_sleep, "asleep": asleep, "policies": policies, "gone": gone})
            );
            return;
        }
        println!("Kubernetes {}", self.version);
        for (name, ready) in &self.nodes {
            println!("node {name}: {}", if *ready { "ready" } else { "not ready" });
        }
        println!(
            "pods: {}, running {}, may sleep {}, asleep {}",
            self.pods,
            self.running,
            self.may_sleep,
            self.asleep.len()
        );
        for (pod, rung) in &self.asleep {
            println!("  {pod}: {rung}");
        }
        for sleeper in &self.gone {
            let phase = sleeper.status.as_ref().map(|status| status.phase).unwrap_or_default();
            println!("  {}: {phase:?}, {} replicas on wake", workload(sleeper), sleeper.spec.replicas);
        }
        for policy in &self.policies {
            print_policy(policy);
        }
    }
}

fn print_policy(policy: &SleepPolicy) {
    let status = policy.status.clone().unwrap_or_default();
    let pods = status.pods.unwrap_or_default();
    println!(
        "policy {}: hot {}, frozen {}, paged out {}, gone {}",
        name_of(&policy.metadata),
        pods.hot + pods.cool,
        pods.frozen,
        pods.paged_out,
        pods.gone
    );
    for wakes in &status.wakes {
        let [p50, p90, p99] = [wakes.p50, wakes.p90, wakes.p99].map(duration::format);
        println!("  wakes from {}: n {}, p50 {p50}, p90 {p90}, p99 {p99}", wakes.rung, wakes.count);
    }
    if let Some(freed) = status.freed {
        println!("  frees: CPU {}, memory {}", freed.cpu.0, freed.memory.0);
    }
}

fn name_of(metadata: &ObjectMeta) -> String {
    format!("{}/{}", metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

fn workload(sleeper: &Sleeper) -> String {
    let target = &sleeper.spec.target_ref;
    let namespace = sleeper.metadata.namespace.as_deref().unwrap_or_default();
    format!("{namespace}/{}/{}", target.kind.to_lowercase(), target.name)
}
