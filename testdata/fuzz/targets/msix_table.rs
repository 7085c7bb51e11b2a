//! Writes to MSI-X tables and message control, and interrupts of the device,
//! compared with a model of a few lines.
#![no_main]

use std::sync::Arc;

use bootwright_fuzz::machine::{Recorder, accesses};
use bootwright_vmm::irq::Message;
use bootwright_vmm::pci::msix::Msix;
use libfuzzer_sys::fuzz_target;

const VECTORS: u16 = 4;
const ENABLE: u16 = 1 << 15;
const MASK: u16 = 1 << 14;

#[derive(Clone, Copy)]
struct Vector {
    words: [u32; 4],
    pending: bool,
}

fuzz_target!(|input: &[u8]| {
    let recorder = Arc::new(Recorder::default());
    let mut msix = Msix::new(recorder.clone(), VECTORS).unwrap();
    let fresh = Vector {
        words: [0, 0, 0, 1],
        pending: false,
    };
    let mut model = [fresh; VECTORS as usize];
    let mut control = 0;
    for access in accesses(input) {
        let mut expected = [false; VECTORS as usize];
        match access.kind % 4 {
            0 => {
                control = access.offset;
                msix.set_control(control);
            }
            1 => {
                let vector = access.offset % (VECTORS + 1);
                msix.send(vector).unwrap();
                if let Some(of) = model.get_mut(usize::from(vector))
                    && control & ENABLE != 0
                {
                    of.pending = true;
                }
            }
            _ if access.write => {
                // Mostly within the table.
                let offset = u64::from(access.offset % (VECTORS * 16 + 24));
                msix.write_table(offset, access.data);
                if offset.is_multiple_of(4) {
                    for (index, word) in access.data.chunks_exact(4).enumerate() {
                        let at = offset as usize / 4 + index;
                        if let Some(of) = model.get_mut(at / 4) {
                            let word = u32::from_le_bytes(word.try_into().unwrap());
                            of.words[at % 4] = if at % 4 == 3 { word & 1 } else { word };
                        }
                    }
                }
            }
            _ => {
                let mut data = access.data.to_vec();
                msix.read_table(access.offset.into(), &mut data);
                msix.read_pending(access.offset.into(), &mut data);
            }
        }
        if control & (ENABLE | MASK) == ENABLE {
            for (of, expected) in model.iter_mut().zip(&mut expected) {
                if of.words[3] == 0 && std::mem::take(&mut of.pending) {
                    *expected = true;
                }
            }
        }
        for (index, of) in model.iter().enumerate() {
            let line = index as u32;
            assert_eq!(recorder.signalled(line), expected[index], "vector {index}");
            if expected[index] {
                let message = Message {
                    address: u64::from(of.words[1]) << 32 | u64::from(of.words[0]),
                    data: of.words[2],
                };
                assert_eq!(recorder.route_of(line), Some(message), "vector {index}");
            }
            for (word, value) in of.words.iter().enumerate() {
                let mut bytes = [0; 4];
                msix.read_table((index * 16 + word * 4) as u64, &mut bytes);
                assert_eq!(u32::from_le_bytes(bytes), *value, "vector {index}");
            }
        }
    }
});
