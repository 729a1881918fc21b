//! The scale of an autoscaler's target: any kind that has one, found by what
//! the server says it serves. What number it shall be is decided elsewhere.

use std::time::Duration;

use api::gvk::{GroupVersion, GroupVersionResource};
use api::status::StatusCause;
use client::discovery::{self, Kinds};
use client::{Client, ClientError};
use k8s_openapi::api::autoscaling::v1;
use k8s_openapi::api::autoscaling::v2::CrossVersionObjectReference;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::decide::Scale;

/// A kind that is not known is asked for again at most this often.
const REDISCOVERY_INTERVAL: Duration = Duration::from_secs(1);
/// Attempts to write a scale that others write as well; upstream's number.
const WRITE_ATTEMPTS: u32 = 5;
/// Wait between them.
const WRITE_WAIT: Duration = Duration::from_millis(10);

/// Why a scale cannot be read. The texts end in conditions and events and are
/// upstream's.
#[derive(thiserror::Error, Debug)]
pub(crate) enum ScaleError {
    /// The target's API version is none.
    #[error("unexpected GroupVersion string: {0}")]
    Version(String),
    /// Nothing of this kind is served.
    #[error("no matches for kind {kind:?} in group {group:?}")]
    Kind {
        /// The kind.
        kind: String,
        /// Its group; empty for the core group.
        group: String,
    },
    /// A request failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The answer is no scale.
    #[error("cannot read the scale")]
    Decode(#[source] serde_json::Error),
}

/// Which resource a kind is, as last asked.
pub(crate) struct Mapper {
    client: Client,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    kinds: Kinds,
    asked: Option<Instant>,
}

impl Mapper {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, known: Mutex::default() }
    }

    /// The resource of a kind; asks the server if it is not known.
    pub(crate) async fn resource(&self, group: &str, kind: &str) -> Result<GroupVersionResource, ScaleError> {
        let key = (group.to_owned(), kind.to_owned());
        // Held while asking, so that one asks for all.
        let mut known = self.known.lock().await;
        let fresh = known.asked.is_some_and(|asked| asked.elapsed() < REDISCOVERY_INTERVAL);
        if !fresh && !known.kinds.contains_key(&key) {
            known.kinds = discovery::by_kind(&discovery::discover(&self.client).await?.resources);
            known.asked = Some(Instant::now());
        }
        let found = known.kinds.get(&key).map(|resource| resource.gvr.clone());
        found.ok_or_else(|| ScaleError::Kind { kind: kind.to_owned(), group: group.to_owned() })
    }

    /// What is known of a kind is wrong: its resource is not served any more.
    async fn forget(&self, group: &str, kind: &str) {
        let mut known = self.known.lock().await;
        known.kinds.remove(&(group.to_owned(), kind.to_owned()));
        known.asked = None;
    }
}

/// A target and its scale as read.
pub(crate) struct Target {
    resource: GroupVersionResource,
    namespace: String,
    name: String,
    object: Value,
    /// What the decision needs of it.
    pub(crate) scale: Scale,
}

/// The group of an API version; an empty one is the core group's.
pub(crate) fn group_of(api_version: &str) -> Option<String> {
    if api_version.is_empty() {
        return Some(String::new());
    }
    GroupVersion::parse(api_version).map(|version| version.group)
}

impl Target {
    /// Reads the scale of what `reference` names in this namespace.
    pub(crate) async fn read(
        mapper: &Mapper,
        namespace: &str,
        reference: &CrossVersionObjectReference,
    ) -> Result<Target, ScaleError> {
        let version = reference.api_version.as_deref().unwrap_or_default();
        let group = group_of(version).ok_or_else(|| ScaleError::Version(version.to_owned()))?;
        let resource = mapper.resource(&group, &reference.kind).await?;
        let (namespace, name) = (namespace.to_owned(), reference.name.clone());
        let object = match get(&mapper.client, &resource, &namespace, &name).await {
            Ok(object) => object,
            Err(error) => {
                if error.is_not_found() && !is_about(&error, &name) {
                    mapper.forget(&group, &reference.kind).await;
                }
                return Err(error.into());
            }
        };
        let scale = parse(&object).map_err(ScaleError::Decode)?;
        Ok(Target { resource, namespace, name, object, scale })
    }

    /// Writes the number. If somebody else wrote in between, it is read again
    /// and written all the same, a few times.
    pub(crate) async fn write(mut self, client: &Client, replicas: i32) -> Result<(), ClientError> {
        let api = client.dynamic(&self.resource, Some(&self.namespace));
        let mut attempt = 1;
        loop {
            match &mut self.object["spec"] {
                Value::Object(spec) => {
                    spec.insert("replicas".to_owned(), replicas.into());
                }
                spec => *spec = json!({"replicas": replicas}),
            }
            match api.subresource_replace(&self.name, "scale", &self.object).await {
                Err(error) if error.is_conflict() && attempt < WRITE_ATTEMPTS => {
                    tokio::time::sleep(WRITE_WAIT).await;
                    self.object = get(client, &self.resource, &self.namespace, &self.name).await?;
                    attempt += 1;
                }
                other => return other.map(drop),
            }
        }
    }
}

/// True if the server itself says that the object is missing, not the path.
fn is_about(error: &ClientError, name: &str) -> bool {
    let details = error.status().and_then(|status| status.details.as_ref());
    details.is_some_and(|details| {
        let unexpected = |cause: &StatusCause| cause.reason.as_deref() == Some("UnexpectedServerResponse");
        details.name.as_deref() == Some(name) && !details.causes.iter().any(unexpected)
    })
}

async fn get(
    client: &Client,
    resource: &GroupVersionResource,
    namespace: &str,
    name: &str,
) -> Result<Value, ClientError> {
    let GroupVersionResource { group_version: version, resource } = resource;
    let (group, version) = (version.group.as_str(), version.version.as_str());
    let object = ["namespaces", namespace, resource, name, "scale"];
    let root: &[&str] = if group.is_empty() { &["api", version] } else { &["apis", group, version] };
    client.get_segments(&[root, &object].concat(), &[]).await
}

fn parse(object: &Value) -> Result<Scale, serde_json::Error> {
    let scale: v1::Scale = serde_json::from_value(object.clone())?;
    let status = scale.status.unwrap_or_default();
    Ok(Scale {
        replicas: scale.spec.and_then(|spec| spec.replicas).unwrap_or(0),
        status_replicas: status.replicas,
        selector: status.selector.unwrap_or_default(),
    })
}
