//! The images of this machine: an index file, and one directory per unpacked
//! layer. A layer directory is visible under its final name only when it is
//! complete and verified. Several processes may use one store at a time: the
//! index is changed under a file lock and read again when it changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::layer::{LayerError, unpack};
use super::oci::ImageConfig;
use super::reference::{Reference, is_digest};
use super::registries::Registries;
use super::{archive, pull};
use crate::files;
use crate::runtime::{Image, ImageError, RegistryAuth};

/// Format of `images.json`.
const FORMAT: u32 = 1;

/// Hex digits of a layer's digest in its directory name: 128 bits keep names
/// unique and short, for kernels that take all layers of a mount in one page.
const NAME_DIGITS: usize = 32;

/// Stands in for the lower directories of an image without layers.
pub(crate) const EMPTY_LAYER: &str = "empty";

#[derive(Serialize, Deserialize, Clone, Debug, Default)]
struct Index {
    format: u32,
    /// By image id.
    images: BTreeMap<String, ImageRecord>,
    /// Bytes of each layer, by directory name.
    layers: BTreeMap<String, u64>,
}

/// What is known of one image.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub(crate) struct ImageRecord {
    /// Config digest.
    pub(crate) id: String,
    /// `name:tag`.
    pub(crate) tags: BTreeSet<String>,
    /// `name@sha256:…`.
    pub(crate) digests: BTreeSet<String>,
    /// Layer directory names, the lowest first.
    pub(crate) layers: Vec<String>,
    /// How to run it.
    pub(crate) config: ImageConfig,
    /// Not removed by garbage collection.
    #[serde(default)]
    pub(crate) pinned: bool,
}

impl ImageRecord {
    /// `name@sha256:…`: under the name of this reference, or under any other
    /// that the image was fetched by.
    pub(crate) fn digest_under(&self, reference: &str) -> Option<String> {
        let name = Reference::parse(reference).ok().map(|reference| reference.name());
        let same = |digest: &&String| digest.split_once('@').map(|(have, _)| have) == name.as_deref();
        self.digests.iter().find(same).or_else(|| self.digests.first()).cloned()
    }
}

/// Images and layers below one directory.
pub struct ImageStore {
    root: PathBuf,
    /// This process's unfinished things; `lock` in it is held while it lives.
    session: PathBuf,
    _alive: File,
    registries: Registries,
    cache: Mutex<Cache>,
    /// Sizes of layers that this process unpacked and no image refers to yet.
    sizes: Mutex<HashMap<String, u64>>,
    /// One pull per name at a time: the second finds what the first fetched.
    pulls: Mutex<HashMap<String, std::sync::Weak<tokio::sync::Mutex<()>>>>,
}

#[derive(Default)]
struct Cache {
    index: Arc<Index>,
    /// Inode, seconds, nanoseconds of the file that was read.
    stamp: Option<(u64, i64, i64)>,
}

/// Keeps layers from being collected, by any process, while an image is
/// assembled or a container made.
pub(crate) struct Hold(Vec<PathBuf>);

impl Drop for Hold {
    fn drop(&mut self) {
        for path in &self.0 {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::debug!(err = %error, "hold on a layer ends with the process");
            }
        }
    }
}

/// The directory name of a layer.
pub(crate) fn layer_name(diff_id: &str) -> Option<String> {
    is_digest(diff_id).then(|| diff_id["sha256:".len()..][..NAME_DIGITS].to_owned())
}

