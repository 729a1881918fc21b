//! ResourceQuota: charges each new object to the quotas of its namespace and
//! refuses what would exceed one. Measuring what is used and giving back what
//! is released is the quota controller's.

use api::amounts::Amounts;
use api::quota::Evaluator;
use api::status::Status;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use serde_json::Value;
use store::{CommitError, Precondition, Write};

use super::{Operation, Plugin, Request};
use crate::object::{self, Meta};
use crate::pipeline::write;

/// Attempts against others who charge the same quotas.
const ATTEMPTS: usize = 64;

pub(super) struct ResourceQuota;

impl Plugin for ResourceQuota {
    fn handles(&self, request: &Request<'_>) -> bool {
        let is_write = matches!(request.operation, Operation::Create | Operation::Update);
        is_write && request.resource.collection.namespaced
    }

    fn validate<'a>(&'a self, request: &'a mut Request<'_>, object: &'a Value) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let name = &request.resource.collection.group_resource;
            let evaluator = Evaluator::of(&name.group, &name.resource);
            if !is_counted(&evaluator, request, object) {
                return Ok(());
            }
            charge(request, &evaluator, object).await
        })
    }
}

/// Whether this kind of write can change what is used.
fn is_counted(evaluator: &Evaluator, request: &Request<'_>, object: &Value) -> bool {
    let creates = request.operation == Operation::Create;
    let deadline = |pod: &Value| object::at(pod, "spec.activeDeadlineSeconds").is_i64();
    match (evaluator, request.subresource) {
        (Evaluator::Pods, "") => creates || request.old.is_some_and(|old| deadline(old) != deadline(object)),
        (Evaluator::Pods, "resize") => !creates,
        (Evaluator::Services | Evaluator::Claims, "") => true,
        (Evaluator::Claims, "status") => request.old.is_some_and(|old| {
            let allocated = "status.allocatedResources.storage";
            object::at(old, allocated) != object::at(object, allocated)
        }),
        (Evaluator::Count(_), "") => creates,
        _ => false,
    }
}

async fn charge(request: &Request<'_>, evaluator: &Evaluator, object: &Value) -> Result<(), Status> {
    let quotas = request.core.collection("", "resourcequotas")?;
    for _ in 0..ATTEMPTS {
        let found = write::all(request.core, &quotas, request.namespace).await?;
        let mut writes = Vec::new();
        let all: Vec<&Value> = found.iter().map(|current| &current.object).collect();
        let charged = check(evaluator, &all, object, request.old, request.subresource, Timestamp::now());
        let charged = charged.map_err(|why| request.forbid(&why))?;
        if charged.is_empty() || request.dry_run {
            return Ok(());
        }
        for (index, used) in charged {
            let Some(current) = found.get(index) else { continue };
            let mut next = current.object.clone();
            object::map_mut(&mut next, "status").insert("used".to_owned(), used.to_value());
            writes.push(Write::Put {
                key: std::sync::Arc::clone(&current.entry.key),
                value: write::encode(&mut next),
                when: Precondition::ModifiedAt(current.entry.modified),
            });
        }
        match request.core.store.commit(writes).await {
            Ok(_) => return Ok(()),
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(Status::internal(api::error::Chain(&error))),
        }
    }
    Err(Status::internal("the namespace's quotas changed too often while an object was charged to them"))
}

