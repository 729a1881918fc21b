//! Having the image that a container needs: pull policy, back-off, secrets,
//! and the events and reasons that upstream's image manager gives (1.36).

mod keyring;
mod name;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use api::types::api::core::v1 as core;
use containers::runtime::{Image, ImageError, RegistryAuth, Runtime, RuntimeError};
use tokio::sync::Semaphore;

use crate::backoff::PullBackoff;
use crate::events::Events;
use crate::spec;
use crate::status::WaitReason;

pub(crate) use keyring::Keyring;

struct Failed {
    backoff: PullBackoff,
    /// `ErrImagePull: …`, shown while backing off.
    message: String,
}

/// An image that a pod needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// The container that runs it, which events are about; `None` for a volume.
    pub(crate) container: Option<&'a str>,
    /// As the pod names it.
    pub(crate) image: &'a str,
    /// `Always`, `IfNotPresent` or `Never`.
    pub(crate) policy: &'a str,
}

impl<'a> Wanted<'a> {
    /// What this container runs.
    pub(crate) fn by_container(container: &'a core::Container) -> Self {
        Self {
            container: Some(&container.name),
            image: container.image.as_deref().unwrap_or_default(),
            policy: container.image_pull_policy.as_deref().unwrap_or("IfNotPresent"),
        }
    }

    /// What this volume shows.
    pub(crate) fn by_volume(volume: &'a core::ImageVolumeSource) -> Self {
        Self {
            container: None,
            image: volume.reference.as_deref().unwrap_or_default(),
            policy: volume.pull_policy.as_deref().unwrap_or("IfNotPresent"),
        }
    }
}

/// Pulls images for the pods of this node.
pub(crate) struct Puller {
    runtime: Arc<dyn Runtime>,
    events: Events,
    turns: Semaphore,
    failed: Mutex<HashMap<(String, String), Failed>>,
}

/// No image: why the container waits, and when a pull is allowed again.
#[derive(Debug)]
pub(crate) struct NoImage {
    /// Reason and message of the waiting container.
    pub(crate) why: WaitReason,
    /// The next attempt makes sense then; `None` if that is not known.
    pub(crate) until: Option<SystemTime>,
}

impl NoImage {
    fn new(reason: &str, message: impl Into<String>) -> Self {
        Self { why: WaitReason { reason: reason.into(), message: message.into() }, until: None }
    }
}

impl Puller {
    /// At most `parallel` pulls run at once.
    pub(crate) fn new(runtime: Arc<dyn Runtime>, events: Events, parallel: usize) -> Self {
        Self { runtime, events, turns: Semaphore::new(parallel.max(1)), failed: Mutex::default() }
    }

    fn event(&self, pod: &core::Pod, container: Option<&str>, kind: &str, reason: &str, message: &str) {
        match container {
            Some(container) => self.events.container(pod, container, kind, reason, message),
            None => self.events.pod(pod, kind, reason, message),
        }
    }

    /// The image, pulled if need be.
    pub(crate) async fn ensure(
        &self,
        pod: &core::Pod,
        wanted: Wanted<'_>,
        keyring: &Keyring,
    ) -> Result<Image, NoImage> {
        let Wanted { container, image: wanted, policy } = wanted;
        let event = |kind: &str, reason: &str, message: &str| self.event(pod, container, kind, reason, message);
        let reference = match name::with_default_tag(wanted) {
            Ok(reference) => reference,
            Err(err) => {
                let message = format!(
                    "Failed to apply default image tag {wanted:?}: couldn't parse image name {wanted:?}: {err}"
                );
                event("Warning", "InspectFailed", &message);
                return Err(NoImage::new("InvalidImageName", message));
            }
        };
        if policy != "Always" {
            match self.runtime.image(&reference).await {
                Ok(Some(image)) => {
                    let text =
                        format!("Container image {wanted:?} already present on machine and can be accessed by the pod");
                    event("Normal", "Pulled", &text);
                    return Ok(image);
                }
                Ok(None) => {}
                Err(err) => {
                    let message = format!("Failed to inspect image {wanted:?}: {}", api::error::Chain(&err));
                    event("Warning", "InspectFailed", &message);
                    return Err(NoImage::new("ImageInspectError", message));
                }
            }
            if policy == "Never" {
                let message = format!("Container image {wanted:?} is not present with pull policy of Never");
                event("Warning", "ErrImageNeverPull", &message);
                return Err(NoImage::new("ErrImageNeverPull", message));
            }
        }
        self.pull(pod, container, wanted, &reference, keyring).await
    }

