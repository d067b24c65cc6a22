//! A text → Pods. Nothing panics, what is said of a text has an end, and what was read can be written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;

/// What is said of one text at most, in bytes: 64 problems, a long line each.
const WORDS_MAX: usize = 256 << 10;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let documents = match pod::load(text, "f.yaml") {
        Ok(documents) => documents,
        Err(problems) => {
            let said = problems.to_string();
            assert!(!said.is_empty() && said.len() < WORDS_MAX, "{} bytes are said", said.len());
            return;
        }
    };
    for document in documents {
        let json = serde_json::to_string(&document.pod).expect("a Pod is JSON");
        let again = pod::load(&json, "again.json").unwrap_or_else(|problems| panic!("{json}\n{problems}"));
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].pod, document.pod, "{json}");
    }
});
