//! Classic BPF, written from the last instruction to the first.
//!
//! Its jumps only go forward, so that writing backwards knows every target when it needs it. A conditional jump reaches
//! 255 instructions; where a target is farther, an unconditional one (which reaches everything) is put between.

use std::collections::HashMap;

use sys::seccomp::Instruction;

/// An instruction that has been written: how many there were after it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(usize);

/// The tests of a conditional jump.
#[derive(Debug, Clone, Copy)]
#[repr(u16)]
pub(super) enum Jump {
    Equal = 0x15,
    Greater = 0x25,
    GreaterOrEqual = 0x35,
}

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP_ALWAYS: u16 = 0x05;
const RETURN: u16 = 0x06;

const REACH: usize = 255;

#[derive(Debug, Default)]
pub(super) struct Assembler {
    reversed: Vec<Instruction>,
    /// The nearest `return` of each value.
    returns: HashMap<u32, Label>,
}

impl Assembler {
    /// The instructions in their order.
    pub(super) fn finish(mut self, first: Label) -> Vec<Instruction> {
        // Nothing before `first` can be reached but `first` itself must be the entry.
        self.fall_into(first);
        self.reversed.reverse();
        self.reversed
    }

    pub(super) fn ret(&mut self, value: u32) -> Label {
        // A `return` of its own is shorter than a jump to a far one.
        match self.returns.get(&value) {
            Some(label) if self.distance(*label) < REACH => *label,
            _ => {
                let label = self.push(RETURN, 0, 0, value);
                self.returns.insert(value, label);
                label
            }
        }
    }

    /// Loads the 32-bit word at `offset` of `struct seccomp_data`, then goes on at `next`.
    pub(super) fn load(&mut self, offset: u32, next: Label) -> Label {
        self.fall_into(next);
        self.push(LOAD, 0, 0, offset)
    }

    /// Masks the loaded word, then goes on at `next`.
    pub(super) fn and(&mut self, mask: u32, next: Label) -> Label {
        self.fall_into(next);
        self.push(AND, 0, 0, mask)
    }

    /// Compares the loaded word.
    pub(super) fn jump(&mut self, test: Jump, k: u32, mut yes: Label, mut no: Label) -> Label {
        if yes == no {
            return yes;
        }
        loop {
            // Bringing one nearer moves the other one away by one.
            if self.distance(yes) > REACH {
                yes = self.jump_always(yes);
            } else if self.distance(no) > REACH {
                no = self.jump_always(no);
            } else {
                break;
            }
        }
        self.push(test as u16, self.distance(yes) as u8, self.distance(no) as u8, k)
    }

    fn jump_always(&mut self, target: Label) -> Label {
        self.push(JUMP_ALWAYS, 0, 0, self.distance(target) as u32)
    }

    /// Makes `next` what follows the instruction that is written next.
    fn fall_into(&mut self, next: Label) {
        if self.distance(next) != 0 {
            self.jump_always(next);
        }
    }

    /// How many instructions lie between the one that is written next and `target`.
    fn distance(&self, target: Label) -> usize {
        self.reversed.len() - target.0
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Label {
        self.reversed.push(Instruction { code, jt, jf, k });
        Label(self.reversed.len())
    }
}
