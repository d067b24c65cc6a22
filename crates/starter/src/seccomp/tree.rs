//! Decisions as a program: which architecture, then a binary search for the number's segment, then the arguments.

use std::collections::HashMap;

use sys::seccomp::Instruction;

use super::abi::{AUDIT_ARCH_I386, AUDIT_ARCH_X86_64, RET_KILL_PROCESS, X32_BIT, X32_OWN};
use super::assemble::{Assembler, Jump, Label};
use super::decide::{Condition, Decision, Filter, Test, X32};

// Offsets in `struct seccomp_data`: the call's number, its architecture, the instruction pointer, six arguments.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

pub(super) fn assemble(filter: &Filter) -> Vec<Instruction> {
    let mut writer = Writer::default();
    // From the end: the native architecture comes last here and first in the program.
    let mut other = writer.asm.ret(RET_KILL_PROCESS);
    if let Some(x86) = &filter.x86 {
        let tree = writer.search(x86);
        let tree = writer.asm.load(NUMBER, tree);
        other = writer.asm.jump(Jump::Equal, AUDIT_ARCH_I386, tree, other);
    }
    let tree = writer.search(&filter.x86_64);
    let x32 = match &filter.x32 {
        X32::NotListed(all) => writer.search(all),
        X32::Listed(own) => {
            // The calls that both number alike go the same way, without the bit: a fifth of the program less.
            let own = writer.search(own);
            let shared = writer.asm.and(!X32_BIT, tree);
            writer.asm.jump(Jump::GreaterOrEqual, X32_OWN, own, shared)
        }
    };
    let tree = writer.asm.jump(Jump::GreaterOrEqual, X32_BIT, x32, tree);
    let tree = writer.asm.load(NUMBER, tree);
    let architecture = writer.asm.jump(Jump::Equal, AUDIT_ARCH_X86_64, tree, other);
    let first = writer.asm.load(ARCHITECTURE, architecture);
    writer.asm.finish(first)
}

#[derive(Default)]
struct Writer<'a> {
    asm: Assembler,
    written: HashMap<&'a Decision, Label>,
}

impl<'a> Writer<'a> {
    /// The segment of the loaded number, and its answer.
    fn search(&mut self, segments: &'a [(u32, Decision)]) -> Label {
        match segments {
            [] => unreachable!("decide gives every architecture at least one segment, and halves of two are not empty"),
            [(_, only)] => self.answer(only),
            // One number with an answer of its own among others: one comparison instead of two.
            [(_, around), (number, this), (after, also)] if around == also && number + 1 == *after => {
                let no = self.answer(around);
                let yes = self.answer(this);
                self.asm.jump(Jump::Equal, *number, yes, no)
            }
            _ => {
                let (lower, upper) = segments.split_at(segments.len() / 2);
                let yes = self.search(upper);
                let no = self.search(lower);
                self.asm.jump(Jump::GreaterOrEqual, upper[0].0, yes, no)
            }
        }
    }

    fn answer(&mut self, decision: &'a Decision) -> Label {
        match decision {
            Decision::Always(value) => self.asm.ret(*value),
            Decision::Ask {
                checks,
                otherwise,
                wide,
            } => {
                if let Some(label) = self.written.get(decision) {
                    return *label;
                }
                let mut next = self.asm.ret(*otherwise);
                for check in checks.iter().rev() {
                    let mut holds = self.asm.ret(check.action);
                    for condition in check.conditions.iter().rev() {
                        holds = self.condition(*condition, *wide, holds, next);
                    }
                    next = holds;
                }
                self.written.insert(decision, next);
                next
            }
        }
    }

    /// A comparison of 64 bits, as two of 32: first the upper half. (BPF's words are as the machine's: on a
    /// little-endian one the upper half is the second.)
    fn condition(&mut self, condition: Condition, wide: bool, yes: Label, no: Label) -> Label {
        let lower = ARGUMENTS + 8 * condition.argument;
        let upper = lower + 4;
        let halves = |n: u64| ((n >> 32) as u32, n as u32);
        match condition.test {
            Test::NotEqual(n) => self.condition(
                Condition {
                    test: Test::Equal(n),
                    ..condition
                },
                wide,
                no,
                yes,
            ),
            Test::Less(n) => self.condition(
                Condition {
                    test: Test::GreaterOrEqual(n),
                    ..condition
                },
                wide,
                no,
                yes,
            ),
            Test::LessOrEqual(n) => self.condition(
                Condition {
                    test: Test::Greater(n),
                    ..condition
                },
                wide,
                no,
                yes,
            ),
            Test::Equal(n) => {
                let (high, low) = halves(n);
                let test = self.asm.jump(Jump::Equal, low, yes, no);
                let mut label = self.asm.load(lower, test);
                if wide {
                    let test = self.asm.jump(Jump::Equal, high, label, no);
                    label = self.asm.load(upper, test);
                }
                label
            }
            Test::Greater(n) | Test::GreaterOrEqual(n) => {
                let (high, low) = halves(n);
                let jump = if matches!(condition.test, Test::Greater(_)) {
                    Jump::Greater
                } else {
                    Jump::GreaterOrEqual
                };
                let test = self.asm.jump(jump, low, yes, no);
                let mut label = self.asm.load(lower, test);
                if wide {
                    let equal = self.asm.jump(Jump::Equal, high, label, no);
                    let test = self.asm.jump(Jump::Greater, high, yes, equal);
                    label = self.asm.load(upper, test);
                }
                label
            }
            Test::Masked(mask, value) => {
                let ((high_mask, low_mask), (high, low)) = (halves(mask), halves(value));
                let test = self.asm.jump(Jump::Equal, low, yes, no);
                let masked = self.asm.and(low_mask, test);
                let mut label = self.asm.load(lower, masked);
                // An empty mask holds for everything: `decide` has cleared the value's bits outside of it.
                if wide && high_mask != 0 {
                    let test = self.asm.jump(Jump::Equal, high, label, no);
                    let masked = self.asm.and(high_mask, test);
                    label = self.asm.load(upper, masked);
                }
                label
            }
        }
    }
}
