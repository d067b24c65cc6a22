//! Counts of tests, from what test programs print.

use std::collections::HashSet;

/// Counts of tests, added up over all test programs.
#[derive(Debug, Default)]
pub struct Tally {
    /// Those that test programs call passed, the skipped ones among them.
    pub ok: u32,
    /// The same, by name.
    pub passed: HashSet<String>,
    /// By name.
    pub failed: Vec<String>,
    /// Test programs that have begun and not summed up.
    pub unfinished: u32,
    /// Tests that took more than a minute and were not over when their program ended.
    pub hung: Vec<String>,
    /// Tests that said SKIPPED and why: something they need is not here.
    pub skipped: Vec<String>,
    /// Measurements, which are asked for by name (`cargo test -- --ignored`).
    pub ignored: u32,
    /// Whose output is being printed.
    speaker: String,
}

impl Tally {
    /// How many passed that were not skipped.
    pub fn ran(&self) -> u32 {
        self.ok
            .saturating_sub(u32::try_from(self.skipped.len()).unwrap_or(u32::MAX))
    }

    /// Takes in one line of a test program's output.
    pub fn count(&mut self, line: &str) {
        if line.trim_start().starts_with("SKIPPED") {
            self.skipped.push(self.speaker.clone());
            return;
        }
        if let Some(name) = line.strip_prefix("---- ").and_then(|l| l.strip_suffix(" stdout ----")) {
            name.clone_into(&mut self.speaker);
            return;
        }
        if line.starts_with("running ") && line.ends_with(" tests") || line == "running 1 test" {
            self.unfinished += 1;
            return;
        }
        let Some(rest) = line.strip_prefix("test result: ") else {
            self.count_test(line);
            return;
        };
        self.unfinished = self.unfinished.saturating_sub(1);
        let number = |word: &str| -> u32 {
            rest.split([';', '.'])
                .filter_map(|part| part.trim().strip_suffix(word))
                .find_map(|n| n.trim().parse().ok())
                .unwrap_or(0)
        };
        self.ok += number("passed");
        self.ignored += number("ignored");
    }

    fn count_test(&mut self, line: &str) {
        let Some(line) = line.strip_prefix("test ") else { return };
        if let Some(name) = line.strip_suffix(" has been running for over 60 seconds") {
            self.hung.push(name.to_owned());
        } else if let Some((name, outcome)) = line.split_once(" ... ") {
            self.hung.retain(|hung| hung != name);
            match outcome {
                "ok" => drop(self.passed.insert(name.to_owned())),
                "FAILED" => self.failed.push(name.to_owned()),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_test_programs_print() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "running 1 test",
            "test sums::overflow ... FAILED",
            "test profiles ... ok",
            "---- profiles stdout ----",
            "SKIPPED: no AppArmor on this kernel",
            "running 2 tests",
            "test slow has been running for over 60 seconds",
            "test stuck has been running for over 60 seconds",
            "test slow ... ok",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s",
        ] {
            tally.count(line);
        }
        assert_eq!((tally.ok, tally.ignored), (5, 1));
        assert_eq!(tally.unfinished, 1, "the second one died");
        assert_eq!(tally.failed, ["sums::overflow"]);
        assert_eq!(tally.passed, HashSet::from(["profiles".to_owned(), "slow".to_owned()]));
        assert_eq!(tally.skipped, ["profiles"]);
        assert_eq!(tally.hung, ["stuck"]);
    }
}
