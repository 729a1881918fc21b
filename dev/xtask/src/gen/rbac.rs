//! The bootstrap policy: roles and bindings that every cluster has, one object
//! a line in the order in which they are created. Not the controllers' roles
//! beyond what upstream gives them.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::Failure;

/// The documents of the policy, each a list.
const DOCUMENTS: [&str; 6] = [
    "cluster-roles.yaml",
    "controller-roles.yaml",
    "namespace-roles.yaml",
    "cluster-role-bindings.yaml",
    "controller-role-bindings.yaml",
    "namespace-role-bindings.yaml",
];
/// Rows that a distribution added carry its name.
const FOREIGN: &str = "openshift";

/// All objects as JSON lines.
pub(crate) fn table(data: &Path) -> Result<String, Failure> {
    let mut lines = String::new();
    for document in DOCUMENTS {
        let path = data.join("rbac").join(document);
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let list: Value = serde_yaml_ng::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        for object in list["items"].as_array().into_iter().flatten() {
            if object["metadata"]["name"].to_string().contains(FOREIGN) {
                continue;
            }
            let line = object.to_string();
            lines.push_str(&line);
            lines.push('\n');
        }
    }
    Ok(lines)
}
