//! Decompressing a kernel's payload.
//!
//! Linux, Documentation/arch/x86/boot.rst, field `payload_offset`: the format
//! is known by its first bytes; the last four of the payload are the size of
//! what comes out (scripts/Makefile.lib, `size_append`), except for gzip, which
//! ends so anyway.

use std::io::{self, BufRead, Read, Write};

/// The most that comes out; kernels have some 60 MiB.
pub const LIMIT: u64 = 1 << 30;

/// A block of LZ4's legacy frame holds at most 8 MiB.
const LZ4_BLOCK: usize = 8 << 20;
/// What 8 MiB can become at worst (LZ4_compressBound).
const LZ4_COMPRESSED_BLOCK: usize = LZ4_BLOCK + LZ4_BLOCK / 255 + 16;

/// Formats by their magic numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// RFC 1952.
    Gzip,
    /// The .xz format, with the x86 filter.
    Xz,
    /// RFC 8878.
    Zstd,
    /// LZ4's legacy frame.
    Lz4,
    /// An ELF as it is (`CONFIG_KERNEL_UNCOMPRESSED`).
    None,
}

impl Compression {
    /// Tells the format by the payload's first bytes.
    ///
    /// # Errors
    /// For LZMA, LZO and bzip2, which nobody ships any more, and anything
    /// unknown.
    pub fn of(start: &[u8]) -> Result<Self, PayloadError> {
        let known: [(&[u8], Result<Self, &'static str>); 9] = [
            (&[0x1f, 0x8b], Ok(Self::Gzip)),
            (&[0xfd, b'7', b'z', b'X', b'Z', 0], Ok(Self::Xz)),
            (&[0x28, 0xb5, 0x2f, 0xfd], Ok(Self::Zstd)),
            (&[0x02, 0x21, 0x4c, 0x18], Ok(Self::Lz4)),
            (b"\x7fELF", Ok(Self::None)),
            (b"BZh", Err("bzip2")),
            (&[0x5d, 0, 0], Err("LZMA")),
            (&[0x89, b'L', b'Z', b'O'], Err("LZO")),
            (&[0x1f, 0x9e], Err("compress")),
        ];
        match known
            .into_iter()
            .find(|(magic, _)| start.starts_with(magic))
        {
            Some((_, Ok(format))) => Ok(format),
            Some((_, Err(name))) => Err(PayloadError::Unsupported(name)),
            None => Err(PayloadError::Unknown),
        }
    }
}

/// A payload that cannot be decompressed.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// By a format that is not supported.
    #[error(
        "its payload is compressed by {0}, which is not supported: use a kernel with zstd, LZ4, xz or gzip"
    )]
    Unsupported(&'static str),
    /// Not by any format known.
    #[error("its payload is of an unknown format")]
    Unknown,
    /// Too large.
    #[error("its payload unpacks to more than {LIMIT} bytes")]
    TooLarge,
    /// Damaged, or the result cannot be written.
    #[error("cannot unpack its payload: {0}")]
    Io(#[from] io::Error),
}

/// Decompresses `payload` into `out`; returns how much came out.
///
/// # Errors
/// If the payload is damaged, of another format, or unpacks to more than
/// [`LIMIT`].
pub fn decompress(mut payload: impl BufRead, out: &mut impl Write) -> Result<u64, PayloadError> {
    let start = payload.fill_buf()?;
    match Compression::of(start)? {
        Compression::None => bounded(payload, out),
        Compression::Gzip => bounded(flate2::bufread::GzDecoder::new(payload), out),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(payload)?.single_frame();
            // The kernel's build uses long windows: `zstd -22 --ultra`.
            decoder.window_log_max(27)?;
            bounded(decoder, out)
        }
        Compression::Xz => bounded(lzma_rust2::XzReader::new(payload, false), out),
        Compression::Lz4 => lz4(payload, out),
    }
}

fn bounded(source: impl Read, out: &mut impl Write) -> Result<u64, PayloadError> {
    let count = io::copy(&mut source.take(LIMIT + 1), out)?;
    if count > LIMIT {
        return Err(PayloadError::TooLarge);
    }
    Ok(count)
}

