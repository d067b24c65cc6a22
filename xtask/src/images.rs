//! `cargo xtask images`: the images of the examples and tests, built from Debian's packages.
//!
//! A definition is a folder of xtask/images: `image.toml` says which packages are unpacked (their scripts are not run:
//! an image needs files, not a set-up), which files of them are left out, and what is run; `rootfs/` is copied over
//! the result, as `common/` is in all of them. A definition may start from another one. Packages come through apt,
//! which verifies them, and stay in target/images/packages, so that a second build needs no network. An image whose
//! definition did not change is not built again.

pub mod debian;
mod war;

use std::fs::{self, File};
use std::io::BufWriter;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use image::Digest;
use image::archive::{Contents, Format, ImageSpec, write_image};
use serde::Deserialize;

/// `image.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Definition {
    /// The image's name.
    reference: String,
    /// Another definition, whose files come first; what it runs, too, unless this one says something else.
    from: Option<String>,
    /// Debian packages, all that is needed: dependencies are not followed, they lead to systemd soon enough.
    #[serde(default)]
    packages: Vec<String>,
    /// All of busybox's commands, as hard links: a container that hides /bin/ls must not hide /bin/sh with it.
    #[serde(default)]
    applets: bool,
    /// Globs of what is left out, below the image's root.
    #[serde(default)]
    remove: Vec<String>,
    /// Directories besides those of every image, with their permissions in octal.
    #[serde(default)]
    directories: Vec<(String, String)>,
    /// Symbolic links: path, target.
    #[serde(default)]
    links: Vec<(String, String)>,
    /// A web application made from a folder of the definition: path in the image, folder.
    #[serde(default)]
    wars: Vec<(String, String)>,
    /// Static programs compiled from a C file of the definition: path in the image, file, permissions in octal.
    #[serde(default)]
    programs: Vec<(String, String, String)>,
    /// A command that must succeed inside the finished image, so that a missing library shows here.
    check: Option<Vec<String>>,
    /// What the image runs.
    config: Option<image::ImageConfig>,
}

/// Every Debian system has `/bin` and the like as links into `/usr` by now, and its packages count on it.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// What packages bring and no container reads.
const NEVER: [&str; 8] = [
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/lintian",
    "usr/share/bug",
    "usr/lib/*/gconv",
    "usr/lib/systemd",
];

/// Builds the images of the examples and tests that are missing or older than their definition. Returns their archives.
pub fn run(root: &Path) -> Result<Vec<PathBuf>> {
    Workshop::new(root).build_all("")
}

/// The same with the images of a group: a folder of definitions, and of archives.
pub fn group(root: &Path, group: &str) -> Result<Vec<PathBuf>> {
    Workshop::new(root).build_all(group)
}

/// Where images are made.
struct Workshop {
    definitions: PathBuf,
    output: PathBuf,
}

impl Workshop {
    fn new(root: &Path) -> Workshop {
        Workshop {
            definitions: root.join("xtask/images"),
            output: root.join("target/images"),
        }
    }

    /// Builds what is defined directly in a folder of the definitions.
    fn build_all(&self, group: &str) -> Result<Vec<PathBuf>> {
        fs::create_dir_all(self.output.join(group))?;
        let mut names = Vec::new();
        for entry in fs::read_dir(self.definitions.join(group))? {
            let entry = entry?;
            if entry.path().join("image.toml").exists() {
                let name = Path::new(group).join(entry.file_name());
                names.push(name.to_string_lossy().into_owned());
            }
        }
        names.sort();
        names
            .iter()
            .map(|name| self.build(name).with_context(|| format!("image {name}")))
            .collect()
    }