/// What each quota has used once the object is there, for those that it
/// changes; the error is why it may not be there.
fn check(
    evaluator: &Evaluator,
    quotas: &[&Value],
    object: &Value,
    old: Option<&Value>,
    subresource: &str,
    now: Timestamp,
) -> Result<Vec<(usize, Amounts)>, String> {
    let hard = |quota: &Value| Amounts::read(object::at(quota, "status.hard"));
    let used = |quota: &Value| Amounts::read(object::at(quota, "status.used"));
    let mut interesting = Vec::new();
    for (index, quota) in quotas.iter().enumerate() {
        let limits = hard(quota);
        if !evaluator.matches(object::at(quota, "spec"), limits.names(), object) {
            continue;
        }
        let counted: Vec<&str> = limits.names().filter(|name| evaluator.counts(name)).collect();
        if let Err(missing) = evaluator.constraints(&counted, object) {
            return Err(format!("failed quota: {}: {missing}", quota.name()));
        }
        let known = used(quota);
        if counted.iter().any(|name| known.get(name).is_none()) {
            let counted = counted.join(",");
            return Err(format!("status unknown for quota: {}, resources: {counted}", quota.name()));
        }
        interesting.push(index);
    }
    let asked = evaluator.usage(object, now);
    let negative = asked.negative();
    if !negative.is_empty() {
        return Err(format!("quota usage is negative for resource(s): {}", negative.join(",")));
    }
    let mut charged = Vec::new();
    for index in interesting {
        let quota = quotas[index];
        let limits = hard(quota);
        let before = old.filter(|old| evaluator.matches(object::at(quota, "spec"), limits.names(), old));
        let more = match before {
            Some(old) => asked.growth_from(&evaluator.usage(old, now)),
            None => asked.clone(),
        };
        let more = more.without_zeros().masked(limits.names());
        if more.0.is_empty() {
            continue;
        }
        let before = used(quota);
        let mut after = before.clone();
        after.add(&more);
        let wanted = after.masked(more.names());
        let above = wanted.above(&limits);
        if subresource != "status" && !above.is_empty() {
            let only = |amounts: &Amounts| amounts.masked(above.iter().copied()).listed();
            return Err(format!(
                "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                quota.name(),
                only(&more),
                only(&before),
                only(&limits)
            ));
        }
        charged.push((index, after));
    }
    Ok(charged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn quota(hard: Value, used: Value) -> Value {
        json!({"metadata": {"name": "q"}, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}})
    }

    fn pod(cpu: &str) -> Value {
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    fn charge(quota: &Value, object: &Value, old: Option<&Value>) -> Result<Vec<Value>, String> {
        let charged = check(&Evaluator::Pods, &[quota], object, old, "", Timestamp::UNIX_EPOCH)?;
        Ok(charged.into_iter().map(|(_, used)| used.to_value()).collect())
    }

    #[test]
    fn what_fits_is_charged_and_what_does_not_is_refused_with_the_numbers() {
        let quota = quota(json!({"requests.cpu": "1", "pods": "2"}), json!({"requests.cpu": "400m", "pods": "1"}));
        assert_eq!(charge(&quota, &pod("600m"), None).unwrap(), [json!({"requests.cpu": "1", "pods": "2"})]);
        assert_eq!(
            charge(&quota, &pod("700m"), None).unwrap_err(),
            "exceeded quota: q, requested: requests.cpu=700m, used: requests.cpu=400m, limited: requests.cpu=1"
        );
    }

    #[test]
    fn a_change_is_charged_for_what_it_adds() {
        let quota = quota(json!({"requests.cpu": "1"}), json!({"requests.cpu": "800m"}));
        assert_eq!(charge(&quota, &pod("1"), Some(&pod("800m"))).unwrap(), [json!({"requests.cpu": "1"})]);
        assert!(charge(&quota, &pod("100m"), Some(&pod("800m"))).unwrap().is_empty());
    }

    #[test]
    fn nothing_is_charged_before_the_quota_was_measured() {
        let quota =
            json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "1"}}, "status": {"hard": {"pods": "1"}}});
        assert_eq!(charge(&quota, &pod("1"), None).unwrap_err(), "status unknown for quota: q, resources: pods");
    }

    #[test]
    fn a_quota_of_other_resources_or_scopes_is_left_alone() {
        let other = quota(json!({"services": "1"}), json!({}));
        assert!(charge(&other, &pod("1"), None).unwrap().is_empty());
        let mut scoped = quota(json!({"pods": "0"}), json!({"pods": "0"}));
        scoped["spec"]["scopes"] = json!(["Terminating"]);
        assert!(charge(&scoped, &pod("1"), None).unwrap().is_empty());
    }
}
