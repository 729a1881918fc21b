//! The verbs of the API on one collection. One request each: nothing here
//! retries, caches or decides.

use std::marker::PhantomData;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::{Method, header};
use http_body_util::BodyExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use ::api::status::Status;

use crate::client::Client;
use crate::error::ClientError;
use crate::partial::PartialObjectMetadata;
use crate::query::Url;
use crate::transport::Body;
use crate::unstructured;
use crate::watch::{WatchParams, WatchStream};

/// Largest response that is read whole, in bytes: a list of the largest
/// cluster that upstream supports, unpaged.
const RESPONSE_LIMIT_BYTES: usize = 2 << 30;
/// Largest failure body that is read, in bytes.
const FAILURE_LIMIT_BYTES: usize = 1 << 20;

/// Asks for objects reduced to their metadata.
pub(crate) const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
/// Asks for lists of them.
const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// One collection of objects. Cloning is cheap.
pub struct Api<K> {
    client: Client,
    path: String,
    accept: &'static str,
    kind: PhantomData<fn() -> K>,
}

impl<K> Clone for Api<K> {
    fn clone(&self) -> Self {
        Self { client: self.client.clone(), path: self.path.clone(), accept: self.accept, kind: PhantomData }
    }
}

/// A page of a collection.
#[derive(Clone, Debug, Deserialize)]
#[serde(bound = "K: DeserializeOwned")]
pub struct List<K> {
    /// Revision and continue token.
    #[serde(default)]
    pub metadata: ListMeta,
    /// The objects, by namespace and name.
    #[serde(default = "Vec::new", deserialize_with = "null_is_empty")]
    pub items: Vec<K>,
}

fn null_is_empty<'de, D: serde::Deserializer<'de>, K: DeserializeOwned>(from: D) -> Result<Vec<K>, D::Error> {
    Ok(Option::<Vec<K>>::deserialize(from)?.unwrap_or_default())
}

/// What to list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListParams {
    /// `app=web,tier in (a,b)`.
    pub label_selector: Option<String>,
    /// `spec.nodeName=a`.
    pub field_selector: Option<String>,
    /// Objects a page at most; 0 or absent: all.
    pub limit: Option<u32>,
    /// The token of the page before.
    pub continue_token: Option<String>,
    /// Revision to list at or after; absent: the newest.
    pub resource_version: Option<String>,
}

/// What an update by patch says.
#[derive(Clone, Debug, PartialEq)]
pub enum Patch {
    /// RFC 7396.
    Merge(Value),
    /// Kubernetes' strategic merge.
    Strategic(Value),
    /// RFC 6902.
    Json(Value),
    /// Server-side apply.
    Apply {
        /// The fields that the manager owns.
        value: Value,
        /// Field manager, required by the server.
        manager: String,
        /// Take fields that others own.
        force: bool,
    },
}

/// Who goes first when an object with dependents is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Propagation {
    /// Dependents stay.
    Orphan,
    /// The object goes, dependents follow.
    Background,
    /// The object goes when its dependents are gone.
    Foreground,
}

/// What must hold for a deletion to happen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Preconditions {
    /// Of this object and no other of its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// In this state and no newer one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

/// How to delete.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeleteParams {
    /// Time for the object to end by itself, whole seconds; absent: the kind's default.
    pub grace: Option<Duration>,
    /// Refused with a conflict unless these hold.
    pub preconditions: Option<Preconditions>,
    /// Absent: the kind's default.
    pub propagation: Option<Propagation>,
    /// Check only.
    pub dry_run: bool,
}

impl DeleteParams {
    /// In the background, and only the object with this uid.
    pub fn uid(uid: impl Into<String>) -> Self {
        Self { preconditions: Some(Preconditions { uid: Some(uid.into()), resource_version: None }), ..Self::default() }
    }

    fn body(&self) -> Value {
        let mut body = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        if let Some(grace) = self.grace {
            body["gracePeriodSeconds"] = json!(grace.as_secs());
        }
        if let Some(preconditions) = &self.preconditions {
            body["preconditions"] = json!(preconditions);
        }
        if let Some(propagation) = self.propagation {
            body["propagationPolicy"] = json!(propagation);
        }
        if self.dry_run {
            body["dryRun"] = json!(["All"]);
        }
        body
    }
}

impl<K> Api<K> {
    pub(crate) fn new(client: Client, path: String, accept: &'static str) -> Self {
        Self { client, path, accept, kind: PhantomData }
    }

    /// The collection's path, `/apis/apps/v1/namespaces/a/deployments`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The client underneath.
    pub fn client(&self) -> &Client {
        &self.client
    }

    fn object(&self, name: &str) -> Url {
        Url::new(self.path.clone()).segment(name)
    }

