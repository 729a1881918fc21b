//! Import of images from files: docker-archive (`docker save`) and OCI layout,
//! as a tar file or a directory. Nothing is fetched.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::layer::{LayerError, hex};
use super::oci::{ArchiveEntry, ConfigFile, Descriptor, Manifest, architecture};
use super::reference::{Reference, is_digest};
use super::store::{EMPTY_LAYER, ImageRecord, ImageStore, layer_name};
use crate::runtime::ImageError;

/// Longest JSON document in an archive, bytes; the specification's
/// recommendation for manifests is 4 MiB.
const MAX_DOCUMENT: u64 = 4 << 20;

/// Most members of an archive: layers, configs, manifests.
const MAX_MEMBERS: usize = 100_000;

/// Links followed from one member of an archive to another.
const MAX_LINKS: usize = 8;

/// Members of an archive by path.
enum Archive {
    Directory(PathBuf),
    Tar(PathBuf, HashMap<String, Member>),
}

enum Member {
    File { offset: u64, size: u64 },
    Link(String),
}

struct Importer<'a> {
    store: &'a Arc<ImageStore>,
    archive: Archive,
    /// For messages.
    path: String,
}

/// Adds every image of the archive at `path`; returns the names that now
/// exist (ids for images without a name).
pub(crate) fn import(store: &Arc<ImageStore>, path: &Path) -> Result<Vec<String>, ImageError> {
    let name = path.display().to_string();
    let step = |source| ImageError::Io { step: format!("read {name}"), source };
    let metadata = std::fs::metadata(path).map_err(step)?;
    let mut unpacked = None;
    let archive = if metadata.is_dir() {
        Archive::Directory(path.to_owned())
    } else {
        // Members are read out of order, which a compressed file can't give.
        unpacked = decompress(store, path).map_err(step)?;
        let plain = unpacked.as_ref().map_or(path, |file| file.0.as_path()).to_owned();
        let members = members(&plain).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => step(error),
            _ => ImageError::Corrupt { reference: name.clone(), detail: format!("not a tar archive: {error}") },
        })?;
        Archive::Tar(plain, members)
    };
    let importer = Importer { store, archive, path: name };
    let result = importer.run();
    drop(unpacked);
    result
}

/// A temporary file that goes with its owner.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::debug!(err = %error, "temporary file stays until the next start");
        }
    }
}

fn decompress(store: &ImageStore, path: &Path) -> io::Result<Option<Temporary>> {
    let mut file = File::open(path)?;
    let mut magic = [0_u8; 4];
    let length = file.read_at(&mut magic, 0)?;
    file.seek(SeekFrom::Start(0))?;
    let file = io::BufReader::new(file);
    let mut plain: Box<dyn Read> = match &magic[..length] {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::stream::read::Decoder::with_buffer(file)?),
        _ => return Ok(None),
    };
    let target = Temporary(store.temporary()?);
    let mut output = File::create(&target.0)?;
    io::copy(&mut plain, &mut output)?;
    Ok(Some(target))
}

fn members(path: &Path) -> io::Result<HashMap<String, Member>> {
    let mut archive = tar::Archive::new(File::open(path)?);
    let mut members = HashMap::new();
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
        let member = match entry.header().entry_type() {
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                Member::File { offset: entry.raw_file_position(), size: entry.size() }
            }
            tar::EntryType::Symlink | tar::EntryType::Link => {
                let link = entry.link_name_bytes().map(|link| String::from_utf8_lossy(&link).into_owned());
                let hard = entry.header().entry_type() == tar::EntryType::Link;
                Member::Link(join(if hard { "" } else { &name }, &link.unwrap_or_default()))
            }
            _ => continue,
        };
        if members.len() >= MAX_MEMBERS {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("more than {MAX_MEMBERS} members")));
        }
        members.insert(name, member);
    }
    Ok(members)
}

