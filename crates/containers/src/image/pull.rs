//! Fetching an image from a registry: manifest, config, layers, each checked
//! against its digest and size while it streams in. Foreign layer URLs are
//! never followed.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::StatusCode;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::archive::{layer_error, layer_names};
use super::http::{Client, HttpError, body};
use super::layer::hex;
use super::oci::{ConfigFile, Descriptor, Manifest, architecture};
use super::reference::{Reference, is_digest};
use super::registries::Registries;
use super::store::{ImageRecord, ImageStore, layer_name};
use crate::runtime::{ImageError, RegistryAuth};

/// Longest manifest or config, bytes: the specification's recommendation.
const MAX_DOCUMENT: usize = 4 << 20;

/// Layers of one image that are fetched at a time.
const PARALLEL_LAYERS: usize = 3;

/// Pieces of a layer between the network and the disk.
const QUEUE: usize = 16;

/// How long a layer's stream may stand still.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Kinds of manifests we can use.
const ACCEPT: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

struct Puller<'a> {
    store: &'a Arc<ImageStore>,
    client: Client,
    reference: &'a Reference,
    /// As the user wrote it, for messages.
    text: &'a str,
}

/// Fetches `text` and enters it into the store; returns its id. Endpoints are
/// tried in order; the message names what each said.
pub(crate) async fn pull(
    store: &Arc<ImageStore>,
    registries: &Registries,
    text: &str,
    auth: Option<RegistryAuth>,
) -> Result<String, ImageError> {
    let reference = Reference::parse(text)?;
    let mut failures = Vec::new();
    let mut worst = None;
    for endpoint in registries.endpoints(&reference.registry) {
        // A user's credentials are for the registry of the name; what the file
        // says of a mirror is for the mirror.
        let own = endpoint.mirror_of.is_none();
        let auth = auth.clone().filter(|_| own).unwrap_or_else(|| endpoint.auth.clone());
        let outcome = match Client::new(endpoint, auth) {
            Ok(client) => Puller { store, client, reference: &reference, text }.run().await,
            Err(error) => Err(Failure::Http(error)),
        };
        match outcome {
            Ok(id) => return Ok(id),
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Http(error)) => {
                if let HttpError::Status { status, .. } = &error {
                    worst = Some(*status);
                }
                failures.push(error.to_string());
            }
        }
    }
    let detail = failures.join("; ");
    let reference = text.to_owned();
    Err(match worst {
        Some(StatusCode::NOT_FOUND) => ImageError::NotFound { reference },
        Some(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => ImageError::Denied { reference, detail },
        _ => ImageError::Registry { reference, detail: format!("failed to pull and unpack image: {detail}") },
    })
}

enum Failure {
    /// Another endpoint may do better.
    Http(HttpError),
    /// It would not.
    Final(ImageError),
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        Self::Http(error)
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Self::Final(error)
    }
}