    fn build(&self, name: &str) -> Result<PathBuf> {
        let archive = self.output.join(format!("{name}.tar"));
        let stamp = self.output.join(format!("{name}.made-from"));
        let made_from = self.made_from(name)?;
        if archive.exists() && fs::read_to_string(&stamp).ok().as_deref() == Some(&made_from) {
            return Ok(archive);
        }
        let began = Instant::now();
        let scratch = tempfile::Builder::new().prefix("image-").tempdir_in(&self.output)?;
        let rootfs = scratch.path().join("rootfs");
        let definition = self.fill(&rootfs, name)?;
        if let Some(check) = &definition.check {
            // Java finds its libraries through /proc.
            let proc = format!("--mount-proc={}", rootfs.join("proc").display());
            let mut inside = Command::new("unshare");
            inside
                .args(["--mount", "--pid", "--fork", &proc, "chroot"])
                .arg(&rootfs)
                .args(check);
            command(&mut inside).context("the image does not work")?;
        }

        let spec = ImageSpec {
            reference: Some(definition.reference.parse()?),
            config: definition
                .config
                .context("image.toml does not say what the image runs")?,
            contents: Contents::Directory(&rootfs),
        };
        let new = scratch.path().join("image.tar");
        write_image(
            BufWriter::with_capacity(1 << 20, File::create(&new)?),
            Format::Docker,
            &spec,
        )?;
        // The stamp goes first and comes last: an archive without one is made again.
        if stamp.exists() {
            fs::remove_file(&stamp)?;
        }
        fs::rename(&new, &archive)?;
        fs::write(&stamp, made_from)?;
        let megabytes = fs::metadata(&archive)?.len() as f64 / 1e6;
        println!(
            "{:<28} {megabytes:>6.1} MB  {:.1} s",
            definition.reference,
            began.elapsed().as_secs_f64()
        );
        Ok(archive)
    }

    fn definition(&self, name: &str) -> Result<Definition> {
        let file = self.definitions.join(name).join("image.toml");
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        toml::from_str(&text).with_context(|| file.display().to_string())
    }

    /// Puts an image's files into `rootfs`, which is not there yet; what the image runs is its base's unless it says so.
    fn fill(&self, rootfs: &Path, name: &str) -> Result<Definition> {
        let folder = self.definitions.join(name);
        let mut definition = self.definition(name)?;
        match &definition.from {
            Some(base) => {
                let base = self.fill(rootfs, base)?;
                definition.config = definition.config.or(base.config);
            }
            None => skeleton(rootfs)?,
        }
        for package in debian::download(&definition.packages, &self.output.join("packages"))? {
            debian::extract(&package, rootfs)?;
        }
        for pattern in definition.remove.iter().map(String::as_str).chain(NEVER) {
            remove(rootfs, pattern)?;
        }
        let inside = |path: &str| rootfs.join(path.trim_start_matches('/'));
        for (path, mode) in &definition.directories {
            directory(&inside(path), permissions(mode)?)?;
        }
        for (path, target) in &definition.links {
            link(&inside(path), target)?;
        }
        let common = definition.from.is_none().then(|| self.definitions.join("common"));
        for overlay in common.into_iter().chain([folder.join("rootfs")]) {
            if overlay.is_dir() {
                copy(&overlay, rootfs)?;
            }
        }
        if definition.applets {
            applets(rootfs)?;
        }
        for (path, source) in &definition.wars {
            war::write(&folder.join(source), &inside(path))?;
        }
        for (path, source, mode) in &definition.programs {
            compile(&folder.join(source), &inside(path), permissions(mode)?)?;
        }
        Ok(definition)
    }

    /// A text that changes with anything that the image is made from: the definitions, and the program that reads them.
    fn made_from(&self, name: &str) -> Result<String> {
        let mut parts = vec![
            Digest::of(include_bytes!("images.rs")).to_string(),
            Digest::of(include_bytes!("images/debian.rs")).to_string(),
            Digest::of(include_bytes!("images/war.rs")).to_string(),
        ];
        let mut folders = vec![self.definitions.join("common"), self.definitions.join(name)];
        let mut base = self.definition(name)?.from;
        while let Some(name) = base {
            folders.push(self.definitions.join(&name));
            base = self.definition(&name)?.from;
        }
        for path in folders
            .iter()
            .map(|folder| files_below(folder))
            .collect::<Result<Vec<_>>>()?
            .concat()
        {
            let mode = fs::metadata(&path)?.permissions().mode();
            parts.push(format!("{} {mode:o} {}", path.display(), Digest::of(&fs::read(&path)?)));
        }
        Ok(Digest::of(parts.join("\n").as_bytes()).to_string())
    }
}

/// Regular files below a folder, sorted.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        match path.is_dir() {
            true => files.extend(files_below(&path)?),
            false => files.push(path),
        }
    }
    files.sort();
    Ok(files)
}

