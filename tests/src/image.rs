//! A container image of one program, as an OCI archive: made without Docker, without a shell in it,
//! and the same to the byte where the program is the same.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use oci_spec::image::{
    Arch, Config, ConfigBuilder, Descriptor, Digest, ImageConfigurationBuilder, ImageIndexBuilder,
    ImageManifestBuilder, MediaType, Os, RootFsBuilder, SCHEMA_VERSION,
};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// Whom a container runs as: `nonroot` of the common rootless images.
const USER: &str = "65532:65532";

/// Where an archive keeps what it is made of.
const BLOBS: &str = "blobs/sha256";

/// What an image is made of.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The full name under which it is run, registry and tag included.
    pub reference: String,
    /// The program; its base name is its name in the image. The shared libraries that it needs go
    /// along, from this machine.
    pub program: PathBuf,
    /// Annotations of the manifest, for instance `org.opencontainers.image.version`.
    pub annotations: BTreeMap<String, String>,
}

/// An archive that was written.
#[derive(Debug, Clone)]
pub struct Image {
    /// The full name under which it is run.
    pub reference: String,
    /// The manifest's digest, `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// The archive.
    pub file: PathBuf,
}

impl Recipe {
    /// The image of this checkout's webhook and controller, as `install` names it.
    pub fn webhook(program: &Path) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        let note =
            |key: &str, value: &str| (format!("org.opencontainers.image.{key}"), value.to_owned());
        Self {
            reference: format!("docker.io/library/upgrade-webhook:{version}"),
            program: program.to_owned(),
            annotations: [
                note("title", "upgrade-webhook"),
                note("description", "Admission webhook and controller of kubectl-upgrade"),
                note("licenses", "Apache-2.0"),
                note("version", version),
            ]
            .into(),
        }
    }

    /// Writes the archive, which `ctr images import` and other tools take as it is.
    pub fn write(&self, file: &Path) -> Result<Image> {
        let name = self.program.file_name().context("a program without a name")?;
        let inside = format!("usr/bin/{}", name.to_string_lossy());
        let mut archive = Archive::create(file)?;
        let mut layers = Vec::new();
        // A layer of its own: the libraries stay what they are when the program changes.
        let libraries = libraries(&self.program)?;
        if !libraries.is_empty() {
            layers.push(archive.layer(&libraries)?);
        }
        layers.push(archive.layer(&[(self.program.clone(), inside.clone())].into())?);

        let root = RootFsBuilder::default()
            .typ("layers")
            .diff_ids(layers.iter().map(|l| l.digest().to_string()).collect::<Vec<_>>())
            .build()?;
        let image = ImageConfigurationBuilder::default()
            .architecture(architecture()?)
            .os(Os::Linux)
            .config(config(&format!("/{inside}"))?)
            .rootfs(root)
            .build()?;
        let config = archive.document(MediaType::ImageConfig, &image)?;
        let manifest = ImageManifestBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageManifest)
            .config(config)
            .layers(layers)
            .annotations(
                self.annotations.clone().into_iter().collect::<std::collections::HashMap<_, _>>(),
            )
            .build()?;
        let mut manifest = archive.document(MediaType::ImageManifest, &manifest)?;
        let digest = manifest.digest().to_string();
        let tag = self.reference.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        let names = [
            ("io.containerd.image.name", self.reference.as_str()),
            ("org.opencontainers.image.ref.name", tag),
        ];
        let names = names.map(|(key, value)| (key.to_owned(), value.to_owned()));
        manifest.set_annotations(Some(names.into()));
        let index = ImageIndexBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageIndex)
            .manifests(vec![manifest])
            .build()?;
        archive.finish(&index)?;
        Ok(Image { reference: self.reference.clone(), digest, file: file.to_owned() })
    }
}

fn config(program: &str) -> Result<Config> {
    let config = ConfigBuilder::default()
        .user(USER)
        .entrypoint(vec![program.to_owned()])
        .env(vec!["PATH=/usr/bin".to_owned()])
        .working_dir("/")
        .build();
    config.context("the image's configuration")
}

fn architecture() -> Result<Arch> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(Arch::Amd64),
        "aarch64" => Ok(Arch::ARM64),
        other => bail!("no container image is made for {other}: x86_64 and aarch64 are known"),
    }
}

