//! Every recorded object in its three encodings: the slow half of the codec's
//! tests, which needs recordings from outside the repository.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::*;
use crate::kinds_table;

/// Where the recordings of the release are.
fn folder() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    [root.join("../shared/upstream-1.36/golden"), root.join("../../shared/upstream-1.36/golden")]
        .into_iter()
        .find(|folder| folder.is_dir())
}

#[test]
fn golden_objects_are_the_same_in_all_encodings() {
    let Some(folder) = folder() else {
        eprintln!("no recordings: the golden objects are not compared");
        return;
    };
    let (mut seen, mut wrong) = (0, Vec::new());
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let read = |extension: &str| std::fs::read(path.with_extension(extension)).unwrap();
        let (json, yaml, pb) = (read("json"), read("yaml"), read("pb"));
        let Some(schema) = schema_of(&json) else { continue };
        seen += 1;
        let from_json = decode(&json, Encoding::Json, schema).map(|decoded| decoded.object);
        let from_yaml = decode(&yaml, Encoding::Yaml, schema).map(|decoded| decoded.object);
        let from_pb = decode(&pb, Encoding::Protobuf, schema).map(|decoded| decoded.object);
        let plain: Value = serde_json::from_slice(&json).unwrap();
        let pb_again = from_json.as_ref().ok().and_then(|object| encode(object, Encoding::Protobuf, schema).ok());
        for (what, same) in [
            ("json is not in normal form", from_json.as_ref() == Ok(&plain)),
            ("yaml differs", from_yaml == from_json),
            ("protobuf differs", from_pb == from_json),
            ("encoded protobuf differs", pb_again.as_deref() == Some(pb.as_slice())),
        ] {
            if !same {
                wrong.push(format!("{name}: {what}"));
            }
        }
    }
    assert!(seen > 60, "only {seen} objects were compared");
    assert!(wrong.is_empty(), "{} of {seen}:\n{}", wrong.len(), wrong.join("\n"));
}

fn schema_of(json: &[u8]) -> Option<&'static Schema> {
    let type_meta = type_meta(json, Encoding::Json).ok()?;
    let (group, version) = type_meta.api_version.split_once('/').unwrap_or(("", &type_meta.api_version));
    let found = kinds_table::builtin().library().definitions().find(|definition| {
        definition.gvks().any(|(g, v, k)| g == group && v == version && k == type_meta.kind)
            && definition.gvks().count() == 1
    });
    let options = ["core.v1.", "meta.v1."].iter().find_map(|package| {
        let name = format!("{package}{}", type_meta.kind);
        (type_meta.api_version == "v1").then(|| kinds_table::builtin().definition(&name)).flatten()
    });
    found.map(|definition| definition.schema()).or(options)
}
