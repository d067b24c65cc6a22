//! The fuzz targets, one after the other.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Runs each target of fuzz/ for so many seconds.
pub fn run(root: &Path, seconds: u64, seed: u64) -> Result<()> {
    let mut targets = Vec::new();
    for entry in std::fs::read_dir(root.join("fuzz/seeds")).context("fuzz/seeds")? {
        targets.push(entry?.file_name().to_string_lossy().into_owned());
    }
    targets.sort();
    // libFuzzer's seeds have 32 bits, and 0 means any.
    let seed = (seed as u32).max(1);
    println!("{} fuzz targets, {seconds} s each, seed {seed}", targets.len());
    let mut broken = Vec::new();
    for target in targets {
        match one(root, &target, seconds, seed)? {
            Ok(summary) => println!("{target:20} {summary}"),
            Err(last_words) => {
                println!("{target:20} FAILED, see fuzz/artifacts/{target}:\n{last_words}");
                broken.push(target);
            }
        }
    }
    ensure!(
        broken.is_empty(),
        "fuzz targets that found something: {}",
        broken.join(" ")
    );
    Ok(())
}

/// One target's last line of counts, or, when it found something, its last words.
fn one(root: &Path, target: &str, seconds: u64, seed: u32) -> Result<Result<String, String>> {
    let mut child = Command::new(root.join("fuzz/run"))
        .args([target, &seconds.to_string(), &format!("-seed={seed}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("fuzz/run")?;
    let words = child.stderr.take().context("fuzz/run has no standard error")?;
    let (mut counts, mut last) = (None, Vec::new());
    for line in BufReader::new(words).lines() {
        let line = line?;
        if let Some(found) = counts_of(&line) {
            counts = Some(found);
        }
        last.push(line);
        // A panic's words, a stack, and where the input lies.
        if last.len() > 60 {
            last.remove(0);
        }
    }
    let status = child.wait()?;
    Ok(match counts {
        Some(counts) if status.success() => Ok(counts),
        _ => Err(last.join("\n")),
    })
}

/// `#123456 DONE   cov: 1072 ft: 3349 corp: 521/60Kb lim: 1000 exec/s: 2000 rss: 90Mb`, as a person reads it.
fn counts_of(line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    let runs = words.next()?.strip_prefix('#')?;
    if words.next()? != "DONE" {
        return None;
    }
    let words: Vec<_> = words.collect();
    let value = |name| {
        words
            .iter()
            .position(|word| *word == name)
            .and_then(|at| words.get(at + 1))
    };
    Some(format!(
        "{runs} runs, {} a second, {} edges, {} features",
        value("exec/s:")?,
        value("cov:")?,
        value("ft:")?
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read() {
        let line = "#4096\tDONE   cov: 215 ft: 456 corp: 21/1234b lim: 4096 exec/s: 2000 rss: 80Mb";
        assert_eq!(
            counts_of(line).unwrap(),
            "4096 runs, 2000 a second, 215 edges, 456 features"
        );
        assert_eq!(counts_of("#4096\tpulse  cov: 215"), None);
    }
}
