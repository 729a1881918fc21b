//! Rounds of a rollout, played against the plan alone: each step is carried
//! out at once, and every pod is available at once or never.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetStatus};
use serde_json::json;

use super::plan::{Observed, Step, plan};
use super::sets::replicas_of;

struct World {
    deployment: Deployment,
    sets: Vec<ReplicaSet>,
    are_new_pods_available: bool,
    now: Timestamp,
}

impl World {
    fn new(replicas: i32, surge: &str, unavailable: &str) -> Self {
        let deployment = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "n", "uid": "d", "generation": 1},
            "spec": {
                "replicas": replicas, "progressDeadlineSeconds": 600, "revisionHistoryLimit": 1,
                "selector": {"matchLabels": {"app": "web"}},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "1"}]}},
            },
        }));
        Self {
            deployment: deployment.unwrap(),
            sets: Vec::new(),
            are_new_pods_available: true,
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
        }
    }

    fn set_image(&mut self, image: &str) {
        let spec = self.deployment.spec.as_mut().unwrap();
        spec.template.spec.as_mut().unwrap().containers[0].image = Some(image.into());
        self.deployment.metadata.generation = self.deployment.metadata.generation.map(|generation| generation + 1);
    }

    /// False if there was nothing to do.
    fn round(&mut self) -> bool {
        let observed =
            Observed { deployment: self.deployment.clone(), sets: self.sets.clone(), living_pods: Vec::new() };
        let steps = plan(observed, self.now).steps;
        let is_idle = steps.is_empty();
        for step in steps {
            match step {
                Step::Create { set, .. } => self.sets.push(*set),
                Step::Update { set, .. } => {
                    let known = self.sets.iter_mut().find(|known| known.metadata.name == set.metadata.name);
                    *known.unwrap() = *set;
                }
                Step::Delete { name } => self.sets.retain(|set| set.metadata.name.as_deref() != Some(&name)),
                Step::ReplaceDeployment { deployment, .. } | Step::WriteStatus(deployment) => {
                    self.deployment = *deployment
                }
            }
        }
        let newest = self.sets.len().saturating_sub(1);
        for (at, set) in self.sets.iter_mut().enumerate() {
            let count = replicas_of(set);
            let available = if at == newest && !self.are_new_pods_available { 0 } else { count };
            set.metadata.uid.get_or_insert_with(|| format!("uid{at}"));
            set.status = Some(ReplicaSetStatus {
                replicas: count,
                ready_replicas: Some(available),
                available_replicas: Some(available),
                terminating_replicas: Some(0),
                observed_generation: Some(1),
                ..ReplicaSetStatus::default()
            });
        }
        self.now += jiff::SignedDuration::from_secs(1);
        !is_idle
    }

    /// Sizes of the sets after each round, until nothing is left to do.
    fn play(&mut self) -> Vec<Vec<i32>> {
        let mut sizes = Vec::new();
        for _ in 0..50 {
            if !self.round() {
                return sizes;
            }
            sizes.push(self.sets.iter().map(replicas_of).collect());
        }
        panic!("no end in sight: {sizes:?}");
    }

    fn reason(&self) -> &str {
        let status = self.deployment.status.as_ref().unwrap();
        let mut conditions = status.conditions.iter().flatten().filter(|condition| condition.type_ == "Progressing");
        conditions.next().unwrap().reason.as_deref().unwrap()
    }
}

#[test]
fn a_new_deployment_is_complete_when_its_pods_are_available() {
    let mut world = World::new(3, "25%", "25%");
    world.play();
    assert_eq!(world.sets.len(), 1);
    assert_eq!(world.reason(), "NewReplicaSetAvailable");
    assert_eq!(world.deployment.metadata.annotations.as_ref().unwrap()["deployment.kubernetes.io/revision"], "1");
}

#[test]
fn a_rollout_keeps_its_bounds_and_ends_with_the_new_set() {
    for (surge, unavailable, most, least) in [("25%", "25%", 5, 3), ("50%", "0%", 6, 4), ("0%", "25%", 4, 3)] {
        let mut world = World::new(4, surge, unavailable);
        world.play();
        world.set_image("2");
        for sizes in world.play() {
            let sum: i32 = sizes.iter().sum();
            assert!(sum <= most && sum >= least, "{surge} {unavailable}: {sizes:?}");
        }
        assert_eq!(world.sets.iter().map(replicas_of).collect::<Vec<_>>(), [0, 4]);
    }
}

#[test]
fn a_rollout_that_makes_no_progress_keeps_the_old_pods_and_says_so() {
    let mut world = World::new(4, "25%", "25%");
    world.play();
    world.set_image("2");
    world.are_new_pods_available = false;
    world.play();
    assert_eq!(world.sets.iter().map(replicas_of).collect::<Vec<_>>(), [3, 2]);
    world.now += jiff::SignedDuration::from_secs(700);
    world.play();
    assert_eq!(world.reason(), "ProgressDeadlineExceeded");
}

#[test]
fn going_back_takes_the_old_set_with_a_new_revision_and_history_is_bounded() {
    let mut world = World::new(1, "25%", "25%");
    for image in ["1", "2", "3", "1"] {
        world.set_image(image);
        world.play();
    }
    let revisions: Vec<_> = world.sets.iter().filter_map(super::sets::revision).collect();
    assert!(world.sets.len() <= 2, "{revisions:?}");
    assert_eq!(revisions.iter().max(), Some(&4));
    assert_eq!(world.sets.iter().map(replicas_of).sum::<i32>(), 1);
}
