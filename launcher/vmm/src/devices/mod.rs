//! Devices that are not virtio: what a kernel needs to boot, to power off and
//! to tell that it has panicked.

pub mod acpi;
pub mod cpu_hotplug;
pub mod ports;
pub mod serial;

pub use serial::SerialPort;
