//! A tree with everything that a file system can hold, and a description of any tree to compare.

#![allow(dead_code, missing_docs, clippy::unwrap_used)]

pub mod registry;
pub mod tls;

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

pub fn shell(script: &str) {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(
        output.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

pub fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 1024];
    let n = rustix::fs::lgetxattr(path, name, &mut value).ok()?;
    value.truncate(n);
    Some(value)
}

pub fn sample_tree(dir: &Path) {
    shell(&format!(
        "mkdir -p {0}/usr/bin {0}/empty {0}/owned && cd {0} && \
         echo hello > file && echo tool > usr/bin/tool && ln usr/bin/tool usr/bin/other && ln -s tool usr/bin/link && \
         ln -s /absolute/nowhere dangling && mkfifo pipe && mknod null c 1 3 && mknod loop b 7 0 && \
         cp file suid && chown 3:4 suid && chmod 6755 suid && chown -h 1000:1001 dangling && chown 70000:3000000 owned && \
         chmod 1777 owned && cp file capable && \
         echo 'name' > 'with space and ümlaut' && \
         touch -h -d '2019-01-01' dangling && touch -d '1965-05-05T00:00:00.25' old && \
         touch -d '2011-11-11' usr/bin usr && chmod 751 . && touch -d '2012-12-12' .",
        dir.display()
    ));
    let set = |file: &str, name: &str, value: &[u8]| {
        rustix::fs::lsetxattr(dir.join(file), name, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    set("file", "user.note", b"a\nb\n");
    // cap_net_bind_service+ep, version 2.
    set(
        "capable",
        "security.capability",
        &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    );
    shell(&format!(
        "cd {} && touch -d '2020-01-02T03:04:05.123456789' file",
        dir.display()
    ));
}

/// A line per file: type, mode, owner, times, links, content, attributes.
pub fn describe(root: &Path) -> Vec<String> {
    fn visit(root: &Path, path: &Path, lines: &mut Vec<String>, inodes: &mut Vec<u64>) {
        let meta = std::fs::symlink_metadata(path).unwrap();
        let kind = meta.file_type();
        let content = if kind.is_symlink() {
            format!("-> {}", std::fs::read_link(path).unwrap().display())
        } else if kind.is_file() {
            image::Digest::of(&std::fs::read(path).unwrap()).hex()
        } else if kind.is_char_device() || kind.is_block_device() {
            format!("device {}", meta.rdev())
        } else {
            String::new()
        };
        let same = match inodes.iter().position(|inode| *inode == meta.ino()) {
            Some(place) => place,
            None => {
                inodes.push(meta.ino());
                inodes.len() - 1
            }
        };
        let mut names: Vec<_> = {
            let mut buffer = vec![0; 4096];
            let n = rustix::fs::llistxattr(path, &mut buffer).unwrap();
            buffer[..n]
                .split(|b| *b == 0)
                .filter(|n| !n.is_empty())
                .map(<[u8]>::to_vec)
                .collect()
        };
        names.sort();
        let attributes: Vec<_> = names
            .iter()
            .map(|name| {
                let name = String::from_utf8_lossy(name).into_owned();
                let value = xattr(path, &name);
                format!("{name}={value:?}")
            })
            .collect();
        lines.push(format!(
            "{} {:o} {}:{} size {} same as {same} {content} {}.{:09} |{}",
            path.strip_prefix(root).unwrap().display(),
            meta.mode(),
            meta.uid(),
            meta.gid(),
            if meta.is_dir() { 0 } else { meta.size() },
            meta.mtime(),
            meta.mtime_nsec(),
            attributes.join(" "),
        ));
        if meta.is_dir() {
            let mut entries: Vec<_> = std::fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).collect();
            entries.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
            for entry in entries {
                visit(root, &entry, lines, inodes);
            }
        }
    }
    let mut lines = Vec::new();
    visit(root, root, &mut lines, &mut Vec::new());
    lines
}
