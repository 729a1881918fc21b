//! One metric of the specification: what it asks for, how it is reported, how
//! it fails. The words are upstream's; which metric wins is `decide`'s.

use std::sync::Arc;

use api::quantity::{Quantity as Amount, QuantityError, Written};
use api::selector::{Selector, SelectorError};
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricSource, ContainerResourceMetricStatus, ExternalMetricSource, ExternalMetricStatus,
    MetricIdentifier, MetricSpec, MetricStatus, MetricTarget, MetricValueStatus, ObjectMetricSource,
    ObjectMetricStatus, PodsMetricSource, PodsMetricStatus, ResourceMetricSource, ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::arithmetic::{self, Aim, ArithmeticError, Measure, Tolerances};
use super::grouping::{Groups, Timing, count_ready, group};
use super::requests::{RequestError, requests};
use super::samples::{Answer, Samples, Unavailable};

/// What the arithmetic of every metric needs to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scene<'a> {
    /// The autoscaler's namespace.
    pub(crate) namespace: &'a str,
    /// Replicas that the target shall have.
    pub(crate) replicas: i32,
    /// Replicas that it has.
    pub(crate) status_replicas: i32,
    /// The target's pods.
    pub(crate) pods: &'a [Arc<Pod>],
    /// Of this autoscaler.
    pub(crate) tolerances: Tolerances,
    /// Of the loop.
    pub(crate) timing: Timing,
    /// The wall clock.
    pub(crate) now: Timestamp,
}

/// What a metric asks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Proposal {
    /// So many replicas.
    pub(crate) replicas: i32,
    /// What it calls itself in reasons.
    pub(crate) name: String,
    /// How it is reported.
    pub(crate) status: MetricStatus,
}

/// A metric that gives no number.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failure {
    /// Of the event and of the condition.
    pub(crate) reason: &'static str,
    /// Why.
    pub(crate) cause: Cause,
    /// What stands before the cause where the metric is named as well.
    pub(crate) context: String,
}

