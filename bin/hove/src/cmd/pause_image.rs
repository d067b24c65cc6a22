//! `hove pause-image`: pause as an image, for runtimes that want one. Needs no node.

use std::{fs::File, io::Write, process::ExitCode};

use anyhow::{Context, Result};
use image::{
    ImageConfig,
    archive::{Contents, FileSpec, Format, ImageSpec, write_image},
};

use crate::{
    args::{ArchiveFormat, PauseImage},
    terminal,
};

pub fn pause_image(args: &PauseImage) -> Result<ExitCode> {
    let format = match args.format {
        ArchiveFormat::Docker => Format::Docker,
        ArchiveFormat::Oci => Format::Oci,
    };
    // What other runtimes expect of a pause image: nothing but the program, nobody's user.
    let image = ImageSpec {
        reference: Some(args.tag.parse()?),
        config: ImageConfig {
            entrypoint: vec!["/pause".into()],
            user: "65535:65535".into(),
            working_dir: "/".into(),
            ..ImageConfig::default()
        },
        contents: Contents::Files(vec![FileSpec {
            path: "pause",
            mode: 0o755,
            data: pause::ELF,
        }]),
    };
    let name = || args.output.display().to_string();
    let mut archive = Vec::new();
    write_image(&mut archive, format, &image).with_context(name)?;
    File::create(&args.output)
        .and_then(|mut file| file.write_all(&archive))
        .with_context(name)?;
    terminal::print(&format!(
        "{}: {} ({} bytes)\n",
        args.output.display(),
        args.tag,
        archive.len()
    ))?;
    Ok(ExitCode::SUCCESS)
}