    /// Encodes now, sends when awaited. The future owns what it needs.
    fn send<B: Serialize + ?Sized>(
        &self,
        method: Method,
        url: Url,
        body: Option<(&B, &str)>,
    ) -> BoxFuture<'static, Result<(String, http::Response<Body>), ClientError>> {
        let url = url.finish();
        let request = format!("{method} {url}");
        let client = self.client.clone();
        // A deleted collection comes back as a list of whole objects.
        let accept = if method == Method::DELETE { "application/json" } else { self.accept };
        let built = build(&request, method, url, accept, body);
        Box::pin(async move {
            let response = client.raw(built?).await?;
            if response.status().is_success() {
                return Ok((request, response));
            }
            Err(failure(&request, response).await)
        })
    }

    fn fetch<T: DeserializeOwned, B: Serialize + ?Sized>(
        &self,
        method: Method,
        url: Url,
        body: Option<(&B, &str)>,
    ) -> impl Future<Output = Result<T, ClientError>> + Send + use<T, K, B> {
        let sent = self.send(method, url, body);
        async move {
            let (request, response) = sent.await?;
            let bytes = collect(&request, response.into_body(), RESPONSE_LIMIT_BYTES).await?;
            serde_json::from_slice(&bytes).map_err(|source| ClientError::Decode { request, source })
        }
    }
}

impl<K: DeserializeOwned> Api<K> {
    /// Whatever JSON is at `path`, which need not be this collection's.
    pub(crate) async fn at(&self, path: &str) -> Result<K, ClientError> {
        self.fetch::<K, ()>(Method::GET, Url::new(path.to_owned()), None).await
    }

    /// The object of this name.
    pub async fn get(&self, name: &str) -> Result<K, ClientError> {
        self.fetch::<K, ()>(Method::GET, self.object(name), None).await
    }

    /// The object of this name, or none if there is none.
    pub async fn get_opt(&self, name: &str) -> Result<Option<K>, ClientError> {
        match self.get(name).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// One page of the collection.
    pub fn list(&self, params: &ListParams) -> impl Future<Output = Result<List<K>, ClientError>> + Send + use<K> {
        let limit = params.limit.map(|limit| limit.to_string());
        let url = Url::new(self.path.clone())
            .param("labelSelector", params.label_selector.as_deref())
            .param("fieldSelector", params.field_selector.as_deref())
            .param("limit", limit.as_deref())
            .param("continue", params.continue_token.as_deref())
            .param("resourceVersion", params.resource_version.as_deref());
        // The server tells a list of metadata from the metadata of an object.
        let accept = if self.accept == METADATA { METADATA_LIST } else { self.accept };
        Self { accept, ..self.clone() }.fetch::<List<K>, ()>(Method::GET, url, None)
    }

    /// Changes by patch. The object must exist unless the patch is an apply.
    pub async fn patch(&self, name: &str, patch: &Patch) -> Result<K, ClientError> {
        self.patch_at(self.object(name), patch).await
    }

    /// Changes the status by patch.
    pub async fn patch_status(&self, name: &str, patch: &Patch) -> Result<K, ClientError> {
        self.patch_at(self.object(name).segment("status"), patch).await
    }

    /// Changes a subresource by patch.
    pub async fn patch_subresource(&self, name: &str, subresource: &str, patch: &Patch) -> Result<K, ClientError> {
        self.patch_at(self.object(name).segment(subresource), patch).await
    }

    async fn patch_at(&self, url: Url, patch: &Patch) -> Result<K, ClientError> {
        let (url, body, content_type) = match patch {
            Patch::Merge(body) => (url, body, "application/merge-patch+json"),
            Patch::Strategic(body) => (url, body, "application/strategic-merge-patch+json"),
            Patch::Json(body) => (url, body, "application/json-patch+json"),
            Patch::Apply { value, manager, force } => {
                (url.param("fieldManager", Some(manager)).flag("force", *force), value, "application/apply-patch+yaml")
            }
        };
        self.fetch(Method::PATCH, url, Some((body, content_type))).await
    }

    /// Deletes. That it returns does not mean that the object is gone: it may
    /// have a grace period or finalizers.
    pub async fn delete(&self, name: &str, params: &DeleteParams) -> Result<(), ClientError> {
        self.delete_revision(name, params).await.map(drop)
    }

    /// Deletes, and says at which revision, if the server does.
    pub async fn delete_revision(&self, name: &str, params: &DeleteParams) -> Result<Option<String>, ClientError> {
        let sent = self.send(Method::DELETE, self.object(name), Some((&params.body(), "application/json")));
        let (request, response) = sent.await?;
        let bytes = collect(&request, response.into_body(), RESPONSE_LIMIT_BYTES).await?;
        let object = serde_json::from_slice::<PartialObjectMetadata>(&bytes);
        let object = object.map_err(|source| ClientError::Decode { request, source })?;
        Ok(object.metadata.resource_version)
    }

    /// Deletes every object of the collection that the selectors match.
    pub async fn delete_collection(&self, params: &DeleteParams, select: &ListParams) -> Result<(), ClientError> {
        let url = Url::new(self.path.clone())
            .param("labelSelector", select.label_selector.as_deref())
            .param("fieldSelector", select.field_selector.as_deref());
        let (request, response) = self.send(Method::DELETE, url, Some((&params.body(), "application/json"))).await?;
        collect(&request, response.into_body(), RESPONSE_LIMIT_BYTES).await?;
        Ok(())
    }

    /// Creates at a subresource: `binding`, `eviction`, `token`.
    pub async fn subresource_create(&self, name: &str, subresource: &str, body: &Value) -> Result<Value, ClientError> {
        let url = self.object(name).segment(subresource);
        self.fetch(Method::POST, url, Some((body, "application/json"))).await
    }

    /// Replaces a subresource: `finalize`, `approval`, `scale`.
    pub async fn subresource_replace(&self, name: &str, subresource: &str, body: &Value) -> Result<Value, ClientError> {
        let url = self.object(name).segment(subresource);
        self.fetch(Method::PUT, url, Some((body, "application/json"))).await
    }

    /// Follows the collection. The stream ends when the server ends it or
    /// after an error; ask again with the last seen revision.
    pub fn watch(
        &self,
        params: &WatchParams,
    ) -> impl Future<Output = Result<WatchStream<K>, ClientError>> + Send + use<K> {
        let sent = self.send::<()>(Method::GET, params.apply(Url::new(self.path.clone())), None);
        async move {
            let (request, response) = sent.await?;
            Ok(WatchStream::new(request, response.into_body()))
        }
    }
}

impl<K: DeserializeOwned + Serialize> Api<K> {
    /// Creates the object; its name, or `generateName`, is in it.
    pub async fn create(&self, object: &K) -> Result<K, ClientError> {
        self.fetch(Method::POST, Url::new(self.path.clone()), Some((object, "application/json"))).await
    }

