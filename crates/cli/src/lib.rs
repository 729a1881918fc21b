//! Commands for people: printers, kubeconfig files, progress. Speaks the API
//! through the client and holds no cluster logic.

pub mod apply;
