//! Where output goes, and what a command does when it can't go there.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use anyhow::{Result, ensure};
use end_to_end::instance::{PATIENT, QUICK, condition};
use end_to_end::{Host, Instance, case};
use rustix::fs::{CWD, FileType};
use serde_json::Value;

/// 128 and SIGPIPE's number: what a shell shows of a program whose reader is gone.
const READER_GONE: i32 = 141;

fn ready(pod: &Value) -> bool {
    condition(pod, "Ready").is_some_and(|c| c["status"] == "True")
}

fn talker(host: &Host) -> Result<std::path::PathBuf> {
    host.manifest(
        "talker.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: talker}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  \
         - {name: c, image: 'localhost/hove/busybox:1', imagePullPolicy: Never, \
         command: [sh, -c, 'while :; do echo line; sleep 0.1; done']}\n",
    )
}

/// A pipe that nobody reads any more, as the left side of `| head` meets it.
fn readerless() -> Result<OwnedFd> {
    let (reader, writer) = rustix::pipe::pipe()?;
    drop(reader);
    Ok(writer)
}

fn full() -> Result<OwnedFd> {
    Ok(File::options().write(true).open("/dev/full")?.into())
}

#[test]
fn a_reader_that_is_gone_ends_a_command_without_a_word() {
    case(&["busybox"], |host: &Host| -> Result<()> {
        let node = host.node()?;
        node.import(&["busybox"])?;
        node.output(["run".as_ref(), "-d".as_ref(), talker(host)?.as_os_str()])?;
        node.wait_for_pod("talker", ready)?;
        for args in [
            &["get", "pods"][..],
            &["get", "pods", "-o", "yaml"],
            &["describe", "pod", "talker"],
            &["logs", "talker"],
            &["logs", "-f", "talker"],
            &["logs", "-f", "--all-containers", "talker"],
            &["exec", "talker", "--", "yes"],
            &["image", "ls"],
            &["image", "inspect", "localhost/hove/busybox:1"],
            &["ns", "talker"],
            &["version"],
        ] {
            let ended = node.spawn_into(readerless()?, args)?.wait(QUICK)?;
            ensure!(
                (ended.code(), ended.stderr.as_str()) == (READER_GONE, ""),
                "{args:?}: {ended:?}"
            );
            let ended = node.spawn_into(full()?, args)?.wait(QUICK)?;
            ensure!(ended.code() == 1, "{args:?}: {ended:?}");
            ensure!(
                ended.stderr.contains("standard output: No space left on device"),
                "{args:?}: {ended:?}"
            );
        }
        node.output(["delete", "pod", "talker"])?;
        Ok(())
    });
}

/// A pod in front of somebody who does not see it is taken down.
#[test]
fn a_run_that_can_show_nothing_takes_its_pod_down() {
    case(&["busybox"], |host: &Host| -> Result<()> {
        let node = host.node()?;
        node.import(&["busybox"])?;
        let manifest = talker(host)?;
        let run = |node: &Instance, stdout: OwnedFd| {
            let ended = node
                .spawn_into(stdout, ["run".as_ref(), manifest.as_os_str()])?
                .wait(PATIENT)?;
            ensure!(node.pod("talker")?.is_none(), "the pod is still there: {ended:?}");
            Ok(ended)
        };
        let ended = run(&node, readerless()?)?;
        ensure!(
            ended.code() == READER_GONE && !ended.stderr.contains("error"),
            "{ended:?}"
        );
        let ended = run(&node, full()?)?;
        ensure!(ended.code() == 1, "{ended:?}");
        ensure!(
            ended
                .stderr
                .contains("pod talker was taken down, since its output can't be written")
                && ended.stderr.contains("No space left on device"),
            "{ended:?}"
        );
        Ok(())
    });
}

/// What is there already stays what it is: a device is no file to be replaced, and a link leads on.
#[test]
fn an_archive_replaces_no_device_and_no_link() {
    case(&["busybox"], |host: &Host| -> Result<()> {
        let node = host.node()?;
        node.import(&["busybox"])?;
        let device = host.directory().join("null");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(CWD, &device, FileType::CharacterDevice, mode, rustix::fs::makedev(1, 3))?;
        let export = |output: &Path| {
            let words = ["image", "export", "localhost/hove/busybox:1", "--output"].map(OsStr::new);
            node.output(words.into_iter().chain([output.as_os_str()]))
        };
        export(&device)?;
        ensure!(std::fs::symlink_metadata(&device)?.file_type().is_char_device());

        let (file, link) = (host.directory().join("file"), host.directory().join("link"));
        std::fs::write(&file, "old")?;
        std::os::unix::fs::symlink("file", &link)?;
        export(&link)?;
        ensure!(std::fs::symlink_metadata(&link)?.is_symlink());
        ensure!(std::fs::metadata(&file)?.len() > 3);
        let digest = format!("x@sha256:{}", "0".repeat(64));
        let words = ["image", "import", "--tag", &digest].map(OsStr::new);
        let refused = node.refused(words.into_iter().chain([file.as_os_str()]))?;
        ensure!(refused.contains("digest"), "{refused}");
        Ok(())
    });
}
