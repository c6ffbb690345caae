//! Embeds the manifests that `install` applies, so that the plugin is one file.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let root = env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?;
    let out = env::var("OUT_DIR").map_err(io::Error::other)?;
    let mut code = String::from(
        "/// Every embedded manifest: file name and text.\npub const MANIFESTS: &[(&str, &str)] = &[\n",
    );
    for directory in ["crds", "base"] {
        let directory = Path::new(&root).join("..").join("manifests").join(directory);
        println!("cargo:rerun-if-changed={}", directory.display());
        let mut paths = Vec::new();
        for entry in fs::read_dir(&directory)? {
            paths.push(entry?.path());
        }
        paths.sort();
        for path in paths.iter().filter(|p| p.extension().is_some_and(|e| e == "yaml")) {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            println!("cargo:rerun-if-changed={}", path.display());
            let text = path.to_str().ok_or_else(|| io::Error::other("path is not UTF-8"))?;
            let _ = writeln!(code, "    ({name:?}, include_str!({text:?})),");
        }
    }
    code.push_str("];\n");
    fs::write(Path::new(&out).join("manifests.rs"), code)
}
