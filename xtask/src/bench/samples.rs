//! What is pulled, and where it is pulled from.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use image::Digest;
use serde_json::json;

/// An image with so many layers of so many files of so many bytes.
pub struct Sample {
    /// For the table.
    pub name: &'static str,
    layers: u32,
    files: u32,
    file_bytes: usize,
}

impl Sample {
    /// The rows.
    pub fn all() -> [Sample; 3] {
        let sample = |name, layers, files, file_bytes| Sample {
            name,
            layers,
            files,
            file_bytes,
        };
        [
            sample("one-layer-of-200-mb", 1, 20, 10_000_000),
            sample("40-layers", 40, 10, 200_000),
            sample("30000-small-files", 1, 30_000, 2_000),
        ]
    }

    /// Writes it as `docker save` does.
    pub fn make(&self, dir: &Path) -> Result<PathBuf> {
        let path = dir.join(format!("{}.tar", self.name));
        let mut words = Words::new();
        let mut archive = tar::Builder::new(BufWriter::new(File::create(&path)?));
        let (mut names, mut diff_ids) = (Vec::new(), Vec::new());
        for layer in 0..self.layers {
            let mut tar = tar::Builder::new(Vec::new());
            for file in 0..self.files {
                let mut bytes = vec![0; self.file_bytes];
                words.fill(&mut bytes);
                append(&mut tar, &format!("opt/layer-{layer}/{}/{file}", file / 100), &bytes)?;
            }
            let tar = tar.into_inner()?;
            let name = format!("{layer}/layer.tar");
            append(&mut archive, &name, &tar)?;
            diff_ids.push(Digest::of(&tar).to_string());
            names.push(name);
        }
        let rootfs = json!({"type": "layers", "diff_ids": diff_ids});
        let config = json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"]}, "rootfs": rootfs});
        append(&mut archive, "config.json", config.to_string().as_bytes())?;
        let tag = format!("bench.example.org/{}:1", self.name);
        let manifest = json!([{"Config": "config.json", "RepoTags": [tag], "Layers": names}]);
        append(&mut archive, "manifest.json", manifest.to_string().as_bytes())?;
        archive.into_inner()?.flush()?;
        Ok(path)
    }
}

fn append(archive: &mut tar::Builder<impl Write>, path: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, path, bytes)
}

/// Bytes that compress about as programs and texts do, to a third, and are the same each time.
struct Words(u64);

impl Words {
    fn new() -> Words {
        Words(88_172_645_463_325_252)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            // xorshift64 (Marsaglia, 2003).
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            let value = match self.0 % 4 {
                0 => self.0,
                1 => self.0 % 251,
                _ => self.0 % 16,
            };
            word.copy_from_slice(&value.to_le_bytes()[..word.len()]);
        }
    }
}

/// Debian's docker-registry on a port of this machine; it ends with this.
pub struct Registry {
    process: Child,
    address: String,
    storage: PathBuf,
}

/// How long something took, in words.
pub struct Floor {
    taken: Duration,
    bytes: u64,
}

impl fmt::Display for Floor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = self.bytes as f64 / 1e6;
        write!(f, "{:.2} s (zlib-rs, {megabytes:.0} MB)", self.taken.as_secs_f64())
    }
}

impl Registry {
    /// With its storage below `dir`.
    pub fn start(dir: &Path) -> Result<Registry> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let storage = dir.join("registry");
        let config = dir.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n",
            storage.display()
        );
        fs::write(&config, text)?;
        let mut command = Command::new("docker-registry");
        command
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let registry = Registry {
            process: command.spawn().context("docker-registry")?,
            address,
            storage,
        };
        let begin = Instant::now();
        while std::net::TcpStream::connect(&registry.address).is_err() {
            ensure!(
                begin.elapsed() < Duration::from_secs(30),
                "docker-registry does not listen"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(registry)
    }

    /// Puts an archive there, its layers compressed by gzip; answers its name.
    pub fn push(&self, archive: &Path, name: &str) -> Result<String> {
        let reference = format!("{}/bench/{name}:1", self.address);
        let pushed = Command::new("skopeo")
            .args([
                "copy",
                "--quiet",
                "--dest-tls-verify=false",
                "--insecure-policy",
                "--format=oci",
            ])
            .args(["--dest-compress-format=gzip"])
            .arg(format!("docker-archive:{}", archive.display()))
            .arg(format!("docker://{reference}"))
            .status()
            .context("skopeo")?;
        ensure!(pushed.success(), "skopeo: {pushed}");
        Ok(reference)
    }

    /// What the decompression of the largest blob of a repository takes, alone.
    pub fn decompress_largest(&self, name: &str) -> Result<Floor> {
        let links = self
            .storage
            .join(format!("docker/registry/v2/repositories/bench/{name}/_layers/sha256"));
        let mut largest = (0, PathBuf::new());
        for link in fs::read_dir(links)? {
            let digest = link?.file_name().to_string_lossy().into_owned();
            let blob = format!("docker/registry/v2/blobs/sha256/{}/{digest}/data", &digest[..2]);
            let blob = self.storage.join(blob);
            largest = largest.max((fs::metadata(&blob)?.len(), blob));
        }
        let mut best: Option<Floor> = None;
        for _ in 0..3 {
            let begin = Instant::now();
            let mut plain =
                flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(1 << 17, File::open(&largest.1)?));
            let mut buffer = vec![0; 1 << 17];
            let mut bytes = 0;
            loop {
                match plain.read(&mut buffer)? {
                    0 => break,
                    n => bytes += n as u64,
                }
            }
            let taken = begin.elapsed();
            if best.as_ref().is_none_or(|best| taken < best.taken) {
                best = Some(Floor { taken, bytes });
            }
        }
        best.context("it was done three times")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