    /// Replaces the object. With a `resourceVersion` in it, only that state.
    pub async fn replace(&self, name: &str, object: &K) -> Result<K, ClientError> {
        self.fetch(Method::PUT, self.object(name), Some((object, "application/json"))).await
    }

    /// Replaces the status alone.
    pub async fn replace_status(&self, name: &str, object: &K) -> Result<K, ClientError> {
        let url = self.object(name).segment("status");
        self.fetch(Method::PUT, url, Some((object, "application/json"))).await
    }
}

fn build<B: Serialize + ?Sized>(
    request: &str,
    method: Method,
    url: String,
    accept: &str,
    body: Option<(&B, &str)>,
) -> Result<http::Request<Bytes>, ClientError> {
    let mut builder = http::Request::builder().method(method).uri(url).header(header::ACCEPT, accept);
    let mut bytes = Bytes::new();
    if let Some((body, content_type)) = body {
        builder = builder.header(header::CONTENT_TYPE, content_type);
        let encoded = serde_json::to_vec(body);
        bytes = encoded.map_err(|source| ClientError::Encode { request: request.to_owned(), source })?.into();
    }
    builder.body(bytes).map_err(|source| ClientError::Request { request: request.to_owned(), source })
}

/// The whole body. By hand: the adapters for a limit and for collecting box the
/// error again, which makes the future's type one that cannot be sent.
async fn collect(request: &str, mut body: Body, limit: usize) -> Result<Bytes, ClientError> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|source| ClientError::Body { request: request.to_owned(), source })?;
        // A trailer has no data and says nothing here.
        let Ok(chunk) = frame.into_data() else { continue };
        if first.len() + rest.len() + chunk.len() > limit {
            return Err(ClientError::TooLarge { request: request.to_owned(), limit });
        }
        if first.is_empty() && rest.is_empty() {
            first = chunk;
            continue;
        }
        rest.extend_from_slice(&std::mem::take(&mut first));
        rest.extend_from_slice(&chunk);
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

/// The server's `Status`; or one made from code and body, if a proxy or an
/// aggregated server said something else.
async fn failure(request: &str, response: http::Response<Body>) -> ClientError {
    let code = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE).map(|kind| kind.as_bytes());
    let text = kind.is_none_or(|kind| kind.is_empty() || kind.starts_with(b"text/"));
    let bytes = match collect(request, response.into_body(), FAILURE_LIMIT_BYTES).await {
        Ok(bytes) => bytes,
        Err(error) => return error,
    };
    if let Ok(mut status) = serde_json::from_slice::<Status>(&bytes)
        && status.kind == "Status"
    {
        status.code.get_or_insert(code.as_u16());
        return ClientError::Api(Box::new(status));
    }
    ClientError::Api(Box::new(unstructured::status(code.as_u16(), request, text.then_some(&bytes))))
}
