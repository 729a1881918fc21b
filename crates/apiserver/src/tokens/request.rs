//! `serviceaccounts/token`: a new token for an account, bound to an object and
//! an audience, for a limited time.

use api::gvk::GroupResource;
use api::status::Status;
use bytes::Bytes;
use http::{Request, Response};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Bound, Claims, Reference};
use crate::admission::{self, Operation};
use crate::entropy;
use crate::field::{Errors, Path};
use crate::object::{self, Meta};
use crate::patch::managed::{self, OneVersion, Tracking};
use crate::pipeline::body::{self, RequestBody, ResponseBody};
use crate::pipeline::call::{Call, stamp};
use crate::pipeline::options::WriteOptions;
use crate::pipeline::{render, write};
use crate::state::Core;
use crate::wire::Expected;

const GROUP: &str = "authentication.k8s.io";
const API_VERSION: &str = "authentication.k8s.io/v1";
const KIND: &str = "TokenRequest";
/// What a request asks for that says nothing, seconds.
const DEFAULT_SECONDS: i64 = 3600;
/// Shortest life, seconds.
const SHORTEST_SECONDS: i64 = 600;
/// Longest life, seconds.
const LONGEST_SECONDS: i64 = 1 << 32;
/// The life with which admission marks the tokens that it mounts, seconds.
/// Clients may not reload those in time, so they live longer than they say and
/// only warn.
const MOUNTED_SECONDS: i64 = 3607;
/// How long mounted tokens really live, seconds.
const MOUNTED_LIFE_SECONDS: i64 = 365 * 24 * 3600;

/// Answers the request.
pub(crate) async fn create(
    core: &Core,
    call: &Call,
    request: Request<RequestBody>,
) -> Result<Response<ResponseBody>, Status> {
    let options = WriteOptions::parse(&call.query, "CreateOptions", false)?;
    let bytes = body::read(request.into_body()).await?;
    let mut asked = decode(call, &bytes, &options)?;
    let (namespace, name) = (call.info.namespace.as_str(), call.info.name.as_str());
    core.admission.mutate(&mut admitted(core, call), &mut asked).await?;
    match_url(&asked, namespace, name)?;
    let account = find(core, "serviceaccounts", namespace, name).await?;
    if !asked.uid().is_empty() && asked.uid() != account.uid() {
        let why = format!(
            "the UID in the token request ({}) does not match the UID of the service account ({})",
            asked.uid(),
            account.uid()
        );
        return Err(Status::conflict(&resource(KIND), name, &why));
    }
    complete(core, call, &mut asked, &account);
    validate(&asked)?;
    admit(core, call, &asked).await?;
    let mut bound = Bound { namespace: namespace.to_owned(), serviceaccount: reference(&account), ..Bound::default() };
    let reference = asked["spec"]["boundObjectRef"].clone();
    if reference.is_object() {
        bind(core, &reference, namespace, name, &mut bound).await?;
    }
    let token = sign(core, call.now, &asked, bound)?;
    let seconds = asked["spec"]["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS);
    let expires = call.now.as_second().saturating_add(seconds);
    let expires = Timestamp::from_second(expires).map(stamp).map_err(Status::internal)?;
    asked["status"] = json!({"token": token, "expirationTimestamp": expires});
    Ok(render::value(&call.accept, 201, &asked))
}

/// The request as sent, completed by defaults and by who sent which field.
fn decode(call: &Call, bytes: &Bytes, options: &WriteOptions) -> Result<Value, Status> {
    let schema = crate::wire::definition("authentication.v1.TokenRequest")?;
    let expected = Expected { api_version: API_VERSION, kind: KIND, schema };
    let mut asked = crate::wire::decode_as(call, bytes, options.field_validation, &expected)?;
    default(&mut asked);
    let manager = call.manager(&options.field_manager);
    let tracking = Tracking {
        manager: &manager,
        api_version: API_VERSION,
        subresource: "token",
        now: call.now,
        reset: &[],
        versions: &OneVersion,
    };
    managed::update(None, &mut asked, schema, &tracking);
    object::map_mut(&mut asked, "spec").entry("boundObjectRef").or_insert(Value::Null);
    Ok(asked)
}

fn resource(name: &str) -> GroupResource {
    GroupResource { group: GROUP.to_owned(), resource: name.to_owned() }
}

fn default(asked: &mut Value) {
    let map = object::as_map(asked);
    map.remove("status");
    let spec = object::map_mut(asked, "spec");
    object::default(spec, "expirationSeconds", DEFAULT_SECONDS);
    object::metadata(asked);
}

fn match_url(asked: &Value, namespace: &str, name: &str) -> Result<(), Status> {
    let metadata = Path::new("metadata");
    for (field, own, url, what) in
        [("name", asked.name(), name, "name"), ("namespace", asked.namespace(), namespace, "namespace")]
    {
        if !own.is_empty() && own != url {
            let mut errors = Errors::new();
            let why = format!("must match the service account {what} if specified");
            errors.invalid_text(&metadata.child(field), own, &why);
            return Err(Status::invalid(GROUP, KIND, name, errors.into_causes()));
        }
    }
    Ok(())
}

fn complete(core: &Core, call: &Call, asked: &mut Value, account: &Value) {
    object::set_meta(asked, "name", account.name());
    object::set_meta(asked, "namespace", account.namespace());
    object::set_meta(asked, "uid", account.uid());
    object::set_meta(asked, "creationTimestamp", call.stamp());
    let spec = object::map_mut(asked, "spec");
    let named = spec.get("audiences").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    if !named {
        spec.insert("audiences".to_owned(), json!([core.authenticator.tokens().issuer()]));
    }
}

fn validate(asked: &Value) -> Result<(), Status> {
    let seconds = &asked["spec"]["expirationSeconds"];
    let spec = Path::new("spec");
    let field = spec.child("expirationSeconds");
    let mut errors = Errors::new();
    match seconds.as_i64() {
        Some(number) if number < SHORTEST_SECONDS => {
            errors.invalid(&field, seconds, "may not specify a duration less than 10 minutes");
        }
        Some(number) if number > LONGEST_SECONDS => {
            errors.invalid(&field, seconds, "may not specify a duration larger than 2^32 seconds");
        }
        Some(_) => {}
        None => return Err(Status::bad_request("spec.expirationSeconds is no whole number")),
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid(GROUP, KIND, "", errors.into_causes())) }
}

