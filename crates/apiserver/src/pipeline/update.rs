//! Changes of an existing object, whatever asks for them: PUT, patches, and the
//! subresources that write a part. One loop with optimistic concurrency.

use api::status::Status;
use serde_json::Value;
use store::Precondition;

use super::call::Call;
use super::options::WriteOptions;
use super::write::{self, Current, Refused, Stored};
use crate::admission::{Operation, Request};
use crate::field::Errors;
use crate::object::{self, Meta};
use crate::state::Core;
use crate::strategy::{Generation, Part, Write};
use crate::validation::metadata;

/// Attempts of a write that names no resourceVersion; upstream tries without
/// end, but 64 lost races in a row are a fault of somebody.
const ATTEMPTS: usize = 64;

/// Computes the next object from the current one. Called once an attempt.
pub(crate) trait Change: Send + Sync {
    /// The next hub object. `old` is the current hub object with its
    /// resourceVersion; `None` if there is none and the change may create.
    fn next(&self, old: Option<&Value>) -> Result<Value, Status>;
    /// Upstream's verb for managed fields: false if `next` has set them itself.
    fn manages(&self) -> bool {
        true
    }
    /// True if the object is created where it does not exist.
    fn creates(&self) -> bool {
        false
    }
}

/// What is changed and how the change is seen by admission.
pub(crate) struct Target<'a> {
    /// Name of the object.
    pub(crate) name: &'a str,
    /// Which part is written.
    pub(crate) part: Part,
    /// The subresource's name; empty for the object.
    pub(crate) subresource: &'a str,
}

/// Carries out a change. `Ok((_, true))` if the object was created.
pub(crate) async fn update(
    core: &Core,
    call: &Call,
    target: &Target<'_>,
    change: &dyn Change,
    options: &WriteOptions,
) -> Result<(Stored, bool), Status> {
    let collection = &*call.resource.collection;
    let namespace = if collection.namespaced { call.info.namespace.as_str() } else { "" };
    let key = collection.key(namespace, target.name);
    for attempt in 1..=ATTEMPTS {
        let Some(current) = write::current(core, &key).await? else {
            if !change.creates() {
                return Err(call.not_found(target.name));
            }
            let mut object = change.next(None)?;
            if object.name().is_empty() {
                object::set_meta(&mut object, "name", target.name);
            }
            if !object.uid().is_empty() {
                return Err(uid_mismatch(call, target.name, object.uid(), ""));
            }
            object::metadata(&mut object).remove("resourceVersion");
            return super::create::create(core, call, object, options, change.manages())
                .await
                .map(|stored| (stored, true));
        };
        match attempt_once(core, call, target, change, options, current).await? {
            Attempt::Done(stored) => return Ok((stored, false)),
            Attempt::Lost if attempt < ATTEMPTS => {}
            Attempt::Lost => break,
        }
    }
    Err(Status::modified(&collection.group_resource, target.name))
}

enum Attempt {
    Done(Stored),
    Lost,
}

