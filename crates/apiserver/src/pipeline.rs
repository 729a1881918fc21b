//! The one pipeline that every request passes: URL grammar → authenticate →
//! authorize → bound → verb. The verbs are the submodules; what kinds say for
//! themselves is in their strategies. Nothing here knows a kind by name.

pub(crate) mod body;
pub(crate) mod call;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod negotiate;
pub(crate) mod options;
pub(crate) mod patch;
pub(crate) mod read;
pub(crate) mod render;
pub(crate) mod update;
pub(crate) mod verbs;
pub(crate) mod watch;
pub(crate) mod write;
