//! Jobs and CronJobs (`pkg/apis/batch/v1/defaults.go`, upstream 1.36).

use serde_json::{Value, json};

use super::pod::defaults;
use crate::object::{self, Meta, Object, as_map, default, default_text, map_mut};
use crate::strategy::Write;
use crate::table;

/// Labels that tie pods to their job: new name, old name.
const UID_LABELS: [&str; 2] = ["batch.kubernetes.io/controller-uid", "controller-uid"];
const NAME_LABELS: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];

pub(super) fn job(object: &mut Value) {
    let spec = map_mut(object, "spec");
    defaults::template(spec.entry("template").or_insert(Value::Null));
    if !spec.contains_key("completions") && !spec.contains_key("parallelism") {
        spec.insert("completions".to_owned(), 1.into());
    }
    default(spec, "parallelism", 1);
    let per_index = spec.get("backoffLimitPerIndex").is_some_and(Value::is_i64);
    default(spec, "backoffLimit", if per_index { i32::MAX } else { 6 });
    default_text(spec, "completionMode", "NonIndexed");
    default(spec, "suspend", false);
    default(spec, "manualSelector", false);
    let failing = spec.get("podFailurePolicy").is_some_and(Value::is_object);
    default_text(spec, "podReplacementPolicy", if failing { "Failed" } else { "TerminatingOrFailed" });
    failure_policy(spec);
}

fn failure_policy(spec: &mut Object) {
    let rules =
        spec.get_mut("podFailurePolicy").and_then(|policy| policy.get_mut("rules")).and_then(Value::as_array_mut);
    for rule in rules.into_iter().flatten() {
        for condition in rule.get_mut("onPodConditions").and_then(Value::as_array_mut).into_iter().flatten() {
            default_text(as_map(condition), "status", "True");
        }
    }
}

/// A job selects its pods by its own uid unless told otherwise.
pub(super) fn new_job(object: &mut Value, _write: &Write<'_>) {
    let uid = object.uid().to_owned();
    let name = object.name().to_owned();
    let manual = object::at(object, "spec.manualSelector").as_bool() == Some(true);
    let spec = map_mut(object, "spec");
    let template = spec.entry("template").or_insert(Value::Null);
    let labels = as_map(object::metadata(template).entry("labels").or_insert(Value::Null));
    if !manual {
        for label in NAME_LABELS {
            default(labels, label, name.as_str());
        }
        for label in UID_LABELS {
            default(labels, label, uid.as_str());
        }
        let selector = as_map(spec.entry("selector").or_insert(Value::Null));
        let wanted = as_map(selector.entry("matchLabels").or_insert(Value::Null));
        default(wanted, UID_LABELS[0], uid);
    } else if labels.is_empty() {
        object::metadata(template).remove("labels");
    }
}

pub(super) fn cron_job(object: &mut Value) {
    let spec = map_mut(object, "spec");
    default_text(spec, "concurrencyPolicy", "Allow");
    default(spec, "suspend", false);
    default(spec, "successfulJobsHistoryLimit", 3);
    default(spec, "failedJobsHistoryLimit", 1);
    let template = as_map(spec.entry("jobTemplate").or_insert(Value::Null));
    let job = as_map(template.entry("spec").or_insert(Value::Null));
    defaults::template(job.entry("template").or_insert(Value::Null));
    failure_policy(job);
}

type Columns = &'static [(&'static str, &'static str, i32, fn(&Value) -> Value)];

fn number(object: &Value, path: &str) -> i64 {
    object::at(object, path).as_i64().unwrap_or(0)
}

fn condition(job: &Value) -> Value {
    let set = |kind: &str| {
        object::items(job, "status.conditions").iter().any(|one| one["type"] == kind && one["status"] == "True")
    };
    let text = match () {
        () if set("Complete") => "Complete",
        () if set("Failed") => "Failed",
        () if job.deleting() => "Terminating",
        () if set("Suspended") => "Suspended",
        () if set("FailureTarget") => "FailureTarget",
        () if set("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    };
    text.into()
}

fn completions(job: &Value) -> Value {
    let succeeded = number(job, "status.succeeded");
    match object::at(job, "spec.completions").as_i64() {
        Some(wanted) => format!("{succeeded}/{wanted}").into(),
        None => match number(job, "spec.parallelism") {
            parallel if parallel > 1 => format!("{succeeded}/1 of {parallel}").into(),
            _ => format!("{succeeded}/1").into(),
        },
    }
}

fn duration(job: &Value) -> Value {
    let start: Result<jiff::Timestamp, _> = object::text(job, "status.startTime").parse();
    let Ok(start) = start else { return "".into() };
    let end = object::text(job, "status.completionTime").parse().unwrap_or_else(|_| jiff::Timestamp::now());
    table::human_duration(end.as_second() - start.as_second()).into()
}

fn pod_list(object: &Value, path: &str, field: &str) -> Value {
    let all = object::items(object, path).iter().filter_map(|one| one[field].as_str());
    all.collect::<Vec<_>>().join(",").into()
}

pub(super) const JOB_COLUMNS: Columns = &[
    ("Status", "string", 0, condition),
    ("Completions", "string", 0, completions),
    ("Duration", "string", 0, duration),
    ("Containers", "string", 1, |job| pod_list(job, "spec.template.spec.containers", "name")),
    ("Images", "string", 1, |job| pod_list(job, "spec.template.spec.containers", "image")),
    ("Selector", "string", 1, |job| {
        api::selector::Selector::from_value(object::at(job, "spec.selector"))
            .map(|one| one.to_string())
            .unwrap_or_default()
            .into()
    }),
];

pub(super) const CRON_COLUMNS: Columns = &[
    ("Schedule", "string", 0, |job| object::text(job, "spec.schedule").into()),
    ("Timezone", "string", 0, |job| {
        let zone = object::text(job, "spec.timeZone");
        if zone.is_empty() { "<none>".into() } else { zone.into() }
    }),
    ("Suspend", "boolean", 0, |job| match object::at(job, "spec.suspend").as_bool() {
        Some(true) => "True".into(),
        Some(false) => "False".into(),
        None => json!("<unset>"),
    }),
    ("Active", "integer", 0, |job| object::items(job, "status.active").len().into()),
    ("Last Schedule", "string", 0, |job| {
        let last = object::text(job, "status.lastScheduleTime");
        if last.is_empty() { "<none>".into() } else { table::since(last, jiff::Timestamp::now().as_second()).into() }
    }),
    ("Containers", "string", 1, |job| pod_list(job, "spec.jobTemplate.spec.template.spec.containers", "name")),
    ("Images", "string", 1, |job| pod_list(job, "spec.jobTemplate.spec.template.spec.containers", "image")),
    ("Selector", "string", 1, |job| {
        let selector = object::at(job, "spec.jobTemplate.spec.selector");
        let text = api::selector::Selector::from_value(selector).map(|one| one.to_string()).unwrap_or_default();
        if text.is_empty() { "<none>".into() } else { text.into() }
    }),
];