async fn admit(core: &Core, call: &Call, asked: &Value) -> Result<(), Status> {
    let mut request = admitted(core, call);
    core.admission.validate(&mut request, asked).await?;
    call.warn(request.warnings);
    Ok(())
}

fn admitted<'a>(core: &'a Core, call: &'a Call) -> admission::Request<'a> {
    admission::Request {
        core,
        user: &call.user,
        resource: &call.resource,
        subresource: "token",
        operation: Operation::Create,
        namespace: &call.info.namespace,
        name: &call.info.name,
        old: None,
        dry_run: false,
        warnings: Vec::new(),
    }
}

async fn find(core: &Core, plural: &str, namespace: &str, name: &str) -> Result<Value, Status> {
    let collection = core.collection("", plural)?;
    let found = write::current(core, &collection.key(namespace, name)).await?;
    found.map(|current| current.object).ok_or_else(|| Status::not_found(&collection.group_resource, name))
}

fn reference(object: &Value) -> Reference {
    Reference { name: object.name().to_owned(), uid: object.uid().to_owned() }
}

/// Adds what the token is bound to.
async fn bind(core: &Core, wanted: &Value, namespace: &str, account: &str, bound: &mut Bound) -> Result<(), Status> {
    let text = |field| object::text(wanted, field);
    let (version, kind, name) = (text("apiVersion"), text("kind"), text("name"));
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let object = match (group, kind) {
        ("", "Pod") => {
            let pod = find(core, "pods", namespace, name).await?;
            if object::text(&pod, "spec.serviceAccountName") != account {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount \"{account}\" to pod running with different serviceaccount name."
                )));
            }
            let node = object::text(&pod, "spec.nodeName");
            if !node.is_empty() {
                // A node that is gone is still named, without its uid.
                bound.node = Some(match find(core, "nodes", "", node).await {
                    Ok(node) => reference(&node),
                    Err(status) if status.is("NotFound") => Reference { name: node.to_owned(), uid: String::new() },
                    Err(status) => return Err(status),
                });
            }
            bound.pod = Some(reference(&pod));
            pod
        }
        ("", "Secret") => {
            let secret = find(core, "secrets", namespace, name).await?;
            bound.secret = Some(reference(&secret));
            secret
        }
        ("", "Node") => {
            let node = find(core, "nodes", "", name).await?;
            bound.node = Some(reference(&node));
            node
        }
        _ => {
            let version = version.rsplit('/').next().unwrap_or_default();
            let what = format!("cannot bind token to object of type {group}/{version}, Kind={kind}");
            return Err(Status::bad_request(what));
        }
    };
    if !text("uid").is_empty() && text("uid") != object.uid() {
        let why = format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
            text("uid")
        );
        let resource = GroupResource { group: String::new(), resource: kind.to_owned() };
        return Err(Status::conflict(&resource, name, &why));
    }
    Ok(())
}

fn sign(core: &Core, now: Timestamp, asked: &Value, mut bound: Bound) -> Result<String, Status> {
    let tokens = core.authenticator.tokens();
    let audiences = object::items(asked, "spec.audiences").iter().filter_map(Value::as_str);
    let audiences: Vec<String> = audiences.map(str::to_owned).collect();
    let now = now.as_second();
    let mut life = asked["spec"]["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS);
    let ours = audiences.iter().all(|audience| audience == tokens.issuer());
    if life == MOUNTED_SECONDS && bound.pod.is_some() && ours {
        bound.warnafter = Some(now + life);
        life = MOUNTED_LIFE_SECONDS;
    }
    let claims = Claims {
        aud: audiences,
        exp: now.saturating_add(life),
        iat: now,
        iss: tokens.issuer().to_owned(),
        jti: entropy::uuid(),
        sub: format!("system:serviceaccount:{}:{}", bound.namespace, bound.serviceaccount.name),
        bound,
        nbf: now,
    };
    tokens.sign(&claims).map_err(|error| Status::internal(format!("failed to generate token: {error}")))
}
