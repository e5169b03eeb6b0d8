//! The ways in which programs call this kernel: each numbers the calls in its own way.

/// What the kernel names by `AUDIT_ARCH_*` (`include/uapi/linux/audit.h`): ELF's number for the machine, and bits for 64-bit and
/// little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Abi {
    X86_64,
    /// 32-bit programs on x86-64, and `int 0x80` of any program there.
    I386,
    Aarch64,
}

impl Abi {
    /// Those that there are filters for, the kernel's own first.
    ///
    /// 32-bit programs on AArch64 are not among them, nor those of the x32 ABI, which hardly any kernel is built with.
    pub(super) const HERE: &[Self] = if cfg!(all(target_arch = "x86_64", target_pointer_width = "64")) {
        &[Self::X86_64, Self::I386]
    } else if cfg!(all(target_arch = "aarch64", target_endian = "little", target_pointer_width = "64")) {
        &[Self::Aarch64]
    } else {
        &[]
    };

    pub(super) const fn audit_number(self) -> u32 {
        match self {
            Self::X86_64 => 0xC000_003E,
            Self::I386 => 0x4000_0003,
            Self::Aarch64 => 0xC000_00B7,
        }
    }

    /// As the OCI runtime specification names it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "SCMP_ARCH_X86_64",
            Self::I386 => "SCMP_ARCH_X86",
            Self::Aarch64 => "SCMP_ARCH_AARCH64",
        }
    }

    /// From which number on calls are another ABI's, which would slip past rules for the plain ones.
    pub(super) const fn foreign_from(self) -> Option<u32> {
        match self {
            // x32 has this bit in its numbers.
            Self::X86_64 => Some(0x4000_0000),
            Self::I386 | Self::Aarch64 => None,
        }
    }
}
