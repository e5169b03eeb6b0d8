//! A child that works in its parent's memory while the parent's thread waits, as `vfork(2)` has it.
//!
//! Nothing is copied: not the page tables before the child runs, and not the pages that either of them writes to afterwards. The
//! child has a stack of its own, because the parent's has to be as it was when the parent goes on. It ends by `execve(2)` or
//! `_exit(2)`, and only then does the parent's thread go on; its other threads never stop.

use std::ffi::c_void;
use std::ptr;
use std::sync::{Mutex, PoisonError};

use nix::libc;
use rustix::io::{Errno, Result};
use rustix::process::{DumpableBehavior, dumpable_behavior, set_dumpable_behavior};

use super::super::mount::last_errno;
use super::Body;

/// Many times what a child takes. Only what is touched becomes memory.
const STACK: usize = 256 << 10;
/// Below the stack: whoever goes too far is killed, and overwrites nothing. No page is larger on any Linux.
const GUARD: usize = 64 << 10;

/// A stack for one child.
struct Stack(*mut c_void);

impl Stack {
    fn new() -> Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE;
        // SAFETY: a new mapping wherever there is room touches nothing that exists.
        let start = unsafe { libc::mmap(ptr::null_mut(), GUARD + STACK, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(last_errno());
        }
        let stack = Self(start);
        // SAFETY: the mapping is ours, and nobody uses it yet.
        match unsafe { libc::mprotect(start, GUARD, libc::PROT_NONE) } {
            0 => Ok(stack),
            _ => Err(last_errno()),
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and the child that used it has ended or has another memory by now.
        unsafe { libc::munmap(self.0, GUARD + STACK) };
    }
}

/// `clone3(2)` with `arguments`, in shared memory. The child runs [`super::run_child`] with `body`. Returns the child's pid.
pub(super) fn clone3(mut arguments: libc::clone_args, body: &mut Body<'_>) -> Result<libc::c_long> {
    let stack = Stack::new()?;
    arguments.flags |= libc::CLONE_VM as u64 | libc::CLONE_VFORK as u64;
    arguments.stack = stack.0 as u64 + GUARD as u64;
    arguments.stack_size = STACK as u64;
    let guard = Dumpable::keep();
    // SAFETY: the structure is filled in as clone3 wants it, the stack is unused and large enough, and `body` lives until the
    // child has ended or has another memory, because CLONE_VFORK has this thread wait for that.
    let result = unsafe { clone3_onto_stack(&mut arguments, body) };
    drop(guard);
    match i32::try_from(-result) {
        Ok(errno @ 1..) => Err(Errno::from_raw_os_error(errno)),
        _ => Ok(result),
    }
}

/// The system call, and in the child a call of [`super::run_child`] on the new stack: nothing of the parent's frame may be touched
/// there, so that no compiler can be let into it.
///
/// # Safety
///
/// `arguments` must be sound, with a stack that nobody uses, and `body` must outlive the child's use of this memory.
unsafe fn clone3_onto_stack(arguments: &mut libc::clone_args, body: &mut Body<'_>) -> libc::c_long {
    let result: libc::c_long;
    // SAFETY: as the caller promises. The kernel keeps all registers but the three that are named (syscall(2)). Its stack is
    // aligned to 16 bytes, as functions expect before they are called. The child never gets past the call.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r9",
            "call r8",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") ptr::from_mut(arguments),
            in("rsi") size_of::<libc::clone_args>(),
            in("r8") super::run_child as extern "C" fn(*mut Body<'_>) -> !,
            in("r9") ptr::from_mut(body),
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// A process that becomes another user is not to be looked into by that user, and the kernel notes that with its memory
/// (`PR_SET_DUMPABLE`), which is the parent's here. The parent has become nobody else.
struct Dumpable;

/// How many children there are at the moment, and what the memory was before the first.
static DUMPABLE: Mutex<(usize, Option<DumpableBehavior>)> = Mutex::new((0, None));

impl Dumpable {
    fn keep() -> Self {
        let mut state = DUMPABLE.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0 == 0 {
            state.1 = dumpable_behavior().ok();
        }
        state.0 += 1;
        Self
    }
}

impl Drop for Dumpable {
    fn drop(&mut self) {
        let mut state = DUMPABLE.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 -= 1;
        // The third state can be had only from the kernel, and is the one that would be left alone anyway.
        if state.0 == 0
            && state.1 == Some(DumpableBehavior::Dumpable)
            && dumpable_behavior() != Ok(DumpableBehavior::Dumpable)
        {
            let restored = set_dumpable_behavior(DumpableBehavior::Dumpable);
            debug_assert!(restored.is_ok(), "what it was before");
        }
    }
}
