//! The only unsafe code of the crate: system calls that neither `rustix` nor `nix` offer as safe functions.
//!
//! Everything here is thin: one call, its arguments typed, its errno returned. What is called in a child between `clone` and
//! `execve` is async-signal-safe and allocates nothing; the functions that may be called there say so.
#![allow(unsafe_code, reason = "the one place for it; each block states why it is sound")]

pub(crate) mod confine;
pub(crate) mod copy;
pub(crate) mod exec;
pub(crate) mod fd;
pub(crate) mod fork;
pub(crate) mod lease;
pub(crate) mod memory;
pub(crate) mod mount;
pub(crate) mod namespace;
pub(crate) mod network;
pub(crate) mod random;
pub(crate) mod signal;