impl Puller<'_> {
    fn corrupt(&self, detail: impl Into<String>) -> Failure {
        Failure::Final(ImageError::Corrupt { reference: self.text.to_owned(), detail: detail.into() })
    }

    async fn run(&self) -> Result<String, Failure> {
        let wanted = self.reference.digest.as_deref().or(self.reference.tag.as_deref()).unwrap_or("latest");
        let (top, mut manifest) = self.manifest(wanted).await?;
        if !manifest.manifests.is_empty() {
            let fitting = manifest.for_this_machine();
            let digest = fitting.map(|descriptor| descriptor.digest.clone());
            let digest = digest.ok_or_else(|| self.corrupt(format!("no match for platform linux/{} in the index", architecture())))?;
            (_, manifest) = self.manifest(&digest).await?;
        }
        let config = manifest.config.clone().ok_or_else(|| self.corrupt("not an image manifest: it has no config"))?;
        let config_bytes = self.small_blob(&config).await?;
        let config_file: ConfigFile =
            serde_json::from_slice(&config_bytes).map_err(|error| self.corrupt(format!("config {}: {error}", config.digest)))?;
        let diff_ids = config_file.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            return Err(self.corrupt(format!("{} layers, but {} digests of layers", manifest.layers.len(), diff_ids.len())));
        }
        let names = layer_names(&diff_ids).map_err(|detail| self.corrupt(detail))?;
        let hold = self.store.hold(names.clone())?;
        let layers: Vec<(Descriptor, String)> = manifest.layers.into_iter().zip(diff_ids).collect();
        stream::iter(layers.into_iter().map(Ok))
            .map(|layer: Result<_, Failure>| async move {
                let (descriptor, diff_id) = layer?;
                self.layer(&descriptor, &diff_id).await
            })
            .buffer_unordered(PARALLEL_LAYERS)
            .try_collect::<()>()
            .await?;
        let name = self.reference.name();
        let record = ImageRecord {
            id: config.digest.clone(),
            tags: self.reference.tagged().into_iter().filter(|_| self.reference.digest.is_none()).collect(),
            digests: BTreeSet::from([format!("{name}@{top}")]),
            layers: names,
            config: config_file.config,
            pinned: false,
        };
        let store = Arc::clone(self.store);
        let entered = tokio::task::spawn_blocking(move || store.add_image(record)).await;
        entered.map_err(|error| self.corrupt(format!("entering the image failed: {error}")))??;
        drop(hold);
        Ok(config.digest)
    }

    async fn manifest(&self, wanted: &str) -> Result<(String, Manifest), Failure> {
        let response = self.client.get(&self.reference.repository, &format!("manifests/{wanted}"), &ACCEPT).await?;
        let bytes = body(wanted, response, MAX_DOCUMENT).await?;
        let digest = format!("sha256:{}", hex(&Sha256::digest(&bytes)));
        if is_digest(wanted) && wanted != digest {
            return Err(self.corrupt(format!("manifest {wanted} has content {digest}")));
        }
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| self.corrupt(format!("manifest {digest}: {error}")))?;
        if manifest.schema_version != 2 {
            return Err(self.corrupt(format!("manifest schema version {} is not supported", manifest.schema_version)));
        }
        Ok((digest, manifest))
    }

    async fn small_blob(&self, descriptor: &Descriptor) -> Result<Bytes, Failure> {
        let digest = &descriptor.digest;
        if !is_digest(digest) {
            return Err(self.corrupt(format!("{digest:?} is not a sha256 digest")));
        }
        let response = self.client.get(&self.reference.repository, &format!("blobs/{digest}"), &[]).await?;
        let bytes = body(digest, response, MAX_DOCUMENT).await?;
        let actual = format!("sha256:{}", hex(&Sha256::digest(&bytes)));
        if actual != *digest {
            return Err(self.corrupt(format!("blob {digest} has content {actual}")));
        }
        Ok(bytes)
    }

    async fn layer(&self, descriptor: &Descriptor, diff_id: &str) -> Result<(), Failure> {
        if layer_name(diff_id).is_some_and(|name| self.store.has_layer(&name)) {
            return Ok(());
        }
        let digest = descriptor.digest.clone();
        if !is_digest(&digest) {
            return Err(self.corrupt(format!("{digest:?} is not a sha256 digest")));
        }
        let response = self.client.get(&self.reference.repository, &format!("blobs/{digest}"), &[]).await?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let reader = Checked { receiver, current: Bytes::new(), hash: Some(Sha256::new()), read: 0, digest, size: descriptor.size };
        let (store, diff_id) = (Arc::clone(self.store), diff_id.to_owned());
        let unpacking = tokio::task::spawn_blocking(move || store.add_layer(&diff_id, reader));
        feed(response.into_body(), sender).await;
        let unpacked = unpacking.await.map_err(|error| self.corrupt(format!("unpacking failed: {error}")))?;
        unpacked.map_err(|error| Failure::Final(layer_error(self.text, error)))
    }
}

/// Moves a body into the queue. An error goes the same way; a receiver that
/// left has said why itself.
async fn feed(mut body: Incoming, sender: mpsc::Sender<io::Result<Bytes>>) {
    loop {
        let piece = match tokio::time::timeout(STALL_TIMEOUT, body.frame()).await {
            Err(_) => Some(Err(io::Error::new(io::ErrorKind::TimedOut, "the registry stopped sending"))),
            Ok(None) => None,
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => Some(Ok(data)),
                Err(_trailers) => continue,
            },
            Ok(Some(Err(error))) => Some(Err(io::Error::new(io::ErrorKind::UnexpectedEof, error))),
        };
        let Some(piece) = piece else { return };
        let last = piece.is_err();
        if sender.send(piece).await.is_err() || last {
            return;
        }
    }
}

/// The compressed stream, checked against digest and size at its end.
struct Checked {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
    /// `None` after the end was checked.
    hash: Option<Sha256>,
    read: u64,
    digest: String,
    size: u64,
}

impl Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return self.end(),
            }
            self.read += self.current.len() as u64;
            if self.read > self.size {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("blob {} is longer than {} bytes", self.digest, self.size)));
            }
            if let Some(hash) = &mut self.hash {
                hash.update(&self.current);
            }
        }
        let length = buffer.len().min(self.current.len());
        buffer[..length].copy_from_slice(&self.current[..length]);
        self.current.advance(length);
        Ok(length)
    }
}

impl Checked {
    fn end(&mut self) -> io::Result<usize> {
        let Some(hash) = self.hash.take() else { return Ok(0) };
        let actual = format!("sha256:{}", hex(&hash.finalize()));
        if actual != self.digest || self.read != self.size {
            let detail = format!("blob {} of {} bytes came as {actual} of {} bytes", self.digest, self.size, self.read);
            return Err(io::Error::new(io::ErrorKind::InvalidData, detail));
        }
        Ok(0)
    }
}