/// The shared libraries that a program needs, each with its place in the image; none where it is
/// linked statically.
fn libraries(program: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let output = Command::new("ldd").arg(program).output().context("cannot run ldd")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let text = said.clone() + &String::from_utf8_lossy(&output.stderr);
    if text.contains("not a dynamic executable") || text.contains("statically linked") {
        return Ok(BTreeMap::new());
    }
    if !output.status.success() {
        bail!("ldd {}: {}", program.display(), text.trim());
    }
    if let Some(missing) = said.lines().find(|line| line.contains("not found")) {
        bail!("{} lacks a library: {}", program.display(), missing.trim());
    }
    // `libc.so.6 => /lib/libc.so.6 (0x…)`, and `/lib64/ld-linux.so.2 (0x…)` for the loader.
    let path = |line: &str| {
        let found = line.split_whitespace().find(|word| word.starts_with('/'))?;
        Some((PathBuf::from(found), found.trim_start_matches('/').to_owned()))
    };
    Ok(said.lines().filter_map(path).collect())
}

/// The archive while it is written.
struct Archive {
    tar: tar::Builder<File>,
}

impl Archive {
    fn create(file: &Path) -> Result<Self> {
        let out =
            File::create(file).with_context(|| format!("cannot create {}", file.display()))?;
        let mut tar = tar::Builder::new(out);
        add(&mut tar, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(Self { tar })
    }

    fn layer(&mut self, files: &BTreeMap<PathBuf, String>) -> Result<Descriptor> {
        let mut layer = tar::Builder::new(Vec::new());
        for (from, to) in files {
            let bytes =
                std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
            add(&mut layer, to, 0o755, &bytes)?;
        }
        self.blob(MediaType::ImageLayer, &layer.into_inner()?)
    }

    fn document(&mut self, kind: MediaType, document: &impl Serialize) -> Result<Descriptor> {
        self.blob(kind, &json(document)?)
    }

    fn blob(&mut self, kind: MediaType, bytes: &[u8]) -> Result<Descriptor> {
        let hash = hex(&Sha256::digest(bytes));
        add(&mut self.tar, &format!("{BLOBS}/{hash}"), 0o644, bytes)?;
        let digest: Digest = format!("sha256:{hash}").parse().context("a digest")?;
        Ok(Descriptor::new(kind, u64::try_from(bytes.len())?, digest))
    }

    fn finish(mut self, index: &impl Serialize) -> Result<()> {
        add(&mut self.tar, "index.json", 0o644, &json(index)?)?;
        self.tar.into_inner().and_then(|file| file.sync_all()).context("cannot end the archive")
    }
}

/// Through a value, whose maps are sorted: the same image has the same digest.
fn json(document: &impl Serialize) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(&serde_json::to_value(document)?)?)
}

/// A file without an owner or a time.
fn add(
    tar: &mut tar::Builder<impl std::io::Write>,
    path: &str,
    mode: u32,
    bytes: &[u8],
) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(u64::try_from(bytes.len())?);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    tar.append_data(&mut header, path, bytes).with_context(|| format!("cannot add {path}"))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_program_is_the_same_image() {
        let dir = tempfile::tempdir().unwrap();
        let program = PathBuf::from("/bin/true");
        let write = |name: &str| Recipe::webhook(&program).write(&dir.path().join(name)).unwrap();
        let (one, two) = (write("one.tar"), write("two.tar"));
        assert_eq!(one.digest, two.digest);
        assert_eq!(std::fs::read(&one.file).unwrap(), std::fs::read(&two.file).unwrap());
        assert!(one.digest.starts_with("sha256:") && one.digest.len() == 71, "{}", one.digest);

        let names = |archive: &[u8]| {
            let mut archive = tar::Archive::new(archive);
            let entries = archive.entries().unwrap().map(|entry| entry.unwrap());
            entries.map(|e| e.path().unwrap().display().to_string()).collect::<Vec<_>>()
        };
        let all = names(&std::fs::read(&one.file).unwrap());
        assert_eq!((all[0].as_str(), all[all.len() - 1].as_str()), ("oci-layout", "index.json"));
        assert!(all.contains(&format!("{BLOBS}/{}", &one.digest["sha256:".len()..])), "{all:?}");
    }

    #[test]
    fn a_program_that_is_linked_takes_its_libraries_along() {
        let found = libraries(Path::new("/bin/true")).unwrap();
        assert!(found.values().any(|to| to.contains("libc.so")), "{found:?}");
        assert!(found.values().all(|to| !to.starts_with('/')), "{found:?}");
    }
}
