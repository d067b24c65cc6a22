//! A seccomp profile → a filter. Nothing panics; what is compiled is a filter that the kernel takes, and it answers as a
//! reference evaluation of the profile says, which shares no code with the compiler but the table of names.

#![no_main]

#[path = "../../crates/starter/src/seccomp/interpret.rs"]
mod interpret;
#[allow(dead_code)]
#[path = "../../crates/starter/src/seccomp/reference.rs"]
mod reference;
#[allow(dead_code)]
#[path = "../../crates/starter/src/seccomp/syscalls.rs"]
mod syscalls;

use libfuzzer_sys::fuzz_target;
use oci_spec::runtime::LinuxSeccomp;
use reference::{I386, Reference, X32, X86_64};

fuzz_target!(|bytes: &[u8]| {
    let Ok(profile) = serde_json::from_slice::<LinuxSeccomp>(bytes) else {
        return;
    };
    let program = match starter::seccomp::compile(&profile) {
        Ok(program) => program,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let instructions = program.instructions();
    assert!((1..=4096).contains(&instructions.len()));
    let reference = Reference::new(&profile);
    let rules = || profile.syscalls().iter().flatten();
    // Values at and around those that the profile compares with.
    let mut values: Vec<u64> = rules()
        .flat_map(|rule| rule.args().iter().flatten())
        .flat_map(|arg| [arg.value(), arg.value().wrapping_add(1), arg.value_two().unwrap_or(0)])
        .take(12)
        .collect();
    values.extend([0, u64::MAX]);
    let mut numbers: Vec<u32> = rules()
        .flat_map(|rule| rule.names())
        .filter_map(|name| syscalls::numbers(name))
        .flat_map(|n| [n.x86_64, n.x32, n.x86])
        .flatten()
        .flat_map(|n| [n.wrapping_sub(1), n, n.wrapping_add(1), n.wrapping_add(X32)])
        .take(200)
        .collect();
    numbers.extend([0, 1, 600, X32 - 1, X32, u32::MAX - 1, u32::MAX]);
    for value in values {
        let args = [value, value, value, value, value, value];
        for arch in [X86_64, I386, 0xc000_00b7] {
            for &nr in &numbers {
                let (got, _) = interpret::run(instructions, nr, arch, args);
                let expected = reference.evaluate(nr, arch, args);
                assert_eq!(got, expected, "number {nr}, architecture {arch:#x}, arguments {value:#x}");
            }
        }
    }
});
