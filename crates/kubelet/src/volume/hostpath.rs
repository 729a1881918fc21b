//! Paths of the machine: checks what the volume's type promises, and makes it
//! where the type says so.

use std::fs::{self, FileType};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use api::types::api::core::v1 as core;

use super::{Mounted, SetUpError};

/// Mode of directories that are made.
const DIRECTORY_MODE: u32 = 0o755;
/// Mode of files that are made.
const FILE_MODE: u32 = 0o644;

pub(super) fn check(source: &core::HostPathVolumeSource) -> Result<Mounted, SetUpError> {
    let path = Path::new(&source.path);
    let failed = |problem| SetUpError::HostPath { path: source.path.clone(), problem };
    let kind = || fs::metadata(path).ok().map(|m| m.file_type());
    let is = |test: fn(&FileType) -> bool| kind().as_ref().is_some_and(test);
    match source.type_.as_deref().unwrap_or_default() {
        "DirectoryOrCreate" => {
            if kind().is_none() {
                fs::DirBuilder::new()
                    .recursive(true)
                    .mode(DIRECTORY_MODE)
                    .create(path)
                    .map_err(SetUpError::io(format!("making {}", source.path)))?;
            }
            is(FileType::is_dir).then_some(()).ok_or_else(|| failed("is not a directory"))?;
        }
        "FileOrCreate" => {
            if kind().is_none() {
                fs::OpenOptions::new()
                    .create(true)
                    .append(true)
                    .mode(FILE_MODE)
                    .open(path)
                    .map_err(SetUpError::io(format!("making {}", source.path)))?;
            }
            is(FileType::is_file).then_some(()).ok_or_else(|| failed("is not a file"))?;
        }
        "Directory" => is(FileType::is_dir).then_some(()).ok_or_else(|| failed("is not a directory"))?,
        "File" => is(FileType::is_file).then_some(()).ok_or_else(|| failed("is not a file"))?,
        "Socket" => is(FileType::is_socket).then_some(()).ok_or_else(|| failed("is not a socket file"))?,
        "CharDevice" => {
            is(FileType::is_char_device).then_some(()).ok_or_else(|| failed("is not a character device"))?
        }
        "BlockDevice" => is(FileType::is_block_device).then_some(()).ok_or_else(|| failed("is not a block device"))?,
        _ => {
            // Without a type, a missing path becomes a directory, as container
            // runtimes have always had it.
            if kind().is_none() {
                fs::DirBuilder::new()
                    .recursive(true)
                    .mode(DIRECTORY_MODE)
                    .create(path)
                    .map_err(SetUpError::io(format!("making {}", source.path)))?;
            }
        }
    }
    Ok(Mounted { path: path.into(), readonly: false })
}
