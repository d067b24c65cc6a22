//! Files over which redb panics: pages that were overwritten are found by it as a broken promise of its own, not as an error.
//!
//! A panic ends the node. It must not end the next one over the same file, so the file is set aside before this one is gone.

use std::cell::RefCell;
use std::panic;
use std::path::{Path, PathBuf};
use std::sync::Once;

thread_local! {
    /// What this thread opens.
    static OPENING: RefCell<Option<PathBuf>> = const { RefCell::new(None) };
}

/// As long as it lives, a panic of this thread is the file's fault.
pub struct Opening(());

impl Opening {
    /// Begins to open `path`.
    pub fn begin(path: &Path) -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let previous = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                set_aside();
                previous(info);
            }));
        });
        OPENING.set(Some(path.to_path_buf()));
        Opening(())
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        OPENING.set(None);
    }
}

fn set_aside() {
    let Some(path) = OPENING.try_with(RefCell::take).ok().flatten() else {
        return;
    };
    match record::quarantine(&path) {
        Ok(aside) => tracing::error!(
            "{}: the database is damaged; it was moved to {}, and the next start begins an empty one",
            path.display(),
            aside.display()
        ),
        Err(e) => tracing::error!(
            "{}: the database is damaged, and can't be moved away: {e}",
            path.display()
        ),
    }
}