/// Why a metric gives no number.
#[derive(thiserror::Error, Clone, Debug, PartialEq)]
pub(crate) enum Cause {
    /// The source said no.
    #[error("{step}: {why}")]
    Source {
        /// What was asked.
        step: String,
        /// The source's words.
        why: Unavailable,
    },
    /// An object's source said no; upstream's words, which run together.
    #[error("unable to get metric {metric}: {kind} on {namespace} {name}/{why}")]
    Object {
        /// The metric.
        metric: String,
        /// Of the object.
        kind: String,
        /// Of the object.
        namespace: String,
        /// Of the object.
        name: String,
        /// The source's words.
        why: Unavailable,
    },
    /// The samples give no number.
    #[error(transparent)]
    Arithmetic(#[from] ArithmeticError),
    /// The pods that brought a value about cannot be counted.
    #[error("unable to calculate ready pods: {0}")]
    Ready(ArithmeticError),
    /// A pod does not say what it requests.
    #[error(transparent)]
    Requests(#[from] RequestError),
    /// Of a resource's use or its part of the requests.
    #[error("failed to get {resource} {what}: {why}")]
    Resource {
        /// `cpu`, …
        resource: String,
        /// `usage` or `utilization`.
        what: &'static str,
        /// Why.
        why: Box<Cause>,
    },
    /// The metric's selector cannot be read.
    #[error(transparent)]
    Selector(#[from] SelectorError),
    /// The target is no amount.
    #[error("the target cannot be read: {0}")]
    Quantity(QuantityError),
    /// There is no target, or one of another kind.
    #[error("{0}")]
    Target(&'static str),
    /// No such kind of metric.
    #[error("unknown metric source type {0:?}")]
    Type(String),
}

/// What an `Unasked` answer says if the specification allowed asking.
fn unasked() -> Unavailable {
    Unavailable::new("nobody was asked")
}

/// What the metric asks for, or why it does not.
pub(crate) fn evaluate(spec: &MetricSpec, answer: &Answer, scene: &Scene<'_>) -> Result<Proposal, Failure> {
    match (spec.type_.as_str(), spec) {
        ("Resource", MetricSpec { resource: Some(source), .. }) => resource(source, answer, scene),
        ("ContainerResource", MetricSpec { container_resource: Some(source), .. }) => container(source, answer, scene),
        ("Pods", MetricSpec { pods: Some(source), .. }) => pods(source, answer, scene),
        ("Object", MetricSpec { object: Some(source), .. }) => object(source, answer, scene),
        ("External", MetricSpec { external: Some(source), .. }) => external(source, answer, scene),
        (other, _) => Err(Failure {
            reason: "InvalidMetricSourceType",
            cause: Cause::Type(other.to_owned()),
            context: String::new(),
        }),
    }
}

fn status(kind: &str) -> MetricStatus {
    MetricStatus { type_: kind.to_owned(), ..MetricStatus::default() }
}

fn milli(quantity: &Quantity) -> Result<i64, Cause> {
    quantity.0.parse::<Amount>().map(Amount::milli_value).map_err(Cause::Quantity)
}

fn quantity(milli: i64) -> Quantity {
    Quantity(Written::from_milli(milli).to_string())
}

/// Bytes are told in binary units where that loses nothing, as the resource
/// metrics API tells them.
fn resource_quantity(resource: &str, milli: i64) -> Quantity {
    match resource {
        "memory" if milli % 1000 == 0 => Quantity(Written::from_bytes(milli / 1000).to_string()),
        _ => quantity(milli),
    }
}

fn samples(answer: &Answer) -> Result<&Samples, Unavailable> {
    match answer {
        Answer::Pods(answer) => answer.as_ref().map_err(Clone::clone),
        _ => Err(unasked()),
    }
}

fn resource(source: &ResourceMetricSource, answer: &Answer, scene: &Scene<'_>) -> Result<Proposal, Failure> {
    let name = source.name.as_str();
    let fail = |cause| Failure {
        reason: "FailedGetResourceMetric",
        cause,
        context: format!("failed to get {name} resource metric value: "),
    };
    let (replicas, current, name) = usage(&source.target, name, "", answer, scene).map_err(fail)?;
    let told = ResourceMetricStatus { name: source.name.clone(), current };
    Ok(Proposal { replicas, name, status: MetricStatus { resource: Some(told), ..status("Resource") } })
}

fn container(source: &ContainerResourceMetricSource, answer: &Answer, scene: &Scene<'_>) -> Result<Proposal, Failure> {
    let fail = |cause| Failure {
        reason: "FailedGetContainerResourceMetric",
        cause,
        context: format!("failed to get {} container metric value: ", source.container),
    };
    let (replicas, current, name) =
        usage(&source.target, &source.name, &source.container, answer, scene).map_err(fail)?;
    let told =
        ContainerResourceMetricStatus { name: source.name.clone(), container: source.container.clone(), current };
    let status = MetricStatus { container_resource: Some(told), ..status("ContainerResource") };
    Ok(Proposal { replicas, name, status })
}

/// Of a resource: replicas, what is reported, the metric's name.
fn usage(
    target: &MetricTarget,
    resource: &str,
    container: &str,
    answer: &Answer,
    scene: &Scene<'_>,
) -> Result<(i32, MetricValueStatus, String), Cause> {
    let fail = |what, cause| Cause::Resource { resource: resource.to_owned(), what, why: Box::new(cause) };
    let step = || format!("unable to get metrics for resource {resource}");
    if let Some(average) = &target.average_value {
        let aim = milli(average)?;
        let (replicas, measure) = samples(answer)
            .map_err(|why| Cause::Source { step: step(), why })
            .and_then(|samples| Ok(average_of(samples, aim, resource == "cpu", scene)?))
            .map_err(|cause| fail("usage", cause))?;
        let told = MetricValueStatus {
            average_value: Some(resource_quantity(resource, measure.average)),
            ..MetricValueStatus::default()
        };
        return Ok((replicas, told, format!("{resource} resource")));
    }
    let Some(percent) = target.average_utilization else {
        return Err(Cause::Target(
            "invalid resource metric source: neither an average utilization target nor an average value (usage) \
             target was set",
        ));
    };
    let (replicas, measure) = samples(answer)
        .map_err(|why| Cause::Source { step: step(), why })
        .and_then(|samples| utilization_of(samples, percent, resource, container, scene))
        .map_err(|cause| fail("utilization", cause))?;
    let told = MetricValueStatus {
        average_utilization: measure.utilization,
        average_value: Some(resource_quantity(resource, measure.average)),
        ..MetricValueStatus::default()
    };
    let of = if container.is_empty() { "" } else { "container " };
    Ok((replicas, told, format!("{resource} {of}resource utilization (percentage of request)")))
}

fn grouped(samples: &Samples, cpu: bool, scene: &Scene<'_>) -> Result<Groups, ArithmeticError> {
    if scene.pods.is_empty() {
        return Err(ArithmeticError::NoPods);
    }
    Ok(group(scene.pods, samples, cpu, scene.timing, scene.now))
}

fn average_of(samples: &Samples, target: i64, cpu: bool, scene: &Scene<'_>) -> Result<(i32, Measure), ArithmeticError> {
    let groups = grouped(samples, cpu, scene)?;
    arithmetic::by_pods(scene.replicas, Aim::Average { target }, samples.clone(), &groups, scene.tolerances)
}

fn utilization_of(
    samples: &Samples,
    target: i32,
    resource: &str,
    container: &str,
    scene: &Scene<'_>,
) -> Result<(i32, Measure), Cause> {
    let groups = grouped(samples, resource == "cpu", scene)?;
    let mut counted = samples.clone();
    groups.drop_uncounted(&mut counted);
    // Before requests, which may be missing as well, as upstream has it.
    if counted.is_empty() {
        return Err(ArithmeticError::NoSamples.into());
    }
    let requests = requests(scene.pods, container, resource)?;
    let aim = Aim::Utilization { target, requests: &requests };
    Ok(arithmetic::by_pods(scene.replicas, aim, counted, &groups, scene.tolerances)?)
}

/// Fails if the metric's own selector cannot be read.
fn readable(metric: &MetricIdentifier) -> Result<(), SelectorError> {
    Selector::from_label_selector(metric.selector.as_ref()).map(drop)
}

fn pods(source: &PodsMetricSource, answer: &Answer, scene: &Scene<'_>) -> Result<Proposal, Failure> {
    let metric = &source.metric;
    let propose = || {
        readable(metric)?;
        let Some(target) = &source.target.average_value else {
            return Err(Cause::Target("invalid pods metric source: no average value target was set"));
        };
        let step = || format!("unable to get metric {}", metric.name);
        let samples = samples(answer).map_err(|why| Cause::Source { step: step(), why })?;
        Ok(average_of(samples, milli(target)?, false, scene)?)
    };
    let (replicas, measure) = propose().map_err(|cause| Failure {
        reason: "FailedGetPodsMetric",
        cause,
        context: "failed to get pods metric value: ".to_owned(),
    })?;
    let current = MetricValueStatus { average_value: Some(quantity(measure.average)), ..MetricValueStatus::default() };
    let told = PodsMetricStatus { metric: metric.clone(), current };
    let status = MetricStatus { pods: Some(told), ..status("Pods") };
    Ok(Proposal { replicas, name: format!("pods metric {}", metric.name), status })
}

/// Replicas for one value for all pods together.
fn by_value(usage: i64, target: i64, scene: &Scene<'_>) -> Result<i32, Cause> {
    let ready = || match scene.pods {
        [] => Err(ArithmeticError::NoPods),
        pods => Ok(count_ready(pods)),
    };
    arithmetic::by_value(scene.replicas, usage, target, scene.tolerances, ready).map_err(Cause::Ready)
}

fn object(source: &ObjectMetricSource, answer: &Answer, scene: &Scene<'_>) -> Result<Proposal, Failure> {
    let ObjectMetricSource { metric, described_object, target } = source;
    let fail = |context: String| move |cause| Failure { reason: "FailedGetObjectMetric", cause, context };
    let whole = || "failed to get object metric value: ".to_owned();
    let usage = || match answer {
        Answer::Value(Ok(usage)) => Ok(*usage),
        other => Err(Cause::Object {
            metric: metric.name.clone(),
            kind: described_object.kind.clone(),
            namespace: scene.namespace.to_owned(),
            name: described_object.name.clone(),
            why: if let Answer::Value(Err(why)) = other { why.clone() } else { unasked() },
        }),
    };
    let proposal = |replicas, name, current| {
        let told = ObjectMetricStatus { current, described_object: described_object.clone(), metric: metric.clone() };
        Proposal { replicas, name, status: MetricStatus { object: Some(told), ..status("Object") } }
    };
    readable(metric).map_err(|error| fail(whole())(error.into()))?;
    if let (Some(aim), "Value") = (&target.value, target.type_.as_str()) {
        let propose = || {
            let (usage, aim) = (usage()?, milli(aim)?);
            Ok((by_value(usage, aim, scene)?, usage))
        };
        let (replicas, usage) = propose().map_err(fail(whole()))?;
        let current = MetricValueStatus { value: Some(quantity(usage)), ..MetricValueStatus::default() };
        return Ok(proposal(replicas, format!("{} metric {}", described_object.kind, metric.name), current));
    }
    if let (Some(aim), "AverageValue") = (&target.average_value, target.type_.as_str()) {
        let propose = || {
            let (usage, aim) = (usage()?, milli(aim)?);
            Ok(arithmetic::by_share(scene.status_replicas, usage, aim, scene.tolerances))
        };
        let context = format!("{}failed to get {} object metric: ", whole(), metric.name);
        let (replicas, share) = propose().map_err(fail(context))?;
        let current = MetricValueStatus { average_value: Some(quantity(share)), ..MetricValueStatus::default() };
        let name = format!("external metric {}({})", metric.name, shown(metric.selector.as_ref()));
        return Ok(proposal(replicas, name, current));
    }
    let neither = "invalid object metric source: neither a value target nor an average value target was set";
    Err(fail(whole())(Cause::Target(neither)))
}

fn external(source: &ExternalMetricSource, answer: &Answer, scene: &Scene<'_>) -> Result<Proposal, Failure> {
    let ExternalMetricSource { metric, target } = source;
    let fail = |context: String| move |cause| Failure { reason: "FailedGetExternalMetric", cause, context };
    let whole = || format!("failed to get {} external metric value: ", metric.name);
    let usage = || {
        readable(metric)?;
        match answer {
            Answer::Values(Ok(values)) => Ok(arithmetic::sum(values)),
            other => Err(Cause::Source {
                step: format!(
                    "unable to get external metric {}/{}/{}",
                    scene.namespace,
                    metric.name,
                    shown(metric.selector.as_ref())
                ),
                why: if let Answer::Values(Err(why)) = other { why.clone() } else { unasked() },
            }),
        }
    };
    let proposal = |replicas, current| {
        let told = ExternalMetricStatus { current, metric: metric.clone() };
        let name = format!("external metric {}({})", metric.name, shown(metric.selector.as_ref()));
        Proposal { replicas, name, status: MetricStatus { external: Some(told), ..status("External") } }
    };
    if let Some(aim) = &target.average_value {
        let propose = || {
            let (usage, aim) = (usage()?, milli(aim)?);
            let (replicas, share) = arithmetic::by_share(scene.status_replicas, usage, aim, scene.tolerances);
            // A sum beyond what can be told is not divided.
            Ok((replicas, if usage == i64::MAX { usage } else { share }))
        };
        let context = format!("{}failed to get {} external metric: ", whole(), metric.name);
        let (replicas, share) = propose().map_err(fail(context))?;
        let current = MetricValueStatus { average_value: Some(quantity(share)), ..MetricValueStatus::default() };
        return Ok(proposal(replicas, current));
    }
    if let Some(aim) = &target.value {
        let propose = || {
            let (usage, aim) = (usage()?, milli(aim)?);
            Ok((by_value(usage, aim, scene)?, usage))
        };
        let context = format!("{}failed to get external metric {}: ", whole(), metric.name);
        let (replicas, usage) = propose().map_err(fail(context))?;
        let current = MetricValueStatus { value: Some(quantity(usage)), ..MetricValueStatus::default() };
        return Ok(proposal(replicas, current));
    }
    let neither = "invalid external metric source: neither a value target nor an average value target was set";
    Err(fail(whole())(Cause::Target(neither)))
}

/// A selector as Go prints the object (`LabelSelector.String`).
fn shown(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return "nil".to_owned() };
    let labels: String =
        selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}: {value},")).collect();
    let expressions: String = selector
        .match_expressions
        .iter()
        .flatten()
        .map(|one| {
            let values = one.values.as_deref().unwrap_or_default().join(" ");
            format!("LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},", one.key, one.operator)
        })
        .collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}

#[cfg(test)]
mod tests;
