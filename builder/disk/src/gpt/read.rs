//! Reading tables that somebody else wrote.

use std::io::{self, Read, Seek, SeekFrom};

use super::header::{ENTRY_SIZE, Entry, HEADER_SIZE, Header, REVISION, SIGNATURE, u32_at};
use super::{Copy, Partition, Table};

/// Logical sector sizes that are tried.
const SECTOR_SIZES: [u64; 2] = [512, 4096];
/// The largest array of entries that is read: 8192 of the usual size, where
/// tools write 128.
const MAX_ENTRIES_BYTES: u64 = 1 << 20;

/// Why a disk's partition table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk could not be read.
    #[error("cannot read the disk's partition table")]
    Io(#[from] io::Error),
    /// There is no table, only perhaps an MBR.
    #[error("no GUID partition table: {0}")]
    NotGpt(&'static str),
    /// Neither copy of the table can be used.
    #[error("damaged GUID partition table: primary: {primary}; backup: {backup}")]
    Damaged {
        /// What is wrong with the copy at the start of the disk.
        primary: Fault,
        /// What is wrong with the copy at the end of the disk.
        backup: Fault,
    },
}

/// What is wrong with one copy of a table.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum Fault {
    /// No header where one should be.
    #[error("no header")]
    NoSignature,
    /// The header's revision is not 1.0, its size is impossible, or it says
    /// that it lies elsewhere.
    #[error("header field {field} is {value}")]
    BadField {
        /// The field's name in the UEFI specification.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// The header's checksum does not match.
    #[error("header checksum is {stored:#010x}, computed {computed:#010x}")]
    HeaderChecksum {
        /// The checksum in the header.
        stored: u32,
        /// The checksum of the header.
        computed: u32,
    },
    /// The checksum of the entries does not match.
    #[error("partition entries' checksum is {stored:#010x}, computed {computed:#010x}")]
    EntriesChecksum {
        /// The checksum in the header.
        stored: u32,
        /// The checksum of the entries.
        computed: u32,
    },
    /// The table speaks of more sectors than there are.
    #[error("{field} is sector {lba}, but the disk has {sectors} (is it cut short?)")]
    PastEnd {
        /// The field's name in the UEFI specification.
        field: &'static str,
        /// Its value.
        lba: u64,
        /// Sectors of the disk.
        sectors: u64,
    },
    /// A partition that ends before it starts or lies outside the usable
    /// sectors.
    #[error(
        "partition {number} has sectors {first} to {last}, outside the usable {first_usable} to {last_usable}"
    )]
    BadPartition {
        /// The partition's number.
        number: u32,
        /// Its first sector.
        first: u64,
        /// Its last sector.
        last: u64,
        /// The first usable sector.
        first_usable: u64,
        /// The last usable sector.
        last_usable: u64,
    },
    /// Two partitions that share sectors.
    #[error("partitions {0} and {1} overlap")]
    Overlap(u32, u32),
}

/// Reads the partition table of a disk.
///
/// The primary copy is used if it is sound, else the backup in the disk's
/// last sector. Sectors of 512 and of 4096 bytes are understood.
///
/// # Errors
/// The disk cannot be read, holds no GPT (no protective or hybrid MBR, as
/// clause 5.3.2 of UEFI 2.10 asks for), or both copies are damaged.
pub fn read<R: Read + Seek>(disk: &mut R) -> Result<Table, ReadError> {
    let size = disk.seek(SeekFrom::End(0))?;
    if size < 1024 {
        return Err(ReadError::NotGpt("the disk is smaller than two sectors"));
    }
    let mut mbr = [0; 512];
    read_at(disk, 0, &mut mbr)?;
    check_mbr(&mbr)?;

    let mut faults = [Fault::NoSignature, Fault::NoSignature];
    for (copy, fault) in [Copy::Primary, Copy::Backup].into_iter().zip(&mut faults) {
        for sector_size in SECTOR_SIZES {
            match read_copy(disk, copy, sector_size, size / sector_size)? {
                Ok(table) => return Ok(table),
                Err(Fault::NoSignature) => {}
                Err(found) => *fault = found,
            }
        }
    }
    match faults {
        [Fault::NoSignature, Fault::NoSignature] => Err(ReadError::NotGpt(
            "a protective MBR, but no table at the start or the end of the disk",
        )),
        [primary, backup] => Err(ReadError::Damaged { primary, backup }),
    }
}

/// A GPT disk has an MBR with a record of type 0xEE; without one the table is
/// a leftover of earlier use.
fn check_mbr(mbr: &[u8; 512]) -> Result<(), ReadError> {
    if mbr[510..] != [0x55, 0xaa] {
        return Err(ReadError::NotGpt("sector 0 holds no MBR"));
    }
    let (records, _) = mbr[446..510].as_chunks::<16>();
    if !records.iter().any(|record| record[4] == 0xee) {
        return Err(ReadError::NotGpt(
            "the MBR in sector 0 has no protective partition",
        ));
    }
    Ok(())
}

