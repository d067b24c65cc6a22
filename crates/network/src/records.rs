//! What the network writes down, below STATE/network. All of it dies with the boot.
//!
//! ```text
//! pool.json               the address given out last
//! attachments/ID.json     one sandbox: address, host link, ports; written before any of them is acquired
//! ```

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, PortMapping, Result};

/// The pool's memory.
#[derive(Debug, Serialize, Deserialize)]
pub struct PoolRecord {
    /// The address given out last.
    pub last: Ipv4Addr,
}

impl record::Record for PoolRecord {
    const KIND: &'static str = "network-pool";
    const VERSION: u32 = 1;
    const SURVIVES_BOOT: bool = false;
}

/// One sandbox's attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentRecord {
    /// The pod's address.
    pub address: Ipv4Addr,
    /// What to call the sandbox when another one wants its ports.
    pub holder: String,
    /// Name of the host's end of the veth.
    pub host_link: String,
    /// The published ports.
    pub ports: Vec<PortMapping>,
    /// False while it is being made: the record is the intent.
    pub attached: bool,
}

impl record::Record for AttachmentRecord {
    const KIND: &'static str = "network-attachment";
    const VERSION: u32 = 1;
    const SURVIVES_BOOT: bool = false;
}

/// The files.
#[derive(Debug)]
pub struct Records {
    pool: PathBuf,
    attachments: PathBuf,
}

impl Records {
    /// Below `state_dir`, which is made.
    pub fn open(state_dir: &Path) -> Result<Records> {
        let attachments = state_dir.join("attachments");
        make_directory(&attachments)?;
        let records = Records {
            pool: state_dir.join("pool.json"),
            attachments,
        };
        sweep_unfinished(state_dir)?;
        sweep_unfinished(&records.attachments)?;
        Ok(records)
    }

    /// The address given out last, as far as is known.
    pub fn last_address(&self) -> Option<Ipv4Addr> {
        match record::load::<PoolRecord>(&self.pool) {
            Ok(pool) => Some(pool.last),
            Err(record::Error::Missing { .. } | record::Error::Foreign { .. }) => None,
            Err(error) => {
                set_aside(&self.pool, &error);
                None
            }
        }
    }

    /// Remembers the address given out last.
    pub fn save_last_address(&self, last: Ipv4Addr) -> Result<()> {
        Ok(record::save(&self.pool, &PoolRecord { last })?)
    }

    /// All attachments of this boot. Those of another boot are removed, broken ones are set aside.
    pub fn attachments(&self) -> Result<BTreeMap<String, AttachmentRecord>> {
        let failed = |source| Error::File {
            what: "list",
            path: self.attachments.clone(),
            source,
        };
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir(&self.attachments).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let Some(id) = path
                .file_name()
                .and_then(|n| n.to_str())
                .and_then(|n| n.strip_suffix(".json"))
            else {
                continue;
            };
            match record::load::<AttachmentRecord>(&path) {
                Ok(attachment) => {
                    found.insert(id.to_owned(), attachment);
                }
                Err(record::Error::Missing { .. }) => {}
                Err(record::Error::Foreign { .. }) => {
                    if let Err(error) = record::remove(&path) {
                        tracing::warn!(%error, "an attachment of another boot remains");
                    }
                }
                Err(error) => set_aside(&path, &error),
            }
        }
        Ok(found)
    }

    /// Saves an attachment.
    pub fn save(&self, id: &str, attachment: &AttachmentRecord) -> Result<()> {
        Ok(record::save(&self.path(id), attachment)?)
    }

    /// Removes an attachment's record, if there is one.
    pub fn remove(&self, id: &str) -> Result<()> {
        Ok(record::remove(&self.path(id))?)
    }

    fn path(&self, id: &str) -> PathBuf {
        self.attachments.join(format!("{id}.json"))
    }
}

/// Removes what a node was writing when it was killed.
fn sweep_unfinished(directory: &Path) -> Result<()> {
    let failed = |source| Error::File {
        what: "list",
        path: directory.to_owned(),
        source,
    };
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if record::is_unfinished(path.as_os_str())
            && let Err(error) = record::remove(&path)
        {
            tracing::warn!(%error, "a record that was being written remains");
        }
    }
    Ok(())
}

fn set_aside(path: &Path, error: &record::Error) {
    match record::quarantine(path) {
        Ok(aside) => tracing::warn!(%error, aside = %aside.display(), "broken network record set aside"),
        Err(failure) => tracing::error!(%error, %failure, "broken network record can't be set aside"),
    }
}

/// `mkdir -p`, for root alone.
pub fn make_directory(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .map_err(|source| Error::File {
            what: "make directory",
            path: path.to_owned(),
            source,
        })
}
