//! `darter image`: the images of one data directory, beside a running node or
//! without one; the store's own lock keeps the two apart.

use std::sync::Arc;

use containers::ImageStore;
use containers::runtime::{Image, ImageError};
use serde_json::json;

use crate::arguments::{self, Output, Place};
use crate::instance::Instance;

/// Why a command on images failed.
#[derive(thiserror::Error, Debug)]
pub(crate) enum ImageCommandError {
    /// The data directory cannot be found.
    #[error("data directory {path}")]
    Place {
        /// As given.
        path: std::path::PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// An image.
    #[error("{subject}")]
    Image {
        /// Reference or file.
        subject: String,
        /// The cause.
        #[source]
        source: ImageError,
    },
}

/// Runs one of them.
pub(crate) async fn run(command: &arguments::Image) -> Result<(), ImageCommandError> {
    match command {
        arguments::Image::Import { place, paths } => {
            let store = open(place, None)?;
            for path in paths {
                for reference in store.import(path).map_err(about(path.display()))? {
                    println!("{reference}");
                }
            }
        }
        arguments::Image::Ls { place, output } => {
            list(&open(place, None)?.images().map_err(about("listing"))?, *output)
        }
        arguments::Image::Rm { place, references } => {
            let store = open(place, None)?;
            for reference in references {
                store.remove(reference).map_err(about(reference))?;
                println!("{reference} removed");
            }
        }
        arguments::Image::Pull { place, references, registries } => {
            let store = open(place, registries.as_deref())?;
            for reference in references {
                println!("{}", store.pull(reference, None).await.map_err(about(reference))?);
            }
        }
    }
    Ok(())
}

fn about(subject: impl ToString) -> impl FnOnce(ImageError) -> ImageCommandError {
    move |source| ImageCommandError::Image { subject: subject.to_string(), source }
}

fn open(place: &Place, registries: Option<&std::path::Path>) -> Result<Arc<ImageStore>, ImageCommandError> {
    let instance = Instance::new(&place.data_dir)
        .map_err(|source| ImageCommandError::Place { path: place.data_dir.clone(), source })?;
    ImageStore::open(&instance.containers(), registries).map_err(about("opening the image store"))
}

fn list(images: &[Image], output: Output) {
    if output == Output::Json {
        for image in images {
            println!(
                "{}",
                json!({"id": image.id, "tags": image.tags, "digests": image.digests, "sizeBytes": image.size_bytes})
            );
        }
        return;
    }
    println!("{:<60} {:<20} {:>10}", "IMAGE", "ID", "SIZE");
    for image in images {
        let id: String = image.id.trim_start_matches("sha256:").chars().take(12).collect();
        let size = format!("{} MiB", image.size_bytes.div_ceil(1 << 20));
        let names = if image.tags.is_empty() { &image.digests } else { &image.tags };
        for name in names {
            println!("{name:<60} {id:<20} {size:>10}");
        }
    }
}
