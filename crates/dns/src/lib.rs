//! Cluster DNS: answers from Services and EndpointSlices, forwards the rest.
//! It changes nothing in the cluster.
