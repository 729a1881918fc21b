//! Volumes by claim: the PersistentVolume that a claim is bound to, where it
//! is a directory of this machine (`hostPath`, `local`).

use api::types::api::core::v1 as core;
use client::Client;

use super::{Mounted, SetUpError, hostpath, ownership};
use crate::spec;

pub(super) async fn set_up(
    pod: &core::Pod,
    claim: &core::PersistentVolumeClaimVolumeSource,
    client: &Client,
    fs_group: Option<i64>,
) -> Result<Mounted, SetUpError> {
    let namespace = spec::namespace(pod);
    let failed = |text: String| SetUpError::Claim(text);
    let found =
        client.namespaced::<core::PersistentVolumeClaim>(namespace).get(&claim.claim_name).await.map_err(|err| {
            failed(format!(
                "error processing PVC {namespace}/{}: failed to fetch PVC from API server: {err}",
                claim.claim_name
            ))
        })?;
    let name = found.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|n| !n.is_empty());
    let bound = found.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    let (Some(name), true) = (name, bound) else {
        return Err(failed(format!("error processing PVC {namespace}/{}: PVC is not bound", claim.claim_name)));
    };
    let volume = client.all::<core::PersistentVolume>().get(&name).await.map_err(|err| {
        failed(format!("error processing PVC {namespace}/{}: failed to get PV {name}: {err}", claim.claim_name))
    })?;
    let Some(spec) = volume.spec else { return Err(SetUpError::Unsupported) };
    let mut mounted = if let Some(host) = &spec.host_path {
        hostpath::check(host)?
    } else if let Some(local) = &spec.local {
        let path = std::path::PathBuf::from(&local.path);
        if !path.exists() {
            return Err(failed(format!("path {:?} does not exist", local.path)));
        }
        ownership::apply(&path, fs_group, claim.read_only == Some(true))?;
        Mounted { path, readonly: false }
    } else {
        return Err(SetUpError::Unsupported);
    };
    mounted.readonly = claim.read_only == Some(true);
    Ok(mounted)
}
