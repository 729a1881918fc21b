//! `darter status`: what runs and what sleeps, from the API alone.

use std::process::ExitCode;

use api::error::Chain;
use api::types::api::core::v1::{Node, Pod};
use client::{Client, ClientError, ListParams};
use serde_json::json;

use crate::arguments::{Output, Status};
use crate::instance::Instance;
use crate::parts;

/// Where the node publishes a pod's rung; absent or `hot` for awake pods.
const RUNG: &str = "elastic.darter.dev/rung";
/// The label that lets a pod sleep.
const IDLE_AFTER: &str = "elastic.darter.dev/idle-after";
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
    asleep: Vec<(String, String)>,
}

async fn look(client: &Client) -> Result<Facts, ClientError> {
    let version = client.get_json("/version").await?["gitVersion"].as_str().unwrap_or_default().to_owned();
    let nodes = client.all::<Node>().list(&ListParams::default()).await?.items;
    let pods = client.all::<Pod>().list(&ListParams::default()).await?.items;
    let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
    let label = |pod: &Pod| pod.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(IDLE_AFTER));
    let rung = |pod: &Pod| {
        let rung = pod.metadata.annotations.as_ref()?.get(RUNG)?;
        let name = format!("{}/{}", pod.metadata.namespace.as_deref()?, pod.metadata.name.as_deref()?);
        (!rung.starts_with("hot")).then(|| (name, rung.clone()))
    };
    Ok(Facts {
        version,
        nodes: nodes.iter().map(|node| (node.metadata.name.clone().unwrap_or_default(), ready(node))).collect(),
        pods: pods.len(),
        running: pods.iter().filter(|pod| phase(pod) == "Running").count(),
        may_sleep: pods.iter().filter(|pod| label(pod)).count(),
        asleep: pods.iter().filter_map(rung).collect(),
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
            println!(
                "{}",
                json!({"version": self.version, "nodes": nodes, "pods": self.pods, "running": self.running,
                       "maySleep": self.may_sleep, "asleep": asleep})
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
    }
}
