//! What a virtual processor says of itself.
//!
//! KVM's own answer, with the topology put right: one package of `max_cpus`
//! cores without hyper-threads, APIC ids counted up from 0. Leaves are those of
//! the Intel SDM, volume 2, "CPUID", and of the AMD APM, volume 3, appendix E.

use kvm_bindings::kvm_cpuid_entry2;

/// The significant index flag of an entry.
const INDEXED: u32 = kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX;

const ECX_XSAVE: u32 = 1 << 26;
const ECX_TSC_DEADLINE: u32 = 1 << 24;
const ECX_HYPERVISOR: u32 = 1 << 31;
const EDX_HTT: u32 = 1 << 28;
const AMD_CMP_LEGACY: u32 = 1 << 1;
const AMD_TOPOLOGY_EXTENSIONS: u32 = 1 << 22;

/// Who made the host's processor; the two describe topology by other leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vendor {
    Intel,
    Amd,
    Other,
}

fn vendor(entries: &[kvm_cpuid_entry2]) -> Vendor {
    let Some(leaf) = entries.iter().find(|e| e.function == 0) else {
        return Vendor::Other;
    };
    let mut name = [0; 12];
    for (slot, word) in name.chunks_exact_mut(4).zip([leaf.ebx, leaf.edx, leaf.ecx]) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    match &name {
        b"GenuineIntel" => Vendor::Intel,
        b"AuthenticAMD" | b"HygonGenuine" => Vendor::Amd,
        _ => Vendor::Other,
    }
}

/// Bits of an APIC id that number the cores.
fn core_bits(max_cpus: u8) -> u32 {
    u32::from(max_cpus).next_power_of_two().trailing_zeros()
}

/// The entries for the processor with APIC id `id` out of at most `max_cpus`,
/// made from those that KVM supports.
pub fn entries(supported: &[kvm_cpuid_entry2], id: u8, max_cpus: u8) -> Vec<kvm_cpuid_entry2> {
    let vendor = vendor(supported);
    // Topology leaves are written anew; the host's own would show through.
    let topology = |function| matches!(function, 0xb | 0x1f | 0x8000_001e | 0x8000_0026);
    let mut entries: Vec<_> = supported
        .iter()
        .filter(|e| !topology(e.function))
        .copied()
        .collect();
    for entry in &mut entries {
        adjust(entry, id, max_cpus, vendor);
    }
    if !has_xsave(supported) {
        entries.iter_mut().for_each(without_xsave);
    }
    let highest = |base| {
        let leaf = supported.iter().find(|e| e.function == base);
        leaf.map_or(0, |e| e.eax)
    };
    for leaf in [0xb, 0x1f] {
        if highest(0) >= leaf {
            entries.extend(extended_topology(leaf, id, max_cpus));
        }
    }
    if vendor == Vendor::Amd && highest(0x8000_0000) >= 0x8000_001e {
        entries.push(kvm_cpuid_entry2 {
            function: 0x8000_001e,
            eax: id.into(),
            // The core's id, and one thread in it.
            ebx: id.into(),
            ..Default::default()
        });
    }
    entries
}

fn has_xsave(entries: &[kvm_cpuid_entry2]) -> bool {
    let basic = entries.iter().find(|e| e.function == 1);
    basic.is_some_and(|e| e.ecx & ECX_XSAVE != 0)
}

