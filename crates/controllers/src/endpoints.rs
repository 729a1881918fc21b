//! Endpoints: the older form of the same knowledge as EndpointSlices, one
//! object a Service. Kept because clients still read it.

mod apply;
mod plan;

use client::{Controller, ObjectKey};

use crate::context::{Context, Error};
use crate::services;

pub(crate) fn controller(context: &Context) -> Controller<Error> {
    let context = context.named("endpoint-controller");
    let informers = context.informers.clone();
    let services = informers.services.clone();
    Controller::new("endpoints", move |key| apply::reconcile(context.clone(), key))
        .watches(&informers.services, |delta| [ObjectKey::of(&**delta.object())])
        .watches(&informers.endpoints, |delta| [ObjectKey::of(&**delta.object())])
        .watches(&informers.pods, move |delta| services::of_pod(delta, &services))
}