fn read_copy<R: Read + Seek>(
    disk: &mut R,
    copy: Copy,
    sector_size: u64,
    sectors: u64,
) -> io::Result<Result<Table, Fault>> {
    if sectors < 2 {
        return Ok(Err(Fault::NoSignature));
    }
    let lba = match copy {
        Copy::Primary => 1,
        Copy::Backup => sectors - 1,
    };
    let mut sector = vec![0; sector_size as usize];
    read_at(disk, lba * sector_size, &mut sector)?;
    let header = match check_header(&sector, lba, sector_size, sectors) {
        Ok(header) => header,
        Err(fault) => return Ok(Err(fault)),
    };

    // check_header bounds the product by MAX_ENTRIES_BYTES and the place by
    // the size of the disk.
    let mut entries = vec![0; header.entry_count as usize * header.entry_size as usize];
    read_at(disk, header.entries_lba * sector_size, &mut entries)?;
    Ok(
        check_entries(&header, &entries, sector_size).map(|partitions| Table {
            disk_guid: header.disk_guid,
            sector_size,
            copy,
            partitions,
        }),
    )
}

fn check_header(sector: &[u8], lba: u64, sector_size: u64, sectors: u64) -> Result<Header, Fault> {
    let Some((fixed, _)) = sector.split_first_chunk::<HEADER_SIZE>() else {
        return Err(Fault::NoSignature);
    };
    if !fixed.starts_with(SIGNATURE) {
        return Err(Fault::NoSignature);
    }
    let bad = |field, value| Err(Fault::BadField { field, value });
    let revision = u32_at(fixed, 8);
    if revision != REVISION {
        return bad("Revision", revision.into());
    }
    let header_size = u32_at(fixed, 12);
    let Some(bytes) = sector
        .get(..header_size as usize)
        .filter(|bytes| bytes.len() >= HEADER_SIZE)
    else {
        return bad("HeaderSize", header_size.into());
    };
    let stored = u32_at(fixed, 16);
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..16]);
    hasher.update(&[0; 4]);
    hasher.update(&bytes[20..]);
    let computed = hasher.finalize();
    if stored != computed {
        return Err(Fault::HeaderChecksum { stored, computed });
    }

    let header = Header::decode(fixed);
    if header.my_lba != lba {
        return bad("MyLBA", header.my_lba);
    }
    let past_end = |field, lba| Fault::PastEnd {
        field,
        lba,
        sectors,
    };
    if header.last_usable_lba >= sectors {
        return Err(past_end("LastUsableLBA", header.last_usable_lba));
    }
    if header.first_usable_lba > header.last_usable_lba {
        return bad("FirstUsableLBA", header.first_usable_lba);
    }
    // 128 x 2^n (UEFI 2.10, table 5.5); 4096 is more than any known use.
    if !(128..=4096).contains(&header.entry_size) || !header.entry_size.is_power_of_two() {
        return bad("SizeOfPartitionEntry", header.entry_size.into());
    }
    let bytes = u64::from(header.entry_count) * u64::from(header.entry_size);
    if bytes > MAX_ENTRIES_BYTES {
        return bad("NumberOfPartitionEntries", header.entry_count.into());
    }
    if header
        .entries_lba
        .checked_add(bytes.div_ceil(sector_size))
        .is_none_or(|end| end > sectors)
    {
        return Err(past_end("PartitionEntryLBA", header.entries_lba));
    }
    Ok(header)
}

fn check_entries(
    header: &Header,
    entries: &[u8],
    sector_size: u64,
) -> Result<Vec<Partition>, Fault> {
    let computed = crc32fast::hash(entries);
    if computed != header.entries_crc {
        return Err(Fault::EntriesChecksum {
            stored: header.entries_crc,
            computed,
        });
    }
    let mut partitions = Vec::new();
    for (number, bytes) in (1..).zip(entries.chunks_exact(header.entry_size as usize)) {
        let Some(entry) = bytes.first_chunk::<ENTRY_SIZE>().map(Entry::decode) else {
            continue;
        };
        if entry.type_guid.is_nil() {
            continue;
        }
        let (first, last) = (entry.first_lba, entry.last_lba);
        let (first_usable, last_usable) = (header.first_usable_lba, header.last_usable_lba);
        if first > last || first < first_usable || last > last_usable {
            return Err(Fault::BadPartition {
                number,
                first,
                last,
                first_usable,
                last_usable,
            });
        }
        // Inside the disk, so the products fit.
        partitions.push(Partition {
            number,
            type_guid: entry.type_guid,
            guid: entry.guid,
            name: entry.name,
            start: first * sector_size,
            len: (last - first + 1) * sector_size,
            attributes: entry.attributes,
        });
    }
    let mut by_start: Vec<&Partition> = partitions.iter().collect();
    by_start.sort_by_key(|p| p.start);
    for pair in by_start.windows(2) {
        if let [a, b] = pair
            && b.start < a.end()
        {
            return Err(Fault::Overlap(a.number, b.number));
        }
    }
    Ok(partitions)
}

fn read_at<R: Read + Seek>(disk: &mut R, offset: u64, buf: &mut [u8]) -> io::Result<()> {
    disk.seek(SeekFrom::Start(offset))?;
    disk.read_exact(buf)
}