/// Takes away what cannot be used without XSAVE (Intel SDM, volume 1, 13.1),
/// which a KVM under another hypervisor can offer all the same, and Linux then
/// uses: FMA, AVX, F16C; AVX2 and all of AVX-512; VAES and VPCLMULQDQ; AMX;
/// AMD's XOP and FMA4.
fn without_xsave(entry: &mut kvm_cpuid_entry2) {
    let [mut ebx, mut ecx, mut edx] = [0; 3];
    match (entry.function, entry.index) {
        (0x1, _) => ecx = 1 << 12 | 1 << 28 | 1 << 29,
        (0x7, 0) => {
            ebx = 1 << 5 | 1 << 16 | 1 << 17 | 1 << 21 | 0b111 << 26 | 0b11 << 30;
            ecx = 1 << 1 | 1 << 6 | 0b1111 << 9 | 1 << 14;
            edx = 0b11 << 2 | 1 << 8 | 0b1111 << 22;
        }
        // AVX-VNNI, AVX512-BF16, and others of their kind.
        (0x7, 1) => entry.eax &= !(1 << 4 | 1 << 5 | 1 << 21 | 1 << 23),
        (0x8000_0001, _) => ecx = 1 << 11 | 1 << 16,
        _ => {}
    }
    entry.ebx &= !ebx;
    entry.ecx &= !ecx;
    entry.edx &= !edx;
}

fn adjust(entry: &mut kvm_cpuid_entry2, id: u8, max_cpus: u8, vendor: Vendor) {
    let cpus = u32::from(max_cpus);
    match entry.function {
        0x1 => {
            // CLFLUSH size and brand stay; logical processors and APIC id.
            let logical = cpus.next_power_of_two();
            entry.ebx = entry.ebx & 0xffff | logical << 16 | u32::from(id) << 24;
            entry.ecx |= ECX_TSC_DEADLINE | ECX_HYPERVISOR;
            entry.edx &= !EDX_HTT;
            if cpus > 1 {
                entry.edx |= EDX_HTT;
            }
        }
        0x4 if entry.eax & 0x1f != 0 => {
            entry.eax &= 0x3fff;
            entry.eax |= (cpus.next_power_of_two() - 1).min(63) << 26;
            entry.eax |= sharing(entry.eax >> 5 & 7, cpus) << 14;
        }
        // Performance bias has no meaning for a guest, and Linux warns of it.
        0x6 => entry.ecx &= !(1 << 3),
        0x8000_0001 if vendor == Vendor::Amd => {
            entry.ecx |= AMD_TOPOLOGY_EXTENSIONS;
            entry.ecx &= !AMD_CMP_LEGACY;
            if cpus > 1 {
                entry.ecx |= AMD_CMP_LEGACY;
            }
        }
        0x8000_0008 if vendor == Vendor::Amd => {
            entry.ecx = entry.ecx & !0xf0ff | core_bits(max_cpus) << 12 | (cpus - 1);
        }
        0x8000_001d if entry.eax & 0x1f != 0 => {
            entry.eax &= 0x3fff;
            entry.eax |= sharing(entry.eax >> 5 & 7, cpus) << 14;
        }
        _ => {}
    }
}

/// How many processors share a cache of this level, less one: the last level
/// belongs to all, the others to their core.
fn sharing(level: u32, cpus: u32) -> u32 {
    if level >= 3 {
        cpus.next_power_of_two() - 1
    } else {
        0
    }
}

