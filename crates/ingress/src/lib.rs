//! L7 proxy for Ingress and Gateway. Pods are reached directly; it holds no
//! state of its own.
