//! Objects of which only the metadata is known by type. For code that follows
//! many kinds, some of them discovered at run time.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{ClusterResourceScope, Metadata, Resource};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// `meta.k8s.io/v1 PartialObjectMetadata`: what the server sends when it is
/// asked for metadata alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartialObjectMetadata {
    /// `meta.k8s.io/v1`.
    #[serde(default)]
    pub api_version: String,
    /// `PartialObjectMetadata`.
    #[serde(default)]
    pub kind: String,
    /// The object's metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
}

/// Any object: typed metadata, everything else as a tree.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DynamicObject {
    /// `apps/v1`; empty in list items of some servers.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub api_version: String,
    /// `Deployment`; empty in list items of some servers.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The object's metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// Every other top-level field.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

// The resource constants of these two are never used to build a path: an Api
// for them is always made from a GroupVersionResource.
macro_rules! metadata_only {
    ($type:ty, $version:literal, $kind:literal) => {
        impl Resource for $type {
            const API_VERSION: &'static str = $version;
            const GROUP: &'static str = "meta.k8s.io";
            const KIND: &'static str = $kind;
            const VERSION: &'static str = "v1";
            const URL_PATH_SEGMENT: &'static str = "";
            type Scope = ClusterResourceScope;
        }

        impl Metadata for $type {
            type Ty = ObjectMeta;

            fn metadata(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn metadata_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

metadata_only!(PartialObjectMetadata, "meta.k8s.io/v1", "PartialObjectMetadata");
metadata_only!(DynamicObject, "meta.k8s.io/v1", "DynamicObject");
