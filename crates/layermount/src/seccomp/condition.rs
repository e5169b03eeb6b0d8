//! What a rule asks of a call's arguments.

use nix::libc;

use super::Action;
use super::program::{Half, Label, Program};

/// An argument is compared as 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    /// 0 to 5.
    pub(super) argument: u32,
    pub(super) test: Test,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    Equal(u64),
    NotEqual(u64),
    Less(u64),
    LessOrEqual(u64),
    Greater(u64),
    GreaterOrEqual(u64),
    Masked {
        mask: u64,
        value: u64,
    },
    /// Of what the kernel takes for 32 bits, whatever the upper half of the register says.
    OneOf {
        mask: u32,
        values: &'static [u32],
    },
}

/// What happens when all conditions hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) conditions: Vec<Condition>,
    pub(super) action: Action,
}

impl Rule {
    /// Ends with the answer, or goes on at `no`.
    pub(super) fn emit(&self, program: &mut Program, no: Label) -> Label {
        let yes = program.answer(self.action);
        self.conditions.iter().rev().fold(yes, |yes, condition| condition.emit(program, yes, no))
    }
}

impl Condition {
    /// The upper half is looked at first.
    fn emit(self, program: &mut Program, yes: Label, no: Label) -> Label {
        let halves = |value: u64| ((value >> 32) as u32, value as u32);
        let (equal, greater, at_least) = (libc::BPF_JEQ, libc::BPF_JGT, libc::BPF_JGE);
        match self.test {
            Test::Equal(value) => self.compare(program, value, equal, [no, yes, no]),
            Test::NotEqual(value) => self.compare(program, value, equal, [yes, no, yes]),
            Test::Greater(value) => self.order(program, value, greater, yes, no),
            Test::GreaterOrEqual(value) => self.order(program, value, at_least, yes, no),
            Test::LessOrEqual(value) => self.order(program, value, greater, no, yes),
            Test::Less(value) => self.order(program, value, at_least, no, yes),
            Test::Masked { mask, value } => {
                let ((upper_mask, lower_mask), (upper, lower)) = (halves(mask), halves(value));
                let next = program.branch(equal, lower, yes, no);
                let next = program.mask(lower_mask, next);
                let next = program.load_argument(self.argument, Half::Lower, next);
                if (upper_mask, upper) == (0, 0) {
                    return next;
                }
                let next = program.branch(equal, upper, next, no);
                let next = program.mask(upper_mask, next);
                program.load_argument(self.argument, Half::Upper, next)
            }
            Test::OneOf { mask, values } => {
                let next = values.iter().rev().fold(no, |no, value| program.branch(equal, *value, yes, no));
                let next = program.mask(mask, next);
                program.load_argument(self.argument, Half::Lower, next)
            }
        }
    }

    /// Where it goes when the upper half differs, and when the lower half compares so or not.
    fn compare(self, program: &mut Program, value: u64, comparison: u32, [upper, yes, no]: [Label; 3]) -> Label {
        let next = program.branch(comparison, value as u32, yes, no);
        let next = program.load_argument(self.argument, Half::Lower, next);
        let next = program.branch(libc::BPF_JEQ, (value >> 32) as u32, next, upper);
        program.load_argument(self.argument, Half::Upper, next)
    }

    /// `comparison` is that of the lower halves, when the upper ones are equal.
    fn order(self, program: &mut Program, value: u64, comparison: u32, yes: Label, no: Label) -> Label {
        let upper = (value >> 32) as u32;
        let next = program.branch(comparison, value as u32, yes, no);
        let next = program.load_argument(self.argument, Half::Lower, next);
        let next = program.branch(libc::BPF_JEQ, upper, next, no);
        let next = program.branch(libc::BPF_JGT, upper, yes, next);
        program.load_argument(self.argument, Half::Upper, next)
    }
}
