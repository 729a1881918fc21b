//! The typed client of the Kubernetes API: requests, watches, reflectors and
//! work queues. The transport is a service, HTTPS or in process, so the same
//! code talks to our API server inside one binary and to any other Kubernetes.
//! It never touches the store and decides nothing about objects.

pub mod transport;