/// Leaves 0xB and 0x1F: thread level, core level, end.
fn extended_topology(function: u32, id: u8, max_cpus: u8) -> [kvm_cpuid_entry2; 3] {
    let level = |index: u32, shift: u32, count: u32, kind: u32| kvm_cpuid_entry2 {
        function,
        index,
        flags: INDEXED,
        eax: shift,
        ebx: count,
        ecx: kind << 8 | index,
        edx: id.into(),
        ..Default::default()
    };
    [
        level(0, 0, 1, 1),
        level(1, core_bits(max_cpus), max_cpus.into(), 2),
        level(2, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32, regs: [u32; 4]) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            eax: regs[0],
            ebx: regs[1],
            ecx: regs[2],
            edx: regs[3],
            ..Default::default()
        }
    }

    fn name(text: &[u8; 12], highest: u32) -> kvm_cpuid_entry2 {
        let word = |i: usize| u32::from_le_bytes([text[i], text[i + 1], text[i + 2], text[i + 3]]);
        leaf(0, 0, [highest, word(0), word(8), word(4)])
    }

    fn find(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        *entries
            .iter()
            .find(|e| e.function == function && e.index == index)
            .unwrap()
    }

    #[test]
    fn intel_shows_one_package_of_cores() {
        let host = [
            name(b"GenuineIntel", 0x1f),
            leaf(1, 0, [0, 0x7f20_0800, 0, 0]),
            // L1 data shared by 2, L3 by 128, 64 cores.
            leaf(4, 0, [0xfc00_4121, 0, 0, 0]),
            leaf(4, 3, [0xfc1f_c163, 0, 0, 0]),
            leaf(0xb, 0, [1, 2, 0x100, 99]),
        ];
        let seen = entries(&host, 5, 6);
        let basic = find(&seen, 1, 0);
        assert_eq!(basic.ebx, 0x0508_0800);
        assert_ne!(basic.ecx & ECX_HYPERVISOR, 0);
        assert_ne!(basic.edx & EDX_HTT, 0);
        assert_eq!(find(&seen, 4, 0).eax >> 14 & 0xfff, 0);
        assert_eq!(find(&seen, 4, 3).eax >> 14 & 0xfff, 7);
        assert_eq!(find(&seen, 4, 3).eax >> 26, 7);
        for function in [0xb, 0x1f] {
            let threads = find(&seen, function, 0);
            assert_eq!((threads.eax, threads.ebx, threads.edx), (0, 1, 5));
            let cores = find(&seen, function, 1);
            assert_eq!((cores.eax, cores.ebx, cores.ecx), (3, 6, 0x201));
        }
        assert_eq!(seen.iter().filter(|e| e.function == 0xb).count(), 3);
    }

    #[test]
    fn amd_counts_cores_in_its_own_leaves() {
        let host = [
            name(b"AuthenticAMD", 0xa),
            leaf(1, 0, [0, 0, 0, 0]),
            leaf(0x8000_0000, 0, [0x8000_001f, 0, 0, 0]),
            leaf(0x8000_0001, 0, [0, 0, 0, 0]),
            leaf(0x8000_0008, 0, [0x3030, 0, 0x707f, 0]),
            leaf(0x8000_001d, 3, [0x0003_c163, 0, 0, 0]),
            leaf(0x8000_001e, 0, [77, 0x177, 0x300, 0]),
        ];
        let seen = entries(&host, 2, 4);
        assert_eq!(find(&seen, 0x8000_0008, 0).ecx, 0x2003);
        assert_eq!(find(&seen, 0x8000_001d, 3).eax >> 14 & 0xfff, 3);
        let extended = find(&seen, 0x8000_001e, 0);
        assert_eq!((extended.eax, extended.ebx, extended.ecx), (2, 2, 0));
        let features = find(&seen, 0x8000_0001, 0).ecx;
        assert_ne!(features & AMD_TOPOLOGY_EXTENSIONS, 0);
        assert!(
            !seen.iter().any(|e| e.function == 0xb),
            "beyond its highest leaf"
        );
    }

    #[test]
    fn what_needs_xsave_is_not_there_without_it() {
        let avx = 1 << 28;
        for (xsave, expected) in [(ECX_XSAVE, avx), (0, 0)] {
            let host = [
                name(b"AuthenticAMD", 7),
                leaf(1, 0, [0, 0, avx | xsave, 0]),
                leaf(7, 0, [0, 1 << 5 | 1 << 8, 1 << 9, 0]),
            ];
            let seen = entries(&host, 0, 1);
            assert_eq!(find(&seen, 1, 0).ecx & avx, expected);
            let more = find(&seen, 7, 0);
            // AVX2 and VAES go; BMI2 needs nothing of it.
            let there = expected != 0;
            assert_eq!(more.ebx, 1 << 8 | u32::from(there) << 5);
            assert_eq!(more.ecx, u32::from(there) << 9);
        }
    }

    #[test]
    fn a_single_processor_has_no_siblings() {
        let host = [name(b"GenuineIntel", 4), leaf(1, 0, [0, 0, 0, EDX_HTT])];
        let basic = find(&entries(&host, 0, 1), 1, 0);
        assert_eq!((basic.ebx >> 16, basic.edx & EDX_HTT), (1, 0));
    }
}