/// LZ4's legacy frame: blocks after their size in four bytes, up to the end.
/// The kernel's build appends the size of the whole, which looks like the size
/// of one more block and is where the kernel's own unpacker stops, too.
fn lz4(mut payload: impl BufRead, out: &mut impl Write) -> Result<u64, PayloadError> {
    let damaged = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut magic = [0; 4];
    payload.read_exact(&mut magic)?;
    let mut compressed = Vec::new();
    let mut block = vec![0; LZ4_BLOCK];
    let mut total = 0;
    loop {
        let mut size = [0; 4];
        payload.read_exact(&mut size)?;
        let size = u32::from_le_bytes(size);
        if payload.fill_buf()?.is_empty() {
            return match u64::from(size) == total {
                true => Ok(total),
                false => Err(damaged("LZ4: the size at the end is not what came out").into()),
            };
        }
        if size as usize > LZ4_COMPRESSED_BLOCK {
            return Err(damaged("LZ4: a block of more than 8 MiB").into());
        }
        compressed.resize(size as usize, 0);
        payload.read_exact(&mut compressed)?;
        let count = lz4_flex::block::decompress_into(&compressed, &mut block)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        total += count as u64;
        if total > LIMIT {
            return Err(PayloadError::TooLarge);
        }
        out.write_all(&block[..count])?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> Vec<u8> {
        let words = (0..40_000u32).map(|n| format!("{} ", n * n % 9973));
        let mut text = b"\x7fELF".to_vec();
        text.extend(words.collect::<String>().bytes());
        text
    }

    fn with_size(mut compressed: Vec<u8>, size: usize) -> Vec<u8> {
        compressed.extend((size as u32).to_le_bytes());
        compressed
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn lz4_legacy(text: &[u8], block: usize) -> Vec<u8> {
        let mut out = vec![0x02, 0x21, 0x4c, 0x18];
        for part in text.chunks(block) {
            let compressed = lz4_flex::block::compress(part);
            out.extend((compressed.len() as u32).to_le_bytes());
            out.extend(compressed);
        }
        out
    }

    fn xz(text: &[u8]) -> Vec<u8> {
        let mut options = lzma_rust2::XzOptions::with_preset(1);
        options.prepend_pre_filter(lzma_rust2::FilterType::BcjX86, 0);
        let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        writer.write_all(text).unwrap();
        writer.finish().unwrap()
    }

    fn unpacked(payload: &[u8]) -> Result<Vec<u8>, PayloadError> {
        let mut out = Vec::new();
        decompress(payload, &mut out).map(|_| out)
    }

    #[test]
    fn each_format_gives_back_what_went_in() {
        let text = text();
        let size = text.len();
        let cases = [
            text.clone(),
            gzip(&text),
            with_size(zstd::encode_all(&text[..], 3).unwrap(), size),
            with_size(lz4_legacy(&text, 10_000), size),
            with_size(xz(&text), size),
        ];
        for (index, payload) in cases.iter().enumerate() {
            assert_eq!(unpacked(payload).unwrap(), text, "case {index}");
        }
    }

    #[test]
    fn cut_payloads_are_errors() {
        let text = text();
        for payload in [
            gzip(&text),
            zstd::encode_all(&text[..], 3).unwrap(),
            with_size(lz4_legacy(&text, 10_000), text.len()),
            xz(&text),
        ] {
            for len in [7, payload.len() / 2, payload.len() - 5] {
                assert!(unpacked(&payload[..len]).is_err(), "{len}");
            }
        }
    }

    #[test]
    fn other_formats_are_named() {
        let error = unpacked(b"BZh91AY").unwrap_err().to_string();
        assert!(error.contains("bzip2"), "{error}");
        assert!(matches!(unpacked(b"nothing"), Err(PayloadError::Unknown)));
        assert!(matches!(unpacked(b""), Err(PayloadError::Unknown)));
    }

    #[test]
    fn an_lz4_block_cannot_ask_for_gigabytes() {
        let payload = [0x02, 0x21, 0x4c, 0x18, 0xff, 0xff, 0xff, 0xff, 1, 2, 3];
        assert!(unpacked(&payload).is_err());
    }
}