/// `link`, seen from the directory of `from`, inside the archive.
fn join(from: &str, link: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

impl Archive {
    fn open(&self, name: &str) -> io::Result<Option<Box<dyn Read>>> {
        match self {
            Self::Directory(dir) => {
                if name.split('/').any(|part| part == "..") || name.starts_with('/') {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{name:?} leads out of the layout")));
                }
                match File::open(dir.join(name)) {
                    Ok(file) => Ok(Some(Box::new(file))),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(error),
                }
            }
            Self::Tar(path, members) => {
                let mut name = name.to_owned();
                for _ in 0..MAX_LINKS {
                    match members.get(&name) {
                        None => return Ok(None),
                        Some(Member::Link(target)) => name.clone_from(target),
                        Some(Member::File { offset, size }) => {
                            let mut file = File::open(path)?;
                            file.seek(SeekFrom::Start(*offset))?;
                            return Ok(Some(Box::new(file.take(*size))));
                        }
                    }
                }
                Err(io::Error::new(io::ErrorKind::InvalidData, format!("{name:?}: too many links")))
            }
        }
    }
}

impl Importer<'_> {
    fn corrupt(&self, detail: impl Into<String>) -> ImageError {
        ImageError::Corrupt { reference: self.path.clone(), detail: detail.into() }
    }

    fn document(&self, name: &str) -> Result<Option<Vec<u8>>, ImageError> {
        let step = |source| ImageError::Io { step: format!("read {name} of {}", self.path), source };
        let Some(stream) = self.archive.open(name).map_err(step)? else { return Ok(None) };
        let mut bytes = Vec::new();
        stream.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).map_err(step)?;
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(self.corrupt(format!("{name} is longer than {MAX_DOCUMENT} bytes")));
        }
        Ok(Some(bytes))
    }

    fn parse<T: serde::de::DeserializeOwned>(&self, name: &str, bytes: &[u8]) -> Result<T, ImageError> {
        serde_json::from_slice(bytes).map_err(|error| self.corrupt(format!("{name}: {error}")))
    }

    fn run(&self) -> Result<Vec<String>, ImageError> {
        if let Some(bytes) = self.document("manifest.json")? {
            let entries: Vec<ArchiveEntry> = self.parse("manifest.json", &bytes)?;
            let mut names = Vec::new();
            for entry in entries {
                names.extend(self.docker_image(entry)?);
            }
            return Ok(names);
        }
        if let Some(bytes) = self.document("index.json")? {
            let index: Manifest = self.parse("index.json", &bytes)?;
            let mut names = Vec::new();
            for descriptor in &index.manifests {
                names.extend(self.oci_image(descriptor)?);
            }
            return Ok(names);
        }
        Err(self.corrupt("neither manifest.json (docker-archive) nor index.json (OCI layout) is in it"))
    }

    fn docker_image(&self, entry: ArchiveEntry) -> Result<Vec<String>, ImageError> {
        let config = self.document(&entry.config)?;
        let config = config.ok_or_else(|| self.corrupt(format!("{} is missing", entry.config)))?;
        let mut tags = BTreeSet::new();
        for name in &entry.repo_tags {
            let reference = Reference::parse(name)?;
            tags.extend(reference.tagged());
        }
        self.image(&config, &entry.layers, tags, BTreeSet::new())
    }

    fn oci_image(&self, descriptor: &Descriptor) -> Result<Vec<String>, ImageError> {
        let mut name = descriptor.annotations.get("io.containerd.image.name");
        name = name.or_else(|| {
            let name = descriptor.annotations.get("org.opencontainers.image.ref.name");
            name.filter(|name| name.contains(['/', ':']))
        });
        let reference = name.map(|name| Reference::parse(name)).transpose()?;
        let (mut digest, mut manifest) = (descriptor.digest.clone(), self.blob_json::<Manifest>(&descriptor.digest)?);
        if !manifest.manifests.is_empty() {
            let Some(fitting) = manifest.for_this_machine() else {
                return Err(self.corrupt(format!("no image for linux/{}", architecture())));
            };
            digest.clone_from(&fitting.digest);
            manifest = self.blob_json(&digest)?;
        }
        let config = manifest.config.as_ref().ok_or_else(|| self.corrupt("a manifest without config"))?;
        let config = self.blob(&config.digest)?;
        let layers: Vec<String> = manifest.layers.iter().map(|layer| blob_path(&layer.digest)).collect();
        let tags = reference.iter().filter_map(Reference::tagged).collect();
        let digests = reference.iter().map(|reference| format!("{}@{}", reference.name(), descriptor.digest)).collect();
        tracing::debug!(manifest = %digest, "manifest chosen");
        self.image(&config, &layers, tags, digests)
    }

    fn blob(&self, digest: &str) -> Result<Vec<u8>, ImageError> {
        if !is_digest(digest) {
            return Err(self.corrupt(format!("{digest:?} is not a sha256 digest")));
        }
        let bytes = self.document(&blob_path(digest))?.ok_or_else(|| self.corrupt(format!("blob {digest} is missing")))?;
        let actual = format!("sha256:{}", hex(&Sha256::digest(&bytes)));
        if actual != digest {
            return Err(self.corrupt(format!("blob {digest} has content {actual}")));
        }
        Ok(bytes)
    }

    fn blob_json<T: serde::de::DeserializeOwned>(&self, digest: &str) -> Result<T, ImageError> {
        let bytes = self.blob(digest)?;
        self.parse(digest, &bytes)
    }

    fn image(
        &self,
        config_bytes: &[u8],
        layers: &[String],
        tags: BTreeSet<String>,
        digests: BTreeSet<String>,
    ) -> Result<Vec<String>, ImageError> {
        let id = format!("sha256:{}", hex(&Sha256::digest(config_bytes)));
        let config: ConfigFile = self.parse("config", config_bytes)?;
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != layers.len() {
            return Err(self.corrupt(format!("{} layers, but {} digests of layers", layers.len(), diff_ids.len())));
        }
        if !config.architecture.is_empty() && config.architecture != architecture() {
            tracing::warn!(image = %id, architecture = %config.architecture, "image is for another architecture");
        }
        let names = layer_names(diff_ids).map_err(|detail| self.corrupt(detail))?;
        let hold = self.store.hold(names.clone())?;
        for (diff_id, path) in diff_ids.iter().zip(layers) {
            if layer_name(diff_id).is_some_and(|name| self.store.has_layer(&name)) {
                continue;
            }
            let step = |source| ImageError::Io { step: format!("read {path} of {}", self.path), source };
            let stream = self.archive.open(path).map_err(step)?;
            let stream = stream.ok_or_else(|| self.corrupt(format!("layer {path} is missing")))?;
            self.store.add_layer(diff_id, stream).map_err(|error| layer_error(&self.path, error))?;
        }
        let mut result: Vec<String> = tags.iter().cloned().collect();
        if result.is_empty() {
            result.push(id.clone());
        }
        self.store.add_image(ImageRecord { id, tags, digests, layers: names, config: config.config, pinned: false })?;
        drop(hold);
        Ok(result)
    }
}

/// Directory names of layers, the lowest first; never empty.
pub(crate) fn layer_names(diff_ids: &[String]) -> Result<Vec<String>, String> {
    let mut names = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let name = layer_name(diff_id).ok_or_else(|| format!("{diff_id:?} is not a sha256 digest"))?;
        // Overlayfs refuses one directory twice; the upper occurrence of a
        // layer has the last word, as when both were unpacked in order.
        names.retain(|have| *have != name);
        names.push(name);
    }
    if names.is_empty() {
        names.push(EMPTY_LAYER.to_owned());
    }
    Ok(names)
}

/// A layer's failure as an image's.
pub(crate) fn layer_error(reference: &str, error: LayerError) -> ImageError {
    match error {
        LayerError::Corrupt(detail) => ImageError::Corrupt { reference: reference.to_owned(), detail },
        LayerError::Io { path, source } if matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof) => {
            ImageError::Corrupt { reference: reference.to_owned(), detail: format!("layer, at {path:?}: {source}") }
        }
        LayerError::Io { path, source } => ImageError::Io { step: format!("unpack {path:?} of {reference}"), source },
    }
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}
