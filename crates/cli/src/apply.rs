//! Applying a manifest: documents of YAML or JSON, each by server-side apply.
//! It does not wait for what the objects bring about.

use api::gvk::{GroupVersion, GroupVersionResource};
use client::Client;
use client::ClientError;
use serde::Deserialize;
use serde_json::Value;

/// Most documents in one manifest.
const MAX_DOCUMENTS: usize = 10_000;

/// Why a manifest could not be applied. What came before the failing document
/// is applied and stays.
#[derive(thiserror::Error, Debug)]
pub enum ApplyError {
    /// A document is not YAML.
    #[error("document {number} is not valid YAML or JSON")]
    Parse {
        /// From 1.
        number: usize,
        /// The cause, with line and column.
        #[source]
        source: serde_yaml_ng::Error,
    },
    /// A document is not an object of Kubernetes.
    #[error("document {number}: {field} is missing; every object needs apiVersion, kind and metadata.name")]
    Field {
        /// From 1.
        number: usize,
        /// Which field.
        field: &'static str,
    },
    /// The server does not serve this kind.
    #[error(
        "document {number}: no kind {kind:?} is served in {group_version:?}; `kubectl api-resources` lists the kinds"
    )]
    Kind {
        /// From 1.
        number: usize,
        /// As written.
        group_version: String,
        /// As written.
        kind: String,
    },
    /// The server refused.
    #[error("document {number}, {kind} {name:?}")]
    Api {
        /// From 1.
        number: usize,
        /// As written.
        kind: String,
        /// As written.
        name: String,
        /// The cause.
        #[source]
        source: Box<ClientError>,
    },
    /// The manifest is too long.
    #[error("the manifest has more than {MAX_DOCUMENTS} documents")]
    TooLong,
}

/// Applies every document as `manager`, taking fields over from other managers.
/// Objects without a namespace go to `default`.
pub async fn manifest(client: &Client, text: &str, manager: &str) -> Result<(), ApplyError> {
    for (index, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
        let number = index + 1;
        if number > MAX_DOCUMENTS {
            return Err(ApplyError::TooLong);
        }
        let object = Value::deserialize(document).map_err(|source| ApplyError::Parse { number, source })?;
        if !object.is_null() {
            apply(client, number, object, manager).await?;
        }
    }
    Ok(())
}

async fn apply(client: &Client, number: usize, object: Value, manager: &str) -> Result<(), ApplyError> {
    let text = |pointer: &str, field| {
        let value = object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        value.ok_or(ApplyError::Field { number, field })
    };
    let (api_version, kind, name) =
        (text("/apiVersion", "apiVersion")?, text("/kind", "kind")?, text("/metadata/name", "metadata.name")?);
    let unknown = || ApplyError::Kind { number, group_version: api_version.clone(), kind: kind.clone() };
    let group_version = GroupVersion::parse(&api_version).ok_or_else(unknown)?;
    let fail = |source| ApplyError::Api { number, kind: kind.clone(), name: name.clone(), source: Box::new(source) };
    let (resource, namespaced) = resource(client, group_version, &kind).await.map_err(fail)?.ok_or_else(unknown)?;
    let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("default").to_owned();
    let api = client.dynamic(&resource, namespaced.then_some(namespace.as_str()));
    let patch = client::Patch::Apply { value: object, manager: manager.to_owned(), force: true };
    api.patch(&name, &patch).await.map(drop).map_err(fail)
}

/// The resource that serves a kind, and whether it is namespaced; `None` if
/// the server has none.
async fn resource(
    client: &Client,
    group_version: GroupVersion,
    kind: &str,
) -> Result<Option<(GroupVersionResource, bool)>, ClientError> {
    let path = if group_version.group.is_empty() {
        format!("/api/{}", group_version.version)
    } else {
        format!("/apis/{group_version}")
    };
    let list: Value = match client.get_json(&path).await {
        Ok(list) => list,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    let resources = list["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = resources
        .iter()
        .find(|row| row["kind"] == kind && row["name"].as_str().is_some_and(|name| !name.contains('/')));
    Ok(found.map(|row| {
        let resource = row["name"].as_str().unwrap_or_default().to_owned();
        (GroupVersionResource { group_version, resource }, row["namespaced"] == true)
    }))
}
