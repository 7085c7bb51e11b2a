//! Guests of a few instructions, entered through PVH, which our own monitor
//! and QEMU both do (Xen's docs/misc/pvh.pandoc).

const ADDRESS: u32 = 0x10_0000;
const COM1: u16 = 0x3f8;

/// Machine code in the making, for the 32-bit mode that PVH starts in.
#[derive(Debug, Default)]
pub struct Guest(Vec<u8>);

impl Guest {
    pub fn new() -> Self {
        Self::default()
    }

    fn out(mut self, port: u16, value: u8) -> Self {
        // mov dx, port; mov al, value; out dx, al
        self.0.extend([0x66, 0xba]);
        self.0.extend(port.to_le_bytes());
        self.0.extend([0xb0, value, 0xee]);
        self
    }

    /// Writes to the serial port.
    pub fn say(self, text: &str) -> Self {
        text.bytes().fold(self, |guest, byte| guest.out(COM1, byte))
    }

    /// Waits for a byte on the serial port and writes it back.
    pub fn echo(mut self) -> Self {
        // mov dx, COM1 + 5; wait: in al, dx; test al, 1; jz wait
        self.0
            .extend([0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xfb]);
        // mov dx, COM1; in al, dx; out dx, al
        self.0.extend([0x66, 0xba, 0xf8, 0x03, 0xec, 0xee]);
        self
    }

    /// Turns the machine off: our monitor's sleep control register, then the
    /// one of QEMU's q35.
    pub fn power_off(self) -> Vec<u8> {
        let mut guest = self.out(0x601, 0x34);
        // mov dx, 0x604; mov ax, 0x2000; out dx, ax
        guest
            .0
            .extend([0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x20, 0x66, 0xef]);
        guest.sleep()
    }

    /// Resets the machine, by the keyboard controller.
    pub fn reset(self) -> Vec<u8> {
        self.out(0x64, 0xfe).sleep()
    }

    /// Says that the kernel panicked.
    pub fn panic(self) -> Vec<u8> {
        self.out(0x505, 1).sleep()
    }

    /// Does nothing more, for ever.
    pub fn sleep(mut self) -> Vec<u8> {
        // cli; again: hlt; jmp again
        self.0.extend([0xfa, 0xf4, 0xeb, 0xfd]);
        elf(&self.0)
    }
}

/// An ELF with a note that says where to enter.
fn elf(code: &[u8]) -> Vec<u8> {
    let note: Vec<u8> = [4u32, 4, 18]
        .iter()
        .flat_map(|n| n.to_le_bytes())
        .chain(*b"Xen\0")
        .chain(ADDRESS.to_le_bytes())
        .collect();
    let start = 64 + 2 * 56;
    let mut image = vec![0; start];
    image[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(16, &2u16.to_le_bytes()); // ET_EXEC
    put(18, &62u16.to_le_bytes()); // EM_X86_64
    put(20, &1u32.to_le_bytes());
    put(24, &u64::from(ADDRESS).to_le_bytes());
    put(32, &64u64.to_le_bytes()); // e_phoff
    put(52, &64u16.to_le_bytes()); // e_ehsize
    put(54, &56u16.to_le_bytes()); // e_phentsize
    put(56, &2u16.to_le_bytes()); // e_phnum
    let segments = [
        (4u32, start, 0u64, note.len(), 4u64), // PT_NOTE
        (1, start + note.len(), u64::from(ADDRESS), code.len(), 1), // PT_LOAD
    ];
    for (n, (kind, offset, address, len, align)) in segments.into_iter().enumerate() {
        let at = 64 + n * 56;
        put(at, &kind.to_le_bytes());
        put(at + 4, &5u32.to_le_bytes());
        for (field, value) in [
            (8, offset as u64),
            (16, address),
            (24, address),
            (32, len as u64),
            (40, len as u64),
            (48, align),
        ] {
            put(at + field, &value.to_le_bytes());
        }
    }
    image.extend(note);
    image.extend(code);
    image
}
