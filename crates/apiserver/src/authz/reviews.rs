//! Access reviews: may this user do that, and what may I do here. Also the one
//! entry for all resources that are asked and never stored.

use api::status::Status;
use http::{Request, Response};
use serde_json::{Value, json};

use super::{Verdict, aggregate};
use crate::access::{Attributes, UserInfo};
use crate::authn;
use crate::field::{Errors, Path};
use crate::object::{self, Meta};
use crate::pipeline::body::{self, RequestBody, ResponseBody};
use crate::pipeline::call::Call;
use crate::pipeline::options::WriteOptions;
use crate::pipeline::render;
use crate::state::Core;

/// Answers a review of any kind.
pub(crate) async fn answer(
    core: &Core,
    call: &Call,
    request: Request<RequestBody>,
) -> Result<Response<ResponseBody>, Status> {
    if call.info.verb != "create" {
        return Err(Status::method_not_allowed());
    }
    let options = WriteOptions::parse(&call.query, "CreateOptions", false)?;
    let bytes = body::read(request.into_body()).await?;
    let mut review = crate::wire::decode(call, &bytes, options.field_validation)?;
    object::as_map(&mut review).remove("status");
    object::map_mut(&mut review, "spec");
    let manager = call.manager(&options.field_manager);
    crate::wire::manage_create(&call.resource, &mut review, &manager, call.now);
    object::metadata(&mut review);
    match call.resource.collection.group_resource.resource.as_str() {
        "tokenreviews" => authn::reviews::token(core, &mut review).await?,
        "selfsubjectreviews" => {
            object::as_map(&mut review).remove("spec");
            authn::reviews::own(call, &mut review);
        }
        "subjectaccessreviews" => {
            validate(&review, Scope::Subject)?;
            let user = subject(&review);
            access(core, &user, &mut review);
        }
        "localsubjectaccessreviews" => {
            if review.namespace().is_empty() {
                object::set_meta(&mut review, "namespace", call.info.namespace.as_str());
            }
            validate(&review, Scope::Local)?;
            let user = subject(&review);
            access(core, &user, &mut review);
        }
        "selfsubjectaccessreviews" => {
            validate(&review, Scope::Own)?;
            access(core, &call.user, &mut review);
        }
        "selfsubjectrulesreviews" => own_rules(core, call, &mut review)?,
        _ => return Err(Status::method_not_allowed()),
    }
    Ok(render::tree(call, 201, review))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Subject,
    Local,
    Own,
}

fn subject(review: &Value) -> UserInfo {
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut user = UserInfo::new(object::text(review, "spec.user"), &[]);
    user.groups = texts(object::at(review, "spec.groups"));
    user.uid = object::text(review, "spec.uid").to_owned();
    let extra = object::at(review, "spec.extra").as_object().into_iter().flatten();
    user.extra = extra.map(|(key, value)| (key.to_lowercase(), texts(value))).collect();
    user
}

fn access(core: &Core, user: &UserInfo, review: &mut Value) {
    let verdict = ask(core, user, review);
    let mut status = json!({"allowed": verdict.allowed});
    if !verdict.reason.is_empty() {
        status["reason"] = verdict.reason.into();
    }
    object::as_map(review).insert("status".to_owned(), status);
}

fn ask(core: &Core, user: &UserInfo, review: &Value) -> Verdict {
    let resource = object::at(review, "spec.resourceAttributes");
    let path = object::at(review, "spec.nonResourceAttributes");
    let field = |name| object::text(resource, name);
    let selector = field_selector(resource);
    let asked = Attributes {
        user,
        verb: if resource.is_object() { field("verb") } else { object::text(path, "verb") },
        namespace: field("namespace"),
        group: field("group"),
        version: field("version"),
        resource: field("resource"),
        subresource: field("subresource"),
        name: field("name"),
        path: object::text(path, "path"),
        is_resource: resource.is_object(),
        field_selector: &selector,
    };
    core.authorizer.verdict(&asked)
}

/// The selector as a query would carry it. What has no such form is dropped:
/// requirements are joined by "and", so less of them asks for more.
fn field_selector(resource: &Value) -> String {
    let raw = object::text(resource, "fieldSelector.rawSelector");
    if !raw.is_empty() {
        return raw.to_owned();
    }
    let requirement = |one: &Value| {
        let [value] = object::items(one, "values") else { return None };
        let sign = match object::text(one, "operator") {
            "In" => "=",
            "NotIn" => "!=",
            _ => return None,
        };
        Some(format!("{}{sign}{}", object::text(one, "key"), value.as_str()?))
    };
    let requirements = object::items(resource, "fieldSelector.requirements").iter().filter_map(requirement);
    requirements.collect::<Vec<_>>().join(",")
}

