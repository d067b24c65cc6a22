//! Lines that a container numbers, to see that none is lost and none comes twice.

use anyhow::{Result, ensure};

/// A shell's loop that says `number 0`, `number 1`, … for ever, so many seconds apart.
pub fn endless(pause: &str) -> String {
    format!("n=0; while :; do echo number $n; n=$((n + 1)); sleep {pause}; done")
}

/// The same without a pause, so many of them.
pub fn first(count: usize) -> String {
    format!("n=0; while [ $n -lt {count} ]; do echo number $n; n=$((n + 1)); done")
}

/// How many such lines `text` has, each once and in order from 0; whatever stands before the number.
pub fn count(text: &str) -> Result<usize> {
    let mut lines = 0;
    for line in text.lines() {
        let number = line.rsplit_once("number ").map_or(line, |(_, number)| number);
        ensure!(number.parse() == Ok(lines), "line {lines} is {line:?}");
        lines += 1;
    }
    Ok(lines)
}