async fn attempt_once(
    core: &Core,
    call: &Call,
    target: &Target<'_>,
    change: &dyn Change,
    options: &WriteOptions,
    current: Current,
) -> Result<Attempt, Status> {
    let collection = &*call.resource.collection;
    let old = current.object;
    let mut new = change.next(Some(&old))?;
    let unconditional = check_identity(call, target.name, &mut new, &old)?;
    if change.manages() {
        let manager = call.manager(&options.field_manager);
        crate::wire::manage_update(&call.resource, &old, &mut new, &manager, target.subresource, call.now);
    }
    let mut request = Request {
        core,
        user: &call.user,
        resource: &call.resource,
        subresource: target.subresource,
        operation: Operation::Update,
        namespace: &call.info.namespace,
        name: target.name,
        old: Some(&old),
        dry_run: options.dry_run,
        warnings: Vec::new(),
    };
    core.admission.mutate(&mut request, &mut new).await?;
    prepare(call, target.part, &mut new, &old);
    let mut warnings = Vec::new();
    crate::wire::normalize(&call.resource, &mut new);
    validate(call, target.part, &new, &old)?;
    core.admission.validate(&mut request, &new).await?;
    warnings.append(&mut request.warnings);
    let key = std::sync::Arc::clone(&current.entry.key);
    let when = Precondition::ModifiedAt(current.entry.modified);
    if old.deleting() && finished(&new) {
        if !options.dry_run {
            match write::remove(core, key, when).await {
                Ok(_) => {
                    if crate::custom::is_definition(collection) {
                        crate::custom::delete_instances(core, &new).await?;
                    }
                    core.hooks.deleted(core, collection, &new);
                    if crate::custom::is_definition(collection) {
                        crate::custom::reconsider(core, &new).await?;
                    }
                }
                Err(refused) => return lost(refused, unconditional, call, target.name),
            }
        }
        call.warn(warnings);
        return Ok(Attempt::Done(Stored { object: new, entry: None }));
    }
    crate::wire::forget_empty(&call.resource, &mut new);
    let reservation = core.hooks.begin_update(collection, &mut new, &old, options.dry_run)?;
    let bytes = write::encode(&mut new);
    if bytes == current.entry.value {
        object::set_meta(&mut new, "resourceVersion", current.entry.modified.to_string());
        call.warn(warnings);
        return Ok(Attempt::Done(Stored { object: new, entry: Some(current.entry) }));
    }
    if options.dry_run {
        object::set_meta(&mut new, "resourceVersion", current.entry.modified.to_string());
        call.warn(warnings);
        return Ok(Attempt::Done(Stored { object: new, entry: None }));
    }
    match write::put(core, collection, key, &mut new, when).await {
        Ok(entry) => {
            reservation.keep();
            core.hooks.updated(core, collection, &new, &old);
            call.warn(warnings);
            Ok(Attempt::Done(Stored { object: new, entry: Some(entry) }))
        }
        Err(refused) => lost(refused, unconditional, call, target.name),
    }
}

fn lost(refused: Refused, unconditional: bool, call: &Call, name: &str) -> Result<Attempt, Status> {
    match refused {
        Refused::Failed(status) => Err(status),
        Refused::Conflict if unconditional => Ok(Attempt::Lost),
        Refused::Conflict => Err(Status::modified(&call.resource.collection.group_resource, name)),
    }
}

/// Name, namespace, uid and resourceVersion of the next object fit the current
/// one. True if the write named no resourceVersion of its own.
fn check_identity(call: &Call, name: &str, new: &mut Value, old: &Value) -> Result<bool, Status> {
    let collection = &*call.resource.collection;
    if new.name().is_empty() {
        object::set_meta(new, "name", name);
    }
    if new.name() != name && old.name() == name {
        let message = format!("the name of the object ({}) does not match the name on the URL ({name})", new.name());
        return Err(Status::bad_request(message));
    }
    super::create::match_namespace(collection, &call.info.namespace, new)?;
    // A patch that changes the uid breaks a rule; a PUT means another object.
    if call.info.verb != "patch" && !new.uid().is_empty() && new.uid() != old.uid() {
        return Err(uid_mismatch(call, name, new.uid(), old.uid()));
    }
    let asked = new.resource_version().to_owned();
    let revision = super::options::revision(&asked).map_err(|cause| {
        let message = format!("metadata.{}", cause.line());
        Status::untyped(message)
    })?;
    if revision == 0 {
        // A scale is written without a look at the rest of the object.
        if !collection.strategy.unconditional_update() && call.info.subresource != "scale" {
            return Err(unconditional_refused(call, new));
        }
        object::set_meta(new, "resourceVersion", old.resource_version());
        return Ok(true);
    }
    if asked != old.resource_version() {
        return Err(Status::modified(&collection.group_resource, name));
    }
    Ok(call.info.verb == "patch")
}

fn unconditional_refused(call: &Call, new: &Value) -> Status {
    let mut errors = Errors::new();
    let path = crate::field::Path::new("metadata");
    errors.invalid(&path.child("resourceVersion"), &Value::from(0), "must be specified for an update");
    let collection = &*call.resource.collection;
    // Upstream names the resource here, not the kind.
    let name = &collection.group_resource;
    Status::invalid(&name.group, &name.resource, new.name(), errors.into_causes())
}

