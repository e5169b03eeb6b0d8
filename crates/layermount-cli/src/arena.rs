//! Memory for a process that mostly ends soon.
//!
//! The first allocations are cut off one piece, one behind the other, and never given back, but for the last of them; later ones, and
//! large ones, are the C library's. `layermount run` makes so few that it needs nothing else: musl's allocator took a twentieth of the
//! whole start, most of it to return pages to the kernel one by one right before the process ended.
//!
//! The piece is mapped, and no variable: an init, which is a copy of layermount, gives back what is mapped, with all that the image has no
//! business with, and keeps the program's variables.
#![allow(unsafe_code, reason = "an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use nix::libc;

/// What `run` takes, with room to spare. Only what is used becomes memory.
const SIZE: usize = 512 << 10;

/// What is larger is the C library's: buffers that may be given back for something else.
const LARGEST: usize = 64 << 10;

/// Mappings begin at a page, and no page is smaller.
const ALIGNMENT: usize = 4096;

#[global_allocator]
static ARENA: Arena = Arena::new();

struct Arena {
    /// Null before the first allocation.
    piece: AtomicPtr<u8>,
    /// Bytes from the start of the piece that belong to somebody, or did.
    used: AtomicUsize,
}

impl Arena {
    const fn new() -> Self {
        Self { piece: AtomicPtr::new(ptr::null_mut()), used: AtomicUsize::new(0) }
    }

    /// The piece, mapped if this is the first who asks. Null where there is no memory for it.
    fn piece(&self) -> *mut u8 {
        let piece = self.piece.load(Ordering::Acquire);
        if piece.is_null() { self.map() } else { piece }
    }

    #[cold]
    fn map(&self) -> *mut u8 {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping wherever there is room touches nothing that exists.
        let mapped = unsafe { libc::mmap(ptr::null_mut(), SIZE, protection, flags, -1, 0) };
        if mapped == libc::MAP_FAILED {
            return ptr::null_mut();
        }
        match self.piece.compare_exchange(ptr::null_mut(), mapped.cast(), Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => mapped.cast(),
            Err(others) => {
                // SAFETY: it was mapped just now, and nobody knows of it.
                unsafe { libc::munmap(mapped, SIZE) };
                others
            }
        }
    }

    /// Where in the piece it is, if it is there.
    fn place(&self, memory: *mut u8) -> Option<usize> {
        let piece = self.piece.load(Ordering::Relaxed);
        memory.addr().checked_sub(piece.addr()).filter(|place| *place < SIZE && !piece.is_null())
    }

    fn cut(&self, layout: Layout) -> Option<*mut u8> {
        let aligned = |used: usize| used.checked_next_multiple_of(layout.align());
        let end = |used| aligned(used)?.checked_add(layout.size()).filter(|end| *end <= SIZE);
        if layout.size() > LARGEST || layout.align() > ALIGNMENT {
            return None;
        }
        let piece = self.piece();
        if piece.is_null() {
            return None;
        }
        // What the part's last owner did there comes before all that the next one does.
        let before = self.used.fetch_update(Ordering::Acquire, Ordering::Relaxed, end).ok()?;
        // SAFETY: it ends in the piece, as was seen to above.
        Some(unsafe { piece.add(aligned(before)?) })
    }

