//! Files of ConfigMap, Secret, downward API and projected volumes.

use std::collections::BTreeMap;

use api::types::api::core::v1 as core;

use super::atomic::{File, Payload};
use super::{SetUpError, Sources};
use crate::env::downward;
use crate::references::ReferenceError;
use crate::spec;

/// Mode of files where none is given.
const DEFAULT_MODE: i32 = 0o644;

/// All files of the volume.
pub(super) async fn payload(
    pod: &core::Pod,
    volume: &core::Volume,
    sources: &Sources<'_>,
) -> Result<Payload, SetUpError> {
    let mut payload = Payload::new();
    if let Some(map) = &volume.config_map {
        let mode = map.default_mode.unwrap_or(DEFAULT_MODE);
        config_map(pod, (&map.name, map.items.as_deref(), map.optional), mode, sources, &mut payload).await?;
    } else if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        let mode = secret.default_mode.unwrap_or(DEFAULT_MODE);
        secret_files(pod, (name, secret.items.as_deref(), secret.optional), mode, sources, &mut payload).await?;
    } else if let Some(downward) = &volume.downward_api {
        let mode = downward.default_mode.unwrap_or(DEFAULT_MODE);
        downward_files(pod, downward.items.as_deref(), mode, sources, &mut payload)?;
    } else if let Some(projected) = &volume.projected {
        let mode = projected.default_mode.unwrap_or(DEFAULT_MODE);
        for source in projected.sources.iter().flatten() {
            projection(pod, source, mode, sources, &mut payload).await?;
        }
    }
    Ok(payload)
}

async fn projection(
    pod: &core::Pod,
    source: &core::VolumeProjection,
    mode: i32,
    sources: &Sources<'_>,
    payload: &mut Payload,
) -> Result<(), SetUpError> {
    if let Some(map) = &source.config_map {
        return config_map(pod, (&map.name, map.items.as_deref(), map.optional), mode, sources, payload).await;
    }
    if let Some(secret) = &source.secret {
        return secret_files(pod, (&secret.name, secret.items.as_deref(), secret.optional), mode, sources, payload)
            .await;
    }
    if let Some(downward) = &source.downward_api {
        return downward_files(pod, downward.items.as_deref(), mode, sources, payload);
    }
    if let Some(token) = &source.service_account_token {
        let data = sources
            .tokens
            .get(pod, token.audience.as_deref(), token.expiration_seconds)
            .await
            .map_err(SetUpError::Token)?;
        // A token is for its user only, where there is one.
        let owner = common_user(pod);
        let grouped = spec::spec(pod).security_context.as_ref().is_some_and(|s| s.fs_group.is_some());
        let mode = if owner.is_some() || grouped { 0o600 } else { mode };
        payload.insert(token.path.clone(), File { data: data.into_bytes(), mode: bits(mode), owner });
        return Ok(());
    }
    Err(SetUpError::Unsupported)
}

/// The user of all containers, if it is one and the same (`FsUserFrom`, 1.36).
fn common_user(pod: &core::Pod) -> Option<u32> {
    let of_pod = spec::spec(pod).security_context.as_ref().and_then(|s| s.run_as_user);
    let mut users = spec::main_containers(pod)
        .iter()
        .chain(spec::init_containers(pod))
        .map(|c| c.security_context.as_ref().and_then(|s| s.run_as_user).or(of_pod));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok())?
}

fn bits(mode: i32) -> u32 {
    u32::try_from(mode).unwrap_or(0) & 0o777
}

type Wanted<'a> = (&'a str, Option<&'a [core::KeyToPath]>, Option<bool>);

async fn config_map(
    pod: &core::Pod,
    (name, items, optional): Wanted<'_>,
    mode: i32,
    sources: &Sources<'_>,
    payload: &mut Payload,
) -> Result<(), SetUpError> {
    let optional = optional == Some(true);
    let found = match sources.references.config_map(spec::namespace(pod), name).await {
        Ok(found) => found,
        Err(ReferenceError::NotFound { .. }) if optional => return Ok(()),
        Err(err) => return Err(err.into()),
    };
    let mut data: BTreeMap<&str, &[u8]> = BTreeMap::new();
    data.extend(found.data.iter().flatten().map(|(k, v)| (k.as_str(), v.as_bytes())));
    data.extend(found.binary_data.iter().flatten().map(|(k, v)| (k.as_str(), v.0.as_slice())));
    select(&data, items, mode, optional, SetUpError::ConfigKey, payload)
}

async fn secret_files(
    pod: &core::Pod,
    (name, items, optional): Wanted<'_>,
    mode: i32,
    sources: &Sources<'_>,
    payload: &mut Payload,
) -> Result<(), SetUpError> {
    let optional = optional == Some(true);
    let found = match sources.references.secret(spec::namespace(pod), name).await {
        Ok(found) => found,
        Err(ReferenceError::NotFound { .. }) if optional => return Ok(()),
        Err(err) => return Err(err.into()),
    };
    let data = found.data.iter().flatten().map(|(k, v)| (k.as_str(), v.0.as_slice())).collect();
    select(&data, items, mode, optional, SetUpError::SecretKey, payload)
}

fn select(
    data: &BTreeMap<&str, &[u8]>,
    items: Option<&[core::KeyToPath]>,
    mode: i32,
    optional: bool,
    missing: fn(String) -> SetUpError,
    payload: &mut Payload,
) -> Result<(), SetUpError> {
    let file = |data: &[u8], mode: i32| File { data: data.to_vec(), mode: bits(mode), owner: None };
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        payload.extend(data.iter().map(|(key, value)| ((*key).to_owned(), file(value, mode))));
        return Ok(());
    };
    for item in items {
        match data.get(item.key.as_str()) {
            Some(value) => {
                payload.insert(item.path.clone(), file(value, item.mode.unwrap_or(mode)));
            }
            None if optional => {}
            None => return Err(missing(item.key.clone())),
        }
    }
    Ok(())
}

fn downward_files(
    pod: &core::Pod,
    items: Option<&[core::DownwardAPIVolumeFile]>,
    mode: i32,
    sources: &Sources<'_>,
    payload: &mut Payload,
) -> Result<(), SetUpError> {
    for item in items.unwrap_or_default() {
        let text = if let Some(field) = &item.field_ref {
            downward::field(pod, &field.field_path, &[], sources.host_ips)?
        } else if let Some(resource) = &item.resource_field_ref {
            downward::resource(pod, None, resource, sources.allocatable)?
        } else {
            continue;
        };
        let mode = bits(item.mode.unwrap_or(mode));
        payload.insert(item.path.clone(), File { data: text.into_bytes(), mode, owner: None });
    }
    Ok(())
}