fn uid_mismatch(call: &Call, name: &str, wanted: &str, actual: &str) -> Status {
    let collection = &call.resource.collection;
    let key = collection.key(&call.info.namespace, name);
    let why = format!(
        "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {wanted}, UID in object meta: {actual}"
    );
    Status::conflict(&collection.group_resource, name, &why)
}

fn prepare(call: &Call, part: Part, new: &mut Value, old: &Value) {
    let strategy = &*call.resource.collection.strategy;
    object::set_meta(new, "generation", old.meta("generation").clone());
    match part {
        Part::Main => write::keep(new, old, strategy.status_fields()),
        Part::Status if strategy.status_writes_metadata() => {
            let metadata = new.get("metadata").cloned();
            write::keep_all_but(new, old, strategy.status_fields());
            if let Some(metadata) = metadata {
                object::as_map(new).insert("metadata".to_owned(), metadata);
            }
        }
        Part::Status => write::keep_all_but(new, old, strategy.status_fields()),
        Part::Other(_) => {}
    }
    let stamp = call.stamp();
    let mut facts = Write { user: &call.user, now: &stamp, part };
    strategy.prepare_update(new, old, &mut facts);
    // A binding is the scheduler's word, not a wish of whoever made the pod.
    let wish = !matches!(part, Part::Status | Part::Other("binding"));
    if wish && raises_generation(strategy.generation(), new, old, strategy.status_fields()) {
        object::set_meta(new, "generation", old.generation() + 1);
    }
    write::keep_system_fields(new, old);
}

fn raises_generation(rule: Generation, new: &Value, old: &Value, status_fields: &[&str]) -> bool {
    let spec = || write::spec_differs(new, old, status_fields);
    match rule {
        Generation::None | Generation::Fixed => false,
        Generation::Spec | Generation::Changes => spec(),
        Generation::SpecAndAnnotations => spec() || new.meta("annotations") != old.meta("annotations"),
        Generation::SpecAndLabels => spec() || new.meta("labels") != old.meta("labels"),
    }
}

fn validate(call: &Call, part: Part, new: &Value, old: &Value) -> Result<(), Status> {
    let collection = &*call.resource.collection;
    let mut errors = Errors::new();
    metadata::update(new, old, &mut errors);
    if !call.resource.custom {
        // Built-in kinds check metadata once more among their own rules.
        metadata::update(new, old, &mut errors);
        metadata::standard_finalizers(collection, new, &mut errors);
    }
    collection.strategy.validate_update(new, old, part, &mut errors);
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(&collection.group_resource.group, &collection.kind, new.name(), errors.into_causes()))
}

/// True if nothing keeps a deleted object any more: an update that removes the
/// last finalizer is its end.
fn finished(new: &Value) -> bool {
    let grace = new.meta("deletionGracePeriodSeconds").as_i64().unwrap_or(0);
    let kept_by_namespace = crate::object::items(new, "spec.finalizers");
    new.finalizers().is_empty()
        && grace == 0
        && (kept_by_namespace.is_empty() || object::text(new, "kind") != "Namespace")
}

/// A change by a plain function of the current object.
pub(crate) struct Map<F>(pub(crate) F);

impl<F: Fn(&Value) -> Result<Value, Status> + Send + Sync> Change for Map<F> {
    fn next(&self, old: Option<&Value>) -> Result<Value, Status> {
        match old {
            Some(old) => (self.0)(old),
            None => Err(Status::internal("a change of nothing")),
        }
    }
}

/// PUT: the object that the client sent.
pub(crate) struct Replace {
    /// Hub object as decoded.
    pub(crate) object: Value,
    /// The kind lets PUT create.
    pub(crate) creates: bool,
}

impl Change for Replace {
    fn next(&self, _old: Option<&Value>) -> Result<Value, Status> {
        Ok(self.object.clone())
    }

    fn creates(&self) -> bool {
        self.creates
    }
}
