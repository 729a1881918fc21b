//! The file format. Fields that this client does not know are kept, so that
//! writing a merged file loses nothing of other tools.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_yaml_ng::{Mapping, Value};

use super::KubeconfigError;

/// Who may read a kubeconfig: it holds keys.
const FILE_MODE: u32 = 0o600;

/// A kubeconfig file, or several merged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Kubeconfig {
    /// `v1`.
    #[serde(rename = "apiVersion", default = "api_version")]
    pub api_version: String,
    /// `Config`.
    #[serde(default = "kind")]
    pub kind: String,
    /// Servers.
    #[serde(default, deserialize_with = "nullable")]
    pub clusters: Vec<NamedCluster>,
    /// Pairs of cluster and user.
    #[serde(default, deserialize_with = "nullable")]
    pub contexts: Vec<NamedContext>,
    /// Credentials.
    #[serde(default, deserialize_with = "nullable")]
    pub users: Vec<NamedAuthInfo>,
    /// The context used where none is named; may be empty.
    #[serde(default, deserialize_with = "nullable")]
    pub current_context: String,
    /// Everything else.
    #[serde(flatten)]
    pub other: Mapping,
}

fn api_version() -> String {
    "v1".into()
}

fn kind() -> String {
    "Config".into()
}

/// kubectl writes `null` for what is empty.
fn nullable<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl Default for Kubeconfig {
    fn default() -> Self {
        Self {
            api_version: api_version(),
            kind: kind(),
            clusters: Vec::new(),
            contexts: Vec::new(),
            users: Vec::new(),
            current_context: String::new(),
            other: Mapping::new(),
        }
    }
}

macro_rules! named {
    ($(#[$doc:meta])* $named:ident, $field:ident, $type:ty) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        pub struct $named {
            /// Unique in the file.
            pub name: String,
            /// What it names.
            #[serde(default, deserialize_with = "nullable")]
            pub $field: $type,
        }
    };
}

named!(
    /// A server with its name.
    NamedCluster, cluster, Cluster
);
named!(
    /// A context with its name.
    NamedContext, context, Context
);
named!(
    /// Credentials with their name.
    NamedAuthInfo, user, AuthInfo
);

/// A server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Cluster {
    /// URL.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub server: String,
    /// Name the certificate must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_server_name: Option<String>,
    /// Do not check the certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insecure_skip_tls_verify: Option<bool>,
    /// A PEM file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_authority: Option<String>,
    /// PEM in base64; goes before the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_authority_data: Option<String>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Mapping,
}

/// A cluster with a user.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Context {
    /// Name of the cluster.
    #[serde(default)]
    pub cluster: String,
    /// Name of the user.
    #[serde(default)]
    pub user: String,
    /// Where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Mapping,
}

/// Credentials.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct AuthInfo {
    /// A PEM file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<String>,
    /// PEM in base64; goes before the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate_data: Option<String>,
    /// A PEM file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_key: Option<String>,
    /// PEM in base64; goes before the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_key_data: Option<String>,
    /// Bearer token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// A file with one; goes before the token.
    #[serde(rename = "tokenFile", default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<String>,
    /// For basic authentication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// For basic authentication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// User to act as.
    #[serde(rename = "as", default, skip_serializing_if = "Option::is_none")]
    pub impersonate: Option<String>,
    /// Groups to act in.
    #[serde(rename = "as-groups", default, skip_serializing_if = "Vec::is_empty")]
    pub impersonate_groups: Vec<String>,
    /// Everything else, `exec` and `auth-provider` among it.
    #[serde(flatten)]
    pub other: Mapping,
}

impl std::fmt::Debug for AuthInfo {
    /// Without secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuthInfo(..)")
    }
}

/// Where kubeconfig files are looked for: the list in `KUBECONFIG` if it names
/// any, else `.kube/config` in the home directory.
pub fn default_paths(kubeconfig: Option<&OsStr>, home: Option<&Path>) -> Vec<PathBuf> {
    let listed: Vec<PathBuf> = kubeconfig
        .map(|list| std::env::split_paths(list).filter(|path| !path.as_os_str().is_empty()).collect())
        .unwrap_or_default();
    if !listed.is_empty() {
        return listed;
    }
    home.map(|home| home.join(".kube/config")).into_iter().collect()
}

