//! Creation: system fields, admission, name, validation, commit.

use api::status::Status;
use serde_json::Value;
use store::Precondition;

use super::call::Call;
use super::options::WriteOptions;
use super::write::{self, Refused, Stored};
use crate::access::UserInfo;
use crate::admission::{Operation, Request};
use crate::field::Errors;
use crate::object::{self, Meta};
use crate::resource::Collection;
use crate::state::Core;
use crate::strategy::{Generation, Part, Write};
use crate::validation::metadata;

/// Attempts to find a free generated name.
const NAME_ATTEMPTS: usize = 8;
/// Longest base of a generated name, bytes: the rest is the suffix.
const NAME_BASE_LIMIT: usize = 63 - SUFFIX_LENGTH;
const SUFFIX_LENGTH: usize = 5;

/// Who creates, when, and what of the answer they see.
pub(crate) struct Creation<'a> {
    /// The caller.
    pub(crate) user: &'a UserInfo,
    /// The request's instant.
    pub(crate) now: jiff::Timestamp,
    /// The same as objects carry it.
    pub(crate) stamp: &'a str,
    /// The namespace of the request; empty for cluster scope.
    pub(crate) namespace: &'a str,
    /// Nothing is committed.
    pub(crate) dry_run: bool,
    /// Who `managedFields` says wrote it; `None` to leave them as they are.
    pub(crate) manager: Option<String>,
    /// The version that the client wrote, for managed fields.
    pub(crate) resource: &'a crate::resource::Resource,
}

/// Creates a decoded hub object on behalf of a request.
/// `manages`: the object's managed fields are not yet recorded.
pub(crate) async fn create(
    core: &Core,
    call: &Call,
    object: Value,
    options: &WriteOptions,
    manages: bool,
) -> Result<Stored, Status> {
    let stamp = call.stamp();
    let creation = Creation {
        user: &call.user,
        now: call.now,
        stamp: &stamp,
        namespace: if call.resource.collection.namespaced { &call.info.namespace } else { "" },
        dry_run: options.dry_run,
        manager: manages.then(|| call.manager(&options.field_manager)),
        resource: &call.resource,
    };
    let (stored, warnings) = create_as(core, creation, object).await?;
    call.warn(warnings);
    Ok(stored)
}

/// Creates a hub object; also returns warnings.
pub(crate) async fn create_as(
    core: &Core,
    creation: Creation<'_>,
    mut object: Value,
) -> Result<(Stored, Vec<String>), Status> {
    let collection = &*creation.resource.collection;
    if !object.resource_version().is_empty() {
        return Err(Status::untyped("resourceVersion should not be set on objects to be created"));
    }
    match_namespace(collection, creation.namespace, &mut object)?;
    wipe_system_fields(&mut object);
    if let Some(manager) = &creation.manager {
        crate::wire::manage_create(creation.resource, &mut object, manager, creation.now);
    }
    let mut warnings = Vec::new();
    let given = object.name().to_owned();
    let mut request = admission_request(core, &creation, &given);
    core.admission.mutate(&mut request, &mut object).await?;
    warnings.append(&mut request.warnings);
    object::set_meta(&mut object, "creationTimestamp", creation.stamp);
    object::set_meta(&mut object, "uid", new_uid());
    let generated = object.name().is_empty() && !object.meta_text("generateName").is_empty();
    let attempts = if generated { NAME_ATTEMPTS } else { 1 };
    let template = object;
    for attempt in 1..=attempts {
        let mut object = template.clone();
        if generated {
            let name = generate_name(object.meta_text("generateName"));
            object::set_meta(&mut object, "name", name);
        }
        prepare(collection, &creation, &mut object);
        crate::wire::normalize(creation.resource, &mut object);
        validate(collection, &object)?;
        let name = object.name().to_owned();
        let mut request = admission_request(core, &creation, &name);
        core.admission.validate(&mut request, &object).await?;
        warnings.append(&mut request.warnings);
        if !creation.dry_run {
            crate::wire::forget_empty(creation.resource, &mut object);
        }
        let reservation = core.hooks.begin_create(collection, &mut object, creation.dry_run)?;
        let key = collection.key(creation.namespace, &name);
        if creation.dry_run {
            if write::current(core, &key).await?.is_some() {
                return Err(exists(collection, &object, generated));
            }
            return Ok((Stored { object, entry: None }, warnings));
        }
        match write::put(core, collection, key, &mut object, Precondition::Absent).await {
            Ok(entry) => {
                reservation.keep();
                core.hooks.created(core, collection, &object);
                if crate::custom::is_definition(collection) {
                    crate::custom::establish(core, &object, creation.stamp).await?;
                }
                return Ok((Stored { object, entry: Some(entry) }, warnings));
            }
            Err(Refused::Conflict) if attempt < attempts => {}
            Err(Refused::Conflict) => {
                let key = collection.key(creation.namespace, &name);
                let going = write::current(core, &key).await?.is_some_and(|current| current.object.deleting());
                let mut status = exists(collection, &object, generated);
                if going && !generated {
                    status.message = status.message.map(|message| format!("object is being deleted: {message}"));
                }
                return Err(status);
            }
            Err(Refused::Failed(status)) => return Err(status),
        }
    }
    Err(exists(collection, &template, generated))
}

