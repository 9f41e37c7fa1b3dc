//! Container images without a daemon: an OCI archive written here, imported by the node.
//!
//! An image holds the program, the shared libraries it loads, CA certificates, the entry of its user
//! and nothing else. It runs as a numeric non-root user. The same files always give the same bytes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use aws_lc_rs::digest::{SHA256, digest as hash};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use crate::command::output;
use crate::modules::PAUSE_VERSION;

/// The user that every image runs as.
pub const USER: &str = "65532:65532";
/// Kubernetes takes only the user's number from an image; its group is looked up here, and without
/// an entry it would be root's. daprd 1.16 refuses to run with that.
const ACCOUNTS: [(&str, &[u8]); 2] =
    [("etc/passwd", b"nonroot:x:65532:65532:nonroot:/:/sbin/nologin\n"), ("etc/group", b"nonroot:x:65532:\n")];
/// Where Debian and most others keep the CA certificates, and where programs look for them.
const CA_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// An image to be written.
#[derive(Debug, Clone)]
pub struct Image {
    /// Full reference: registry, name and tag.
    pub reference: String,
    /// The program that it starts, by its path inside.
    pub entrypoint: String,
    /// Path inside and the file on this machine that it is copied from.
    pub files: BTreeMap<String, PathBuf>,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
}

impl Image {
    /// An image of one program, started as `/<name>`, with its shared libraries and CA certificates.
    pub fn of_program(reference: &str, name: &str, program: &Path) -> Result<Self> {
        let mut image = Self::bare(reference, name, program);
        for library in shared_libraries(program)? {
            image.files.insert(library.display().to_string(), library);
        }
        if Path::new(CA_CERTIFICATES).exists() {
            image.files.insert(CA_CERTIFICATES.into(), CA_CERTIFICATES.into());
        }
        Ok(image)
    }

