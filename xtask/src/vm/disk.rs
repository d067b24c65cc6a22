//! The second disk: the task, and the files that it needs, each at the path that it has on the host.
//!
//! ```text
//! task        a shell script, the guest's work
//! places      folders of the host that the guest mounts at their own paths (from files/)
//! files/…     what is in them, of what the task needs
//! programs    paths of test programs and the folders to run them in
//! ```

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::system::make_file_system;

/// Room for what tests write beside the programs.
const SPARE: u64 = 1 << 30;

/// A second disk in the making.
#[derive(Debug)]
pub struct Disk {
    tree: PathBuf,
    places: Vec<PathBuf>,
}

impl Disk {
    /// An empty one, made below `folder`, for a guest that knows `places`.
    pub fn new(folder: &Path, places: &[PathBuf]) -> Result<Disk> {
        let tree = folder.join("disk");
        match fs::remove_dir_all(&tree) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e).context(tree.display().to_string()),
            _ => {}
        }
        fs::create_dir_all(tree.join("files"))?;
        // One below another comes with it.
        let inner = |place: &&PathBuf| !places.iter().any(|other| *place != other && place.starts_with(other));
        let mut places: Vec<PathBuf> = places.iter().filter(inner).cloned().collect();
        places.dedup();
        for place in &places {
            fs::create_dir_all(below(&tree, place))?;
        }
        Ok(Disk { tree, places })
    }

    /// Has the guest find `path`, a file or a folder with all that is in it, where the host has it.
    pub fn add(&self, path: &Path) -> Result<()> {
        let to = below(&self.tree, path);
        if path.is_dir() {
            fs::create_dir_all(&to)?;
            for entry in fs::read_dir(path)? {
                self.add(&entry?.path())?;
            }
            return Ok(());
        }
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        // They are hundreds of megabytes, and nobody writes into them: a second name will do where it can be had.
        match fs::hard_link(path, &to) {
            Ok(()) => Ok(()),
            // It was added before; a copy would empty it, since both are names of one file.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(_) => fs::copy(path, &to)
                .map(drop)
                .with_context(|| path.display().to_string()),
        }
    }

    /// An empty folder at `path`.
    pub fn add_folder(&self, path: &Path) -> Result<()> {
        Ok(fs::create_dir_all(below(&self.tree, path))?)
    }

    /// A file of the disk itself.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        Ok(fs::write(self.tree.join(name), text)?)
    }

    /// The disk as an image.
    pub fn finish(self, image: &Path) -> Result<()> {
        let places: Vec<String> = self.places.iter().map(|place| place.display().to_string()).collect();
        self.write("places", &places.join("\n"))?;
        make_file_system(&self.tree, SPARE, image)?;
        Ok(fs::remove_dir_all(&self.tree)?)
    }
}

fn below(tree: &Path, path: &Path) -> PathBuf {
    tree.join("files").join(path.strip_prefix("/").unwrap_or(path))
}
