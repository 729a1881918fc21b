//! Where a pod's worker takes its events: equal ones are merged, so that the
//! box is bounded by the kinds of events and the latest state is what counts.

use std::sync::{Arc, Mutex, PoisonError};

use api::types::api::core::v1 as core;
use tokio::sync::Notify;

/// Something a worker has to look at.
#[derive(Debug)]
pub(crate) enum PodEvent {
    /// The object as the API has it now.
    Object(Arc<core::Pod>),
    /// The object is gone from the API.
    Gone,
    /// The runtime changed something of the pod.
    Runtime,
    /// An object changed that the pod refers to.
    Reference,
    /// It changed its rung of sleep, or the rules of sleep may be others.
    Sleep,
    /// Another pod gave back resources that this one waits for.
    Room,
}

/// Everything that came in since the worker last looked.
#[derive(Default, Debug)]
pub(crate) struct Mail {
    pub(crate) object: Option<Arc<core::Pod>>,
    pub(crate) gone: bool,
    pub(crate) runtime: bool,
    pub(crate) reference: bool,
    pub(crate) sleep: bool,
    pub(crate) room: bool,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Mailbox {
    mail: Mutex<Mail>,
    notify: Notify,
}

impl Mailbox {
    /// Adds an event; never blocks.
    pub(crate) fn post(&self, event: PodEvent) {
        {
            // Nothing panics while it is held.
            let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
            match event {
                PodEvent::Object(pod) => mail.object = Some(pod),
                PodEvent::Gone => mail.gone = true,
                PodEvent::Runtime => mail.runtime = true,
                PodEvent::Reference => mail.reference = true,
                PodEvent::Sleep => mail.sleep = true,
                PodEvent::Room => mail.room = true,
            }
        }
        self.notify.notify_one();
    }

    /// Waits for at least one event, then takes all. Cancel safe.
    pub(crate) async fn take(&self) -> Mail {
        self.notify.notified().await;
        std::mem::take(&mut *self.mail.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
