//! Names of groups, versions, kinds and resources, and their text forms.

use std::fmt;

/// A group and version, `apps/v1`; the core group is empty and prints as `v1`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct GroupVersion {
    /// `apps`; empty for the core group.
    pub group: String,
    /// `v1`.
    pub version: String,
}

impl GroupVersion {
    /// From its parts.
    pub fn new(group: impl Into<String>, version: impl Into<String>) -> Self {
        Self { group: group.into(), version: version.into() }
    }

    /// Parses an `apiVersion`. More than one slash is not a group version.
    pub fn parse(api_version: &str) -> Option<Self> {
        match api_version.split_once('/') {
            None => Some(Self::new("", api_version)),
            Some((_, version)) if version.contains('/') => None,
            Some((group, version)) => Some(Self::new(group, version)),
        }
    }
}

impl fmt::Display for GroupVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.group.is_empty() {
            write!(f, "{}/", self.group)?;
        }
        f.write_str(&self.version)
    }
}

/// A kind, qualified.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct GroupVersionKind {
    /// Group and version.
    pub group_version: GroupVersion,
    /// `Deployment`.
    pub kind: String,
}

/// A resource, qualified.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct GroupVersionResource {
    /// Group and version.
    pub group_version: GroupVersion,
    /// Plural, lower case: `deployments`.
    pub resource: String,
}

/// A resource without its version, as RBAC, quota and error messages name it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct GroupResource {
    /// `apps`; empty for the core group.
    pub group: String,
    /// Plural, lower case.
    pub resource: String,
}

impl fmt::Display for GroupResource {
    /// `deployments.apps`, or `pods` for the core group.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        Ok(())
    }
}