/// The directories that every image has.
fn skeleton(rootfs: &Path) -> Result<()> {
    directory(rootfs, 0o755)?;
    for name in MERGED {
        directory(&rootfs.join("usr").join(name), 0o755)?;
        symlink(format!("usr/{name}"), rootfs.join(name))?;
    }
    for name in [
        "dev",
        "etc",
        "home",
        "mnt",
        "opt",
        "run",
        "srv",
        "var",
        "var/log",
        "var/lib",
        "var/cache",
    ] {
        directory(&rootfs.join(name), 0o755)?;
    }
    directory(&rootfs.join("proc"), 0o555)?;
    directory(&rootfs.join("sys"), 0o555)?;
    directory(&rootfs.join("root"), 0o700)?;
    directory(&rootfs.join("tmp"), 0o1777)?;
    directory(&rootfs.join("var/tmp"), 0o1777)?;
    symlink("/run", rootfs.join("var/run"))?;
    Ok(())
}

/// Permissions in octal.
fn permissions(text: &str) -> Result<u32> {
    u32::from_str_radix(text, 8).with_context(|| format!("permissions {text:?}"))
}

/// A static program of one C file.
fn compile(source: &Path, program: &Path, mode: u32) -> Result<()> {
    command(
        Command::new("gcc")
            .args(["-static", "-Os", "-s", "-Wall", "-Werror", "-o"])
            .arg(program)
            .arg(source),
    )?;
    Ok(fs::set_permissions(program, fs::Permissions::from_mode(mode))?)
}

fn directory(path: &Path, mode: u32) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

fn link(path: &Path, target: &str) -> Result<()> {
    if path.symlink_metadata().is_ok() {
        fs::remove_file(path).with_context(|| format!("making way for a link at {}", path.display()))?;
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    symlink(target, path).with_context(|| format!("making the link {}", path.display()))
}

/// Removes what a pattern names below `rootfs`; a component `*` stands for any name, or is a part of one.
fn remove(rootfs: &Path, pattern: &str) -> Result<()> {
    let mut found = vec![rootfs.to_path_buf()];
    for component in pattern.trim_matches('/').split('/') {
        ensure!(
            component != "..",
            "{pattern}: only what is below the image's root can be left out"
        );
        let mut next = Vec::new();
        for dir in found
            .iter()
            .filter(|dir| dir.symlink_metadata().is_ok_and(|m| m.is_dir()))
        {
            for entry in fs::read_dir(dir)? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let fits = match component.split_once('*') {
                    Some((start, end)) => {
                        name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
                    }
                    None => name == component,
                };
                if fits {
                    next.push(entry.path());
                }
            }
        }
        found = next;
    }
    for path in found {
        match path.symlink_metadata()?.is_dir() {
            true => fs::remove_dir_all(&path)?,
            false => fs::remove_file(&path)?,
        }
    }
    Ok(())
}

/// Copies regular files, with their permissions, and makes their directories.
fn copy(from: &Path, rootfs: &Path) -> Result<()> {
    for source in files_below(from)? {
        let target = rootfs.join(source.strip_prefix(from)?);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        // A link that a package made would be written through.
        if target.symlink_metadata().is_ok() {
            fs::remove_file(&target)?;
        }
        fs::copy(&source, &target).with_context(|| format!("copying {}", source.display()))?;
    }
    Ok(())
}

/// Hard links to busybox under the names of its commands, where no package brought a command of that name.
fn applets(rootfs: &Path) -> Result<()> {
    let busybox = rootfs.join("usr/bin/busybox");
    let output = Command::new("chroot")
        .arg(rootfs)
        .args(["/usr/bin/busybox", "--list-full"])
        .output()?;
    ensure!(
        output.status.success(),
        "busybox --list-full: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    for applet in String::from_utf8(output.stdout)?.lines() {
        let path = rootfs.join(applet);
        let name = path.file_name().context("busybox --list-full prints paths")?;
        let taken = ["usr/bin", "usr/sbin"]
            .iter()
            .any(|dir| rootfs.join(dir).join(name).symlink_metadata().is_ok());
        if !taken {
            fs::hard_link(&busybox, &path).with_context(|| format!("linking {applet}"))?;
        }
    }
    Ok(())
}

/// Runs a command and shows its output only when it fails.
pub fn command(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        bail!("{command:?}: {}\n{out}{err}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