fn own_rules(core: &Core, call: &Call, review: &mut Value) -> Result<(), Status> {
    let namespace = object::text(review, "spec.namespace").to_owned();
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let own = core.authorizer.rules_for(&call.user, &namespace);
    let list = |list: &[String]| Value::from(list.to_vec());
    let resources = own.rules.iter().filter(|rule| !rule.resources.is_empty()).map(|rule| {
        let mut shown = json!({"verbs": list(&rule.verbs)});
        for (name, values) in
            [("apiGroups", &rule.api_groups), ("resources", &rule.resources), ("resourceNames", &rule.resource_names)]
        {
            if !values.is_empty() {
                shown[name] = list(values);
            }
        }
        shown
    });
    let urls = own.rules.iter().filter(|rule| !rule.non_resource_urls.is_empty());
    let urls = urls.map(|rule| json!({"verbs": list(&rule.verbs), "nonResourceURLs": list(&rule.non_resource_urls)}));
    let mut status = json!({
        "resourceRules": resources.collect::<Vec<_>>(),
        "nonResourceRules": urls.collect::<Vec<_>>(),
        "incomplete": own.incomplete,
    });
    if !own.errors.is_empty() {
        status["evaluationError"] = aggregate(&own.errors).into();
    }
    let map = object::as_map(review);
    map.insert("metadata".to_owned(), json!({}));
    map.insert("spec".to_owned(), json!({}));
    map.insert("status".to_owned(), status);
    Ok(())
}

fn validate(review: &Value, scope: Scope) -> Result<(), Status> {
    let mut errors = Errors::new();
    let spec = Path::new("spec");
    let resource = object::at(review, "spec.resourceAttributes");
    let path = object::at(review, "spec.nonResourceAttributes");
    if resource.is_object() && path.is_object() {
        let why = "cannot be specified in combination with resourceAttributes";
        errors.invalid(&spec.child("nonResourceAttributes"), path, why);
    }
    if !resource.is_object() && !path.is_object() {
        let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        errors.invalid(&spec.child("resourceAttributes"), &Value::Null, why);
    }
    if scope != Scope::Own
        && object::text(review, "spec.user").is_empty()
        && object::items(review, "spec.groups").is_empty()
    {
        errors.invalid_text(&spec.child("user"), "", "at least one of user or group must be specified");
    }
    for selector in ["fieldSelector", "labelSelector"] {
        validate_selector(object::at(resource, selector), selector, &mut errors);
    }
    validate_metadata(review, scope, &mut errors);
    if scope == Scope::Local {
        if resource.is_object() && object::text(resource, "namespace") != review.namespace() {
            let field = Path::new("spec.resourceAttributes.namespace");
            errors.invalid_text(&field, object::text(resource, "namespace"), "must match metadata.namespace");
        }
        if path.is_object() {
            let field = Path::new("spec.nonResourceAttributes");
            errors.invalid(&field, path, "disallowed on this kind of request");
        }
    }
    // Upstream names the kind of an object that was decoded without one.
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("authorization.k8s.io", "", "", errors.into_causes())) }
}

fn validate_metadata(review: &Value, scope: Scope, errors: &mut Errors) {
    let metadata = object::at(review, "metadata");
    let allowed = |field: &str| field == "managedFields" || (scope == Scope::Local && field == "namespace");
    let extra = metadata.as_object().into_iter().flatten().any(|(field, value)| !allowed(field) && !value.is_null());
    if extra {
        let why = if scope == Scope::Local { "must be empty except for namespace" } else { "must be empty" };
        errors.invalid(&Path::new("metadata"), metadata, why);
    }
}

fn validate_selector(selector: &Value, name: &str, errors: &mut Errors) {
    if !selector.is_object() {
        return;
    }
    let resource = Path::new("spec.resourceAttributes");
    let field = resource.child(name);
    let raw = object::text(selector, "rawSelector");
    let some = !object::items(selector, "requirements").is_empty();
    if !raw.is_empty() && some {
        errors.invalid_text(&field.child("rawSelector"), raw, "may not specified at the same time as requirements");
    }
    if raw.is_empty() && !some {
        let why = format!("when {field} is specified, requirements or rawSelector is required");
        errors.required(&field.child("requirements"), &why);
    }
}
