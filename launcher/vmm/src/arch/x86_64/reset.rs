//! What is where a PC's firmware begins.
//!
//! Linux on hardware-reduced ACPI asks the EFI for a reset and, where there is
//! none, jumps to the firmware's entry in real mode, never trying ACPI's reset
//! register (arch/x86/kernel/reboot.c: `reboot_init`,
//! `native_machine_emergency_restart`). So there is code that writes it.

use super::layout;

/// 16-bit code for [`layout::RESET_VECTOR`] that writes `value` to the reset
/// register.
pub fn code(value: u8) -> [u8; 9] {
    let [low, high] = layout::RESET_PORT.to_le_bytes();
    // mov dx, port; mov al, value; out dx, al; hlt; jmp to the hlt.
    [0xba, low, high, 0xb0, value, 0xee, 0xf4, 0xeb, 0xfd]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_fits_below_one_mebibyte_and_names_port_and_value() {
        let code = code(7);
        assert!(layout::RESET_VECTOR + code.len() as u64 <= layout::HIGH_MEMORY);
        let port = layout::RESET_PORT.to_le_bytes();
        assert_eq!(code[..6], [0xba, port[0], port[1], 0xb0, 7, 0xee]);
    }
}
