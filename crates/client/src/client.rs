//! The handle on one API server. It adds nothing to requests; credentials are
//! the transport's business.

use std::sync::Arc;

use ::api::gvk::GroupVersionResource;
use bytes::Bytes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, Resource};
use serde_json::Value;

use crate::api::Api;
use crate::error::ClientError;
use crate::https::{ConfigError, Https};
use crate::kubeconfig::ClientConfig;
use crate::partial::{DynamicObject, PartialObjectMetadata};
use crate::query::Url;
use crate::transport::{Body, Transport, TransportError};

/// A handle on one API server. Cloning shares the connections.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
}

impl Client {
    /// Over any transport, for instance the API server in this process.
    pub fn new(transport: impl Transport) -> Client {
        Client { transport: Arc::new(transport) }
    }

    /// Over the network. Must be called inside a tokio runtime once requests
    /// are made; nothing is connected yet.
    pub fn https(config: &ClientConfig) -> Result<Client, ConfigError> {
        Ok(Client::new(Https::new(config)?))
    }

    /// A cluster-scoped kind, or a namespaced one in all namespaces.
    pub fn all<K: Resource>(&self) -> Api<K> {
        Api::new(self.clone(), collection::<K>(None), "application/json")
    }

    /// A namespaced kind in one namespace.
    pub fn namespaced<K: Resource>(&self, namespace: &str) -> Api<K> {
        Api::new(self.clone(), collection::<K>(Some(namespace)), "application/json")
    }

    /// Where this object lives: its own namespace, or the cluster.
    pub fn of<K: Metadata<Ty = ObjectMeta>>(&self, object: &K) -> Api<K> {
        match &object.metadata().namespace {
            Some(namespace) => self.namespaced(namespace),
            None => self.all(),
        }
    }

    /// A kind known at run time, as a tree.
    pub fn dynamic(&self, resource: &GroupVersionResource, namespace: Option<&str>) -> Api<Value> {
        Api::new(self.clone(), dynamic_collection(resource, namespace), "application/json")
    }

    /// A kind known at run time, with typed metadata.
    pub fn dynamic_object(&self, resource: &GroupVersionResource, namespace: Option<&str>) -> Api<DynamicObject> {
        Api::new(self.clone(), dynamic_collection(resource, namespace), "application/json")
    }

    /// A kind known at run time, metadata alone: reads and watches carry
    /// nothing else. Do not create or replace through it.
    pub fn metadata(&self, resource: &GroupVersionResource, namespace: Option<&str>) -> Api<PartialObjectMetadata> {
        Api::new(self.clone(), dynamic_collection(resource, namespace), crate::api::METADATA)
    }

    /// The JSON at a path: discovery, `/version`, one object of any kind.
    pub async fn get_json(&self, path: &str) -> Result<Value, ClientError> {
        Api::<Value>::new(self.clone(), String::new(), "application/json").at(path).await
    }

    /// Like [`Client::get_json`], with a media type of the caller's choice.
    pub async fn get_json_as(&self, path: &str, accept: &'static str) -> Result<Value, ClientError> {
        Api::<Value>::new(self.clone(), String::new(), accept).at(path).await
    }

    /// The JSON at a path given in segments, each encoded here, with the
    /// parameters that are not empty.
    pub async fn get_segments(&self, segments: &[&str], parameters: &[(&str, &str)]) -> Result<Value, ClientError> {
        let url = segments.iter().fold(Url::new(String::new()), |url, segment| url.segment(segment));
        let wanted = parameters.iter().filter(|(_, value)| !value.is_empty());
        let url = wanted.fold(url, |url, (name, value)| url.param(name, Some(value)));
        self.get_json(&url.finish()).await
    }

    /// One request as it is; the path starts with `/`.
    pub async fn raw(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, TransportError> {
        self.transport.send(request).await
    }
}

fn collection<K: Resource>(namespace: Option<&str>) -> String {
    path(K::GROUP, K::VERSION, namespace, K::URL_PATH_SEGMENT)
}

fn dynamic_collection(resource: &GroupVersionResource, namespace: Option<&str>) -> String {
    let version = &resource.group_version;
    path(&version.group, &version.version, namespace, &resource.resource)
}

fn path(group: &str, version: &str, namespace: Option<&str>, resource: &str) -> String {
    let mut path = String::with_capacity(64);
    if group.is_empty() {
        path.push_str("/api/");
    } else {
        path.push_str("/apis/");
        path.push_str(group);
        path.push('/');
    }
    path.push_str(version);
    if let Some(namespace) = namespace {
        path.push_str("/namespaces/");
        crate::query::encode(&mut path, namespace);
    }
    path.push('/');
    path.push_str(resource);
    path
}
