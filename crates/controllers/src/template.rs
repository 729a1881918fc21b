//! From a pod template to a pod, and the name of a template's version.

use k8s_openapi::Metadata;
use k8s_openapi::Resource;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// Letters of generated names: no vowels, nothing that looks like another.
const SAFE_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Longest prefix of a generated name: with its suffix a pod's name must stay
/// a host name.
const PREFIX_LIMIT: usize = 253 - 1;

/// A reference to an object as the controller of another.
pub(crate) fn controller_reference<K: Metadata<Ty = ObjectMeta> + Resource>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::API_VERSION.to_owned(),
        kind: K::KIND.to_owned(),
        name: owner.metadata().name.clone().unwrap_or_default(),
        uid: owner.metadata().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// A pod of this template, owned by `owner`, with a name to be generated.
pub(crate) fn pod<K: Metadata<Ty = ObjectMeta> + Resource>(owner: &K, template: &PodTemplateSpec) -> Pod {
    let metadata = template.metadata.as_ref();
    let name = owner.metadata().name.as_deref().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            namespace: owner.metadata().namespace.clone(),
            generate_name: Some(prefix(name)),
            labels: metadata.and_then(|metadata| metadata.labels.clone()),
            annotations: metadata.and_then(|metadata| metadata.annotations.clone()),
            finalizers: metadata.and_then(|metadata| metadata.finalizers.clone()),
            owner_references: Some(vec![controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// `name-`, or the name alone where that leaves no valid prefix.
pub(crate) fn prefix(name: &str) -> String {
    if name.len() + 1 > PREFIX_LIMIT { name.to_owned() } else { format!("{name}-") }
}

/// A short name for a template's version. Equal templates have equal names as
/// long as `collisions` is the same; different ones differ, almost always.
pub(crate) fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let bytes = serde_json::to_vec(template).expect("a template is a tree of strings and numbers");
    let mut hash = fnv(0x811c_9dc5, &bytes);
    if let Some(collisions) = collisions {
        hash = fnv(hash, &i64::from(collisions).to_le_bytes());
    }
    safe_encode(&hash.to_string())
}

/// FNV-1a, 32 bits.
fn fnv(start: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(start, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Each letter as one that makes no words, as upstream's SafeEncodeString.
pub(crate) fn safe_encode(text: &str) -> String {
    text.bytes().map(|byte| char::from(SAFE_LETTERS[usize::from(byte) % SAFE_LETTERS.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_stable_and_change_with_collisions() {
        let template = PodTemplateSpec::default();
        let first = hash(&template, None);
        assert_eq!(first, hash(&template, None));
        assert_ne!(first, hash(&template, Some(1)));
        assert!(first.len() <= 10 && first.bytes().all(|byte| SAFE_LETTERS.contains(&byte)), "{first}");
    }

    #[test]
    fn encoding_is_upstreams() {
        assert_eq!(safe_encode("2078310132"), "64cd754576");
    }
}
