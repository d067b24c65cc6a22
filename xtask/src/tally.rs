//! Counts of tests, from what test programs print.

/// Counts of tests, added up over all test programs.
#[derive(Debug, Default)]
pub struct Tally {
    /// Those that test programs call passed, the skipped ones among them.
    pub ok: u32,
    /// By name.
    pub failed: Vec<String>,
    /// Test programs that have begun and not summed up.
    pub unfinished: u32,
    /// Tests that said SKIPPED and why: something they need is not here.
    pub skipped: u32,
    /// Measurements, which are asked for by name (`cargo test -- --ignored`).
    pub ignored: u32,
}

impl Tally {
    /// Takes in one line of a test program's output.
    pub fn count(&mut self, line: &str) {
        if line.trim_start().starts_with("SKIPPED") {
            self.skipped += 1;
            return;
        }
        if line.starts_with("running ") && line.ends_with(" tests") || line == "running 1 test" {
            self.unfinished += 1;
            return;
        }
        if let Some(name) = line.strip_prefix("test ").and_then(|l| l.strip_suffix(" ... FAILED")) {
            self.failed.push(name.to_owned());
            return;
        }
        let Some(rest) = line.strip_prefix("test result: ") else {
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
            "SKIPPED: no AppArmor on this kernel",
            "running 2 tests",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s",
        ] {
            tally.count(line);
        }
        assert_eq!((tally.ok, tally.skipped, tally.ignored), (5, 1, 1));
        assert_eq!(tally.unfinished, 1, "the second one died");
        assert_eq!(tally.failed, ["sums::overflow"]);
    }
}
