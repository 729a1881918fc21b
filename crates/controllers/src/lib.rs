//! The controllers of kube-controller-manager on one runner. Each has a pure
//! `plan` and an `apply` that decides nothing. It never touches a node.