    /// Adds a file.
    #[must_use]
    pub fn file(mut self, inside: &str, from: impl Into<PathBuf>) -> Self {
        self.files.insert(inside.into(), from.into());
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// The reference of the pause image.
    pub fn pause_reference() -> String {
        format!("localhost/dapr/pause:{PAUSE_VERSION}")
    }

    /// Writes the archive and returns the digest of the image's manifest.
    pub fn write(&self, archive: &Path) -> Result<String> {
        let layer = self.layer().with_context(|| format!("make the layer of {}", self.reference))?;
        let layer_digest = digest(&layer);
        let config = self.config(&layer_digest).to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
        });
        let manifest = manifest.to_string().into_bytes();
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        entry["annotations"] = json!({
            "io.containerd.image.name": self.reference,
            "org.opencontainers.image.ref.name": self.reference,
        });
        let index = json!({ "schemaVersion": 2, "manifests": [entry] }).to_string().into_bytes();
        if let Some(folder) = archive.parent() {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        let file = File::create(archive).with_context(|| format!("create {}", archive.display()))?;
        let mut tar = Builder::new(file);
        add_bytes(&mut tar, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        add_bytes(&mut tar, "index.json", 0o644, &index)?;
        for blob in [&config, &layer, &manifest] {
            let name = digest(blob).replace(':', "/");
            add_bytes(&mut tar, &format!("blobs/{name}"), 0o644, blob)?;
        }
        tar.into_inner().and_then(|mut file| file.flush()).context("finish the archive")?;
        Ok(digest(&manifest))
    }

    fn bare(reference: &str, name: &str, program: &Path) -> Self {
        let entrypoint = format!("/{name}");
        let files = BTreeMap::from([(entrypoint.clone(), program.to_owned())]);
        Self { reference: reference.into(), entrypoint, files, env: BTreeMap::new() }
    }

    fn config(&self, layer_digest: &str) -> Value {
        let mut env: Vec<String> = vec!["PATH=/".into()];
        if self.files.contains_key(CA_CERTIFICATES) {
            env.push(format!("SSL_CERT_FILE={CA_CERTIFICATES}"));
        }
        env.extend(self.env.iter().map(|(name, value)| format!("{name}={value}")));
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        json!({
            "architecture": architecture,
            "os": "linux",
            "config": { "User": USER, "Entrypoint": [self.entrypoint], "Env": env, "WorkingDir": "/" },
            "rootfs": { "type": "layers", "diff_ids": [layer_digest] },
        })
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut tar = Builder::new(Vec::new());
        for folder in self.folders() {
            let mut header = header(0o755, 0);
            header.set_entry_type(EntryType::Directory);
            tar.append_data(&mut header, folder, std::io::empty())?;
        }
        // A scratch folder is where Go and others put temporary files; the root may be read-only.
        let mut tmp = header(0o1777, 0);
        tmp.set_entry_type(EntryType::Directory);
        tar.append_data(&mut tmp, "tmp/", std::io::empty())?;
        for (inside, text) in ACCOUNTS {
            add_bytes(&mut tar, inside, 0o644, text)?;
        }
        for (inside, from) in &self.files {
            let bytes = fs::read(from).with_context(|| format!("read {}", from.display()))?;
            let mode = if inside == CA_CERTIFICATES { 0o644 } else { 0o755 };
            add_bytes(&mut tar, inside.trim_start_matches('/'), mode, &bytes)?;
        }
        tar.into_inner().context("finish the layer")
    }

    fn folders(&self) -> Vec<String> {
        let mut all = std::collections::BTreeSet::from(["etc/".to_owned()]);
        for inside in self.files.keys() {
            let mut folder = Path::new(inside.trim_start_matches('/')).parent();
            while let Some(path) = folder.filter(|p| !p.as_os_str().is_empty()) {
                all.insert(format!("{}/", path.display()));
                folder = path.parent();
            }
        }
        all.into_iter().collect()
    }
}

/// The image that holds each pod's namespaces.
pub fn pause_image(folder: &Path) -> Result<Image> {
    let program = folder.join("pause");
    anyhow::ensure!(program.is_file(), "{} is missing", program.display());
    Ok(Image::bare(&Image::pause_reference(), "pause", &program))
}

/// The shared libraries that a program loads, with the loader; none for a static program.
fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let mut ldd = Command::new("ldd");
    ldd.arg(program).env("LC_ALL", "C");
    let text = match output(&mut ldd) {
        Ok(text) => text,
        Err(error) if format!("{error:#}").contains("not a dynamic executable") => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    text.lines().filter_map(library_of_line).map(|path| Ok(path.into())).collect()
}

/// The path in a line of `ldd`: `libc.so.6 => /lib/libc.so.6 (0x…)` or `/lib64/ld.so (0x…)`.
fn library_of_line(line: &str) -> Option<&str> {
    let path = line.split_once("=>").map_or(line, |(_, right)| right);
    path.split_whitespace().next().filter(|path| path.starts_with('/'))
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(hash(&SHA256, bytes)))
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() })
}

fn header(mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn add_bytes<W: Write>(tar: &mut Builder<W>, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
    let mut header = header(mode, bytes.len() as u64);
    header.set_entry_type(EntryType::Regular);
    tar.append_data(&mut header, path, bytes).with_context(|| format!("add {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_both_kinds_of_lines() {
        assert_eq!(library_of_line("\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f)"), Some("/lib/x/libc.so.6"));
        assert_eq!(library_of_line("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)"), Some("/lib64/ld-linux-x86-64.so.2"));
        assert_eq!(library_of_line("\tlinux-vdso.so.1 (0x00007f)"), None);
        assert_eq!(library_of_line("\tstatically linked"), None);
    }

    #[test]
    fn the_same_files_give_the_same_image() {
        let folder = tempfile::tempdir().unwrap();
        let image = Image::of_program("localhost/x:1", "sh", Path::new("/bin/sh")).unwrap();
        let one = image.write(&folder.path().join("one.tar")).unwrap();
        let two = image.write(&folder.path().join("two.tar")).unwrap();
        assert_eq!(one, two);
    }

    #[test]
    fn an_image_holds_the_program_and_its_libraries_and_runs_as_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let archive = folder.path().join("image.tar");
        let image = Image::of_program("localhost/x:1", "sh", Path::new("/bin/sh")).unwrap();
        image.write(&archive).unwrap();
        assert!(image.files.keys().any(|file| file.contains("libc.so")), "{:?}", image.files);
        let config = image.config("sha256:0");
        assert_eq!(config["config"]["User"], USER);
        assert_eq!(config["config"]["Entrypoint"][0], "/sh");
    }
}
