//! The header of a bzImage.
//!
//! Linux, Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header".

use std::io;
use std::ops::Range;

use super::blob::Blob;

/// Offset of `setup_sects`, where the header begins.
const HEADER: usize = 0x1f1;
/// End of the fields that matter here.
const HEADER_END: usize = 0x250;
const MAGIC: &[u8; 4] = b"HdrS";
/// Protocol 2.08 added `payload_offset` and `payload_length` (Linux 2.6.26).
const LEAST_VERSION: u16 = 0x208;

/// Where the compressed kernel lies in the file, or `None` if the file is no
/// bzImage.
///
/// # Errors
/// If it is one, but damaged or too old.
pub fn payload(image: &Blob) -> Result<Option<Range<u64>>, BzImageError> {
    let len = image.len().map_err(BzImageError::Read)?;
    if len < HEADER_END as u64 {
        return Ok(None);
    }
    let mut header = [0; HEADER_END];
    image
        .read_exact_at(&mut header, 0)
        .map_err(BzImageError::Read)?;
    if header[0x202..0x206] != *MAGIC {
        return Ok(None);
    }
    let version = u16::from_le_bytes([header[0x206], header[0x207]]);
    if version < LEAST_VERSION {
        return Err(BzImageError::TooOld(version));
    }
    let word = |at: usize| {
        let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
        u64::from(u32::from_le_bytes(bytes))
    };
    // "If the setup_sects field contains 0, the real value is 4."
    let sectors = match header[HEADER] {
        0 => 4,
        n => u64::from(n),
    };
    let start = (sectors + 1) * 512 + word(0x248);
    let end = start + word(0x24c);
    if start == end || end > len {
        return Err(BzImageError::Payload { start, end, len });
    }
    Ok(Some(start..end))
}

/// A bzImage that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BzImageError {
    /// It cannot be read.
    #[error("cannot read it: {0}")]
    Read(io::Error),
    /// Its boot protocol is older than 2.08.
    #[error("boot protocol {}.{:02} is too old: 2.08 is needed (Linux 2.6.26)", .0 >> 8, .0 & 0xff)]
    TooOld(u16),
    /// The payload is not in the file.
    #[error("its payload is at bytes {start} to {end}, but the file has {len}: it is damaged")]
    Payload {
        /// First byte.
        start: u64,
        /// First byte after it.
        end: u64,
        /// Size of the file.
        len: u64,
    },
}

/// A bzImage around a payload, for tests here and of what uses this.
#[cfg(test)]
pub(crate) fn wrap(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 1024];
    image[HEADER] = 1;
    image[0x202..0x206].copy_from_slice(MAGIC);
    image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    image.extend(payload);
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_is_found_where_the_header_says() {
        let image = Blob::from(wrap(b"payload"));
        assert_eq!(payload(&image).unwrap(), Some(1024..1031));
    }

    #[test]
    fn other_files_are_no_bzimage() {
        for bytes in [&b""[..], b"MZ", &[0; 4096]] {
            assert_eq!(payload(&Blob::from(bytes)).unwrap(), None);
        }
    }

    #[test]
    fn headers_that_lie_are_refused() {
        let good = wrap(b"payload");
        let mut cases = vec![good[..good.len() - 1].to_vec()];
        for (at, value) in [(0x24c, 0u32), (0x24c, u32::MAX), (0x248, u32::MAX)] {
            let mut bad = good.clone();
            bad[at..at + 4].copy_from_slice(&value.to_le_bytes());
            cases.push(bad);
        }
        for bad in cases {
            assert!(matches!(
                payload(&Blob::from(bad)),
                Err(BzImageError::Payload { .. })
            ));
        }
        let mut old = good;
        old[0x206..0x208].copy_from_slice(&0x207_u16.to_le_bytes());
        assert!(matches!(
            payload(&Blob::from(old)),
            Err(BzImageError::TooOld(0x207))
        ));
    }
}
