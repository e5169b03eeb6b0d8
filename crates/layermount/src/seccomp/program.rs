//! A program of classic BPF in the making, from its end to its beginning.
//!
//! All jumps go forward, so that everything that an instruction can go to is there before it, and can be shared: what answers, or
//! looks at a call's arguments, is there once for all that lead to it.

use nix::libc::{self, sock_filter};

use super::Action;

/// Offsets in `struct seccomp_data`.
pub(super) const NUMBER: u32 = 0;
pub(super) const ARCHITECTURE: u32 = 4;
pub(super) const INSTRUCTION_POINTER: u32 = 8;
const ARGUMENTS: u32 = 16;

/// An instruction, by how many there are from it to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(usize);

#[derive(Debug, Default)]
pub(super) struct Program {
    /// The last instruction first.
    reversed: Vec<sock_filter>,
    answers: Vec<(Action, Label)>,
}

/// Half of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    Lower,
    Upper,
}

impl Program {
    /// As the kernel takes it.
    pub(super) fn finish(mut self) -> Vec<sock_filter> {
        self.reversed.reverse();
        self.reversed
    }

    /// Ends with what is to be done.
    pub(super) fn answer(&mut self, action: Action) -> Label {
        let reversed = &self.reversed;
        let known = self.answers.iter_mut().find(|(known, _)| *known == action);
        match known {
            // Another one costs as much as a jump to one that is far away.
            Some((_, label)) if reversed.len() - label.0 < usize::from(u8::MAX) => *label,
            known => {
                let label = Label(reversed.len() + 1);
                match known {
                    Some((_, known)) => *known = label,
                    None => self.answers.push((action, label)),
                }
                self.push(instruction(libc::BPF_RET | libc::BPF_K, action.0))
            }
        }
    }

    /// A word of `struct seccomp_data`, then on to `next`.
    pub(super) fn load(&mut self, offset: u32, next: Label) -> Label {
        self.then(instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset), next)
    }

    pub(super) fn load_argument(&mut self, argument: u32, half: Half, next: Label) -> Label {
        self.load(ARGUMENTS + 8 * argument + if half == Half::Upper { 4 } else { 0 }, next)
    }

    /// Keeps these bits of what was loaded.
    pub(super) fn mask(&mut self, mask: u32, next: Label) -> Label {
        match mask {
            u32::MAX => next,
            mask => self.then(instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, mask), next),
        }
    }

    /// Compares what was loaded: `BPF_JEQ`, `BPF_JGT` or `BPF_JGE`.
    pub(super) fn branch(&mut self, comparison: u32, value: u32, yes: Label, no: Label) -> Label {
        // A conditional jump reaches 255 instructions far, and there may be one more in between in a moment.
        let near = usize::from(u8::MAX) - 1;
        let [yes, no] = [yes, no].map(|label| match self.reversed.len() - label.0 {
            distance if distance <= near => label,
            _ => self.jump(label),
        });
        let [jt, jf] = [yes, no].map(|label| u8::try_from(self.reversed.len() - label.0).unwrap_or(u8::MAX));
        self.push(sock_filter { jt, jf, ..instruction(libc::BPF_JMP | comparison | libc::BPF_K, value) })
    }

    fn jump(&mut self, to: Label) -> Label {
        let distance = u32::try_from(self.reversed.len() - to.0).unwrap_or(u32::MAX);
        self.push(instruction(libc::BPF_JMP | libc::BPF_JA, distance))
    }

    fn then(&mut self, instruction: sock_filter, next: Label) -> Label {
        if next.0 != self.reversed.len() {
            self.jump(next);
        }
        self.push(instruction)
    }

    fn push(&mut self, instruction: sock_filter) -> Label {
        self.reversed.push(instruction);
        Label(self.reversed.len())
    }
}

fn instruction(code: u32, k: u32) -> sock_filter {
    // Codes have 16 bits.
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}
