//! A kernel file, whatever its form, as an ELF that can be loaded.

use std::fs::File;
use std::io::{self, BufReader};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;

use super::blob::Blob;
use super::bzimage::{self, BzImageError};
use super::cache::KernelCache;
use super::elf::{Elf, ElfError, Loaded};
use super::payload::{self, PayloadError};
use crate::memory::memfd;

/// A kernel, decompressed.
#[derive(Debug)]
pub struct Kernel {
    image: Blob,
    elf: Elf,
}

/// A file that is no kernel for this machine.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// It cannot be read, or what is made of it cannot be kept.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Its bzImage header is damaged or too old.
    #[error("{0}")]
    BzImage(#[from] BzImageError),
    /// Its payload cannot be decompressed.
    #[error("{0}")]
    Payload(#[from] PayloadError),
    /// What is in it is no ELF that can be booted.
    #[error("{0}")]
    Elf(#[from] ElfError),
    /// It is an EFI program and no Linux kernel for x86.
    #[error("it is an EFI program for another machine, or no kernel")]
    ForeignEfi,
}

impl Kernel {
    /// Reads a kernel's headers and decompresses it, unless `cache` has it.
    ///
    /// # Errors
    /// If it is damaged, for another machine, or has no PVH entry.
    pub fn open(file: &Blob, cache: Option<&KernelCache>) -> Result<Self, KernelError> {
        let image = match bzimage::payload(file)? {
            Some(range) => decompressed(file, range, cache)?,
            None => file.clone(),
        };
        let elf = match Elf::parse(&image) {
            Err(ElfError::NotElf) if starts_with(file, b"MZ") => {
                return Err(KernelError::ForeignEfi);
            }
            other => other?,
        };
        Ok(Self { image, elf })
    }

    /// Puts it into the guest's memory.
    ///
    /// # Errors
    /// If that does not reach from where it must be to `memory_end`.
    pub fn load(&self, memory: &GuestMemoryMmap, memory_end: u64) -> Result<Loaded, KernelError> {
        Ok(self.elf.load(&self.image, memory, memory_end)?)
    }
}

fn starts_with(file: &Blob, magic: &[u8; 2]) -> bool {
    let mut start = [0; 2];
    file.read_exact_at(&mut start, 0).is_ok() && start == *magic
}

fn decompressed(
    file: &Blob,
    range: std::ops::Range<u64>,
    cache: Option<&KernelCache>,
) -> Result<Blob, KernelError> {
    let fill = |out: &mut File| -> Result<(), KernelError> {
        let reader = BufReader::with_capacity(1 << 20, file.reader(range));
        let mut out = io::BufWriter::with_capacity(1 << 20, Sparse { file: out, at: 0 });
        payload::decompress(reader, &mut out)?;
        let sparse = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        sparse.file.set_len(sparse.at)?;
        Ok(())
    };
    let Some(cache) = cache else {
        let mut out = memfd(c"kernel", false)?;
        fill(&mut out)?;
        return Ok(out.into());
    };
    let key = cache.key(file)?;
    match cache.get(&key) {
        Some(kernel) => Ok(kept(kernel)?),
        None => Ok(kept(cache.put(&key, fill)?)?),
    }
}

/// Writes a new file in order, with holes for blocks of zeros: a quarter of a
/// kernel is zeros, room that it sets aside, which a guest's memory need not be
/// given.
struct Sparse<'a> {
    file: &'a File,
    at: u64,
}

impl io::Write for Sparse<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        const BLOCK: usize = 64 << 10;
        for block in bytes.chunks(BLOCK) {
            if block.iter().any(|byte| *byte != 0) {
                self.file.write_all_at(block, self.at)?;
            }
            self.at += block.len() as u64;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file of the cache: names come and go, what they name stays.
fn kept(file: File) -> io::Result<Blob> {
    Ok(Blob::Range {
        len: file.metadata()?.len(),
        file: Arc::new(file),
        offset: 0,
        fixed: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::{bzimage, elf};
    use vm_memory::{Bytes, GuestAddress};

    fn bzimage() -> Vec<u8> {
        let elf = elf::minimal(0x10_0000, b"kernel code");
        bzimage::wrap(&zstd::encode_all(&elf[..], 1).unwrap())
    }

    #[test]
    fn a_bzimage_is_decompressed_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let cache = KernelCache::new(dir.path().join("kernels"));
        let image = Blob::from(bzimage());
        Kernel::open(&image, Some(&cache)).unwrap();
        let kept: Vec<_> = std::fs::read_dir(cache.dir())
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        assert_eq!(kept.len(), 1, "{kept:?}");
        // From now on what is kept is used: it says where it came from.
        std::fs::write(&kept[0], elf::minimal(0x11_0000, b"kept")).unwrap();
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
        let kernel = Kernel::open(&image, Some(&cache)).unwrap();
        assert_eq!(kernel.load(&memory, 2 << 20).unwrap().entry, 0x11_0000);
        let mut code = [0; 4];
        memory
            .read_slice(&mut code, GuestAddress(0x11_0000))
            .unwrap();
        assert_eq!(&code, b"kept");
    }

    #[test]
    fn zeros_of_a_kernel_take_no_room() {
        use std::io::{Read as _, Write as _};
        use std::os::unix::fs::MetadataExt as _;
        let content = [&[1; 100][..], &[0; 1 << 20], &[2; 5], &[0; 200_000]].concat();
        let mut file = tempfile::tempfile().unwrap();
        let mut out = Sparse { file: &file, at: 0 };
        out.write_all(&content).unwrap();
        file.set_len(out.at).unwrap();
        let mut read = Vec::new();
        file.read_to_end(&mut read).unwrap();
        assert!(read == content);
        assert!(file.metadata().unwrap().blocks() * 512 <= 3 * (64 << 10));
    }

    #[test]
    fn a_damaged_kernel_leaves_nothing_in_the_cache() {
        let dir = tempfile::tempdir().unwrap();
        let cache = KernelCache::new(dir.path());
        let mut image = bzimage();
        let at = image.len() - 8;
        image[at] ^= 0xff;
        image[1024 + 6] ^= 0xff;
        assert!(Kernel::open(&Blob::from(image), Some(&cache)).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn files_that_are_no_kernel_say_so() {
        for (bytes, word) in [
            (
                &b"MZ and nothing else that is of use here, but long enough for a header"[..],
                "EFI",
            ),
            (&[0; 4096], "neither"),
            (b"", "neither"),
        ] {
            let error = Kernel::open(&Blob::from(bytes), None).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
