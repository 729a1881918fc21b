//! The images of this machine: an index file, and one directory per unpacked
//! layer. A layer directory is visible under its final name only when it is
//! complete and verified. It fetches nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::layer::{LayerError, unpack};
use super::oci::ImageConfig;
use super::reference::{Reference, is_digest};
use crate::files;
use crate::runtime::{Image, ImageError};

/// Format of `images.json`.
const FORMAT: u32 = 1;

/// Hex digits of a layer's digest in its directory name: 128 bits keep names
/// unique and short, for kernels that take all layers of a mount in one page.
const NAME_DIGITS: usize = 32;

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

/// Images and layers below one directory.
pub(crate) struct ImageStore {
    root: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    index: Index,
    /// Layers that someone is about to refer to, with how many do.
    held: HashMap<String, usize>,
}

/// Keeps layers from being collected while an image is assembled or a
/// container made.
pub(crate) struct Hold {
    store: Arc<ImageStore>,
    layers: Vec<String>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.store.lock();
        for layer in &self.layers {
            if let Some(count) = state.held.get_mut(layer) {
                *count -= 1;
                if *count == 0 {
                    state.held.remove(layer);
                }
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

impl ImageStore {
    /// Opens the store, making it if absent, and removes what an interrupted
    /// run left behind.
    pub(crate) fn open(root: &Path) -> Result<Arc<Self>, ImageError> {
        for dir in [root.join("layers"), root.join("tmp")] {
            std::fs::create_dir_all(&dir).map_err(io_error("make", &dir))?;
        }
        let path = root.join("images.json");
        let index: Option<Index> = files::read_json(&path).map_err(io_error("read", &path))?;
        let index = index.unwrap_or(Index { format: FORMAT, ..Index::default() });
        if index.format != FORMAT {
            let source = io::Error::new(io::ErrorKind::InvalidData, format!("format {} is not {FORMAT}", index.format));
            return Err(ImageError::Io { step: format!("read {}", path.display()), source });
        }
        let store = Self { root: root.to_owned(), state: Mutex::new(State { index, held: HashMap::new() }) };
        let empty = store.layers_dir().join(EMPTY_LAYER);
        std::fs::create_dir_all(&empty).map_err(io_error("make", &empty))?;
        store.clear_leftovers()?;
        Ok(Arc::new(store))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where layers are.
    pub(crate) fn layers_dir(&self) -> PathBuf {
        self.root.join("layers")
    }

    fn clear_leftovers(&self) -> Result<(), ImageError> {
        let tmp = self.root.join("tmp");
        for entry in std::fs::read_dir(&tmp).map_err(io_error("read", &tmp))? {
            let path = entry.map_err(io_error("read", &tmp))?.path();
            let removed = if path.is_dir() { files::remove_tree(&path) } else { std::fs::remove_file(&path) };
            removed.map_err(io_error("remove", &path))?;
        }
        Ok(())
    }

    /// A new name in the directory for unfinished things.
    pub(crate) fn temporary(&self) -> io::Result<PathBuf> {
        Ok(self.root.join("tmp").join(crate::random_hex(16)?))
    }

    /// True when the layer is complete on disk.
    pub(crate) fn has_layer(&self, name: &str) -> bool {
        self.layers_dir().join(name).is_dir()
    }

    /// Keeps `layers` until the returned value is dropped.
    pub(crate) fn hold(self: &Arc<Self>, layers: Vec<String>) -> Hold {
        let mut state = self.lock();
        for layer in &layers {
            *state.held.entry(layer.clone()).or_default() += 1;
        }
        drop(state);
        Hold { store: Arc::clone(self), layers }
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
        let directory = std::fs::File::open(&temporary).map_err(disk(&temporary))?;
        rustix::fs::syncfs(&directory).map_err(|error| disk(&temporary)(error.into()))?;
        let target = self.layers_dir().join(&name);
        if let Err(error) = std::fs::rename(&temporary, &target) {
            let removed = files::remove_tree(&temporary);
            if !target.is_dir() {
                return Err(disk(&target)(error));
            }
            removed.map_err(disk(&temporary))?;
        }
        self.lock().index.layers.insert(name, bytes);
        Ok(())
    }

    /// Enters an image whose layers are all present. A tag or digest moves
    /// here from the image that had it.
    pub(crate) fn add_image(&self, record: ImageRecord) -> Result<(), ImageError> {
        let mut state = self.lock();
        let mut index = state.index.clone();
        for other in index.images.values_mut().filter(|other| other.id != record.id) {
            other.tags.retain(|tag| !record.tags.contains(tag));
            other.digests.retain(|digest| !record.digests.contains(digest));
        }
        let entry = index.images.entry(record.id.clone()).or_default();
        let (tags, digests) = (std::mem::take(&mut entry.tags), std::mem::take(&mut entry.digests));
        let pinned = entry.pinned;
        *entry = record;
        entry.pinned |= pinned;
        entry.tags.extend(tags);
        entry.digests.extend(digests);
        self.write(&index)?;
        state.index = index;
        Ok(())
    }

    fn write(&self, index: &Index) -> Result<(), ImageError> {
        let path = self.root.join("images.json");
        files::write_json_durably(&path, index).map_err(io_error("write", &path))
    }

    /// Finds an image by id, `name:tag` or `name@digest`. A name that does not
    /// parse is simply not found.
    pub(crate) fn find(&self, reference: &str) -> Option<ImageRecord> {
        find(&self.lock().index, reference).cloned()
    }

    /// All images, by id.
    pub(crate) fn list(&self) -> Vec<ImageRecord> {
        self.lock().index.images.values().cloned().collect()
    }

    /// As the runtime reports it.
    pub(crate) fn describe(&self, record: &ImageRecord) -> Image {
        let state = self.lock();
        let user = record.config.user.split(':').next().unwrap_or_default();
        let uid = user.parse::<i64>().ok();
        Image {
            id: record.id.clone(),
            tags: record.tags.iter().cloned().collect(),
            digests: record.digests.iter().cloned().collect(),
            size_bytes: record.layers.iter().filter_map(|layer| state.index.layers.get(layer)).sum(),
            uid,
            username: if uid.is_some() { String::new() } else { user.to_owned() },
            pinned: record.pinned,
        }
    }

    /// Takes a reference away: a tag or digest alone, or by id the whole
    /// image. An image without any reference left goes. Layers stay until
    /// [`ImageStore::collect`].
    pub(crate) fn remove(&self, reference: &str) -> Result<(), ImageError> {
        let mut state = self.lock();
        let Some(id) = find(&state.index, reference).map(|record| record.id.clone()) else { return Ok(()) };
        let mut index = state.index.clone();
        if let (Some(record), Ok(parsed)) = (index.images.get_mut(&id), Reference::parse(reference))
            && !is_id(reference)
        {
            if let Some(tag) = parsed.tagged() {
                record.tags.remove(&tag);
            }
            if let Some(digest) = &parsed.digest {
                record.digests.remove(&format!("{}@{digest}", parsed.name()));
            }
            // A digest without its tag is what the pull of that tag left.
            if record.tags.is_empty() && parsed.digest.is_none() {
                record.digests.clear();
            }
        }
        let by_id = is_id(reference);
        index.images.retain(|key, record| *key != id || !(by_id || record.tags.is_empty() && record.digests.is_empty()));
        self.write(&index)?;
        state.index = index;
        Ok(())
    }

    /// Removes layers that no image, no holder and none of `used` needs.
    pub(crate) fn collect(&self, used: &BTreeSet<String>) -> Result<(), ImageError> {
        let layers = self.layers_dir();
        let mut doomed = Vec::new();
        {
            // Names disappear under the lock, so that nobody starts to rely on
            // a layer that is on its way out; the content goes afterwards.
            let mut state = self.lock();
            let needed: BTreeSet<&String> = state.index.images.values().flat_map(|image| &image.layers).collect();
            for entry in std::fs::read_dir(&layers).map_err(io_error("read", &layers))? {
                let entry = entry.map_err(io_error("read", &layers))?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if name != EMPTY_LAYER && !needed.contains(&name) && !state.held.contains_key(&name) && !used.contains(&name) {
                    let path = self.temporary().map_err(io_error("name", &layers))?;
                    std::fs::rename(entry.path(), &path).map_err(io_error("move", &entry.path()))?;
                    doomed.push((name, path));
                }
            }
            for (name, _) in &doomed {
                state.index.layers.remove(name);
            }
        }
        for (_, path) in doomed {
            files::remove_tree(&path).map_err(io_error("remove", &path))?;
        }
        Ok(())
    }
}

/// Stands in for the lower directories of an image without layers.
pub(crate) const EMPTY_LAYER: &str = "empty";

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
