//! The registers at the kernel's PVH entry.
//!
//! [Xen's description of the ABI]: 32-bit protected mode without paging, flat
//! segments, EBX points at the start info, all else is undefined.
//!
//! [Xen's description of the ABI]: https://xenbits.xen.org/docs/unstable/misc/pvh.html

use kvm_bindings::{kvm_fpu, kvm_regs, kvm_sregs};

use super::gdt;
use super::layout;

/// The table at [`layout::GDT`]: null, code, data, task.
pub const GDT: [u64; 4] = [
    0,
    gdt::entry(0xc09b, 0, 0xffff_ffff),
    gdt::entry(0xc093, 0, 0xffff_ffff),
    gdt::entry(0x008b, 0, 0x67),
];

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;

/// General registers for an entry at `entry`.
pub fn general(entry: u64) -> kvm_regs {
    kvm_regs {
        rip: entry,
        rbx: layout::PVH_INFO,
        rflags: 2,
        ..Default::default()
    }
}

/// Changes the segment and control registers for the entry.
pub fn special(sregs: &mut kvm_sregs) {
    let [_, code, data, task] = GDT;
    sregs.cs = gdt::segment(code, 1);
    let data = gdt::segment(data, 2);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = gdt::segment(task, 3);
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = (size_of_val(&GDT) - 1) as u16;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cr0 = CR0_PE | CR0_ET;
    sregs.cr3 = 0;
    sregs.cr4 = 0;
    sregs.efer = 0;
}

/// The floating point unit after reset (SDM volume 3, table 10-1).
pub fn floating_point() -> kvm_fpu {
    kvm_fpu {
        fcw: 0x37f,
        mxcsr: 0x1f80,
        ..Default::default()
    }
}
