//! A root file system with busybox, made once and shared by all tests.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const APPLETS: &str = "sh cat ls id ps hostname stat grep readlink true false sleep env tty stty dd wc kill seq yes head tr \
                       tail mkdir touch usleep nohup setsid trap test printf od unshare mount";

/// The root's directory. It lies in the build's own directory and is made again when it is missing.
pub fn busybox() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        // A root of an earlier build may lack a tool.
        let mut tools = DefaultHasher::new();
        APPLETS.hash(&mut tools);
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("busybox-{:x}", tools.finish()));
        if !root.exists() {
            // Tests run side by side, in several processes too: whoever is first wins.
            let making = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("making-busybox-{}", std::process::id()));
            make(&making);
            if fs::rename(&making, &root).is_err() {
                fs::remove_dir_all(&making).unwrap();
            }
        }
        root
    })
}

fn make(root: &Path) {
    for dir in ["bin", "etc", "tmp", "proc", "dev", "sys"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    let busybox = Path::new("/bin/busybox");
    fs::copy(busybox, root.join("bin/busybox")).expect("the tests need busybox: apt-get install busybox");
    // Nothing to copy if it is static.
    let listed = std::process::Command::new("ldd").arg(busybox).output().unwrap();
    for word in String::from_utf8_lossy(&listed.stdout)
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        let to = root.join(&word[1..]);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(word, to).unwrap();
    }
    for applet in APPLETS.split_whitespace() {
        fs::hard_link(root.join("bin/busybox"), root.join("bin").join(applet)).unwrap();
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/:/bin/sh\nweb:x:33:34:Web:/:/bin/sh\n",
    )
    .unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nweb:x:34:\n").unwrap();
}
