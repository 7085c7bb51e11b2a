//! Segment descriptors, as the table and as KVM wants them.
//!
//! Intel SDM volume 3, section 3.4.5 "Segment Descriptors".

use kvm_bindings::kvm_segment;

/// Packs a descriptor: `flags` are bits 40 to 47 and 52 to 55 (access byte,
/// then granularity), as in the SDM's figure 3-8 without the limit's high half.
pub const fn entry(flags: u16, base: u32, limit: u32) -> u64 {
    ((base as u64 & 0xff00_0000) << 32)
        | ((flags as u64 & 0xf0ff) << 40)
        | ((limit as u64 & 0x000f_0000) << 32)
        | ((base as u64 & 0x00ff_ffff) << 16)
        | (limit as u64 & 0x0000_ffff)
}

/// The descriptor `entry` at `index` of its table, unpacked into a register.
pub fn segment(entry: u64, index: u8) -> kvm_segment {
    let bit = |n: u32| u8::from(entry >> n & 1 == 1);
    let raw_limit = (entry >> 32 & 0x000f_0000) as u32 | (entry & 0xffff) as u32;
    let limit = match bit(55) {
        0 => raw_limit,
        _ => raw_limit << 12 | 0xfff,
    };
    kvm_segment {
        base: (entry >> 32 & 0xff00_0000) | (entry >> 16 & 0x00ff_ffff),
        limit,
        selector: u16::from(index) * 8,
        type_: (entry >> 40 & 0xf) as u8,
        present: bit(47),
        dpl: (entry >> 45 & 3) as u8,
        db: bit(54),
        s: bit(44),
        l: bit(53),
        g: bit(55),
        avl: bit(52),
        unusable: 1 - bit(47),
        padding: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_code_segment_unpacks_to_four_gigabytes() {
        let code = segment(entry(0xc09b, 0, 0xffff_ffff), 1);
        assert_eq!((code.base, code.limit, code.selector), (0, 0xffff_ffff, 8));
        assert_eq!((code.type_, code.s, code.db, code.l), (0xb, 1, 1, 0));
        assert_eq!((code.g, code.present, code.unusable), (1, 1, 0));
    }

    #[test]
    fn base_and_small_limit_survive() {
        let task = segment(entry(0x008b, 0x1234_5678, 0x67), 3);
        assert_eq!((task.base, task.limit), (0x1234_5678, 0x67));
        assert_eq!((task.type_, task.s, task.g), (0xb, 0, 0));
    }
}
