//! A BPF interpreter, for tests: the kernel's rules of seccomp filters (Documentation/networking/filter.rst).

use sys::seccomp::Instruction;

/// What a filter returns, and how many instructions it took. Panics where the kernel would refuse the filter.
pub(super) fn run(program: &[Instruction], nr: u32, arch: u32, args: [u64; 6]) -> (u32, usize) {
    let mut data = [0u32; 16];
    (data[0], data[1]) = (nr, arch);
    for (i, arg) in args.iter().enumerate() {
        (data[4 + 2 * i], data[5 + 2 * i]) = (*arg as u32, (*arg >> 32) as u32);
    }
    let (mut at, mut a, mut steps) = (0, 0u32, 0);
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        steps += 1;
        let jump = |holds: bool| usize::from(if holds { jt } else { jf });
        match code {
            0x20 => {
                assert!(k % 4 == 0 && k < 64, "load at {k}");
                a = data[k as usize / 4];
            }
            0x54 => a &= k,
            0x05 => at += k as usize,
            0x15 => at += jump(a == k),
            0x25 => at += jump(a > k),
            0x35 => at += jump(a >= k),
            0x06 => return (k, steps),
            _ => panic!("operation {code:#x}"),
        }
    }
}