    async fn pull(
        &self,
        pod: &core::Pod,
        container: Option<&str>,
        wanted: &str,
        reference: &str,
        keyring: &Keyring,
    ) -> Result<Image, NoImage> {
        let event = |kind: &str, reason: &str, message: &str| self.event(pod, container, kind, reason, message);
        let key = (spec::uid(pod).to_owned(), wanted.to_owned());
        let now = SystemTime::now();
        let backing_off =
            self.lock().get(&key).filter(|f| now < f.backoff.until()).map(|f| (f.backoff.until(), f.message.clone()));
        if let Some((until, previous)) = backing_off {
            let text = format!("Back-off pulling image {wanted:?}");
            event("Normal", "BackOff", &text);
            let mut failure = NoImage::new("ImagePullBackOff", format!("{text}: {previous}"));
            failure.until = Some(until);
            return Err(failure);
        }
        event("Normal", "Pulling", &format!("Pulling image {wanted:?}"));
        let asked = std::time::Instant::now();
        // Never closed: closing is the only way for this to fail.
        let _turn = self.turns.acquire().await;
        let begun = std::time::Instant::now();
        let result = self.pull_with_any(reference, keyring.for_image(reference)).await;
        let pulled = match result {
            Ok(id) => self
                .runtime
                .image(&id)
                .await
                .map_err(|err| api::error::Chain(&err).to_string())
                .and_then(|image| image.ok_or_else(|| format!("image {id} vanished after its pull"))),
            Err(err) => Err(api::error::Chain(&err).to_string()),
        };
        match pulled {
            Ok(image) => {
                self.lock().remove(&key);
                let text = format!(
                    "Successfully pulled image {wanted:?} in {} ({} including waiting). Image size: {} bytes.",
                    duration(begun.elapsed()),
                    duration(asked.elapsed()),
                    image.size_bytes
                );
                event("Normal", "Pulled", &text);
                Ok(image)
            }
            Err(message) => {
                event("Warning", "Failed", &format!("Failed to pull image {wanted:?}: {message}"));
                let now = SystemTime::now();
                let mut failed = self.lock();
                let backoff = failed.get(&key).map_or_else(|| PullBackoff::first(now), |f| f.backoff.again(now));
                failed.retain(|_, f| !f.backoff.forgotten(now));
                failed.insert(key, Failed { backoff, message: format!("ErrImagePull: {message}") });
                Err(NoImage::new("ErrImagePull", message))
            }
        }
    }

    /// Tries each credential; the last failure counts.
    async fn pull_with_any(&self, reference: &str, credentials: Vec<RegistryAuth>) -> Result<String, RuntimeError> {
        let mut last = None;
        for auth in credentials {
            match self.runtime.pull_image(reference, Some(auth)).await {
                Err(err @ RuntimeError::Image(ImageError::Denied { .. })) => last = Some(err),
                other => return other,
            }
        }
        match last {
            Some(err) => Err(err),
            None => self.runtime.pull_image(reference, None).await,
        }
    }

    /// Forgets the failures of a pod that is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.lock().retain(|(pod, _), _| pod != uid);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), Failed>> {
        // Nothing panics while it is held.
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `1.234s` or `56ms`, as Go prints a duration cut to milliseconds.
fn duration(time: std::time::Duration) -> String {
    let millis = time.as_millis();
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let seconds = format!("{}.{:03}", millis / 1000, millis % 1000);
    format!("{}s", seconds.trim_end_matches('0').trim_end_matches('.'))
}
