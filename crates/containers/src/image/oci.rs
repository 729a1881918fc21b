//! The JSON documents of the OCI image specification and of Docker's archive,
//! as far as they matter here. Unknown fields are passed over.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `config` of an image's configuration. Labels are read for listing only and
/// drive nothing.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ImageConfig {
    /// User, `user[:group]` by number or name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) user: String,
    /// `NAME=value`.
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) env: Vec<String>,
    /// Prefix of the command.
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) entrypoint: Vec<String>,
    /// Default arguments.
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) cmd: Vec<String>,
    /// Working directory.
    pub(crate) working_dir: String,
    /// Stop signal by name or number.
    pub(crate) stop_signal: String,
}

fn null_as_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

/// An image's configuration document.
#[derive(Deserialize, Debug, Default)]
#[serde(default)]
pub(crate) struct ConfigFile {
    /// CPU architecture in Go's words.
    pub(crate) architecture: String,
    /// Operating system.
    pub(crate) os: String,
    /// How to run it.
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) config: ImageConfig,
    /// Its layers.
    pub(crate) rootfs: RootFs,
}

/// Digests of the uncompressed layers, the lowest first.
#[derive(Deserialize, Debug, Default)]
#[serde(default)]
pub(crate) struct RootFs {
    /// `sha256:…`.
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) diff_ids: Vec<String>,
}

/// Points at a blob.
#[derive(Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Descriptor {
    /// Kind of blob.
    pub(crate) media_type: String,
    /// `sha256:…`.
    pub(crate) digest: String,
    /// Bytes.
    pub(crate) size: u64,
    /// Of a manifest in an index.
    pub(crate) platform: Option<Platform>,
    /// Free text by key.
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// What a manifest is for.
#[derive(Deserialize, Debug, Clone, Default)]
#[serde(default)]
pub(crate) struct Platform {
    /// CPU architecture in Go's words.
    pub(crate) architecture: String,
    /// Operating system.
    pub(crate) os: String,
    /// `v7`, `v8`, …
    pub(crate) variant: String,
}

/// Index and manifest in one: which it is shows in what is present.
#[derive(Deserialize, Debug, Default)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Manifest {
    /// 2 for everything of today.
    pub(crate) schema_version: u32,
    /// May be absent.
    pub(crate) media_type: String,
    /// Of a manifest.
    pub(crate) config: Option<Descriptor>,
    /// Of a manifest, the lowest first.
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) layers: Vec<Descriptor>,
    /// Of an index.
    #[serde(deserialize_with = "null_as_default")]
    pub(crate) manifests: Vec<Descriptor>,
}

/// One entry of `manifest.json` in a docker-archive.
#[derive(Deserialize, Debug)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ArchiveEntry {
    /// Path of the configuration.
    pub(crate) config: String,
    /// Names.
    #[serde(default, deserialize_with = "null_as_default")]
    pub(crate) repo_tags: Vec<String>,
    /// Paths of the layers, the lowest first.
    #[serde(default, deserialize_with = "null_as_default")]
    pub(crate) layers: Vec<String>,
}

/// This machine's architecture in Go's words.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

impl Manifest {
    /// The manifest of an index that fits this machine.
    pub(crate) fn for_this_machine(&self) -> Option<&Descriptor> {
        let fits = |descriptor: &&Descriptor| match &descriptor.platform {
            Some(platform) => platform.os == "linux" && platform.architecture == architecture(),
            None => false,
        };
        // Several variants of one architecture: the plain one, or the first.
        let plain = |descriptor: &&Descriptor| {
            descriptor.platform.as_ref().is_some_and(|platform| matches!(platform.variant.as_str(), "" | "v1" | "v8"))
        };
        let mut fitting = self.manifests.iter().filter(fits);
        let first = fitting.clone().next();
        fitting.find(plain).or(first).or_else(|| match self.manifests.as_slice() {
            [only] if only.platform.is_none() => Some(only),
            _ => None,
        })
    }
}
