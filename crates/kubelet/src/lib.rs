//! Pod life on a node: sync, probes, volumes, eviction, status, sleep, and the
//! node's HTTP API. It drives a `containers::runtime::Runtime` and never
//! schedules.