fn admission_request<'a>(core: &'a Core, creation: &Creation<'a>, name: &'a str) -> Request<'a> {
    Request {
        core,
        user: creation.user,
        resource: creation.resource,
        subresource: "",
        operation: Operation::Create,
        namespace: creation.namespace,
        name,
        old: None,
        dry_run: creation.dry_run,
        warnings: Vec::new(),
    }
}

fn exists(collection: &Collection, object: &Value, generated: bool) -> Status {
    let name = object.name();
    if !generated {
        return Status::already_exists(&collection.group_resource, name);
    }
    let message = format!(
        "{} \"{name}\" already exists, the server was not able to generate a unique name for the object",
        collection.group_resource
    );
    let mut status = Status::failure(409, "AlreadyExists", message).about(&collection.group_resource, name);
    status.details.get_or_insert_default().retry_after_seconds = Some(1);
    status
}

/// Puts the namespace of the request into the object, or refuses another one.
pub(crate) fn match_namespace(collection: &Collection, namespace: &str, object: &mut Value) -> Result<(), Status> {
    if !collection.namespaced {
        // Cluster-scoped objects lose a namespace that clients put there.
        object::metadata(object).remove("namespace");
        return Ok(());
    }
    let own = object.namespace();
    if own.is_empty() {
        object::set_meta(object, "namespace", namespace);
        return Ok(());
    }
    if own != namespace {
        let message = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Status::bad_request(message));
    }
    Ok(())
}

fn wipe_system_fields(object: &mut Value) {
    let metadata = object::metadata(object);
    for field in
        ["creationTimestamp", "uid", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"]
    {
        metadata.remove(field);
    }
}

fn prepare(collection: &Collection, creation: &Creation<'_>, object: &mut Value) {
    let strategy = &*collection.strategy;
    if !strategy.keeps_status_at_creation() {
        for field in strategy.status_fields() {
            object::as_map(object).remove(*field);
        }
    }
    if !matches!(strategy.generation(), Generation::None | Generation::Changes) {
        object::set_meta(object, "generation", 1);
    }
    let mut facts = Write { user: creation.user, now: creation.stamp, part: Part::Main };
    strategy.prepare_create(object, &mut facts);
}

fn validate(collection: &Collection, object: &Value) -> Result<(), Status> {
    let mut errors = Errors::new();
    let strategy = &*collection.strategy;
    metadata::create(object, collection.namespaced, strategy.name_rule(), &mut errors);
    metadata::standard_finalizers(collection, object, &mut errors);
    strategy.validate_create(object, &mut errors);
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(&collection.group_resource.group, &collection.kind, object.name(), errors.into_causes()))
}

/// A fresh uid.
pub(crate) fn new_uid() -> String {
    crate::entropy::uuid()
}

/// The base and five random letters that are hard to mistake for others.
fn generate_name(base: &str) -> String {
    let mut end = base.len().min(NAME_BASE_LIMIT);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{}", &base[..end], crate::entropy::suffix(SUFFIX_LENGTH))
}
