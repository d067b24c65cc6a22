//! What can be typed after `hove image`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use image::Reference;

#[derive(Debug, Subcommand)]
pub enum Image {
    /// Fetch images from their registries
    Pull(PullImages),
    /// Send an image to a registry
    Push(PushImage),
    /// Import images from archives of docker save or of OCI (plain, gzip or zstd), or from a root directory
    Import(ImportImage),
    /// Write images into an archive that docker load, podman load and hove image import read
    Export {
        /// The archive; - is standard output
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// The images: references, ids, or beginnings of ids
        #[arg(value_name = "IMAGE", required = true)]
        images: Vec<String>,
    },
    /// List the images
    #[command(visible_alias = "list")]
    Ls {
        /// How to show them
        #[arg(short, long, value_name = "FORMAT")]
        output: Option<ImageFormat>,
    },
    /// Show an image's configuration
    Inspect {
        /// The image: a reference, an id, or the beginning of an id
        #[arg(value_name = "IMAGE")]
        image: String,
    },
    /// Show how an image was made, its last step first
    History {
        /// The image
        #[arg(value_name = "IMAGE")]
        image: String,
        /// Show each step's command whole
        #[arg(long)]
        no_trunc: bool,
    },
    /// Give an image more names
    Tag {
        /// The image
        #[arg(value_name = "IMAGE")]
        image: String,
        /// Its new names
        #[arg(value_name = "REF", required = true)]
        names: Vec<String>,
    },
    /// Remove images
    #[command(visible_alias = "remove")]
    Rm {
        /// The images
        #[arg(value_name = "IMAGE", required = true)]
        images: Vec<String>,
    },
    /// Remove images that have no name, and what is left of broken pulls
    Prune {
        /// Every image that nothing uses, named or not
        #[arg(short, long)]
        all: bool,
    },
    /// Show an image's files, read-only, in a directory; without one, list what is mounted
    Mount(MountImage),
    /// Take a mounted image away
    #[command(visible_alias = "umount")]
    Unmount {
        /// Where the image is mounted
        #[arg(value_name = "DIR", required = true)]
        directories: Vec<PathBuf>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ImageFormat {
    Json,
}

#[derive(Debug, ClapArgs)]
pub struct PullImages {
    /// The images' references
    #[arg(value_name = "REF", required = true)]
    pub images: Vec<String>,
    #[command(flatten)]
    pub login: Login,
}

#[derive(Debug, ClapArgs)]
pub struct PushImage {
    /// The image
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Where to, under which name [default: the image's own]
    #[arg(value_name = "REF")]
    pub destination: Option<String>,
    #[command(flatten)]
    pub login: Login,
}

/// Who the registry is told that we are. Without this, docker's config.json says it.
#[derive(Debug, ClapArgs)]
pub struct Login {
    /// The name that the registry knows
    #[arg(long, value_name = "NAME", requires = "password_stdin")]
    pub username: Option<String>,
    /// Read its password, or a token, from standard input
    #[arg(long, requires = "username")]
    pub password_stdin: bool,
}

#[derive(Debug, ClapArgs)]
pub struct MountImage {
    /// The image
    #[arg(value_name = "IMAGE", requires = "directory")]
    pub image: Option<String>,
    /// An empty directory
    #[arg(value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub struct ImportImage {
    /// The archives
    #[arg(value_name = "FILE", required_unless_present = "rootfs")]
    pub files: Vec<PathBuf>,
    /// The image's reference, instead of the archive's own
    #[arg(long, value_name = "REF")]
    pub tag: Option<Reference>,
    /// Make an image of this directory
    #[arg(long, value_name = "DIR", requires = "tag", conflicts_with = "files")]
    pub rootfs: Option<PathBuf>,
    /// What the image starts; repeat it for each argument
    #[arg(long, value_name = "ARG", requires = "rootfs", allow_hyphen_values = true)]
    pub entrypoint: Vec<String>,
    /// The entrypoint's arguments; repeat it for each
    #[arg(long, value_name = "ARG", requires = "rootfs", allow_hyphen_values = true)]
    pub cmd: Vec<String>,
    /// An environment variable; repeat it for each
    #[arg(long, value_name = "NAME=VALUE", requires = "rootfs")]
    pub env: Vec<String>,
    /// Who runs it: a name or a number, and a group after a colon
    #[arg(long, requires = "rootfs")]
    pub user: Option<String>,
    /// Where it is started
    #[arg(long, value_name = "DIR", requires = "rootfs")]
    pub workdir: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Args, Command};
    use super::*;

    fn parse(line: &str) -> Result<Image, clap::Error> {
        match Args::try_parse_from(line.split_whitespace())?.command {
            Command::Image(image) => Ok(image),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn images_come_from_archives_or_a_directory() {
        assert!(parse("hove image import a.tar b.tar").is_ok());
        let rootfs =
            "hove image import --rootfs d --tag x:1 --entrypoint /bin/sh --cmd -c --cmd ls --env A=b --user 1:1";
        let Image::Import(import) = parse(rootfs).unwrap() else {
            panic!()
        };
        assert_eq!(import.cmd, ["-c", "ls"]);
        for wrong in [
            "hove image import",
            "hove image import --rootfs d",
            "hove image import a.tar --entrypoint x",
            "hove image import a.tar --tag no/NAME",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_name_comes_with_a_password_and_never_on_the_command_line() {
        assert!(parse("hove image pull x --username me --password-stdin").is_ok());
        for wrong in [
            "hove image pull x --username me",
            "hove image pull x --password-stdin",
            "hove image push x --username me --password secret",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_image_is_mounted_somewhere_or_mounts_are_listed() {
        assert!(parse("hove image mount").is_ok());
        assert!(parse("hove image mount x /mnt").is_ok());
        assert!(parse("hove image mount x").is_err());
    }
}
