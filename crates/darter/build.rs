//! Links the unwinder of the C compiler's support library into the program, so
//! that it needs nothing of the machine but libc. Makes no code.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CC");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let output = Command::new(compiler).arg("-print-file-name=libgcc_eh.a").output();
    let Ok(output) = output else { return };
    let archive = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    // A compiler that has none prints the bare name; then the shared one serves.
    if let Some(folder) = Path::new(&archive).parent().filter(|folder| folder.is_absolute()) {
        println!("cargo::rustc-link-search=native={}", folder.display());
        println!("cargo::rustc-link-lib=static:+whole-archive,-bundle=gcc_eh");
    }
}
