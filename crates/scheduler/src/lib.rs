//! Places pods on nodes: queue, snapshot, cycle, plugins. Speaks only the
//! Kubernetes API, so it runs against any cluster; it never starts anything.
