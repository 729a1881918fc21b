//! Admission: who may still change or refuse a write after it was authorized.
//! One ordered table; each plugin in its own file. Not for rules of a single
//! kind's fields, which are the kind's validation.

use api::status::Status;
use futures_util::future::BoxFuture;
use serde_json::Value;

use crate::access::UserInfo;
use crate::pipeline::write;
use crate::resource::Resource;
use crate::state::Core;

mod default_class;
mod default_tolerations;
mod escalation;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod pod_resize;
mod pod_security;
mod priority;
mod resource_quota;
mod runtime_class;
mod service_account;
mod storage_protection;
mod taint_nodes;

/// What a write does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Operation {
    /// A new object.
    Create,
    /// A changed object.
    Update,
    /// The end of an object.
    Delete,
}

/// A write as plugins see it.
pub(crate) struct Request<'a> {
    /// For reading other objects.
    pub(crate) core: &'a Core,
    /// Who writes.
    pub(crate) user: &'a UserInfo,
    /// What is written.
    pub(crate) resource: &'a Resource,
    /// Empty for the object itself.
    pub(crate) subresource: &'a str,
    /// What is done.
    pub(crate) operation: Operation,
    /// Empty for cluster scope.
    pub(crate) namespace: &'a str,
    /// May be empty before a name is generated.
    pub(crate) name: &'a str,
    /// The object before, for updates and deletions.
    pub(crate) old: Option<&'a Value>,
    /// Nothing is committed, so nothing may be written beside it.
    pub(crate) dry_run: bool,
    /// Warnings for the client.
    pub(crate) warnings: Vec<String>,
}

impl Request<'_> {
    /// True if this is about the resource itself of this group and plural.
    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        let name = &self.resource.collection.group_resource;
        self.subresource.is_empty() && name.group == group && name.resource == plural
    }

    /// True if this is about a subresource of this group and plural.
    pub(crate) fn is_sub(&self, group: &str, plural: &str, subresource: &str) -> bool {
        let name = &self.resource.collection.group_resource;
        self.subresource == subresource && name.group == group && name.resource == plural
    }

    /// All objects of a core kind in the request's namespace.
    pub(crate) async fn all_in_namespace(&self, plural: &str) -> Result<Vec<Value>, Status> {
        self.objects("", plural, self.namespace).await
    }

    /// All objects of a cluster-wide kind.
    pub(crate) async fn all(&self, group: &str, plural: &str) -> Result<Vec<Value>, Status> {
        self.objects(group, plural, "").await
    }

    async fn objects(&self, group: &str, plural: &str, namespace: &str) -> Result<Vec<Value>, Status> {
        let collection = self.core.collection(group, plural)?;
        let all = write::all(self.core, &collection, namespace).await?;
        Ok(all.into_iter().map(|current| current.object).collect())
    }

    /// 403 in a plugin's words.
    pub(crate) fn forbid(&self, why: &str) -> Status {
        Status::forbidden(&self.resource.collection.group_resource, self.name, why)
    }
}

/// A step of admission. An error is a refusal.
pub(crate) trait Plugin: Send + Sync + 'static {
    /// May change the object; runs before validation.
    fn mutate<'a>(
        &'a self,
        _request: &'a mut Request<'_>,
        _object: &'a mut Value,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async { Ok(()) })
    }

    /// May refuse the object, which is `null` for deletions; runs after
    /// validation and changes nothing.
    fn validate<'a>(&'a self, _request: &'a mut Request<'_>, _object: &'a Value) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async { Ok(()) })
    }

    /// Whether the plugin looks at this write at all.
    fn handles(&self, request: &Request<'_>) -> bool;
}

/// The plugins in the order in which they run; mutation and validation keep
/// the same order (upstream's `kubeapiserver/options/plugins.go`).
pub(crate) struct Chain(Vec<Box<dyn Plugin>>);

impl Chain {
    /// All plugins that are on by default.
    pub(crate) fn new() -> Self {
        Self(vec![
            Box::new(namespace_lifecycle::NamespaceLifecycle),
            Box::new(limit_ranger::LimitRanger),
            Box::new(service_account::ServiceAccount),
            Box::new(node_restriction::NodeRestriction),
            Box::new(taint_nodes::TaintNodesByCondition),
            Box::new(pod_security::PodSecurity),
            Box::new(priority::Priority),
            Box::new(default_tolerations::DefaultTolerationSeconds),
            Box::new(storage_protection::StorageObjectInUseProtection),
            Box::new(storage_protection::PersistentVolumeClaimResize),
            Box::new(runtime_class::RuntimeClass),
            Box::new(pod_resize::PodResize),
            Box::new(default_class::STORAGE),
            Box::new(default_class::INGRESS),
            // What is checked is what will be stored.
            Box::new(escalation::Escalation),
            // Last: only what nobody refuses is charged.
            Box::new(resource_quota::ResourceQuota),
        ])
    }

    /// Runs the mutating half.
    pub(crate) async fn mutate(&self, request: &mut Request<'_>, object: &mut Value) -> Result<(), Status> {
        for plugin in &self.0 {
            if plugin.handles(request) {
                plugin.mutate(request, object).await?;
            }
        }
        Ok(())
    }

    /// Runs the validating half.
    pub(crate) async fn validate(&self, request: &mut Request<'_>, object: &Value) -> Result<(), Status> {
        for plugin in &self.0 {
            if plugin.handles(request) {
                plugin.validate(request, object).await?;
            }
        }
        Ok(())
    }
}
