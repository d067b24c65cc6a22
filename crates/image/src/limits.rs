//! How much an image may ask of the machine. Archives come from anywhere; each of these numbers is named in the error
//! that it causes.

/// Manifests and indexes: bytes. Registries refuse more than 4 MiB as well.
pub const MANIFEST_BYTES: u64 = 4 << 20;

/// Image configurations: bytes.
pub const CONFIG_BYTES: u64 = 8 << 20;

/// What a signature signs: bytes.
pub const SIGNATURE_BYTES: u64 = 64 << 10;

/// Layers per image: overlayfs stacks no more than this (fs/overlayfs/params.h, OVL_MAX_STACK).
pub const LAYERS: usize = 500;

/// Images per archive, and indexes below indexes.
pub const IMAGES_PER_ARCHIVE: usize = 256;

/// A path in a layer, and the target of a link: PATH_MAX without its final zero.
pub const PATH_BYTES: usize = 4095;

/// The PAX records of one entry. The kernel keeps at most 64 KiB of names and 64 KiB per value of extended attributes.
pub const PAX_BYTES: u64 = 1 << 20;

/// Entries of the map of a sparse file.
pub const SPARSE_SEGMENTS: usize = 65_536;

/// What differs between a store of a node and a store in a test.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// What images may take on the disk, in bytes: content and unpacked layers.
    pub store_bytes: Option<u64>,
    /// What stays free on the disk whatever images want, in bytes. Without it, a twentieth of the disk, and 1 GiB at most.
    pub keep_free_bytes: Option<u64>,
    /// Entries per layer.
    pub entries: u64,
    /// Bytes per layer, unpacked; holes of sparse files count. Layers of models and of virtual machines' disks have tens of
    /// gigabytes: what bounds a layer in practice is its own size (`ratio`), and the room on the disk (`keep_free_bytes`).
    pub unpacked_bytes: u64,
    /// How many times its own size a compressed layer may grow to…
    pub ratio: u64,
    /// …once it has grown to so many bytes: small layers of zeros are ordinary.
    pub ratio_floor_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            store_bytes: None,
            keep_free_bytes: None,
            entries: 4_000_000,
            unpacked_bytes: 256 << 30,
            ratio: 200,
            ratio_floor_bytes: 1 << 30,
        }
    }
}