    /// Moves the end of the last part, if this is it.
    fn resize_last(&self, place: usize, size: usize, new_size: usize) -> bool {
        let (end, new_end) = (place + size, place + new_size);
        new_end <= SIZE && self.used.compare_exchange(end, new_end, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

// SAFETY: every part is given to one owner, aligned and as long as was asked for, until that owner gives it back. Only the last part can
// become somebody else's, by the exchange that shows that it is the last: it releases what the old owner did there, and whoever cuts
// the same bytes off acquires it.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match self.cut(layout) {
            Some(memory) => memory,
            // SAFETY: as the caller promises.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match self.cut(layout) {
            Some(memory) => {
                // It may have been somebody's before.
                // SAFETY: so many bytes there are the caller's from now on.
                unsafe { ptr::write_bytes(memory, 0, layout.size()) };
                memory
            }
            // SAFETY: as the caller promises.
            None => unsafe { System.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        match self.place(memory) {
            Some(place) => _ = self.resize_last(place, layout.size(), 0),
            // SAFETY: it is none of ours, so it came from there.
            None => unsafe { System.dealloc(memory, layout) },
        }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Some(place) = self.place(memory) else {
            // SAFETY: it is none of ours, so it came from there.
            return unsafe { System.realloc(memory, layout, new_size) };
        };
        // One that is shorter stays where it is also if it is not the last.
        if self.resize_last(place, layout.size(), new_size) || new_size <= layout.size() {
            return memory;
        }
        // SAFETY: as the caller promises, the size is one that the alignment goes with.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        // SAFETY: it is not empty, because it is longer than what was there.
        let new = unsafe { self.alloc(new_layout) };
        if !new.is_null() {
            // SAFETY: both are the caller's, apart from each other, and at least that long.
            unsafe { ptr::copy_nonoverlapping(memory, new, layout.size()) };
        }
        new
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::undocumented_unsafe_blocks,
        clippy::multiple_unsafe_ops_per_block,
        reason = "whether what is promised is kept is what is tested"
    )]

    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    /// Parts do not overlap, are aligned, keep what is written to them, and end where the C library's begin.
    #[test]
    fn parts_are_their_owners_alone() {
        static ARENA: Arena = Arena::new();
        let arena = &ARENA;
        let mut parts: Vec<(*mut u8, Layout, u8)> = Vec::new();
        let mut state = 1_u64;
        for mark in 0..40_000_u32 {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            let random = usize::try_from(state >> 33).unwrap();
            let mark = mark as u8;
            match random % 4 {
                0 if !parts.is_empty() => {
                    let last = if random & 0x100 == 0 { parts.len() - 1 } else { random % parts.len() };
                    let (memory, layout, mark) = parts.swap_remove(last);
                    assert!((0..layout.size()).all(|at| unsafe { *memory.add(at) } == mark));
                    unsafe { arena.dealloc(memory, layout) };
                }
                1 if !parts.is_empty() => {
                    let (memory, old, _) = parts.pop().unwrap();
                    let new_size = 1 + random / 4 % 300;
                    let before: Vec<u8> = (0..old.size().min(new_size)).map(|at| unsafe { *memory.add(at) }).collect();
                    let memory = unsafe { arena.realloc(memory, old, new_size) };
                    assert!(before.iter().enumerate().all(|(at, byte)| unsafe { *memory.add(at) } == *byte));
                    unsafe { ptr::write_bytes(memory, mark, new_size) };
                    parts.push((memory, layout(new_size, old.align()), mark));
                }
                kind => {
                    let layout = layout(1 + random / 4 % 200, 1 << (random % 7));
                    let memory = unsafe { if kind == 2 { arena.alloc_zeroed(layout) } else { arena.alloc(layout) } };
                    assert_eq!(memory.addr() % layout.align(), 0);
                    assert!(kind != 2 || (0..layout.size()).all(|at| unsafe { *memory.add(at) } == 0));
                    unsafe { ptr::write_bytes(memory, mark, layout.size()) };
                    parts.push((memory, layout, mark));
                }
            }
        }
        assert!(parts.iter().any(|(memory, ..)| arena.place(*memory).is_none()), "more than there is room for");
        for (memory, layout, mark) in parts {
            assert!((0..layout.size()).all(|at| unsafe { *memory.add(at) } == mark));
            unsafe { arena.dealloc(memory, layout) };
        }
    }

    #[test]
    fn what_is_last_grows_and_goes() {
        static ARENA: Arena = Arena::new();
        let arena = &ARENA;
        unsafe {
            let first = arena.alloc(layout(10, 1));
            let second = arena.alloc(layout(10, 8));
            assert_eq!(second, first.add(16));
            assert_eq!(arena.realloc(second, layout(10, 8), 1000), second, "in its place");
            arena.dealloc(second, layout(1000, 8));
            let third = arena.alloc(layout(50, 1));
            assert_eq!((third, arena.realloc(third, layout(50, 1), 5)), (second, second));
            assert_eq!(arena.alloc(layout(1, 1)), second.add(5), "what it gave back");
            let moved = arena.realloc(first, layout(10, 1), 20);
            assert_ne!(moved, first);
            let large = arena.alloc(layout(LARGEST + 1, 1));
            assert!(arena.place(large).is_none());
            arena.dealloc(large, layout(LARGEST + 1, 1));
        }
    }

    /// What one thread has given back another one gets, and neither sees the other's bytes in its own.
    #[test]
    fn threads_share_nothing() {
        static ARENA: Arena = Arena::new();
        std::thread::scope(|scope| {
            for mark in 1..=4_u8 {
                scope.spawn(move || {
                    for round in 0..20_000_usize {
                        let layout = layout(1 + round % 64, 8);
                        let memory = unsafe { ARENA.alloc(layout) };
                        unsafe { ptr::write_bytes(memory, mark, layout.size()) };
                        assert!((0..layout.size()).all(|at| unsafe { *memory.add(at) } == mark));
                        unsafe { ARENA.dealloc(memory, layout) };
                    }
                });
            }
        });
    }
}
