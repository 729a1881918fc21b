//! The environment of a container: envFrom, env with its sources, and the
//! variables of Services. It reads objects through [`crate::references`] and
//! files of mounted volumes, and keeps nothing.

pub(crate) mod downward;
mod file;
mod services;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use api::types::api::core::v1 as core;

use crate::expand;
use crate::references::{ReferenceError, References};
use crate::spec;

/// Why a container has no environment. The text is upstream's; it becomes the
/// message of `CreateContainerConfigError`.
#[derive(thiserror::Error, Debug)]
pub(crate) enum EnvError {
    /// A referenced object is missing or could not be read.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// A key is missing.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    Key {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// The key.
        key: String,
        /// Of the object.
        namespace: String,
        /// Of the object.
        name: String,
    },
    /// A field of the pod that can't be shown.
    #[error(transparent)]
    Field(#[from] downward::FieldError),
    /// An environment file could not be read.
    #[error(transparent)]
    File(#[from] file::FileError),
}

/// What the environment is made from.
pub(crate) struct Sources<'a> {
    /// ConfigMaps and Secrets.
    pub(crate) references: &'a References,
    /// Services of all namespaces.
    pub(crate) services: &'a [Arc<core::Service>],
    /// Addresses of the pod, the primary first.
    pub(crate) pod_ips: &'a [IpAddr],
    /// Addresses of the machine, the primary first.
    pub(crate) host_ips: &'a [IpAddr],
    /// What the machine offers; stands in for limits that are not set.
    pub(crate) allocatable: &'a BTreeMap<String, i64>,
    /// Where volumes are mounted, by name.
    pub(crate) volumes: &'a BTreeMap<String, PathBuf>,
}

/// The variables, without those of the image.
pub(crate) async fn build(
    pod: &core::Pod,
    container: &core::Container,
    sources: &Sources<'_>,
) -> Result<BTreeMap<String, String>, EnvError> {
    let links = spec::spec(pod).enable_service_links != Some(false);
    let services = services::variables(sources.services, spec::namespace(pod), links);
    let mut env = BTreeMap::new();
    for from in container.env_from.iter().flatten() {
        take_all(pod, from, sources, &mut env).await?;
    }
    for variable in container.env.iter().flatten() {
        let value = match (variable.value.as_deref().unwrap_or_default(), &variable.value_from) {
            ("", Some(source)) => match source_value(pod, container, source, sources).await? {
                Some(value) => value,
                None => continue,
            },
            (text, _) => expand::expand(text, |name| env.get(name).or_else(|| services.get(name)).cloned()),
        };
        env.insert(variable.name.clone(), value);
    }
    for (name, value) in services {
        env.entry(name).or_insert(value);
    }
    Ok(env)
}

async fn take_all(
    pod: &core::Pod,
    from: &core::EnvFromSource,
    sources: &Sources<'_>,
    env: &mut BTreeMap<String, String>,
) -> Result<(), EnvError> {
    let namespace = spec::namespace(pod);
    let prefix = from.prefix.as_deref().unwrap_or_default();
    if let Some(map) = &from.config_map_ref {
        match sources.references.config_map(namespace, &map.name).await {
            Ok(found) => {
                for (key, value) in found.data.iter().flatten() {
                    env.insert(format!("{prefix}{key}"), value.clone());
                }
            }
            Err(err) if err.is_not_found() && map.optional == Some(true) => {}
            Err(err) => return Err(err.into()),
        }
    } else if let Some(secret) = &from.secret_ref {
        match sources.references.secret(namespace, &secret.name).await {
            Ok(found) => {
                for (key, value) in found.data.iter().flatten() {
                    env.insert(format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into_owned());
                }
            }
            Err(err) if err.is_not_found() && secret.optional == Some(true) => {}
            Err(err) => return Err(err.into()),
        }
    }
    Ok(())
}

/// `None`: optional and absent.
async fn source_value(
    pod: &core::Pod,
    container: &core::Container,
    source: &core::EnvVarSource,
    sources: &Sources<'_>,
) -> Result<Option<String>, EnvError> {
    let namespace = spec::namespace(pod);
    if let Some(field) = &source.field_ref {
        return Ok(Some(downward::field(pod, &field.field_path, sources.pod_ips, sources.host_ips)?));
    }
    if let Some(field) = &source.resource_field_ref {
        return Ok(Some(downward::resource(pod, Some(container), field, sources.allocatable)?));
    }
    if let Some(key) = &source.config_map_key_ref {
        let optional = key.optional == Some(true);
        let map = match sources.references.config_map(namespace, &key.name).await {
            Ok(map) => map,
            Err(err) if err.is_not_found() && optional => return Ok(None),
            Err(err) => return Err(err.into()),
        };
        let value = map.data.as_ref().and_then(|d| d.get(&key.key)).cloned();
        return require("ConfigMap", namespace, &key.name, &key.key, value, optional);
    }
    if let Some(key) = &source.secret_key_ref {
        let optional = key.optional == Some(true);
        let secret = match sources.references.secret(namespace, &key.name).await {
            Ok(secret) => secret,
            Err(err) if err.is_not_found() && optional => return Ok(None),
            Err(err) => return Err(err.into()),
        };
        let value =
            secret.data.as_ref().and_then(|d| d.get(&key.key)).map(|v| String::from_utf8_lossy(&v.0).into_owned());
        return require("Secret", namespace, &key.name, &key.key, value, optional);
    }
    if let Some(key) = &source.file_key_ref {
        return Ok(file::value(key, sources.volumes)?);
    }
    Ok(Some(String::new()))
}

fn require(
    kind: &'static str,
    namespace: &str,
    name: &str,
    key: &str,
    value: Option<String>,
    optional: bool,
) -> Result<Option<String>, EnvError> {
    if value.is_some() || optional {
        return Ok(value);
    }
    Err(EnvError::Key { kind, key: key.into(), namespace: namespace.into(), name: name.into() })
}