impl Kubeconfig {
    /// Reads one file. Relative paths in it are made absolute by its folder.
    pub fn read(path: &Path) -> Result<Kubeconfig, KubeconfigError> {
        let mut config = Self::read_raw(path)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let absolute = |field: &mut Option<String>| {
            if let Some(file) = field.as_mut().filter(|file| !file.is_empty()) {
                *file = folder.join(&*file).to_string_lossy().into_owned();
            }
        };
        for cluster in &mut config.clusters {
            absolute(&mut cluster.cluster.certificate_authority);
        }
        for user in &mut config.users {
            absolute(&mut user.user.client_certificate);
            absolute(&mut user.user.client_key);
            absolute(&mut user.user.token_file);
        }
        Ok(config)
    }

    /// Reads one file as it is, to change and write it. An empty file is an
    /// empty configuration.
    pub fn read_raw(path: &Path) -> Result<Kubeconfig, KubeconfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| KubeconfigError::Read { path: path.to_owned(), source })?;
        let value: Option<Kubeconfig> = serde_yaml_ng::from_str(&text)
            .map_err(|source| KubeconfigError::Parse { path: path.to_owned(), source })?;
        Ok(value.unwrap_or_default())
    }

    /// Reads and merges files as kubectl does: of entries with one name, and of
    /// the current context, the first file's counts. Files that do not exist
    /// are skipped.
    pub fn load(paths: &[PathBuf]) -> Result<Kubeconfig, KubeconfigError> {
        let mut merged = Kubeconfig::default();
        for path in paths {
            match Self::read(path) {
                Ok(config) => merged.merge(config),
                Err(KubeconfigError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(merged)
    }

    /// Adds what is not there.
    pub fn merge(&mut self, other: Kubeconfig) {
        fn add<T>(into: &mut Vec<T>, from: Vec<T>, name: fn(&T) -> &str) {
            for entry in from {
                if !into.iter().any(|known| name(known) == name(&entry)) {
                    into.push(entry);
                }
            }
        }
        add(&mut self.clusters, other.clusters, |entry| &entry.name);
        add(&mut self.contexts, other.contexts, |entry| &entry.name);
        add(&mut self.users, other.users, |entry| &entry.name);
        if self.current_context.is_empty() {
            self.current_context = other.current_context;
        }
        for (key, value) in other.other {
            if !self.other.contains_key(&key) {
                self.other.insert(key, value);
            }
        }
    }

    /// Puts cluster, user and context under one name, over entries that have it.
    pub fn put(&mut self, name: &str, cluster: Cluster, user: AuthInfo) {
        self.remove(name);
        self.clusters.push(NamedCluster { name: name.into(), cluster });
        self.users.push(NamedAuthInfo { name: name.into(), user });
        let context = Context { cluster: name.into(), user: name.into(), ..Context::default() };
        self.contexts.push(NamedContext { name: name.into(), context });
    }

    /// Takes away cluster, user and context of this name. True if any was there.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.clusters.len() + self.contexts.len() + self.users.len();
        self.clusters.retain(|entry| entry.name != name);
        self.contexts.retain(|entry| entry.name != name);
        self.users.retain(|entry| entry.name != name);
        if self.current_context == name {
            self.current_context.clear();
        }
        before != self.clusters.len() + self.contexts.len() + self.users.len()
    }

    /// Writes the file in one step, readable by its owner alone. A link is
    /// followed. The file that was there is kept beside it as `.bak`.
    pub fn write(&self, path: &Path) -> Result<(), KubeconfigError> {
        let mut value = serde_yaml_ng::to_value(self).map_err(KubeconfigError::Encode)?;
        if let Value::Mapping(mapping) = &mut value {
            mapping.entry("preferences".into()).or_insert(Value::Mapping(Mapping::new()));
        }
        let text = serde_yaml_ng::to_string(&value).map_err(KubeconfigError::Encode)?;
        let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        write_atomically(&target, text.as_bytes())
            .map_err(|source| KubeconfigError::Write { path: path.to_owned(), source })
    }
}

fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let beside = |suffix: &str| {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(suffix);
        folder.join(name)
    };
    if path.exists() {
        let backup = beside(".bak");
        std::fs::copy(path, &backup)?;
        std::fs::set_permissions(&backup, std::fs::Permissions::from_mode(FILE_MODE))?;
    }
    let new = beside(&format!(".{}.new", std::process::id()));
    let result = (|| {
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        std::fs::File::open(folder)?.sync_all()
    })();
    if result.is_err() {
        // The first error says more than a failed removal would.
        drop(std::fs::remove_file(&new));
    }
    result
}
