//! `spec.behavior` with what it leaves out filled in. What it does to a number
//! is `normalize`'s business.

use std::time::Duration;

use api::quantity::Written;
use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::arithmetic::Tolerances;

/// Which of several policies counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Select {
    /// The one that allows the greatest change.
    Max,
    /// The one that allows the least.
    Min,
    /// None: no change in this direction.
    Disabled,
}

/// By how much the number may change in a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Policy {
    /// Of the replicas, or of a hundredth of those at the period's start.
    pub(crate) unit: Unit,
    /// How many.
    pub(crate) value: i32,
    /// In how long.
    pub(crate) period: Duration,
}

/// What a policy counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Unit {
    /// Replicas.
    Pods,
    /// Hundredths.
    Percent,
}

/// The rules of one direction.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rules {
    /// How far back recommendations count.
    pub(crate) window: Duration,
    /// Which policy counts.
    pub(crate) select: Select,
    /// The policies.
    pub(crate) policies: Vec<Policy>,
}

/// The rules of both.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Behavior {
    /// For more replicas.
    pub(crate) up: Rules,
    /// For fewer.
    pub(crate) down: Rules,
}

const SECOND: Duration = Duration::from_secs(1);

impl Behavior {
    /// Fills in upstream's defaults; `down_window` is the loop's own.
    pub(crate) fn read(behavior: &HorizontalPodAutoscalerBehavior, down_window: Duration) -> Self {
        let percent = Policy { unit: Unit::Percent, value: 100, period: SECOND * 15 };
        let pods = Policy { unit: Unit::Pods, value: 4, period: SECOND * 15 };
        Self {
            up: rules(behavior.scale_up.as_ref(), Duration::ZERO, vec![pods, percent]),
            down: rules(behavior.scale_down.as_ref(), down_window, vec![percent]),
        }
    }
}

fn rules(from: Option<&HPAScalingRules>, window: Duration, policies: Vec<Policy>) -> Rules {
    let seconds = from.and_then(|rules| rules.stabilization_window_seconds);
    let select = match from.and_then(|rules| rules.select_policy.as_deref()) {
        Some("Disabled") => Select::Disabled,
        Some("Min") => Select::Min,
        _ => Select::Max,
    };
    let listed = from.and_then(|rules| rules.policies.as_deref());
    Rules {
        window: seconds.map_or(window, whole_seconds),
        select,
        policies: listed.map_or(policies, |listed| listed.iter().filter_map(policy).collect()),
    }
}

fn whole_seconds(seconds: i32) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

fn policy(from: &HPAScalingPolicy) -> Option<Policy> {
    // Validation lets no other type pass.
    let unit = match from.type_.as_str() {
        "Pods" => Unit::Pods,
        "Percent" => Unit::Percent,
        _ => return None,
    };
    Some(Policy { unit, value: from.value, period: whole_seconds(from.period_seconds) })
}

/// The tolerances of an autoscaler; `default` is the loop's own.
pub(crate) fn tolerances(behavior: Option<&HorizontalPodAutoscalerBehavior>, default: f64) -> Tolerances {
    let read = |rules: Option<&HPAScalingRules>| {
        let Quantity(text) = rules?.tolerance.as_ref()?;
        // The API server lets no other text pass than one of a quantity.
        text.parse::<Written>().ok().map(|tolerance| tolerance.as_f64())
    };
    Tolerances {
        down: read(behavior.and_then(|behavior| behavior.scale_down.as_ref())).unwrap_or(default),
        up: read(behavior.and_then(|behavior| behavior.scale_up.as_ref())).unwrap_or(default),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(tree: serde_json::Value) -> Behavior {
        Behavior::read(&serde_json::from_value(tree).unwrap(), SECOND * 300)
    }

    #[test]
    fn what_is_left_out_is_upstreams_default() {
        let behavior = read(json!({}));
        assert_eq!((behavior.up.window, behavior.down.window), (Duration::ZERO, SECOND * 300));
        assert_eq!((behavior.up.policies.len(), behavior.down.policies.len()), (2, 1));
        assert_eq!((behavior.up.select, behavior.down.select), (Select::Max, Select::Max));
    }

    #[test]
    fn what_is_said_counts() {
        let behavior = read(json!({
            "scaleUp": {"stabilizationWindowSeconds": 60, "selectPolicy": "Min",
                "policies": [{"type": "Percent", "value": 10, "periodSeconds": 30}]},
            "scaleDown": {"stabilizationWindowSeconds": 0, "selectPolicy": "Disabled"}}));
        assert_eq!((behavior.up.window, behavior.up.select), (SECOND * 60, Select::Min));
        assert_eq!(behavior.up.policies, [Policy { unit: Unit::Percent, value: 10, period: SECOND * 30 }]);
        assert_eq!((behavior.down.window, behavior.down.select), (Duration::ZERO, Select::Disabled));
    }

    #[test]
    fn each_direction_may_have_its_own_tolerance() {
        let behavior = serde_json::from_value(json!({"scaleUp": {"tolerance": "50m"}})).unwrap();
        assert_eq!(tolerances(Some(&behavior), 0.1), Tolerances { down: 0.1, up: 0.05 });
        assert_eq!(tolerances(None, 0.2), Tolerances { down: 0.2, up: 0.2 });
    }
}