fn io_error(step: &str, path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    let step = format!("{step} {}", path.display());
    move |source| ImageError::Io { step, source }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ImageStore {
    /// Opens the store below `root`, making it if absent, and removes what
    /// interrupted processes left behind. `registries` is a `registries.yaml`.
    pub fn open(root: &Path, registries: Option<&Path>) -> Result<Arc<Self>, ImageError> {
        let tmp = root.join("tmp");
        for dir in [&root.join("layers").join(EMPTY_LAYER), &tmp] {
            std::fs::create_dir_all(dir).map_err(io_error("make", dir))?;
        }
        let read = registries.map(|path| Registries::read(path).map_err(io_error("read", path)));
        let registries = read.transpose()?.unwrap_or_default();
        let _guard = exclusive(root)?;
        clear_dead_sessions(&tmp)?;
        let name = crate::random_hex(8).map_err(io_error("name", &tmp))?;
        let session = tmp.join(name);
        std::fs::create_dir(&session).map_err(io_error("make", &session))?;
        let alive = File::create(session.join("lock")).map_err(io_error("make a lock in", &session))?;
        flock(&alive, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| io_error("lock", &session)(error.into()))?;
        let store = Self {
            root: root.to_owned(),
            session,
            _alive: alive,
            registries,
            cache: Mutex::default(),
            sizes: Mutex::default(),
            pulls: Mutex::default(),
        };
        store.index()?;
        Ok(Arc::new(store))
    }

    /// Where layers are.
    pub(crate) fn layers_dir(&self) -> PathBuf {
        self.root.join("layers")
    }

    /// A new name for something unfinished of this process.
    pub(crate) fn temporary(&self) -> io::Result<PathBuf> {
        Ok(self.session.join(crate::random_hex(16)?))
    }

    /// True when the layer is complete on disk.
    pub(crate) fn has_layer(&self, name: &str) -> bool {
        self.layers_dir().join(name).is_dir()
    }

    /// The index as it is on disk now.
    fn index(&self) -> Result<Arc<Index>, ImageError> {
        let path = self.root.join("images.json");
        let stamp = match std::fs::metadata(&path) {
            Ok(metadata) => Some((metadata.ino(), metadata.mtime(), metadata.mtime_nsec())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        let mut cache = lock(&self.cache);
        if stamp.is_none() || cache.stamp != stamp {
            let index = files::read_json::<Index>(&path).map_err(io_error("read", &path))?;
            let index = index.unwrap_or(Index { format: FORMAT, ..Index::default() });
            if index.format != FORMAT {
                let source =
                    io::Error::new(io::ErrorKind::InvalidData, format!("format {} is not {FORMAT}", index.format));
                return Err(io_error("read", &path)(source));
            }
            *cache = Cache { index: Arc::new(index), stamp };
        }
        Ok(Arc::clone(&cache.index))
    }

    /// Changes the index; nobody else does meanwhile.
    fn change<T>(&self, change: impl FnOnce(&mut Index) -> Result<T, ImageError>) -> Result<T, ImageError> {
        let _guard = exclusive(&self.root)?;
        let mut index = (*self.index()?).clone();
        let result = change(&mut index)?;
        let path = self.root.join("images.json");
        files::write_json_durably(&path, &index).map_err(io_error("write", &path))?;
        // The next reader reads the file again.
        lock(&self.cache).stamp = None;
        Ok(result)
    }

    /// Keeps `layers` until the returned value is dropped. Whether they exist
    /// must be looked at afterwards.
    pub(crate) fn hold(&self, layers: Vec<String>) -> Result<Hold, ImageError> {
        let _guard = exclusive(&self.root)?;
        let mut hold = Hold(Vec::with_capacity(layers.len()));
        for layer in layers {
            let number = crate::random_hex(8).map_err(io_error("name", &self.session))?;
            let path = self.session.join(format!("hold-{layer}-{number}"));
            File::create(&path).map_err(io_error("make", &path))?;
            hold.0.push(path);
        }
        Ok(hold)
    }

    /// Unpacks a layer, checks that it is `diff_id`, and makes it visible.
    /// The caller holds it. Two callers may add the same layer at once.
    pub(crate) fn add_layer(&self, diff_id: &str, stream: impl Read) -> Result<(), LayerError> {
        let disk = |path: &Path| {
            let path = path.display().to_string();
            move |source| LayerError::Io { path, source }
        };
        let name = layer_name(diff_id).ok_or_else(|| LayerError::Corrupt(format!("{diff_id:?} is not a digest")))?;
        let temporary = self.temporary().map_err(disk(&self.root))?;
        std::fs::create_dir(&temporary).map_err(disk(&temporary))?;
        let result = unpack(stream, &temporary).and_then(|unpacked| {
            if unpacked.diff_id == diff_id {
                Ok(unpacked.bytes)
            } else {
                Err(LayerError::Corrupt(format!("content is {}, should be {diff_id}", unpacked.diff_id)))
            }
        });
        let bytes = match result {
            Ok(bytes) => bytes,
            Err(error) => {
                if let Err(error) = files::remove_tree(&temporary) {
                    tracing::warn!(err = %error, path = %temporary.display(), "half a layer stays until the next start");
                }
                return Err(error);
            }
        };
        // One file system sync makes the content durable before the name is.
        let directory = File::open(&temporary).map_err(disk(&temporary))?;
        rustix::fs::syncfs(&directory).map_err(|error| disk(&temporary)(error.into()))?;
        let target = self.layers_dir().join(&name);
        if let Err(error) = std::fs::rename(&temporary, &target) {
            let removed = files::remove_tree(&temporary);
            if !target.is_dir() {
                return Err(disk(&target)(error));
            }
            removed.map_err(disk(&temporary))?;
        }
        lock(&self.sizes).insert(name, bytes);
        Ok(())
    }

    /// Enters an image whose layers are all present. A tag or digest moves
    /// here from the image that had it.
    pub(crate) fn add_image(&self, record: ImageRecord) -> Result<(), ImageError> {
        self.change(|index| {
            for other in index.images.values_mut().filter(|other| other.id != record.id) {
                other.tags.retain(|tag| !record.tags.contains(tag));
                other.digests.retain(|digest| !record.digests.contains(digest));
            }
            let sizes = lock(&self.sizes);
            for layer in &record.layers {
                let size = sizes.get(layer).copied();
                index
                    .layers
                    .entry(layer.clone())
                    .and_modify(|have| *have = size.unwrap_or(*have))
                    .or_insert(size.unwrap_or(0));
            }
            let entry = index.images.entry(record.id.clone()).or_default();
            let (mut tags, mut digests) = (std::mem::take(&mut entry.tags), std::mem::take(&mut entry.digests));
            let pinned = entry.pinned;
            *entry = record;
            entry.pinned |= pinned;
            entry.tags.append(&mut tags);
            entry.digests.append(&mut digests);
            Ok(())
        })
    }

    /// Finds an image by id, `name:tag` or `name@digest`. A name that does not
    /// parse is simply not found.
    pub(crate) fn find(&self, reference: &str) -> Result<Option<ImageRecord>, ImageError> {
        Ok(find(&*self.index()?, reference).cloned())
    }

    /// One image, by id, `name:tag` or `name@digest`.
    pub fn image(&self, reference: &str) -> Result<Option<Image>, ImageError> {
        let index = self.index()?;
        Ok(find(&index, reference).map(|record| describe(&index, record)))
    }

    /// All images, by id.
    pub fn images(&self) -> Result<Vec<Image>, ImageError> {
        let index = self.index()?;
        Ok(index.images.values().map(|record| describe(&index, record)).collect())
    }

    /// Fetches an image from its registry; returns its id.
    pub async fn pull(self: &Arc<Self>, reference: &str, auth: Option<RegistryAuth>) -> Result<String, ImageError> {
        let turn = {
            let mut pulls = lock(&self.pulls);
            pulls.retain(|_, turn| turn.strong_count() > 0);
            let turn = pulls.get(reference).and_then(std::sync::Weak::upgrade).unwrap_or_default();
            pulls.insert(reference.to_owned(), Arc::downgrade(&turn));
            turn
        };
        let _turn = turn.lock().await;
        pull::pull(self, &self.registries, reference, auth).await
    }

    /// Adds the images of a docker-archive or OCI layout (tar or directory);
    /// returns the names that now exist, ids for those without a name.
    pub fn import(self: &Arc<Self>, path: &Path) -> Result<Vec<String>, ImageError> {
        archive::import(self, path)
    }

    /// Removes an image by reference (a tag or digest alone; an image without
    /// any reference left goes) or by id, and the layers that nothing needs
    /// any more. Idempotent.
    pub fn remove(&self, reference: &str) -> Result<(), ImageError> {
        self.change(|index| {
            let Some(id) = find(index, reference).map(|record| record.id.clone()) else { return Ok(()) };
            if is_id(reference) {
                index.images.remove(&id);
                return Ok(());
            }
            if let (Some(record), Ok(parsed)) = (index.images.get_mut(&id), Reference::parse(reference)) {
                match (&parsed.digest, parsed.tagged()) {
                    (Some(digest), _) => drop(record.digests.remove(&format!("{}@{digest}", parsed.name()))),
                    (None, Some(tag)) => drop(record.tags.remove(&tag)),
                    (None, None) => {}
                }
                // The digest that a pull by tag left goes with the last tag.
                if record.tags.is_empty() && parsed.digest.is_none() {
                    record.digests.clear();
                }
                if record.tags.is_empty() && record.digests.is_empty() {
                    index.images.remove(&id);
                }
            }
            Ok(())
        })?;
        self.collect()
    }

    /// Removes layers that no image, no container and no process at work needs.
    pub(crate) fn collect(&self) -> Result<(), ImageError> {
        let layers = self.layers_dir();
        // Names disappear under the lock, so that nobody starts to rely on a
        // layer that is on its way out; the content goes afterwards.
        let doomed = self.change(|index| {
            let mut needed: BTreeSet<String> = index.images.values().flat_map(|image| image.layers.clone()).collect();
            needed.insert(EMPTY_LAYER.to_owned());
            needed.append(&mut self.held()?);
            needed.append(&mut self.of_containers()?);
            let mut doomed = Vec::new();
            for entry in std::fs::read_dir(&layers).map_err(io_error("read", &layers))? {
                let entry = entry.map_err(io_error("read", &layers))?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if !needed.contains(&name) {
                    let path = self.temporary().map_err(io_error("name", &layers))?;
                    std::fs::rename(entry.path(), &path).map_err(io_error("move", &entry.path()))?;
                    index.layers.remove(&name);
                    doomed.push(path);
                }
            }
            Ok(doomed)
        })?;
        for path in doomed {
            files::remove_tree(&path).map_err(io_error("remove", &path))?;
        }
        Ok(())
    }

    /// Layers held by any process.
    fn held(&self) -> Result<BTreeSet<String>, ImageError> {
        let tmp = self.root.join("tmp");
        let mut held = BTreeSet::new();
        for session in std::fs::read_dir(&tmp).map_err(io_error("read", &tmp))?.flatten() {
            // A session that ends meanwhile holds nothing any more.
            let Ok(entries) = std::fs::read_dir(session.path()) else { continue };
            for entry in entries.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if let Some(layer) = name.strip_prefix("hold-").and_then(|rest| rest.split('-').next()) {
                    held.insert(layer.to_owned());
                }
            }
        }
        Ok(held)
    }

    /// Layers that containers are made of, as each keeps in `layers.json`.
    fn of_containers(&self) -> Result<BTreeSet<String>, ImageError> {
        let dir = self.root.join("containers");
        let mut used = BTreeSet::new();
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(used),
            Err(error) => return Err(io_error("read", &dir)(error)),
        };
        for entry in entries.flatten() {
            let path = entry.path().join("layers.json");
            let layers: Option<Vec<String>> = files::read_json(&path).map_err(io_error("read", &path))?;
            used.extend(layers.unwrap_or_default());
        }
        Ok(used)
    }

    /// Bytes of all layers.
    pub(crate) fn layer_bytes(&self) -> Result<u64, ImageError> {
        Ok(self.index()?.layers.values().sum())
    }
}

impl Drop for ImageStore {
    fn drop(&mut self) {
        if let Err(error) = files::remove_tree(&self.session) {
            tracing::debug!(err = %error, "session directory stays until the next start");
        }
    }
}

/// The lock of the index, until the returned value is dropped.
fn exclusive(root: &Path) -> Result<File, ImageError> {
    let path = root.join("images.lock");
    let file = File::options().create(true).append(true).open(&path).map_err(io_error("open", &path))?;
    loop {
        match flock(&file, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(io_error("lock", &path)(error.into())),
        }
    }
}

/// Removes the directories of sessions whose process is gone.
fn clear_dead_sessions(tmp: &Path) -> Result<(), ImageError> {
    for entry in std::fs::read_dir(tmp).map_err(io_error("read", tmp))? {
        let path = entry.map_err(io_error("read", tmp))?.path();
        if let Ok(file) = File::open(path.join("lock"))
            && flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
        {
            continue;
        }
        files::remove_tree(&path).map_err(io_error("remove", &path))?;
    }
    Ok(())
}

fn describe(index: &Index, record: &ImageRecord) -> Image {
    let user = record.config.user.split(':').next().unwrap_or_default();
    let uid = user.parse::<i64>().ok();
    Image {
        id: record.id.clone(),
        tags: record.tags.iter().cloned().collect(),
        digests: record.digests.iter().cloned().collect(),
        size_bytes: record.layers.iter().filter_map(|layer| index.layers.get(layer)).sum(),
        uid,
        username: if uid.is_some() { String::new() } else { user.to_owned() },
        pinned: record.pinned,
    }
}

fn is_id(reference: &str) -> bool {
    is_digest(reference) || is_digest(&format!("sha256:{reference}"))
}

fn find<'a>(index: &'a Index, reference: &str) -> Option<&'a ImageRecord> {
    if is_id(reference) {
        let id = if reference.starts_with("sha256:") { reference.to_owned() } else { format!("sha256:{reference}") };
        return index.images.get(&id);
    }
    let parsed = Reference::parse(reference).ok()?;
    let name = parsed.name();
    index.images.values().find(|record| match (&parsed.digest, &parsed.tag) {
        (Some(digest), _) => record.digests.contains(&format!("{name}@{digest}")),
        (None, Some(tag)) => record.tags.contains(&format!("{name}:{tag}")),
        (None, None) => false,
    })
}
