//! Manifests, as they are named on the command line.

use std::{io::Read, path::Path};

use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::api::core::v1::Pod;

/// The pods of a file, defaulted and validated; `-` is standard input.
pub fn read(file: &Path) -> Result<Vec<Pod>> {
    let is_stdin = file == Path::new("-");
    let name = name(file);
    let input: Box<dyn Read> = match is_stdin {
        true => Box::new(std::io::stdin()),
        false => Box::new(std::fs::File::open(file).with_context(|| name.clone())?),
    };
    // What has no end (/dev/zero) is refused as what is too long.
    let mut bytes = Vec::new();
    let read = input.take(pod::TEXT_LIMIT as u64 + 1).read_to_end(&mut bytes);
    read.with_context(|| name.clone())?;
    if bytes.len() > pod::TEXT_LIMIT {
        bail!("{name}: has more than {} bytes, which are allowed", pod::TEXT_LIMIT);
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        anyhow!("{name}: is not UTF-8 text: its byte {place} (from 0) belongs to no character")
    })?;
    let documents = pod::load(&text, &name)?;
    Ok(documents.into_iter().map(|document| document.pod).collect())
}

/// What messages call a file.
pub fn name(file: &Path) -> String {
    match file == Path::new("-") {
        true => "standard input".into(),
        false => file.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_with_all_its_pods() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pods.yaml");
        let one = "apiVersion: v1\nkind: Pod\nmetadata: {name: NAME}\nspec: {containers: [{name: c, image: i}]}\n";
        std::fs::write(
            &file,
            format!("{}---\n{}", one.replace("NAME", "a"), one.replace("NAME", "b")),
        )
        .unwrap();
        let names: Vec<_> = read(&file)
            .unwrap()
            .into_iter()
            .filter_map(|pod| pod.metadata.name)
            .collect();
        assert_eq!(names, ["a", "b"]);
        std::fs::write(&file, one.replace("image", "imgae").replace("NAME", "a")).unwrap();
        let error = read(&file).unwrap_err().to_string();
        assert!(
            error.contains("pods.yaml") && error.contains("spec.containers[0].imgae"),
            "{error}"
        );
        std::fs::write(&file, b"kind: \xff").unwrap();
        let error = read(&file).unwrap_err().to_string();
        assert!(error.contains("pods.yaml: is not UTF-8 text: its byte 6"), "{error}");
        let missing = read(Path::new("/no/such.yaml")).unwrap_err();
        assert!(
            format!("{missing:#}").starts_with("/no/such.yaml: No such file"),
            "{missing:#}"
        );
    }
}
