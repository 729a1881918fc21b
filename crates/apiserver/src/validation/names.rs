//! Forms of `metadata.name`. The forms themselves are in [`api::names`].

use api::names;

/// The form of a kind's `metadata.name`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NameRule {
    /// RFC 1123 subdomain: most kinds.
    Subdomain,
    /// RFC 1123 label: namespaces.
    Label,
    /// RFC 1035 label.
    Label1035,
    /// Whatever fits into a path: RBAC.
    PathSegment,
    /// The kind checks by itself.
    Unchecked,
}

impl NameRule {
    /// What is wrong with a name; `prefix` for `generateName`, which may end
    /// in a dash.
    pub(crate) fn check(self, name: &str, prefix: bool) -> Vec<String> {
        let masked = if prefix { names::mask_trailing_dash(name) } else { name.into() };
        match self {
            Self::Subdomain => names::dns1123_subdomain(&masked),
            Self::Label => names::dns1123_label(&masked),
            Self::Label1035 => names::dns1035_label(&masked),
            Self::PathSegment => names::path_segment(name),
            Self::Unchecked => Vec::new(),
        }
    }
}
