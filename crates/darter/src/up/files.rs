//! The files that `up` leaves for people and programs: the administrator's
//! token and kubeconfig. Written whole, readable by their owner alone.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;

use super::UpError;
use super::control::Control;
use crate::arguments;
use crate::instance::Instance;
use crate::pki::{Subject, write_private};

/// Bytes of chance in the administrator's token.
const TOKEN_BYTES: usize = 32;
/// Name of cluster, user and context in the kubeconfig.
const NAME: &str = "darter";

/// The administrator's token: the one in the data directory, or a new one.
pub(super) fn admin_token(instance: &Instance) -> Result<String, UpError> {
    let path = instance.pki().join("admin.token");
    match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            return Err(UpError::File { step: "reading", path, source });
        }
        _ => {}
    }
    let mut bytes = [0; TOKEN_BYTES];
    let mut filled = 0;
    while filled < TOKEN_BYTES {
        let rest = &mut bytes[filled..];
        filled += rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty())
            .map_err(|error| UpError::start("the random number generator")(std::io::Error::from(error)))?;
    }
    let token = URL_SAFE_NO_PAD.encode(bytes);
    write_private(&path, &token)?;
    Ok(token)
}

/// Writes kubeconfig and token where the user asked, or into the data
/// directory; returns the kubeconfig's path.
pub(super) fn write_credentials(
    arguments: &arguments::Up,
    instance: &Instance,
    control: &Control,
) -> Result<PathBuf, UpError> {
    let identity = control.authority.identity(&Subject {
        name: "admin",
        common_name: "kubernetes-admin",
        organizations: &["system:masters"],
        dns_names: &[],
        addresses: &[],
    })?;
    let path = arguments.kubeconfig.clone().unwrap_or_else(|| instance.kubeconfig());
    let encode = |text: &str| STANDARD.encode(text);
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": NAME, "cluster": {
            "server": control.url, "certificate-authority-data": encode(&control.authority_pem)}}],
        "users": [{"name": NAME, "user": {
            "client-certificate-data": encode(&identity.certificate_pem), "client-key-data": encode(&identity.key_pem)}}],
        "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": NAME}}],
        "current-context": NAME,
    });
    let text = serde_yaml_ng::to_string(&config).map_err(UpError::start("the kubeconfig"))?;
    write_private(&path, &text)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    write_private(&folder.join("admin.token"), &control.admin_token)?;
    Ok(path)
}
