//! The guest's physical address space.
//!
//! ```text
//! 0x0000_0000_0000  memory
//!      0x0000_0500  GDT for the entry
//!      0x0000_6000  PVH start info, its module and its memory map
//!      0x0002_0000  command line
//!      0x0009_fc00  end of the memory that the map shows below 1 MiB
//!      0x000e_0000  ACPI tables
//!      0x000f_0000  SMBIOS
//!      0x000f_fff0  code that resets
//!      0x0010_0000  memory: kernel, initrd at the end
//!      0xc000_0000  hole: BARs
//!      0xe800_0000        ECAM
//!      0xfec0_0000        IOAPIC, local APICs, KVM's own pages
//! 0x0001_0000_0000  memory past the hole, then room for memory hotplug
//! ```

/// The GDT that the kernel is entered with.
pub const GDT: u64 = 0x500;
/// `hvm_start_info` of the PVH entry.
pub const PVH_INFO: u64 = 0x6000;
/// Its list of modules.
pub const PVH_MODULES: u64 = 0x6100;
/// Its memory map.
pub const PVH_MEMORY_MAP: u64 = 0x6200;
/// The command line, NUL-terminated.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// What fits there: Linux's `COMMAND_LINE_SIZE` on x86, its NUL included.
pub const COMMAND_LINE_SIZE: usize = 2048;
/// End of low memory as a PC has it; an EBDA could follow.
pub const LOW_MEMORY_END: u64 = 0x9_fc00;
/// ACPI tables, the RSDP first.
pub const ACPI: u64 = 0xe_0000;
/// Room for them.
pub const ACPI_SIZE: u64 = 0x1_0000;
/// SMBIOS entry point and structures; Linux scans `f0000` to `fffff`.
pub const SMBIOS: u64 = 0xf_0000;
/// Room for them.
pub const SMBIOS_SIZE: u64 = 0xfff0;
/// Where firmware would be entered in real mode, at f000:fff0.
pub const RESET_VECTOR: u64 = 0xf_fff0;
/// Memory above the legacy area; kernel and initrd go there.
pub const HIGH_MEMORY: u64 = 0x10_0000;

/// Start of the hole for devices below 4 GiB.
pub const HOLE: u64 = 0xc000_0000;
/// End of the hole.
pub const HOLE_END: u64 = 0x1_0000_0000;

/// Where the BARs are.
pub const BARS: u64 = HOLE;
/// Room for them.
pub const BARS_SIZE: u64 = 0x1000_0000;
/// Configuration space of the one PCI bus, by ECAM.
pub const ECAM: u64 = 0xe800_0000;
/// 32 devices with 8 functions of 4 KiB.
pub const ECAM_SIZE: u64 = 0x10_0000;
/// The IOAPIC.
pub const IOAPIC: u32 = 0xfec0_0000;
/// The local APICs.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// A page that KVM uses for real mode's identity map on Intel.
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages that KVM uses for a task state segment on Intel.
pub const KVM_TSS: u64 = 0xfffb_d000;

/// Blocks of hotplugged memory are aligned so: Linux's memory blocks on
/// machines below 64 GiB, and what virtio-mem's drivers ask for.
pub const HOTPLUG_ALIGNMENT: u64 = 128 << 20;

/// COM1.
pub const SERIAL_PORT: u16 = 0x3f8;
/// Its interrupt.
pub const SERIAL_IRQ: u32 = 4;
/// The ACPI general event device's interrupt.
pub const GED_IRQ: u32 = 5;
/// The general event device's register: which events are pending.
pub const GED_PORT: u16 = 0x600;
/// The FADT's sleep control register, status register and reset register.
pub const SLEEP_CONTROL_PORT: u16 = 0x601;
/// See [`SLEEP_CONTROL_PORT`].
pub const SLEEP_STATUS_PORT: u16 = 0x602;
/// See [`SLEEP_CONTROL_PORT`].
pub const RESET_PORT: u16 = 0x603;
/// Registers of CPU hotplug.
pub const CPU_HOTPLUG_PORT: u16 = 0x610;
/// Their number.
pub const CPU_HOTPLUG_PORTS: u16 = 8;
/// pvpanic's port, as QEMU has it.
pub const PVPANIC_PORT: u16 = 0x505;
/// PCI configuration by ports, for software that does not know ECAM.
pub const PCI_CONFIG_PORT: u16 = 0xcf8;

/// Pins of the IOAPIC; MSIs get numbers above them.
pub const IOAPIC_PINS: u32 = 24;

/// The most vCPUs. APIC ids stay below 255, so xAPIC is enough to boot.
pub const MAX_CPUS: u8 = 64;
/// The least memory: Linux's kernel starts at 16 MiB and needs room.
pub const MIN_MEMORY: u64 = 64 << 20;
/// The most: 46 bits of physical address, less a half for hotplug.
pub const MAX_MEMORY: u64 = 1 << 45;

const _: () = assert!(BARS + BARS_SIZE <= ECAM && ECAM + ECAM_SIZE <= IOAPIC as u64);
const _: () = assert!(ACPI + ACPI_SIZE == SMBIOS && SMBIOS + SMBIOS_SIZE == RESET_VECTOR);
